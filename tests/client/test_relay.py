"""The client against the real relay and the simulated provider, over sockets, with a network in between that cuts."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

from headrace.client import AsyncClient, Client, Connection, Policy, Reply, Timeouts, reply_of
from headrace.errors import IdempotencyConflict, UnknownModel, UnknownStream, UpstreamAuth, UpstreamTruncated
from headrace.protocol import events as ev
from headrace.server.app import create_app
from headrace.server.config import Config, load
from headrace.server.direct import DirectProtocol
from headrace.server.run import bind
from headrace.simulator import Simulator

EAGER = Policy(attempts_max=8, backoff_s=0.002, backoff_s_max=0.01)


class Relay:
    """A relay on a socket, and what its provider saw."""

    def __init__(self, url: str, simulator: Simulator) -> None:
        self.url = url
        self.simulator = simulator

    @property
    def generations(self) -> int:
        return len(self.simulator.stats.requests)


@pytest.fixture
async def relay() -> AsyncIterator[Relay]:
    config: Config = load(environ={"HEADRACE_SERVER_LOG_FORMAT": "json"})
    app = create_app(config)
    sock = bind("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, http=DirectProtocol, lifespan="on", log_config=None))
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    while not server.started:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    assert app.state.relay.simulator is not None
    yield Relay(f"http://127.0.0.1:{sock.getsockname()[1]}", app.state.relay.simulator)
    server.should_exit = True
    await serving


class Cutter:
    """A network that cuts a connection after some bytes of the answer: the numbers of `cuts`, one a connection.

    With `hold` it does not say that it has: the connection stays open, and nothing comes any more.
    """

    def __init__(self, target: str, cuts: list[int], *, hold: bool = False) -> None:
        self.cuts = cuts
        self.hold = hold
        self.url = ""
        self._port = int(target.rpartition(":")[2])
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Cutter:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._port)
        left = self.cuts.pop(0) if self.cuts else 1 << 40
        sending = asyncio.create_task(_pump(reader, upstream_writer, 1 << 40))
        try:
            await _pump(upstream_reader, writer, left)
            if self.hold:
                await asyncio.Event().wait()
        finally:
            sending.cancel()
            for end in (writer, upstream_writer):
                end.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: int) -> None:
    while left > 0 and (data := await reader.read(min(left, 4096))):
        writer.write(data)
        await writer.drain()
        left -= len(data)


async def collect(client: AsyncClient, model: str, **fields: Any) -> Reply:
    async with client.stream("Hi", model=model, **fields) as stream:
        return await stream.collect()


@pytest.mark.parametrize("transport", ["sse", "ndjson"])
async def test_an_answer_and_its_measures(relay: Relay, transport: Any) -> None:
    async with AsyncClient(relay.url, transport=transport) as client:
        reply = await client.complete("Hi", model="simulator/quick?first_token_s=0.05&tokens_per_s=0")
    assert reply.complete
    assert reply.text.startswith("A headrace")
    assert reply.usage is not None
    assert reply.metrics is not None
    assert reply.metrics.ttft_ms is not None
    assert isinstance(reply.end, ev.StreamEnd)
    assert reply.end.metrics is not None
    assert reply.metrics.tokens == reply.end.metrics.tokens
    assert reply.metrics.ttft_ms > 50


async def test_the_blocking_client_reads_the_same(relay: Relay) -> None:
    model = "simulator/tools?first_token_s=0&tokens_per_s=0"

    def read() -> tuple[Reply, int]:
        with Client(relay.url) as client:
            reply = client.complete("Hi", model=model)
            assert reply.stream_id is not None
            return reply, client.state(reply.stream_id).last_seq

    blocking, last_seq = await asyncio.to_thread(read)
    async with AsyncClient(relay.url) as client:
        awaited = await client.complete("Hi", model=model)
    assert [call.arguments for call in blocking.tool_calls] == [call.arguments for call in awaited.tool_calls]
    assert blocking.text == awaited.text
    assert blocking.last_seq == last_seq


@pytest.mark.parametrize("transport", ["sse", "ndjson"])
@pytest.mark.parametrize("seed", range(2))
async def test_a_network_that_cuts_everywhere_loses_and_repeats_nothing(relay: Relay, transport: Any, seed: int) -> None:
    model = "simulator/markdown?first_token_s=0.01&tokens_per_s=2000"
    async with AsyncClient(relay.url) as direct:
        whole = await direct.complete("Hi", model=model)
    rng = random.Random(seed)
    heard: list[Connection] = []
    cuts = [rng.randrange(0, 6000) for _ in range(40)]
    async with (
        Cutter(relay.url, cuts) as network,
        AsyncClient(network.url, transport=transport, retry=EAGER._replace(attempts_max=50)) as client,
    ):
        reply = await collect(client, model, on_connection=heard.append)
    assert reply.text == whole.text
    assert reply.complete
    assert not reply.gaps
    assert reply.metrics is not None
    assert reply.metrics.reconnects > 0
    assert relay.generations == 2, "the same turn is never generated twice"
    assert any(connection.state == "resumed" for connection in heard)


async def test_a_network_that_goes_dead_without_a_word_is_noticed(relay: Relay) -> None:
    heard: list[Connection] = []
    async with (
        Cutter(relay.url, [5000], hold=True) as network,
        AsyncClient(network.url, retry=EAGER, timeouts=Timeouts(silence_s=0.2)) as client,
    ):
        reply = await collect(client, "simulator/story?first_token_s=0.01&tokens_per_s=2000", on_connection=heard.append)
    assert reply.complete
    assert "silent" in [connection.reason for connection in heard]
    assert relay.generations == 1


@pytest.mark.parametrize("wait_s", [0.0, 0.001, 0.005, 0.03, 0.15, 0.4])
async def test_a_stop_at_any_moment(relay: Relay, wait_s: float) -> None:
    async with AsyncClient(relay.url) as client, client.stream("Hi", model="simulator/story?first_token_s=0.1") as stream:
        reading = asyncio.create_task(stream.collect())
        await asyncio.sleep(wait_s)
        async with asyncio.timeout(5):
            receipt = await stream.stop()
            reply = await reading
        assert receipt.status in ("cancelled", "not_started")
        assert not reply.complete
        if receipt.status == "cancelled":
            assert receipt.stream_id is not None
            assert (await client.state(receipt.stream_id)).status == "cancelled"
            assert receipt.cancel_ms is None or receipt.cancel_ms < 1000
    assert all(request.state != "streaming" for request in relay.simulator.stats.requests)


async def test_a_stop_from_another_thread(relay: Relay) -> None:
    def read() -> Reply:
        with Client(relay.url) as client, client.stream("Hi", model="simulator/endless") as stream:
            for event in stream:
                if isinstance(event, ev.Text) and event.seq > 10:
                    break
            stopping = threading.Timer(0.02, stream.stop)
            stopping.start()
            reply = stream.collect()
            stopping.join()
            assert stream.receipt is not None
            assert stream.receipt.status == "cancelled"
            return reply

    assert (await asyncio.to_thread(read)).finish_reason == "cancelled"


async def test_a_stream_is_resumed_by_its_id_and_read_by_two(relay: Relay) -> None:
    async with AsyncClient(relay.url) as client:
        async with client.stream("Hi", model="simulator/story?first_token_s=0.01&tokens_per_s=1000") as first:
            async for event in first:
                if event.seq >= 20:
                    break
        assert first.stream_id is not None
        beginning = first.reply.text
        async with client.resume(first.stream_id, after=first.last_seq) as rest, client.resume(first.stream_id) as second:
            ending, whole = await asyncio.gather(rest.collect(), second.collect())
        assert beginning + ending.text == whole.text
        assert whole.complete
    assert relay.generations == 1


async def test_the_same_key_is_the_same_answer(relay: Relay) -> None:
    model = "simulator/quick?first_token_s=0&tokens_per_s=0"
    async with AsyncClient(relay.url) as client:
        first = await client.complete("Hi", model=model, idempotency_key="turn-1")
        again = await client.complete("Hi", model=model, idempotency_key="turn-1")
        assert again.text == first.text
        assert again.stream_id == first.stream_id
        with pytest.raises(IdempotencyConflict):
            await client.complete("Something else", model=model, idempotency_key="turn-1")
    assert relay.generations == 1


async def test_a_turn_that_is_stopped_before_it_comes(relay: Relay) -> None:
    async with AsyncClient(relay.url) as client:
        assert (await client.cancel_by_key("turn-2")).status == "not_started"
        async with asyncio.timeout(5), client.stream("Hi", model="simulator/story", idempotency_key="turn-2") as stream:
            reply = await stream.collect()
    assert reply.finish_reason == "cancelled"
    assert relay.generations == 0


async def test_errors_are_their_classes(relay: Relay) -> None:
    async with AsyncClient(relay.url, retry=EAGER) as client:
        with pytest.raises(UnknownModel, match="nope"):
            await client.complete("Hi", model="nope/nothing")
        with pytest.raises(UpstreamAuth):
            await client.complete("Hi", model="simulator/error_401")
        with pytest.raises(UpstreamTruncated) as caught:
            await client.complete("Hi", model="simulator/die?after=5&first_token_s=0&tokens_per_s=0")
        partial = reply_of(caught.value)
        assert partial is not None
        assert partial.text
        with pytest.raises(UnknownStream):
            await client.cancel("st_nothing")
