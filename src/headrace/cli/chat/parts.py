"""The blocks of an answer as they are shown: what of each is finished, and what its unfinished rest looks like now."""

from __future__ import annotations

import json
from typing import Protocol

from rich.console import Group, RenderableType
from rich.text import Text

from headrace.cli.chat import words
from headrace.cli.chat.markdown import Answer, Blocks
from headrace.protocol import events as ev

THINKING_LINES = 8
ARGUMENT_LINES_LIVE = 6
ARGUMENT_LINES = 40


class Part(Protocol):
    """One block. `done` hands out each finished piece once; `live` draws the rest. Pieces are set apart by a blank line."""

    ended: bool

    def done(self) -> list[RenderableType]: ...

    def live(self, now: float, height: int) -> list[RenderableType]: ...

    def end(self, now: float) -> None: ...


class TextPart:
    """Markdown: each block of it is rendered when it is over, the open one at every look, and of that only as much as fits."""

    def __init__(self) -> None:
        self.ended = False
        self._blocks = Blocks()
        self._done: list[str] = []

    def add(self, text: str) -> None:
        self._done += self._blocks.feed(text)

    def end(self, now: float) -> None:
        self.ended = True
        self._done += self._blocks.finish()

    def done(self) -> list[RenderableType]:
        sources, self._done = self._done, []
        return [Answer(source) for source in sources]

    def live(self, now: float, height: int) -> list[RenderableType]:
        lines = self._blocks.tail_lines(height)
        if not any(lines):
            return []
        language = self._blocks.arriving_code
        if language is not None:
            return [Group(Text(f"{language or 'code'}, arriving", "dim"), Text("\n".join(f"  {line}" for line in lines)))]
        return [Answer("\n".join(_fitting(lines, height)))]


def _fitting(lines: list[str], height: int) -> list[str]:
    """Cut a paragraph without end to what a screen can show of it."""
    characters_max = height * 200
    last = lines[-1]
    return lines if len(last) <= characters_max else [*lines[:-1], last[-characters_max:].partition(" ")[2]]


class ThinkingPart:
    """Reasoning: open while it comes, one line afterwards."""

    def __init__(self, now: float) -> None:
        self.ended = False
        self._began = now
        self._took = 0.0
        self._tokens = 0
        self._lines: list[str] = [""]
        self._redacted = False
        self._told = False

    def add(self, event: ev.Thinking, tokens: int) -> None:
        self._redacted = self._redacted or event.redacted is not None
        if event.text:
            self._tokens += tokens
            first, *more = event.text.split("\n")
            self._lines[-1] += first
            self._lines += more
            del self._lines[: -THINKING_LINES - 1]

    def end(self, now: float) -> None:
        self.ended = True
        self._took = now - self._began

    def done(self) -> list[RenderableType]:
        if not self.ended or self._told:
            return []
        self._told = True
        if self._tokens:
            return [Text(words.thought(self._took, self._tokens), "bright_blue")]
        if self._redacted:
            return [Text("The provider keeps this reasoning hidden.", "bright_blue")]
        return []

    def live(self, now: float, height: int) -> list[RenderableType]:
        if self.ended:
            return []
        head = Text(f"Thinking… {words.whole_seconds(now - self._began)}", "bright_blue")
        text = "\n".join(self._lines[-THINKING_LINES:]).strip("\n")
        return [Group(head, Text(text[-THINKING_LINES * 120 :], "dim italic")) if text else head]


class ToolPart:
    """A call: its name at once, how much of its arguments is there, then the arguments."""

    def __init__(self, name: str) -> None:
        self.ended = False
        self._name = name
        self._bytes = 0
        self._tail = ""
        self._complete: ev.ToolCallComplete | None = None
        self._result: ev.ToolResult | None = None
        self._told = False
        self._stopped = False

    def add(self, fragment: str) -> None:
        self._bytes += len(fragment.encode("utf-8", "replace"))
        self._tail = (self._tail + fragment)[-2000:]

    def complete(self, event: ev.ToolCallComplete) -> None:
        self._complete = event

    def result(self, event: ev.ToolResult) -> RenderableType | None:
        """Take the result; return what says so, where the call itself has been shown already."""
        self._result = event
        return self._line(self._status()) if self._told else None

    def end(self, now: float) -> None:
        self.ended = True
        self._stopped = self._complete is None

    def done(self) -> list[RenderableType]:
        if not self.ended or self._told:
            return []
        self._told = True
        return [Group(self._line(self._status()), *self._arguments())]

    def live(self, now: float, height: int) -> list[RenderableType]:
        if self.ended:
            return []
        head = self._line(f"Writing, {words.size(self._bytes)}")
        lines = "\n".join(self._tail.split("\n")[-ARGUMENT_LINES_LIVE:])[-ARGUMENT_LINES_LIVE * 100 :]
        return [Group(head, _indented(lines)) if lines else head]

    def _line(self, status: str) -> Text:
        trouble = "not valid" in status or status.startswith("Failed")
        return Text.assemble((self._name, "bold yellow"), "  ", (status, "red" if trouble else "dim"))

    def _status(self) -> str:
        if self._result is not None:
            took = "" if self._result.duration_ms is None else words.seconds(self._result.duration_ms / 1000)
            if self._result.ok:
                return f"Done in {took}" if took else "Done"
            return f"Failed after {took}" if took else "Failed"
        if self._complete is None:
            return "Stopped while writing"
        return "Ready, for your app to run" if self._complete.valid else "Arguments are not valid JSON, kept as sent"

    def _arguments(self) -> list[RenderableType]:
        call = self._complete
        if call is None:
            return [_indented(self._tail)] if self._tail else []
        text = json.dumps(call.arguments, indent=2, ensure_ascii=False) if call.valid and call.arguments else call.arguments_raw
        lines = text.split("\n")
        more = len(lines) - ARGUMENT_LINES
        if more > 0:
            lines = [*lines[:ARGUMENT_LINES], f"… {words.count(more, 'more line')}"]
        return [_indented("\n".join(lines))] if text.strip() not in ("", "{}") else []


def _indented(text: str) -> Text:
    return Text("\n".join(f"  {line}" for line in text.split("\n")), "dim")
