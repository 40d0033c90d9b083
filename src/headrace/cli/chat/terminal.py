"""The terminal: text that cannot command it, and a region at its foot that is drawn in place."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import TextIO

from rich.cells import cell_len
from rich.color import ColorSystem
from rich.console import Console, RenderableType
from rich.segment import Segment
from rich.text import Text

_ESCAPED: dict[int, str | None] = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\t\n\r"},
    0x0D: None,
    0x7F: "␡",
    **dict.fromkeys(range(0x80, 0xA0), "�"),
    **dict.fromkeys((0x2028, 0x2029), "\n"),
    **dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A)), "�"),  # they turn the direction of what follows
}
_BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"  # what is between them is shown at once, by terminals that know how
_HIDE_CURSOR, _SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
_NEXT_LINE, _CLEAR_BELOW = "\n", "\x1b[J"


def harmless(text: str) -> str:
    """Return `text` so that no terminal takes any of it for a command: control characters become pictures of themselves.

    Line ends and tabs stay; a CR, which would write over its line, is dropped.
    """
    return text if text.isprintable() else text.translate(_ESCAPED)


class Screen:
    """Prints finished lines once, and below them a region that changes.

    Only lines that differ are written, in one go, and the region is never as high as the terminal: so nothing flickers, and what
    was printed is never touched again.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._out: TextIO = console.file  # type: ignore[assignment]
        self._system = _color_system(console)
        self._region: list[str] = []
        self._widths: list[int] = []
        self._columns = 0

    @property
    def height(self) -> int:
        """How many lines the region may have."""
        return max(3, self._console.size.height - 2)

    @property
    def width(self) -> int:
        """How wide lines may be: one less than the terminal, whose last column is where terminals differ."""
        return max(20, self._console.size.width - 1)

    def draw(self, finished: Sequence[RenderableType], region: Sequence[RenderableType]) -> None:
        """Print `finished` for good, and show the end of `region` below it."""
        below = [line for renderable in region for line in self._lines(renderable)][-self.height :]
        lines = [line for renderable in finished for line in self._lines(renderable)] + below
        keep = self._unchanged(lines)
        out = self._replace(lines[keep:], keep, more=bool(below)) if keep < len(self._region) else self._append(lines[keep:])
        if not below and (lines[keep:] or (self._region and keep == len(self._region))):
            out += _NEXT_LINE
        self._region = [text for text, _ in below]
        self._widths = [width for _, width in below]
        if out:
            self._write(_BEGIN + _HIDE_CURSOR + out + _END)

    def close(self) -> None:
        """Leave what is shown, and the cursor below it."""
        self._write((_NEXT_LINE if self._region else "") + _SHOW_CURSOR)
        self._region, self._widths = [], []

    def _lines(self, renderable: RenderableType) -> list[tuple[str, int]]:
        """Render to lines as they are written, with their widths. A renderer that fails costs the style and not the text."""
        options = self._console.options.update(width=self.width, height=None)
        try:
            rows = self._console.render_lines(renderable, options, pad=False)
        except Exception:
            source = getattr(renderable, "markup", str(renderable))
            rows = self._console.render_lines(Text(source), options, pad=False)
        while rows and not _visible(rows[0]):
            rows.pop(0)
        while rows and not _visible(rows[-1]):
            rows.pop()
        return [self._line(row) for row in rows] or [("", 0)]

    def _line(self, row: list[Segment]) -> tuple[str, int]:
        segments = [(harmless(segment.text).replace("\n", " "), segment.style) for segment in row if not segment.control]
        while segments and not segments[-1][0].rstrip() and not (segments[-1][1] and segments[-1][1].underline):
            segments.pop()
        if segments:
            text, style = segments[-1]
            segments[-1] = (text.rstrip(), style)
        written = "".join(style.render(text, color_system=self._system) if style is not None else text for text, style in segments if text)
        return written, sum(cell_len(text) for text, _ in segments)

    def _unchanged(self, lines: list[tuple[str, int]]) -> int:
        """How many lines from the top of the region are as they were. None after a resize, which moves them."""
        columns = self._console.size.width
        if columns != self._columns:
            self._columns = columns
            return 0
        keep = 0
        for (text, _), old in zip(lines, self._region, strict=False):
            if text != old:
                break
            keep += 1
        return keep

    # Where the cursor is between two calls: behind the region's last line, or on a free line where the region is empty.

    def _append(self, lines: list[tuple[str, int]]) -> str:
        return (_NEXT_LINE if self._region and lines else "") + _written(lines)

    def _replace(self, lines: list[tuple[str, int]], keep: int, *, more: bool) -> str:
        """Return what puts `lines` in place of the region's lines from `keep` on. `more`: the region is not empty then."""
        rows = sum(max(1, -(-width // self._columns)) for width in self._widths[keep:])
        up = "\r" + (f"\x1b[{rows - 1}A" if rows > 1 else "")
        if lines:
            return up + _written(lines) + (_CLEAR_BELOW if len(lines) < rows else "")
        return up + _CLEAR_BELOW + ("\x1b[A\x1b[999C" if more else "")

    def _write(self, data: str) -> None:
        self._out.write(data)
        self._out.flush()


def _written(lines: list[tuple[str, int]]) -> str:
    return _NEXT_LINE.join(f"\r\x1b[K{text}" for text, _ in lines)


def _visible(row: list[Segment]) -> bool:
    return any(segment.text.strip() for segment in row)


def _color_system(console: Console) -> ColorSystem | None:
    names = {"standard": ColorSystem.STANDARD, "256": ColorSystem.EIGHT_BIT, "truecolor": ColorSystem.TRUECOLOR}
    return names.get(console.color_system or "")


@contextlib.contextmanager
def without_echo() -> Iterator[None]:
    """Let nothing that is typed appear, while something else is written. Ctrl-C and Ctrl-Z keep their meaning."""
    if sys.platform == "win32" or sys.stdin is None or not sys.stdin.isatty():
        yield
        return
    import termios

    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    quiet = list(before)
    quiet[3] &= ~termios.ECHO
    termios.tcsetattr(fd, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSANOW, before)
