"""The hot path alone: from the bytes of one read of the provider's socket to the bytes for the client's, without either socket.

The provider's connection, the stream and the client's connection are the real ones; their transports do nothing. Each read holds one
token. Streams take turns in a new random order each time round, because one that was served just now is still in the cache and costs
half: with many streams nothing of a stream is, when its next token comes. What is collected for a turn is flushed after each round.
"""

from __future__ import annotations

import asyncio
import gc
import random
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import uvloop

from bench.inputs import openings, reads, texts
from bench.stage import DIALECTS, Dialect
from headrace.engine.provider import Provider, Target
from headrace.engine.streams import Settings, Streams
from headrace.engine.upstream.connection import UpstreamConnection
from headrace.engine.upstream.pool import Origin, Pool
from headrace.protocol import dialects
from headrace.protocol.native import SSE
from headrace.protocol.request import ChatRequest, Message
from headrace.server.direct import DirectConnection, Outbox

STREAMS = (1, 10, 100, 500)
TOKENS_EACH_RUN = 20_000
RUNS = 7
SEED = 20_260_101


class NoTransport:
    """A transport that takes everything and does nothing, or keeps it, for the test of what comes out."""

    def __init__(self, keep: bool = False) -> None:
        self.kept: list[bytes] = []
        self.write: Callable[[bytes], None] = self.kept.append if keep else self._drop

    def _drop(self, data: bytes) -> None: ...

    def abort(self) -> None: ...

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str) -> None:
        return None


class ReadyPool(Pool):
    """Hands out connections that were never opened, and keeps none."""

    def __init__(self) -> None:
        super().__init__()
        self.handed_out: list[UpstreamConnection] = []

    def take(self, origin: Origin) -> UpstreamConnection:
        connection = UpstreamConnection()
        connection.connection_made(cast(asyncio.Transport, NoTransport()))
        self.handed_out.append(connection)
        return connection


class Rig:
    """Running streams whose provider and client are in the caller's hands. Close it with `await aclose()`."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.pool = ReadyPool()
        self.streams = Streams(Settings(), self.pool)
        self.outbox = Outbox(asyncio.get_running_loop())
        self.clients: list[NoTransport] = []
        self._target = Target(Provider("bench", dialects.load(dialect), Origin("http", "127.0.0.1", 9), "/v1"), "mock")

    @property
    def providers(self) -> list[UpstreamConnection]:
        return self.pool.handed_out

    async def add(self, count: int, *, keep: bool = False) -> None:
        """Add streams that stand right before their first token."""
        for _ in range(count):
            request = ChatRequest(messages=[Message(role="user", content="Tell me.")])
            stream = self.streams.create(request, [self._target], user="bench", request_id="bench", received_at=time.monotonic())
            self.clients.append(NoTransport(keep))
            scope = {"http_version": "1.1"}
            cycle = SimpleNamespace(transport=self.clients[-1], scope=scope, chunked_encoding=True, disconnected=False)
            client = DirectConnection(cast(Any, cycle), self.outbox)
            client.open()
            stream.attach(client, SSE)
        for _ in range(3):  # turns of the loop, in which the streams' tasks send their requests
            await asyncio.sleep(0)
        assert len(self.providers) == len(self.clients)
        for connection in self.providers[-count:]:
            for read in openings(self.dialect):
                connection.data_received(read)
        self.outbox.flush()

    async def aclose(self) -> None:
        await self.streams.aclose()


def run(say: Callable[[str], None], *, quick: bool = False) -> dict[str, Any]:
    """Return microseconds per token, by dialect and by number of streams: the best run, and the middle one."""
    figures: dict[str, Any] = {}
    for dialect in DIALECTS:
        figures[dialect] = {}
        for count in STREAMS:
            runs = uvloop.run(measure(dialect, count, runs=3 if quick else RUNS, tokens=TOKENS_EACH_RUN))
            figures[dialect][str(count)] = {"best_us": round(min(runs), 2), "median_us": round(statistics.median(runs), 2)}
        say(
            f"{dialect}: "
            + ", ".join(f"{row['best_us']:.2f} µs ({count})" for count, row in figures[dialect].items())
            + " per token (streams)"
        )
    return figures


async def measure(dialect: Dialect, count: int, *, runs: int, tokens: int) -> list[float]:
    """Return each run's microseconds per token."""
    rig = Rig(dialect)
    await rig.add(count)
    order = random.Random(SEED)
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)  # as the relay's process does
    try:
        return [_run_once(rig, order, max(1, tokens // count), SEED + number) for number in range(runs)]
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
        await rig.aclose()


def _run_once(rig: Rig, order: random.Random, rounds: int, seed: int) -> float:
    connections = list(rig.providers)
    incoming = reads(rig.dialect, texts(rounds, seed))
    flush = rig.outbox.flush
    spent = 0
    for read in incoming:
        order.shuffle(connections)
        begun = time.perf_counter_ns()
        for connection in connections:
            connection.data_received(read)
        flush()
        spent += time.perf_counter_ns() - begun
    return spent / 1000 / (rounds * len(connections))
