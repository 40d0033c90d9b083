"""Every asynchronous test here is watched; those of the upstream client run on both event loops."""

import asyncio
import inspect
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import pytest
import uvloop

from engine.guards import Watch, refuse_blocking_calls
from engine.peers import Listener
from engine.rig import Clock, Rig
from engine.wires import WIRES, Wire
from headrace.simulator import Simulator

BOTH_LOOPS: Mapping[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}


def pytest_asyncio_loop_factories(config: Any, item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return BOTH_LOOPS if "upstream" in item.path.parts else {"asyncio": asyncio.SelectorEventLoop}


@pytest.fixture(autouse=True)
def _watched(request: pytest.FixtureRequest) -> None:
    if inspect.iscoroutinefunction(request.function):
        request.getfixturevalue("watch")


@pytest.fixture
def no_blocking(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        refuse_blocking_calls(patch)
        yield


@pytest.fixture
async def watch(no_blocking: None) -> AsyncIterator[Watch]:
    watch = Watch()
    yield watch
    await watch.assert_nothing_is_left()


@pytest.fixture
async def listener(watch: Watch) -> AsyncIterator[Listener]:
    """A provider that does what the test says, byte by byte."""
    async with Listener() as running:
        yield running


@pytest.fixture
async def rig(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    """An engine. Afterwards every stream has ended once, every place is free, and every connection is idle or closed."""
    monkeypatch.setattr("headrace.engine.upstream.connection.DRAIN_S", 0.05)
    rig = Rig(listener)
    yield rig
    await rig.aclose()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
async def simulator(watch: Watch) -> AsyncIterator[Simulator]:
    async with Simulator() as running:
        yield running


@pytest.fixture(params=list(WIRES))
def wire(request: pytest.FixtureRequest) -> Wire:
    """Each test that asks for it runs in both dialects."""
    return WIRES[request.param]


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """A port on which connecting never ends: it listens, and its backlog is full."""
    with socket.socket() as server, socket.socket() as first, socket.socket() as second:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        port = server.getsockname()[1]
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        yield port
