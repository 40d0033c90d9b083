"""What every test of something that runs is watched for: nothing blocks the loop, nothing is left behind, nothing goes unsaid."""

import asyncio
import builtins
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PATIENCE_S = 10.0
_TIDYING_S = 2.0
_SOCKET_CALLS = ("accept", "connect", "recv", "recv_into", "recvfrom", "send", "sendall", "sendto")


class BlockingCall(AssertionError):
    """Something that waits was called on the event loop."""


async def until(condition: Callable[[], object], what: str = "") -> None:
    """Return as soon as `condition` holds. Waits as long as it must, and no time is told from it."""
    deadline = time.perf_counter() + PATIENCE_S
    while not condition():
        assert time.perf_counter() < deadline, f"never came: {what or condition}"
        await asyncio.sleep(0.0005)


async def as_soon_as(condition: Callable[[], object]) -> None:
    """Return in the turn of the loop in which `condition` begins to hold: for moments that do not last."""
    for _ in range(100_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError(f"never came: {condition}")


async def turns(count: int = 20) -> None:
    """Let everything that can happen now happen: for what must not."""
    for _ in range(count):
        await asyncio.sleep(0)


def refuse_blocking_calls(patch: pytest.MonkeyPatch) -> None:
    """Make calls that block fail while an event loop runs: `time.sleep`, name look-ups, blocking sockets, and files in our code."""

    def forbid(owner: Any, name: str, blocks: Callable[..., bool]) -> None:
        function = getattr(owner, name)

        def guarded(*args: Any, **kwargs: Any) -> Any:
            if asyncio._get_running_loop() is not None and blocks(*args):
                raise BlockingCall(f"{name} on the event loop")
            return function(*args, **kwargs)

        patch.setattr(owner, name, guarded)

    forbid(time, "sleep", lambda *_: True)
    forbid(socket, "getaddrinfo", lambda *_: True)
    forbid(socket, "gethostbyname", lambda *_: True)
    forbid(builtins, "open", lambda *_: _called_by_headrace())
    for name in _SOCKET_CALLS:
        forbid(socket.socket, name, lambda sock, *_: sock.gettimeout() != 0)


def _called_by_headrace() -> bool:
    frame = sys._getframe(3)
    name = frame.f_globals.get("__name__", "")
    return name.startswith("headrace.")


def open_sockets() -> list[str]:
    """Return the sockets of this process; none where the system does not tell."""
    found = []
    for entry in Path("/proc/self/fd").glob("*"):
        try:
            target = os.readlink(entry)
        except OSError:  # closed meanwhile
            continue
        if target.startswith("socket:"):
            found.append(target)
    return found


class Watch:
    """Takes stock before a test and compares after it: tasks, sockets, and errors that nobody heard of."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._tasks = asyncio.all_tasks()
        self._sockets = len(open_sockets())  # by number: uvloop makes itself a new pair for every run
        self.unheard: list[dict[str, Any]] = []
        self._loop.set_exception_handler(lambda _, context: self.unheard.append(context))

    async def assert_nothing_is_left(self) -> None:
        deadline = time.perf_counter() + _TIDYING_S
        while self._left():
            if time.perf_counter() > deadline:
                break
            await asyncio.sleep(0.001)
        assert self._left() == []
        assert self.unheard == []

    def _left(self) -> list[object]:
        tasks = asyncio.all_tasks() - self._tasks - {asyncio.current_task()}
        sockets = open_sockets()
        return [*tasks, *(sockets if len(sockets) > self._sockets else [])]
