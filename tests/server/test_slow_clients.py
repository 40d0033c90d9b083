"""Clients that read slowly or not at all, at every point of a stream's life: each is noticed, and none is waited for without end."""

import asyncio
from typing import Any

import pytest

from engine.guards import turns, until
from engine.peers import CHUNKED, LAST_CHUNK, Listener, Peer, chunk, chunked, head
from engine.wires import OPENAI
from server.served import Connection, Served, chat_body, raw

TEXT = chunk(b'data: {"choices":[{"index":0,"delta":{"content":"' + b"x" * 1000 + b'"}}]}\n\n')
SOON = {"slow_reader_s": 0.1}


def stop_reading(connection: Connection) -> None:
    connection.reader._transport.pause_reading()  # type: ignore[attr-defined]


def read_again(connection: Connection) -> None:
    connection.reader._transport.resume_reading()  # type: ignore[attr-defined]


async def flooded(relay: Served, listener: Listener, **body: Any) -> tuple[Connection, Peer, asyncio.Task[None]]:
    """A stream whose provider never stops and whose client takes nothing."""
    connection = await relay.chat("p/m", **body)
    stop_reading(connection)
    peer = await listener.accept()
    await peer.request()
    peer.send(head(CHUNKED))
    return connection, peer, asyncio.create_task(peer.pour(TEXT * 8))


LONG = {"log_bytes_max": 64 * 1024 * 1024}


async def long_answer(relay: Served, listener: Listener, pieces: int = 500) -> str:
    """Return the id of an answer, of more than any socket's buffers hold, that has come to its end."""
    connection = await relay.chat("p/m")
    peer = await listener.accept()
    await peer.request()
    peer.send(chunked(OPENAI.plain(*["x" * 30_000] * pieces)))
    await connection.body()
    return connection.headers["x-stream-id"]


async def slow_consumers(relay: Served) -> float:
    text = (await relay.get("/metrics")).body.decode()
    return float(dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")).get(COUNTER, "0"))


COUNTER = 'headrace_readers_closed_total{reason="slow_consumer"}'


async def test_a_client_that_takes_nothing_stops_the_provider_and_goes_on_when_it_reads(relay: Served, listener: Listener) -> None:
    connection, peer, pouring = await flooded(relay, listener)
    (stream,) = relay.relay.streams.live()
    await until(lambda: stream.paused)
    await until(lambda: not peer._writable.is_set())
    before, lag = peer.sent, stream.readers[0].lag
    await turns(100)
    assert (peer.sent, stream.readers[0].lag) == (before, lag)
    assert lag < 1024 * 1024

    read_again(connection)
    while peer.sent < before + 4_000_000:
        await connection.piece()
    stream.cancel("user")
    await pouring


async def test_a_client_that_takes_nothing_of_a_running_stream_is_closed(serve: Any, listener: Listener) -> None:
    relay = await serve(stream=SOON | {"disconnect_grace_s": 0.05})
    _, peer, pouring = await flooded(relay, listener)
    (stream,) = relay.relay.streams.live()

    await peer.gone()
    await pouring

    assert stream.cancel_cause == "disconnect"
    assert await slow_consumers(relay) == 1


async def test_one_that_takes_nothing_of_a_replay_is_closed(serve: Any, listener: Listener) -> None:
    """It is full from its first bytes on, before anybody could say so."""
    relay = await serve(stream=SOON | LONG)
    stream_id = await long_answer(relay, listener)
    connection = await relay.connect()
    stop_reading(connection)
    connection.send(raw("GET", f"/v1/streams/{stream_id}/events", None))
    stream = relay.relay.streams.find(stream_id, "local")
    await until(lambda: stream.readers)

    await until(lambda: not stream.readers)

    assert await slow_consumers(relay) == 1


async def test_one_that_takes_nothing_at_the_very_end_is_closed(serve: Any, listener: Listener) -> None:
    """Everything is written, and some of it lies in the buffers for ever."""
    relay = await serve(stream=SOON | {"high_water_bytes": 1, "low_water_bytes": 1})
    connection, _, pouring = await flooded(relay, listener)
    (stream,) = relay.relay.streams.live()
    await until(lambda: stream.readers and stream.readers[0].blocked_at is not None)
    relay.relay.streams.end_all()
    await pouring

    await until(lambda: not stream.readers)

    assert stream.ended
    assert await slow_consumers(relay) == 1
    assert connection.status == 200


async def test_one_that_reads_slowly_gets_it_all(serve: Any, listener: Listener, way: str) -> None:
    relay = await serve(stream={"slow_reader_s": 1.0})
    stream_id = await long_answer(relay, listener, pieces=100)
    connection = await relay.connect()
    connection.send(raw("GET", f"/v1/streams/{stream_id}/events", None))
    await connection.head()
    got = 0
    while True:
        stop_reading(connection)
        await turns(3)
        read_again(connection)
        piece = await connection.piece()
        got += len(piece)
        if not piece:
            break

    assert got > 3_000_000
    assert connection.seen.endswith(b"data: [DONE]\n\n")
    assert await slow_consumers(relay) == 0


async def test_a_stalled_client_holds_up_nobody_else(relay: Served, listener: Listener) -> None:
    connection, peer, pouring = await flooded(relay, listener)
    stream_id = connection.headers["x-stream-id"]
    other = await relay.start("GET", f"/v1/streams/{stream_id}/events", None)
    await other.head()
    before = peer.sent
    while peer.sent < before + 4_000_000:
        await other.piece()
    (stream,) = relay.relay.streams.live()
    assert len(stream.readers) == 2
    stream.cancel("user")
    await pouring


@pytest.mark.parametrize("leaving", ["close", "abort"])
async def test_a_stalled_client_that_goes_has_gone(serve: Any, listener: Listener, leaving: str) -> None:
    relay = await serve(stream={"disconnect_grace_s": 0.05})
    connection, peer, pouring = await flooded(relay, listener)
    (stream,) = relay.relay.streams.live()
    await until(lambda: stream.paused)

    if leaving == "abort":
        connection.writer.transport.abort()
    else:
        connection.writer.close()

    await peer.gone()
    await pouring
    assert stream.cancel_cause == "disconnect"


async def test_streams_that_end_while_their_clients_stall_are_all_told_in_the_end(relay: Served, listener: Listener) -> None:
    """Backpressure of some never loses a frame of theirs or of the others."""
    started = []
    for n in range(6):
        connection = await relay.start("POST", "/v1/chat/stream", chat_body("p/m"))
        await connection.head()
        peer = await listener.accept()
        await peer.request()
        started.append((n, connection, peer))
    for n, connection, peer in started:
        if n % 2:
            stop_reading(connection)
        peer.send(head(CHUNKED))
        for at in range(200):
            peer.send(
                chunk(
                    OPENAI.plain("").replace(b'{"content":""}', b'{"content":"<%d.%d>%b"}' % (n, at, b"x" * 2000)).split(b"\n\n")[1]
                    + b"\n\n"
                )
            )
        peer.send(chunk(OPENAI.plain()), LAST_CHUNK)
    for n, connection, _ in started:
        if n % 2:
            read_again(connection)
        body = await connection.body()
        assert all(b"<%d.%d>" % (n, at) in body for at in range(200))
        assert body.endswith(b"data: [DONE]\n\n")
