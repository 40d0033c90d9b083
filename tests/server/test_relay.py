"""One relay from its start to its end."""

import asyncio

import pytest

from engine.guards import Watch, turns, until
from engine.peers import CHUNKED, LAST_CHUNK, Listener, chunk, head
from engine.wires import OPENAI
from headrace.errors import ConfigError
from headrace.server.config import Config, ModelConfig, SimulatorConfig
from headrace.server.relay import Relay
from server.served import Connection, configuration, serving


async def test_ready_is_between_its_start_and_its_end(watch: Watch) -> None:
    relay = Relay(configuration())
    assert not relay.ready
    await relay.start()
    assert relay.ready
    relay.streams.drain()
    assert not relay.ready
    await relay.aclose()
    assert not relay.ready


async def test_connections_are_warmed_at_the_start(listener: Listener) -> None:
    relay = Relay(configuration(provider_url=listener.address, warm_connections=2))
    await relay.start()

    assert relay.streams.pool.statistics()["idle"] == 4  # two providers
    await relay.aclose()
    for peer in listener.peers:
        await peer.gone()


async def test_a_provider_that_is_not_there_at_the_start_is_no_reason_not_to_start(listener: Listener) -> None:
    config = configuration(provider_url=listener.address, warm_connections=2)
    await listener.__aexit__()
    relay = Relay(config)
    await relay.start()
    assert relay.ready
    await relay.aclose()


async def test_a_start_that_fails_leaves_nothing_behind(watch: Watch) -> None:
    """The simulator runs already when the models are looked at."""
    config = Config(models={"a": ModelConfig(targets=["nobody/x"])}, simulator=SimulatorConfig(enabled=True))
    relay = Relay(config)

    with pytest.raises(ConfigError, match="nobody/x"):
        await relay.start()


async def test_a_drain_lets_streams_finish(listener: Listener) -> None:
    async with serving(configuration(provider_url=listener.address)) as served:
        connection = await served.chat("p/m")
        peer = await listener.accept()
        await peer.request()
        draining = asyncio.create_task(served.relay.drain())
        await turns()
        assert not draining.done()
        peer.send(head(CHUNKED), chunk(OPENAI.plain("to the end")), LAST_CHUNK)

        await draining
        assert b"to the end" in await connection.body()


async def test_a_drain_ends_what_takes_too_long(listener: Listener) -> None:
    async with serving(configuration(provider_url=listener.address, server={"drain_timeout_s": 0.05})) as served:
        connection = await served.chat("p/m")
        peer = await listener.accept()
        await peer.request()

        await served.relay.drain()

        body = await connection.body()
        assert b'"code":"server_shutdown"' in body
        assert body.endswith(b"data: [DONE]\n\n")
        await peer.gone()


async def test_a_server_that_closes_says_so_to_its_streams(listener: Listener) -> None:
    connection: Connection
    async with serving(configuration(provider_url=listener.address)) as served:
        connection = await served.chat("p/m")
        peer = await listener.accept()
        await peer.request()
        await served.relay.aclose()
        assert b'"code":"server_shutdown"' in await connection.body()
        await until(lambda: peer.left.is_set())
