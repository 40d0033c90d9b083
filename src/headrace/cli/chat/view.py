"""One answer on a terminal, as values: what is finished and may be printed, and what is drawn below it at this moment.

No I/O and no clock: time comes in with every call. Colour only repeats what the words say.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from headrace.cli.chat import words
from headrace.cli.chat.parts import Part, TextPart, ThinkingPart, ToolPart
from headrace.client import ClientMetrics, Connection, Reply
from headrace.errors import HeadraceError
from headrace.protocol import events as ev

BLANK = Text("")


class AnswerView:
    """Take events and connection states; say what to print (`finished`) and what to draw (`region`)."""

    def __init__(self, model: str | None, reply: Reply, now: float) -> None:
        self.model = model or "the model"
        self._reply = reply
        self._began = now
        self._token_at: float | None = None
        self._connection = Connection(state="idle")
        self._changed_at = now
        self._queue: ev.Queue | None = None
        self._parts: dict[int, Part] = {}
        self._calls: dict[str, ToolPart] = {}
        self._out: list[RenderableType] = []
        self.shown_any = False

    def heard(self, now: float) -> None:
        """Something came from the relay, be it only a heartbeat."""

    def connection(self, connection: Connection, now: float) -> None:
        self._connection, self._changed_at = connection, now

    def take(self, event: ev.Event, now: float) -> None:
        match event:
            case ev.StreamStart(model=model):
                self.model = model
            case ev.Queue():
                self._queue = event if event.position else None
            case ev.Text(index=index, text=text):
                self._text(index).add(text)
                self._token(now)
            case ev.Thinking():
                self._thinking(event, now)
            case ev.ToolCallStart(index=index, tool_call_id=call, name=name):
                self._parts[index] = self._calls[call] = ToolPart(name)
                self._token(now)
            case ev.ToolCallDelta(tool_call_id=call, arguments_delta=fragment):
                if call in self._calls:
                    self._calls[call].add(fragment)
                self._token(now)
            case ev.ToolCallComplete(tool_call_id=call):
                if call in self._calls:
                    self._calls[call].complete(event)
            case ev.BlockEnd(index=index):
                if index in self._parts:
                    self._parts[index].end(now)
            case _:
                self._take_rest(event)

    def _take_rest(self, event: ev.Event) -> None:
        match event:
            case ev.ToolResult(tool_call_id=call):
                line = self._calls[call].result(event) if call in self._calls else None
                self._out += [line] if line is not None else []
            case ev.Notice(message=message):
                self._say(message, "yellow")
            case ev.Gap():
                self._say(words.gap(event), "yellow")
            case ev.Snapshot():
                self._say(words.gap(ev.Gap(from_seq=1, to_seq=event.seq, reason="", recoverable=True)), "yellow")
            case ev.Reset():
                self._parts.clear()
                self._calls.clear()
                self._say("The first attempt failed and was withdrawn.", "yellow")
            case ev.Source(url=url, title=title):
                self._say(f"Source: {title or url}" + (f" ({url})" if title else ""), "dim")
            case _:
                pass

    def _text(self, index: int) -> TextPart:
        part = self._parts.get(index)
        if not isinstance(part, TextPart):
            part = self._parts[index] = TextPart()
        return part

    def _thinking(self, event: ev.Thinking, now: float) -> None:
        part = self._parts.get(event.index)
        if not isinstance(part, ThinkingPart):
            part = self._parts[event.index] = ThinkingPart(now)
        part.add(event, event.seq - event.from_seq + 1 if event.from_seq is not None else 1)
        self._token(now)

    def _token(self, now: float) -> None:
        self._token_at = now
        self._queue = None

    def _say(self, text: str, style: str) -> None:
        self._out.append(Text(text, style))

    def finished(self) -> list[RenderableType]:
        """Return what will not change any more and was not returned before, in the order of the answer."""
        pieces, self._out = self._out, []
        for _, part in sorted(self._parts.items()):
            pieces += part.done()
            if not part.ended:
                break
        spaced = _spaced(pieces, after_something=self.shown_any)
        self.shown_any = self.shown_any or bool(pieces)
        return spaced

    def region(self, now: float, height: int, metrics: ClientMetrics, silent_s: float) -> list[RenderableType]:
        """Return what is drawn below what is finished: the open blocks, how things stand, the figures."""
        pieces = [piece for _, part in sorted(self._parts.items()) if not part.ended for piece in part.live(now, height)]
        foot = Text(f"{words.figures(metrics, self._reply, self.model)} · Ctrl-C stops", "dim", no_wrap=True, overflow="ellipsis")
        status = self._status(now, silent_s)
        return _spaced([*pieces, foot if status is None else Group(status, foot)], after_something=self.shown_any)

    def conclude(self, now: float, metrics: ClientMetrics, *, stop: str | None, error: HeadraceError | None) -> list[RenderableType]:
        """Return all the rest, as it stays: open blocks, why it ended, the figures."""
        for part in self._parts.values():
            if not part.ended:
                part.end(now)
        shown = self.finished()
        ending = stop or words.ending(self._reply)
        notes: list[RenderableType] = [Text(ending, "yellow")] if ending else []
        if error is not None:
            notes.append(Text(words.failed(error, anything_shown=self.shown_any), "red"))
        if metrics.ttft_ms is not None:
            notes.append(Text(words.figures(metrics, self._reply, self.model), "dim"))
        return [*shown, *_spaced(notes, after_something=self.shown_any)]

    def _status(self, now: float, silent_s: float) -> Text | None:
        """Return how things stand, in words; the first that applies."""
        state, since_s = self._connection.state, now - self._changed_at
        if state == "stopping":
            return Text("Stopping", "yellow")
        if state == "reconnecting":
            return Text(words.lost(self._connection, since_s), "yellow")
        if state == "connecting":
            again = f" Attempt {self._connection.attempt}." if self._connection.attempt > 1 else ""
            return Text(f"Connecting.{again}", "dim" if not again else "yellow")
        if state == "resumed" and since_s < words.RESUMED_SHOWN_S:
            return Text(words.resumed(self._connection), "cyan")
        if self._queue is not None:
            return Text(words.in_line(self._queue), "yellow")
        if self._token_at is None:
            return Text(words.waiting(self.model, now - self._began, silent_s), "dim")
        quiet = words.quiet(now - self._token_at, silent_s)
        return Text(quiet, "yellow") if quiet is not None else None


def _spaced(pieces: Sequence[RenderableType], *, after_something: bool) -> list[RenderableType]:
    """Put a blank line between pieces, and before the first if there is something above it."""
    spaced: list[RenderableType] = []
    for piece in pieces:
        spaced += [BLANK, piece] if after_something else [piece]
        after_something = True
    return spaced
