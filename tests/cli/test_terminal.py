"""What reaches the terminal: nothing that commands it, and a region that is drawn in place."""

from __future__ import annotations

import io
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from headrace.cli.chat.markdown import Answer
from headrace.cli.chat.terminal import Screen, harmless

COLUMNS, ROWS = 40, 12


class FakeTerminal:
    """As much of a terminal as `Screen` uses; whatever else it is sent is an error."""

    _COMMAND = re.compile(r"\x1b\[(\??)(\d*)([A-Za-z])|\x1b\[[\d;]*m")

    def __init__(self, columns: int = COLUMNS, rows: int = ROWS) -> None:
        self.columns, self.rows = columns, rows
        self.lines = [""]
        self.row = self.column = 0
        self.cursor_shown = True

    def write(self, data: str) -> None:
        at = 0
        while at < len(data):
            found = self._COMMAND.match(data, at)
            if found:
                self._command(found)
                at = found.end()
                continue
            self._character(data[at])
            at += 1

    def _command(self, found: re.Match[str]) -> None:
        match found[3], found[1], found[2]:
            case "A", "", count:
                self.row -= int(count or 1)
                assert self.row >= max(0, len(self.lines) - self.rows), "the cursor cannot go above the screen"
            case "C", "", count:
                self.column = min(self.columns - 1, int(count), len(self.lines[self.row]))
            case "K", "", "":
                self.lines[self.row] = self.lines[self.row][: self.column]
            case "J", "", "":
                self.lines[self.row] = self.lines[self.row][: self.column]
                del self.lines[self.row + 1 :]
            case ("h" | "l") as switch, "?", "25":
                self.cursor_shown = switch == "h"
            case (("h" | "l"), "?", "2026"):
                pass
            case ("m", _, _) | (None, _, _):
                pass  # a style
            case other:
                raise AssertionError(f"unknown command {other}")

    def _character(self, character: str) -> None:
        if character == "\n":
            self.row += 1
            self.column = 0  # the line discipline adds the carriage return
            if self.row == len(self.lines):
                self.lines.append("")
        elif character == "\r":
            self.column = 0
        else:
            assert character.isprintable(), f"{character!r} reached the terminal"
            line = self.lines[self.row].ljust(self.column)
            assert self.column < self.columns - 1, "a line is as wide as the terminal"
            self.lines[self.row] = line[: self.column] + character + line[self.column + 1 :]
            self.column += 1

    @property
    def shown(self) -> list[str]:
        lines = [line.rstrip() for line in self.lines]
        while lines and not lines[-1]:
            lines.pop()
        return lines


def drawn() -> tuple[Screen, FakeTerminal, io.StringIO]:
    sink = io.StringIO()
    console = Console(file=sink, width=COLUMNS, height=ROWS, force_terminal=True, color_system="standard", highlight=False)
    return Screen(console), FakeTerminal(), sink


def flush(sink: io.StringIO, terminal: FakeTerminal) -> str:
    written = sink.getvalue()
    sink.truncate(0)
    sink.seek(0)
    terminal.write(written)
    return written


@given(st.text())
def test_no_text_is_a_command(text: str) -> None:
    assert not [c for c in harmless(text) if unicodedata.category(c) in ("Cc", "Zl", "Zp") and c not in "\n\t"]
    assert harmless(harmless(text)) == harmless(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain ünï 滝 \t\n", "plain ünï 滝 \t\n"),
        ("\x1b[2J", "␛[2J"),
        ("\x07\x08\x00\x7f", "␇␈␀␡"),
        ("\x9b31m", "�31m"),
        ("safe\rover\r\n", "safeover\n"),
        ("\u202eabc\u2066", "�abc�"),
        ("👩\u200d💻", "👩\u200d💻"),
    ],
)
def test_control_characters_become_pictures(text: str, expected: str) -> None:
    assert harmless(text) == expected


lines = st.lists(st.text(alphabet="ab ", min_size=1, max_size=30).filter(str.strip), max_size=4)


@given(st.lists(st.tuples(lines, lines), max_size=12))
def test_what_is_finished_stays_and_the_region_is_replaced(steps: list[tuple[list[str], list[str]]]) -> None:
    screen, terminal, sink = drawn()
    finished: list[str] = []
    for done, region in steps:
        screen.draw([Text(line) for line in done], [Text(line) for line in region])
        flush(sink, terminal)
        finished += done
        assert terminal.shown == [line.rstrip() for line in (*finished, *region)]
    screen.close()
    flush(sink, terminal)
    assert terminal.column == 0
    assert terminal.cursor_shown


def test_only_what_changed_is_written() -> None:
    screen, terminal, sink = drawn()
    region = [Text(f"line {n}") for n in range(6)]
    screen.draw([], region)
    flush(sink, terminal)
    screen.draw([], region)
    assert flush(sink, terminal) == ""
    screen.draw([], [*region[:-1], Text("changed")])
    written = flush(sink, terminal)
    assert "changed" in written
    assert "line" not in written


def test_a_region_that_is_finished_as_it_is_is_not_written_again() -> None:
    screen, terminal, sink = drawn()
    screen.draw([], [Text("one"), Text("two")])
    flush(sink, terminal)
    screen.draw([Text("one"), Text("two")], [])
    assert "one" not in flush(sink, terminal)
    screen.draw([Text("three")], [])
    flush(sink, terminal)
    assert terminal.shown == ["one", "two", "three"]


def test_a_region_is_never_as_high_as_the_terminal() -> None:
    screen, terminal, sink = drawn()
    for height in (3, 50, 5, 80):
        screen.draw([], [Text(f"line {n}") for n in range(height)])
        flush(sink, terminal)
        assert terminal.shown[-1] == f"line {height - 1}"
    assert len(terminal.shown) == ROWS - 2


def test_wide_lines_are_folded_before_the_last_column() -> None:
    screen, terminal, sink = drawn()
    screen.draw([Text("x" * 100)], [Text("滝" * 30)])
    written = flush(sink, terminal)
    assert terminal.shown[0] == "x" * (COLUMNS - 1)
    assert written.count("滝") == 30


def test_entities_are_no_way_around() -> None:
    screen, terminal, sink = drawn()
    screen.draw([Answer("a &#27;[2J b &#x9b;c &#13; d &#8238;e `&#7;` [l](http://x/&#27;) \x1b]0;t\x07")], [])
    flush(sink, terminal)
    assert "[2J" in terminal.shown[0]


def test_a_renderer_that_fails_costs_the_style_and_not_the_text() -> None:
    class Broken:
        markup = "what the model said"

        def __rich_console__(self, *args: object) -> None:
            raise IndexError

    screen, terminal, sink = drawn()
    screen.draw([Broken()], [])
    flush(sink, terminal)
    assert terminal.shown == ["what the model said"]


@given(st.text(alphabet="ab \n#`~-|>*_[]()!<&;\x1b\x07\r1.", max_size=120))
def test_no_markdown_breaks_the_screen(source: str) -> None:
    screen, terminal, sink = drawn()
    screen.draw([Answer(source)], [Answer(source)])
    flush(sink, terminal)
