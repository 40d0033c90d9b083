"""The relay behind a real nginx, shared by all tests of a session: provider, relay and nginx as processes on free ports."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest

from headrace.cli.proof import nginx as real_nginx
from headrace.cli.proof import probe
from headrace.cli.proof.child import stop_all
from headrace.cli.proof.stage import Provider, Relay
from headrace.cli.proof.witness import Witness

HEARTBEAT_S = 0.5


@pytest.fixture(scope="session")
def session_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="session")
def ending() -> Iterator[ExitStack]:
    """What is to be ended when the session is over, last first."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="session")
def simulator(session_folder: Path, ending: ExitStack) -> Provider:
    """The simulated provider, with a dashboard that stamps every token."""
    provider = Provider(session_folder)
    ending.callback(stop_all, [provider.child])
    return provider.wait("/health")


@pytest.fixture(scope="session")
def relay(session_folder: Path, simulator: Provider, ending: ExitStack) -> Relay:
    """`headrace serve`; its models are `simulator/<script>` and `simulator-anthropic/<script>`, its heartbeats come soon."""
    relay = Relay(session_folder, simulator.url, extra=f"\n[stream]\nheartbeat_s = {HEARTBEAT_S}\n")
    ending.callback(stop_all, [relay.child])
    return relay.wait("/readyz")


@pytest.fixture(scope="session")
def nginx(session_folder: Path, relay: Relay, ending: ExitStack) -> real_nginx.Nginx:
    """Debian's nginx in front of the relay: `plain` has `proxy_pass` only, `buffering` is told to buffer."""
    sites = {"plain": real_nginx.Site(relay.address), "buffering": real_nginx.Site(relay.address, real_nginx.BUFFERING)}
    server = real_nginx.Nginx(session_folder / "nginx", sites)
    ending.callback(stop_all, [server.child])
    return server


@pytest.fixture
async def http() -> AsyncIterator[httpx2.AsyncClient]:
    async with probe.client() as client:
        yield client


@pytest.fixture
def witness(http: httpx2.AsyncClient, simulator: Provider) -> Witness:
    return Witness(http, simulator.url)
