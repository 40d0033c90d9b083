"""The short way out: what its shortness must not cost."""

import asyncio
from typing import Any

import pytest

from engine.guards import turns, until
from engine.peers import CHUNKED, Listener, chunk, head
from headrace.server.direct import DirectConnection, Outbox
from server.conftest import assert_whole
from server.served import chat_body, configuration, raw, serving

TEXT = b'data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'


class Transport:
    """As much of a transport as the outbox needs."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.written: list[bytes] = []
        self.aborted = False

    def write(self, data: bytes) -> None:
        if self.error is not None:
            raise self.error
        self.written.append(data)

    def abort(self) -> None:
        self.aborted = True


class Cycle:
    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.chunked_encoding = True
        self.scope = {"http_version": "1.1"}


def connection(outbox: Outbox, error: Exception | None = None) -> tuple[DirectConnection, Transport]:
    transport = Transport(error)
    direct = DirectConnection(Cycle(transport), outbox)  # type: ignore[arg-type]
    direct.open()
    return direct, transport


async def test_the_writes_of_one_turn_go_out_in_their_order_at_its_end() -> None:
    outbox = Outbox(asyncio.get_running_loop())
    one, first = connection(outbox)
    two, second = connection(outbox)
    for n in range(3):
        one.write(b"a%d" % n)
        two.write(b"b%d" % n)
    assert first.written == second.written == []

    await turns(2)

    assert first.written == [b"2\r\na0\r\n", b"2\r\na1\r\n", b"2\r\na2\r\n"]
    assert second.written == [b"2\r\nb0\r\n", b"2\r\nb1\r\n", b"2\r\nb2\r\n"]


async def test_a_large_piece_does_not_wait_and_overtakes_nothing() -> None:
    """Whether the transport is full must be known after each piece of a replay."""
    outbox = Outbox(asyncio.get_running_loop())
    one, first = connection(outbox)
    one.write(b"a")
    one.write(b"x" * 10_000)

    assert [len(data) for data in first.written] == [6, 10_008]
    await turns(2)
    assert len(first.written) == 2


async def test_a_connection_that_is_lost_is_not_written_to() -> None:
    outbox = Outbox(asyncio.get_running_loop())
    one, first = connection(outbox)
    one.write(b"a")
    one.lost = True
    await turns(2)

    assert first.written == []


@pytest.mark.parametrize("error", [RuntimeError("the handler is closed"), OSError("gone")])
async def test_a_write_that_fails_is_the_problem_of_its_connection_alone(error: Exception) -> None:
    outbox = Outbox(asyncio.get_running_loop())
    one, first = connection(outbox)
    bad, broken = connection(outbox, error)
    two, second = connection(outbox)
    for direct in (one, bad, two):
        direct.write(b"a")
    await turns(2)

    assert first.written == second.written == [b"1\r\na\r\n"]
    assert broken.aborted


async def test_nothing_is_no_chunk() -> None:
    """An empty chunk is the end of a body."""
    outbox = Outbox(asyncio.get_running_loop())
    one, first = connection(outbox)
    one.write(b"")
    await turns(2)

    assert first.written == []


async def served(listener: Listener, **stream: Any) -> Any:
    return serving(configuration(provider_url=listener.address, stream=stream), "direct")


async def test_a_client_that_goes_while_its_next_request_waits_has_gone(listener: Listener) -> None:
    """The server looks at the newest request of a connection; the stream is an older one."""
    async with await served(listener, disconnect_grace_s=0.05) as relay:
        connection = await relay.connect()
        connection.send(raw("POST", "/v1/chat/stream", chat_body("p/m")) + raw("GET", "/healthz", None))
        await connection.head()
        peer = await listener.accept()
        await peer.request()
        peer.send(head(CHUNKED), chunk(TEXT))
        await connection.until(b'"x"')

        connection.writer.transport.abort()

        await peer.gone()
        (stream,) = relay.relay.streams._streams.values()
        assert stream.cancel_cause == "disconnect"
        await assert_whole(relay)


async def test_a_stream_that_ends_as_its_client_goes(listener: Listener) -> None:
    async with await served(listener) as relay:
        for _ in range(10):
            connection = await relay.chat("p/m")
            peer = await listener.accept()
            await peer.request()
            connection.writer.transport.abort()
            peer.send(head(CHUNKED, "connection: close"), chunk(TEXT), chunk(b"data: [DONE]\n\n"))
            stream = relay.relay.streams.find(connection.headers["x-stream-id"], "local")
            await until(lambda stream=stream: not stream.readers)
        await assert_whole(relay)


async def test_two_hundred_streams_of_one_turn_do_not_mix(listener: Listener) -> None:
    async with await served(listener) as relay:
        connections = [await relay.chat("p/m") for _ in range(200)]
        peers = [await listener.accept() for _ in connections]
        for peer in peers:
            await peer.request()
            peer.send(head(CHUNKED))
        for n in range(5):
            for at, peer in enumerate(peers):
                peer.send(chunk(b'data: {"choices":[{"index":0,"delta":{"content":"<%d.%d>"}}]}\n\n' % (at, n)))
        for peer in peers:
            peer.send(chunk(b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'), b"0\r\n\r\n")
        seen = set()
        for connection in connections:
            body = await connection.body()
            (at,) = {part.split(b".")[0] for part in body.split(b'"text":"<')[1:]}
            assert [b"<%b.%d>" % (at, n) in body for n in range(5)] == [True] * 5
            seen.add(at)
        assert len(seen) == 200
        await assert_whole(relay)
