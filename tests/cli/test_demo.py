"""`headrace demo` on a terminal and without one: what it shows, how it hands over to the chat, and that it leaves nothing behind."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click.testing
import pytest

import headrace.cli.demo as demo

DEMO = [sys.executable, "-c", "from headrace.cli import main; main()", "demo"]
PATIENCE_S = 40.0
PROMPT = "› "

pytestmark = [pytest.mark.real, pytest.mark.timeout(90)]


class Terminal:
    """The demo in a terminal of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.seen = b""
        ours, theirs = pty.openpty()
        environ = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "50", "TMPDIR": str(folder)}
        self.process = subprocess.Popen(
            [*DEMO, "--out", str(folder / "proof"), *options],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environ,
            start_new_session=True,
        )
        os.close(theirs)
        self._fd = ours

    @property
    def text(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", self.seen.decode("utf-8", "replace"))

    def until(self, words: str) -> None:
        self._read(lambda: words in self.text)
        assert words in self.text, self.text[-2000:]

    def leave(self) -> None:
        """Press Ctrl-D until somebody listens to it: setting up the line's editing discards what was typed before."""
        while self.process.poll() is None:
            os.write(self._fd, b"\x04")
            self._read(lambda: False, 0.5)

    def wait(self) -> int:
        """Read to the end, and return the exit status."""
        self._read(lambda: False)
        return self.process.wait(10)

    def children(self) -> list[int]:
        tasks = Path(f"/proc/{self.process.pid}/task")
        return [int(number) for task in tasks.iterdir() for number in (task / "children").read_text().split()]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(20)
        os.close(self._fd)

    def _read(self, is_enough: Callable[[], bool], within_s: float = PATIENCE_S) -> None:
        deadline = time.monotonic() + within_s
        while not is_enough() and time.monotonic() < deadline:
            if not select.select([self._fd], [], [], 0.2)[0]:
                continue
            try:
                data = os.read(self._fd, 65536)
            except OSError:  # the other end is closed
                return
            self.seen += data


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def open_terminal(*options: str) -> Terminal:
        opened.append(Terminal(tmp_path, *options))
        return opened[-1]

    yield open_terminal
    for one in opened:
        one.close()


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_the_whole_of_it_on_a_terminal_down_to_the_chat(terminal: Callable[..., Terminal]) -> None:
    shown = terminal("--no-prove")
    shown.until(PROMPT)
    text = " ".join(shown.text.split())
    for said in ("provider http://127.0.0.1:", "relay http://127.0.0.1:", "nginx http://127.0.0.1:"):
        assert said in text
    assert "The old miller kept two books." in text
    assert re.search(r"first token after \d+ ms, then one every 1\d\.\d ms: 234 tokens", text)
    assert re.search(r"connection closed \d+\.\d ms after Stop, (6\d) tokens written by then, \1 when asked again", text)
    assert "the receipt says: cancelled, 6" in text
    assert re.search(
        r"[1-9]\d* events replayed \(underlined\), which the provider had written meanwhile: nothing lost, nothing twice", text
    )
    assert "90 fragments passed on as they came; the relay's log says 90 fragments, parsed once" in text
    children = shown.children()
    assert len(children) == 4, "provider, two relays, nginx"
    shown.leave()
    assert shown.wait() == 0
    assert not any(map(is_alive, children))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_the_middle_ends_everything(terminal: Callable[..., Terminal], number: signal.Signals, status: int) -> None:
    shown = terminal("--no-prove")
    shown.until("The old miller")
    children = shown.children()
    os.kill(shown.process.pid, number)
    assert shown.wait() == status
    assert "Traceback" not in shown.text
    assert not any(map(is_alive, children))
    assert list(shown.folder.iterdir()) == []


def test_without_a_terminal_there_is_no_chat(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def play(console: Any, stage: Any) -> None:
        console.print(f"the acts, through {stage.url}")

    monkeypatch.setattr(demo.acts, "play", play)
    outcome = click.testing.CliRunner().invoke(demo.command, ["--no-prove", "--out", str(tmp_path)])
    assert outcome.exit_code == 0, outcome.output
    assert "the acts, through http://127.0.0.1:" in outcome.output
    assert PROMPT not in outcome.output


def test_a_missing_nginx_is_told_before_anything_is_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from headrace.cli import main

    monkeypatch.setattr("headrace.cli.proof.nginx.shutil.which", lambda *args, **options: None)
    outcome = click.testing.CliRunner().invoke(main, ["demo", "--out", str(tmp_path)])
    assert outcome.exit_code == 1
    assert outcome.output == "headrace: nginx is missing: run `sudo apt-get install nginx`.\n"
