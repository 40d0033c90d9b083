"""What the proof takes from its surroundings, what it says when something is missing, and how it writes on a terminal."""

from __future__ import annotations

import io
import os
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest
from rich.console import Console

from headrace.cli.proof import memory, nginx, output
from headrace.cli.proof.child import ChildFailed, clean_environment, ended_by_signals, free_ports
from headrace.cli.proof.typewriter import Typewriter, sparkline


def test_a_child_knows_no_setting_of_another_relay_and_no_proxy() -> None:
    environ = {"PATH": "/bin", "HEADRACE_SERVER_PORT": "1", "HTTPS_PROXY": "x", "http_proxy": "x", "OPENAI_API_KEY": "k"}
    assert clean_environment(environ) == {"PATH": "/bin", "OPENAI_API_KEY": "k"}


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_a_signal_unwinds_and_becomes_the_exit_status(number: signal.Signals, status: int) -> None:
    unwound: list[bool] = []

    def work() -> None:
        with ended_by_signals(), ExitStack() as stack:
            stack.callback(unwound.append, True)
            os.kill(os.getpid(), number)
            signal.sigtimedwait([], 5)

    with pytest.raises(SystemExit) as left:
        work()
    assert unwound
    assert left.value.code == status


def test_free_ports_differ() -> None:
    assert len(set(free_ports(5))) == 5


def test_a_missing_nginx_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nginx.shutil, "which", lambda *args, **options: None)
    with pytest.raises(ChildFailed) as failed:
        nginx.find()
    assert failed.value.public_message == "nginx is missing: run `sudo apt-get install nginx`."


def test_a_missing_browser_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(output, "BROWSERS", ("no-such-browser",))
    with pytest.raises(ChildFailed, match="install one of no-such-browser"):
        output.photograph(tmp_path / "x.html", tmp_path / "x.png", width=1, height=1)


def test_the_memory_of_a_process_is_its_own_pages() -> None:
    assert memory.is_told(), "Linux tells; the promise about memory could not be measured here"
    before = memory.pss_kib(os.getpid())
    ballast = bytearray(os.urandom(1)) * (8 * 1024 * 1024)
    assert 7_000 < memory.pss_kib(os.getpid()) - before < 9_500
    del ballast


# Text in the terminal


def typed(*pieces: str, width: int = 40) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    writer = Typewriter(console)
    for piece in pieces:
        writer.write(piece)
    writer.end()
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_text_is_wrapped_between_words_and_loses_nothing() -> None:
    pieces = ["The", " old", " miller", " kept", " two", " books", ".", " In", " the", " first", " she", " wrote", ",", " often", "."]
    lines = typed(*pieces)
    assert len(lines) > 1
    assert all(line.startswith("   ") and len(line) <= 40 for line in lines)
    assert " ".join(line.strip() for line in lines) == "".join(pieces)


def test_one_long_piece_wraps_like_many_short_ones() -> None:
    words = "her headrace was four hundred paces of oak and clay and more"
    assert typed(words) == typed(*[words[:3], *(f" {word}" for word in words[4:].split(" "))])


def test_line_ends_of_the_text_are_kept_and_a_word_without_spaces_is_broken() -> None:
    assert typed("a\n\nb") == ["   a", "", "   b"]
    assert len(typed(*["xxxx"] * 30)) > 2


def test_a_sparkline_shows_where_nothing_came() -> None:
    line = sparkline([0.1] * 8 + [0.9] * 4, 1.0, 10)
    assert len(line) == 10
    assert line[1] == "█"
    assert line[9] == "▄"
    assert line.count("·") == 8
