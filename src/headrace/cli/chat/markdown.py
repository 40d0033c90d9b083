"""Markdown as it arrives: cut into blocks that will not change any more, so that each is rendered once.

A block ends at a blank line behind which something begins at the left margin, at a heading, and where a fence opens or closes.
That is coarser than CommonMark (a loose list comes in several pieces) and never needs a line twice.
"""

from __future__ import annotations

import re
from typing import ClassVar

from markdown_it import MarkdownIt
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import CodeBlock, Heading, ImageItem, Markdown, MarkdownElement
from rich.syntax import Syntax
from rich.text import Text
from rich.theme import Theme

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})\s*([^`\s]*)")
_HEADING = re.compile(r"#{1,6}(?:\s|$)")

# HTML is text here: a terminal shows none, and to drop it would hide what the model wrote.
_PARSER = MarkdownIt("commonmark", {"html": False}).enable("strikethrough").enable("table")


# What reads on a light terminal as well as on a dark one.
THEME = Theme(
    {
        "markdown.code": "cyan",
        "markdown.h1": "bold underline",
        "markdown.h2": "bold",
        "markdown.block_quote": "italic",
        "markdown.item.bullet": "dim",
        "markdown.item.number": "dim",
        "markdown.link": "none",
        "markdown.link_url": "cyan underline",
        "markdown.table.border": "dim",
        "markdown.table.header": "bold",
    }
)


class Blocks:
    """Take text in pieces; return the source of each block when it is over. `tail` is the one that is not."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._line: list[str] = []
        self._fence: str | None = None
        self._language = ""
        self._after_blank = False

    @property
    def tail(self) -> str:
        return "\n".join([*self._lines, "".join(self._line)])

    @property
    def arriving_code(self) -> str | None:
        """The language of the fence that is open, perhaps empty, or None."""
        return self._language if self._fence is not None else None

    def tail_lines(self, limit: int) -> list[str]:
        """Return the last lines of the open block, without a fence's first, for a look at it that costs the same at any length."""
        lines = [*self._lines[-limit:], "".join(self._line)]
        if self._fence is not None and len(self._lines) <= limit:
            lines = lines[1:]
        return lines[-limit:]

    def feed(self, text: str) -> list[str]:
        done: list[str] = []
        *whole, rest = text.split("\n")
        for piece in whole:
            self._line.append(piece)
            line, self._line = "".join(self._line), []
            self._take(line, done)
        if rest:
            self._line.append(rest)
        return done

    def finish(self) -> list[str]:
        if self._line:
            self._lines.append("".join(self._line))
            self._line = []
        done: list[str] = []
        self._end(done)
        return done

    def _take(self, line: str, done: list[str]) -> None:
        if self._fence is not None:
            self._lines.append(line)
            if _closes(line, self._fence):
                self._end(done)
            return
        if not line.strip():
            self._after_blank = True
            if self._lines:
                self._lines.append(line)
            return
        opening = _FENCE.match(line)
        if opening or _HEADING.match(line) or (self._after_blank and not line[0].isspace()):
            self._end(done)
        self._after_blank = False
        self._lines.append(line)
        if opening:
            self._fence, self._language = opening[1], opening[2]
        elif _HEADING.match(line):
            self._end(done)

    def _end(self, done: list[str]) -> None:
        source = "\n".join(self._lines).strip("\n")
        self._lines.clear()
        self._fence, self._language, self._after_blank = None, "", False
        if source.strip():
            done.append(source)


def _closes(line: str, fence: str) -> bool:
    stripped = line.strip()
    return len(stripped) >= len(fence) and not stripped.strip(fence[0])


class PlainHeading(Heading):
    """At the left margin and without a box."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self.text.justify = "left"
        yield self.text


class PlainCode(CodeBlock):
    """In the terminal's own colours, on its own background."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        code = str(self.text).rstrip("\n")
        yield Syntax(code, self.lexer_name, theme="ansi_dark", background_color="default", word_wrap=True, padding=(0, 2))


class PlainImage(ImageItem):
    """Where it would come from. Nothing is loaded."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text.assemble("Image not loaded: ", self.destination, " ", end="")


class Answer(Markdown):
    """One block of an answer. Links show where they lead."""

    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "heading_open": PlainHeading,
        "fence": PlainCode,
        "code_block": PlainCode,
        "image": PlainImage,
    }

    def __init__(self, source: str) -> None:
        super().__init__("", hyperlinks=False)
        self.markup = source
        self.parsed = _PARSER.parse(source)
