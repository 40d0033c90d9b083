"""Where an answer goes: a terminal, drawn in place, or plain text for everything else."""

from __future__ import annotations

import sys
import time
from typing import Protocol, TextIO

from rich.console import Console

from headrace.cli.chat import words
from headrace.cli.chat.terminal import Screen, harmless
from headrace.cli.chat.view import AnswerView
from headrace.client import AsyncStream, Connection
from headrace.errors import HeadraceError
from headrace.protocol import events as ev

CLOCK_S = 0.25  # how often something that shows seconds is looked at


class Show(Protocol):
    """Shows one answer. `paint` is called many times a second and does what is needed."""

    def connection(self, connection: Connection) -> None: ...

    def take(self, event: ev.Event) -> None: ...

    def paint(self) -> None: ...

    def conclude(self, *, stop: str | None, error: HeadraceError | None) -> None: ...

    def close(self) -> None: ...


class TerminalShow:
    def __init__(self, console: Console, stream: AsyncStream, model: str | None) -> None:
        self._stream = stream
        self._screen = Screen(console)
        self._view = AnswerView(model, stream.reply, time.monotonic())
        self._dirty = True
        self._painted_at = 0.0

    def connection(self, connection: Connection) -> None:
        self._view.connection(connection, time.monotonic())
        self._dirty = True

    def take(self, event: ev.Event) -> None:
        self._view.take(event, time.monotonic())
        self._dirty = True

    def paint(self) -> None:
        now = time.monotonic()
        if self._dirty or now - self._painted_at >= CLOCK_S:
            self._dirty, self._painted_at = False, now
            finished = self._view.finished()
            self._screen.draw(finished, self._view.region(now, self._screen.height, self._stream.metrics, self._stream.silent_s))

    def conclude(self, *, stop: str | None, error: HeadraceError | None) -> None:
        self._screen.draw(self._view.conclude(time.monotonic(), self._stream.metrics, stop=stop, error=error), [])

    def close(self) -> None:
        self._screen.close()


class PlainShow:
    """The answer's text to stdout as it comes; everything about it to stderr, line by line."""

    def __init__(self, stream: AsyncStream, out: TextIO | None = None, notes: TextIO | None = None) -> None:
        self._stream = stream
        self._out = out or sys.stdout
        self._notes = notes or sys.stderr
        self._model = "the model"
        self._last = "\n"
        self._block: int | None = None
        self._any = False

    def connection(self, connection: Connection) -> None:
        if connection.state == "reconnecting":
            self._note(words.lost(connection, 0.0))
        elif connection.state == "resumed":
            self._note(words.resumed(connection) + ".")

    def take(self, event: ev.Event) -> None:
        match event:
            case ev.StreamStart(model=model):
                self._model = model
            case ev.Text(index=index, text=text):
                self._write(index, harmless(text))
            case ev.ToolCallComplete(name=name, arguments_raw=raw, valid=valid):
                self._note(f"{name} {raw}" + ("" if valid else "  (arguments are not valid JSON, kept as sent)"))
            case ev.Gap():
                self._note(words.gap(event))
            case ev.Reset():
                self._note("The first attempt failed and was withdrawn.")
            case ev.Notice(message=message):
                self._note(message)
            case _:
                pass

    def paint(self) -> None: ...

    def conclude(self, *, stop: str | None, error: HeadraceError | None) -> None:
        if self._last != "\n":
            self._out.write("\n")
        self._out.flush()
        for note in (stop, words.ending(self._stream.reply)):
            if note is not None:
                self._note(note)
        if error is not None:
            self._note(words.failed(error, anything_shown=self._any))
        elif self._notes.isatty():
            self._note(words.figures(self._stream.metrics, self._stream.reply, self._model))

    def close(self) -> None: ...

    def _write(self, index: int, text: str) -> None:
        if self._block not in (None, index):
            text = "\n\n" + text
        self._block = index
        self._any = True
        self._last = text[-1:] or self._last
        self._out.write(text)
        self._out.flush()

    def _note(self, text: str) -> None:
        self._notes.write(f"headrace: {harmless(text)}\n")
        self._notes.flush()
