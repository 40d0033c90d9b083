"""Both clients over the relay of `fake_relay`, with a clock that never waits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import pytest

from headrace.client import AsyncClient, Client, Policy, Timeouts
from headrace.client.port import Address, AsyncPort, BlockingPort

from .fake_relay import URL, AwaitedClient, Clock, FakeRelay

MakeClient = Callable[..., Any]


@pytest.fixture
def relay() -> FakeRelay:
    return FakeRelay()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["asynchronous", "blocking"])
async def make_client(request: pytest.FixtureRequest, relay: FakeRelay, clock: Clock) -> AsyncIterator[MakeClient]:
    """Make clients of `relay` that never really wait."""
    made: list[Any] = []

    def make(*, api_key: str | None = "secret", **options: Any) -> Any:
        timeouts = options.pop("timeouts", Timeouts())
        address = Address(URL, api_key, options.pop("headers", None), timeouts)
        options.setdefault("retry", Policy())
        if request.param == "asynchronous":
            http = httpx2.AsyncClient(transport=relay)
            port = AsyncPort(address, http, now=clock.now, sleep=clock.sleep, chance=lambda: 1.0)
            made.append(AsyncClient(URL, port=port, **options))
        else:
            blocking = BlockingPort(address, httpx2.Client(transport=relay), now=clock.now, sleep=clock.block, chance=lambda: 1.0)
            made.append(AwaitedClient(Client(URL, port=blocking, **options)))
        return made[-1]

    yield make
    for client in made:
        await client.aclose()


@pytest.fixture(params=["sse", "ndjson"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)
