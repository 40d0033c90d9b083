"""A child process: started with its output in a file, waited for by asking, ended by its own id and no other way."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TypeVar

from headrace.errors import HeadraceError

START_S = 20.0
STOP_S = 5.0
POLL_S = 0.01
_LOG_TAIL = 600
_FOREIGN = ("HEADRACE_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")

Found = TypeVar("Found")


class ChildFailed(HeadraceError):
    """A process that the proof needs did not start. The message is for whoever ran the command, with the process's last words."""

    code = "child_failed"


class Child:
    """One process with a session of its own, so that a Ctrl-C in the terminal reaches us and not it."""

    def __init__(self, name: str, args: Sequence[str | Path], folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(arg) for arg in args],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=clean_environment(os.environ),
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_for(self, look: Callable[[], Found | None], what: str) -> Found:
        """Return what `look` finds, as soon as it finds something.

        Raises:
            ChildFailed: the process ended, or nothing was found in time.
        """
        deadline = time.monotonic() + START_S
        while (found := look()) is None:
            if self.process.poll() is not None:
                raise ChildFailed(f"{self.name} ended with status {self.process.returncode} before it {what}.\n{self.last_words()}")
            if time.monotonic() > deadline:
                raise ChildFailed(f"{self.name} has not {what} after {START_S:.0f} s.\n{self.last_words()}")
            time.sleep(POLL_S)
        return found

    def output(self) -> str:
        return self.log.read_text("utf-8", "replace")

    def last_words(self) -> str:
        return self.output()[-_LOG_TAIL:].strip()

    def terminate(self) -> None:
        """Ask it to end; `wait` waits until it has."""
        if self.process.poll() is None:
            self.process.terminate()

    def wait(self) -> None:
        """Wait for its end; after `STOP_S` its session, which it shares with its own children only, is killed."""
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def stop_all(children: Iterable[Child]) -> None:
    """End all of them at the same time, since each may take a moment to say goodbye. An impatient Ctrl-C does not leave any behind."""
    ending = list(children)
    with _undisturbed():
        for child in ending:
            child.terminate()
        for child in ending:
            child.wait()


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def clean_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What a child may know: everything but settings that would make it another relay than the one that is tried."""
    return {name: value for name, value in environ.items() if not name.startswith(_FOREIGN)}


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on. Another process may take one meanwhile: whoever uses them must be ready to try again."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]


def listens(port: int) -> bool | None:
    """True as soon as somebody accepts on `port`, else None."""
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return None
    return True


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the stack as Ctrl-C does, so that no child is left behind. All three become an exit status."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
