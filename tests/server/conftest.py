"""A relay that serves, on the loop and with the protocol that it has in production, and the way it goes under another server."""

import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from typing import Any

import pytest
import uvloop

from engine.guards import Watch, refuse_blocking_calls, until
from engine.peers import Listener
from server.served import WAYS, Served, configuration, serving


def pytest_asyncio_loop_factories(config: Any, item: pytest.Item) -> Mapping[str, Callable[[], Any]]:
    return {"uvloop": uvloop.new_event_loop}


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
    """A provider that does what the test says."""
    async with Listener() as running:
        yield running


@pytest.fixture(params=list(WAYS))
def way(request: pytest.FixtureRequest) -> str:
    """Each test that asks for it runs in both ways: with our protocol, and as any ASGI application."""
    return str(request.param)


Serve = Callable[..., Any]


@pytest.fixture
async def serve(way: str, listener: Listener, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Serve]:
    """Start a relay with the configuration that is given; the test's own provider is `p` (and `a`)."""
    monkeypatch.setattr("headrace.engine.upstream.connection.DRAIN_S", 0.05)
    async with AsyncExitStack() as stack:

        async def start(**options: Any) -> Served:
            served = await stack.enter_async_context(serving(configuration(provider_url=listener.address, **options), way))
            stack.push_async_callback(assert_whole, served)
            return served

        yield start


async def assert_whole(served: Served) -> None:
    """When every client has gone and every stream has been stopped, nothing is left."""
    served.leave()
    streams = served.relay.streams
    for stream in streams.live():
        stream.cancel("user")
    await until(lambda: all(not stream.readers for stream in streams._streams.values()), "every reader left")
    assert streams.running == 0
    for provider in served.relay.catalogue.providers.values():
        assert (provider.line.active, provider.line.waiting) == (0, [])
    await until(lambda: streams.pool.statistics()["open"] == streams.pool.statistics()["idle"], "nothing but idle connections")


@pytest.fixture
async def relay(serve: Serve) -> Served:
    served: Served = await serve()
    return served
