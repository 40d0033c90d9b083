"""`headrace chat` against a real relay: as a command in a pipe, and on a terminal."""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from fcntl import ioctl

import pytest
from click.testing import CliRunner

from headrace.cli import main

QUICK = "simulator/quick?first_token_s=0&tokens_per_s=0"
ECHO = "simulator/echo?first_token_s=0&tokens_per_s=0"
# A session leader that opens a terminal has it as its own, and Ctrl-C on it becomes a signal.
PROGRAM = "import os; os.open(os.ttyname(0), os.O_RDWR)\nfrom headrace.cli import main\nmain(prog_name='headrace')"


def chat(url: str, *args: str, stdin: str = "") -> tuple[int, str, str]:
    outcome = CliRunner().invoke(main, ["chat", "--url", url, *args], input=stdin)
    assert outcome.exception is None or isinstance(outcome.exception, SystemExit), outcome.exception
    return outcome.exit_code, outcome.stdout, outcome.stderr


def test_an_argument_is_answered_once(relay_url: str) -> None:
    status, out, err = chat(relay_url, "--model", QUICK, "hi")
    assert status == 0
    assert out.startswith("A headrace is the channel")
    assert out.endswith(".\n")
    assert err == ""


def test_what_is_piped_in_follows_the_argument(relay_url: str) -> None:
    assert chat(relay_url, "-m", ECHO, "Explain:", stdin="x = 1\n") == (0, "Explain:\n\nx = 1\n", "")
    assert chat(relay_url, "-m", ECHO, stdin="Only this.\n") == (0, "Only this.\n", "")


def test_nothing_to_ask_is_a_mistake_in_the_command(relay_url: str) -> None:
    status, _, err = chat(relay_url, stdin=" \n")
    assert status == 2
    assert "There is nothing to ask" in err


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("nope/nothing", "There is no model 'nope/nothing'"),
        ("simulator/die?after=5&first_token_s=0&tokens_per_s=0", "The text above is kept but not complete."),
    ],
)
def test_an_answer_that_fails_is_status_1(relay_url: str, model: str, said: str) -> None:
    status, _, err = chat(relay_url, "-m", model, "hi")
    assert status == 1
    assert said in err
    assert err.count("\n") == 1


def test_no_relay_is_status_1() -> None:
    status, out, err = chat("http://127.0.0.1:9", "hi")
    assert (status, out) == (1, "")
    assert err == "headrace: There is no relay at http://127.0.0.1:9: connection refused. Start one with: headrace serve\n"


def test_an_address_that_cannot_be_is_status_2() -> None:
    status, _, err = chat("relay.test", "hi")
    assert status == 2
    assert err.startswith("headrace: base_url")


def test_a_hostile_answer_commands_nothing(relay_url: str) -> None:
    evil = "\x1b]0;owned\x07 \x1b[2J \x9b31m over\rwritten"
    status, out, _ = chat(relay_url, "-m", ECHO, evil)
    assert status == 0
    assert "owned" in out
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", out)


# --- on a terminal -------------------------------------------------------------------------------------------------------


class Terminal:
    """A program on a pseudo-terminal: what it shows, without its colours, and a keyboard."""

    def __init__(self, *args: str, columns: int = 100, rows: int = 30) -> None:
        self.master, self.slave = os.openpty()
        ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        environment = {**os.environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *args],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            start_new_session=True,
            env=environment,
        )
        self.shown = ""
        self._seen = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def wait_for(self, pattern: str, timeout_s: float = 20.0) -> str:
        """Return what matches `pattern` in what has been shown since the last call."""
        deadline = time.monotonic() + timeout_s
        while not (found := re.compile(pattern, re.DOTALL).search(self.shown, self._seen)):
            left = deadline - time.monotonic()
            assert left > 0, f"no {pattern!r} in {self.shown[self._seen :]!r}"
            if select.select([self.master], [], [], min(left, 0.1))[0]:
                data = self._decoder.decode(os.read(self.master, 65536))
                self.shown += re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", data)
        self._seen = found.end()
        return found[0]

    def wait(self) -> int:
        return self.process.wait(10)

    def interrupt(self) -> int:
        """Press Ctrl-C as somebody at a terminal does: again, if nothing came of it.

        readline shows its prompt a moment before it listens, and a signal in that moment waits for the next key.
        """
        for _ in range(20):
            self.type("\x03")
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.process.wait(0.5)
        raise AssertionError("Ctrl-C at the prompt does not end the program")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def terminal(relay_url: str) -> Iterator[Terminal]:
    running = Terminal("chat", "--url", relay_url, "--model", "simulator/endless?first_token_s=0.05")
    yield running
    running.close()


def test_ctrl_c_stops_the_answer_and_not_the_program(terminal: Terminal) -> None:
    before = termios.tcgetattr(terminal.slave)
    terminal.wait_for("Ctrl-D leaves.*›")
    terminal.type("How far?\n")
    terminal.wait_for("The river does not know")
    assert not termios.tcgetattr(terminal.slave)[3] & termios.ECHO, "keys do not write into the answer"
    terminal.type("\x03")
    said = terminal.wait_for(r"You stopped at [\d.]+ s\. .*relay's estimate\.")
    assert "The provider's connection was closed" in said
    terminal.wait_for("TTFT .* tokens · endless.*›")
    terminal.type("And now?\n")
    terminal.wait_for("The river does not know")
    terminal.type("\x03")
    terminal.wait_for("You stopped at.*›")
    terminal.type("\x04")
    assert terminal.wait() == 0
    assert termios.tcgetattr(terminal.slave)[3] == before[3]


def test_ctrl_c_at_the_prompt_leaves(terminal: Terminal) -> None:
    terminal.wait_for("›")
    assert terminal.interrupt() == 130


def test_a_single_answer_that_is_stopped_is_status_130(relay_url: str) -> None:
    running = Terminal("chat", "--url", relay_url, "--model", "simulator/endless?first_token_s=0.05", "How far?")
    try:
        running.wait_for("The river does not know")
        running.type("\x03")
        running.wait_for("You stopped at")
        assert running.wait() == 130
    finally:
        running.close()


def test_thinking_folds_and_markdown_is_rendered(relay_url: str) -> None:
    running = Terminal("chat", "--url", relay_url, "--model", "simulator/thinking?first_token_s=0.3&thinking_s=1", "Why?")
    try:
        running.wait_for("Waiting for ")
        running.wait_for("Thinking… 0 s")
        running.wait_for(r"Thought for [\d.]+ s, ≈ 50 tokens")
        running.wait_for(" • Headrace: 5 minutes, once")
        running.wait_for("TTFT 0")
        assert running.wait() == 0
    finally:
        running.close()
