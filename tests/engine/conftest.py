"""Every asynchronous test here is watched; those of the upstream client run on both event loops."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import pytest
import uvloop

from engine.guards import Watch, refuse_blocking_calls
from engine.peers import Listener

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
