"""Text on the terminal as it arrives, and the flow line in characters."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

INDENT = 3
WIDTH_MAX = 96
_WORD = 8  # so much room a word's first piece wants, since nobody knows yet how long the word is
_BARS = "▁▂▃▄▅▆▇█"


class Typewriter:
    """Writes pieces of text the moment it gets them, indented, and wrapped between words as far as that can be known."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._width = min(console.width, WIDTH_MAX) - 2 * INDENT
        self._column = 0

    def write(self, piece: str, style: str = "") -> None:
        for index, line in enumerate(piece.split("\n")):
            if index:
                self._break()
            for part in _words(line):
                self._put(part, style)

    def end(self) -> None:
        """Go to a new line if there is something on this one."""
        if self._column:
            self._break()

    def say(self, words: str) -> None:
        """Write a sentence of our own."""
        if self.console.is_terminal:
            self.console.print(Padding(Text(words, "dim"), (0, 0, 0, INDENT)), width=min(self.console.width, WIDTH_MAX))
        else:
            self.console.print(" " * INDENT + words, soft_wrap=True)

    def flow(self, times: Sequence[float], ended_s: float, mark: str = "│") -> None:
        """Write the flow line of tokens that came at `times`."""
        line = sparkline(times, ended_s, min(self._width - 10, max(20, len(times) * 2 // 3)))
        self.console.print()
        self.console.print(Text.assemble(" " * INDENT, (line, "cyan"), mark, (f" {ended_s:.1f} s", "dim")), soft_wrap=True)

    def _put(self, part: str, style: str) -> None:
        starts_word = part.startswith(" ")
        if self._column and self._column + len(part) + (_WORD if starts_word else 0) > self._width + (0 if starts_word else INDENT):
            self._break()
            part = part.lstrip(" ")
        if not part:
            return
        self.console.print(Text("" if self._column else " " * INDENT), Text(part, style), sep="", end="", soft_wrap=True)
        self.console.file.flush()
        self._column += len(part)

    def _break(self) -> None:
        self.console.print()
        self._column = 0


def _words(line: str) -> list[str]:
    """Cut a line before each space, so that a long piece wraps like many short ones."""
    parts = line.split(" ")
    return [part for part in [parts[0], *(f" {part}" for part in parts[1:])] if part]


def sparkline(times: Sequence[float], ended_s: float, width: int) -> str:
    """Return the flow line in `width` characters: a bar as high as what came in its time, a dot where nothing came."""
    counts = [0] * width
    for at in times:
        counts[min(width - 1, int(at / max(ended_s, 0.001) * width))] += 1
    top = sorted(counts)[int(width * 0.98)]
    full = max(4, top)
    return "".join(_BARS[min(7, count * 8 // (full + 1))] if count else "·" for count in counts)
