"""The proof's own processes and its network: children that are waited for and ended, connections that are cut."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from headrace.cli.proof import child as children
from headrace.cli.proof.child import Child, ChildFailed, stop_all
from headrace.cli.proof.cutter import Cutter

pytestmark = pytest.mark.real

SAY = "import sys, time; print('ready', flush=True); time.sleep(60)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"


def start(folder: Path, code: str) -> Child:
    return Child("a child", [sys.executable, "-c", code], folder)


def ready(child: Child) -> None:
    child.wait_for(lambda: "ready" in child.output() or None, "said so")


def test_a_child_is_waited_for_and_ended(tmp_path: Path) -> None:
    child = start(tmp_path, SAY)
    ready(child)
    stop_all([child])
    assert child.process.returncode == -signal.SIGTERM


def test_a_child_that_does_not_listen_to_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "STOP_S", 0.1)
    child = start(tmp_path, STUBBORN)
    ready(child)
    stop_all([child])
    assert child.process.returncode == -signal.SIGKILL


def test_a_child_that_ends_too_soon_is_told_with_its_last_words(tmp_path: Path) -> None:
    child = start(tmp_path, "import sys; sys.exit('the disk is full')")
    with pytest.raises(ChildFailed, match=r"ended with status 1 before it said so\.\nthe disk is full"):
        child.wait_for(lambda: None, "said so")


def test_a_child_that_takes_too_long_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "START_S", 0.05)
    child = start(tmp_path, SAY)
    with pytest.raises(ChildFailed, match="a child has not said so"):
        child.wait_for(lambda: None, "said so")
    stop_all([child])


@asynccontextmanager
async def echo() -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1024):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def talk(url: str, words: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    try:
        writer.write(words)
        return await reader.readexactly(len(words))
    finally:
        writer.close()


async def test_a_cut_resets_what_is_open_and_what_comes_until_it_is_mended() -> None:
    async with echo() as port, Cutter("127.0.0.1", port) as network:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(network.url.rpartition(":")[2]))
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        network.cut()
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        writer.close()
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await talk(network.url, b"are you there")
        assert network.refused == 1
        network.mend()
        assert await talk(network.url, b"again") == b"again"
