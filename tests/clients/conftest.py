"""The relay as a process in front of the simulated provider, and a Node process with the JavaScript clients."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, NamedTuple

import pytest

from real.processes import PATIENCE_S, Relay, wait_for

from .node_clients import Driver, NodeClient
from .roster import CLIENTS
from .tap import Tap

HEARTBEAT_S = 0.2
_CONFIG = """
[simulator]
enabled = true
port = {port}

[stream]
heartbeat_s = {heartbeat_s}

[retry]
attempts_max = 1

[models.fast]
targets = ["simulator/quick?first_token_s=0&tokens_per_s=0"]
"""


class Witness:
    """The provider's dashboard: what reached it, and when its reader left."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._tags = itertools.count(1)

    def tag(self, model: str) -> str:
        """Return `model` so that its request can be found again: the simulator ignores the seed where nothing is random."""
        return f"{model}{'&' if '?' in model else '?'}seed={next(self._tags)}"

    def records(self, model: str) -> list[dict[str, Any]]:
        """What the provider knows of the requests for `model`, oldest first."""
        name = model.partition("/")[2]
        with urllib.request.urlopen(self._url + "/stats", timeout=PATIENCE_S) as response:
            return [record for record in json.load(response)["requests"] if record["model"] == name]

    async def record(self, model: str, condition: Callable[[dict[str, Any]], object], what: str) -> dict[str, Any]:
        """Return the record of the last request for `model` as soon as `condition` holds for it."""

        def look() -> dict[str, Any] | None:
            records = self.records(model)
            return records[-1] if records and condition(records[-1]) else None

        return await asyncio.to_thread(lambda: wait_for(look, f"{what}: {model}") or {})


class Stage(NamedTuple):
    """The relay, where it listens, and its provider's dashboard."""

    url: str
    port: int
    witness: Witness

    async def call(self, method: str, path: str) -> tuple[int, Any]:
        """Return status and JSON of a request without a body."""

        def ask() -> tuple[int, Any]:
            request = urllib.request.Request(self.url + path, method=method)
            try:
                with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
                    raw = response.read()
                    return response.status, json.loads(raw) if raw else None
            except urllib.error.HTTPError as error:
                return error.code, json.load(error)

        return await asyncio.to_thread(ask)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A relay whose heartbeats come soon, and which leaves asking again to the client."""
    port = _free_port()
    extra = _CONFIG.format(port=port, heartbeat_s=HEARTBEAT_S)
    with Relay(tmp_path_factory.mktemp("clients"), None, extra) as relay:
        yield Stage(relay.url, relay.port, Witness(f"http://127.0.0.1:{port}"))


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """Node with every JavaScript client; `CLIENTS` use it from here on."""
    driver = Driver(tmp_path_factory.mktemp("node") / "driver.log")
    for client in CLIENTS:
        if isinstance(client, NodeClient):
            client.driver = driver
    yield driver
    driver.end()


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """Node with a document and a window, in which the SDKs of the other driver would believe to be in a browser."""
    driver = Driver(tmp_path_factory.mktemp("browser") / "driver.log")
    yield driver
    driver.end()


@pytest.fixture
async def tap(stage: Stage) -> AsyncIterator[Tap]:
    async with Tap(stage.port) as tap:
        yield tap
