"""One connection: whatever framing a provider uses or breaks, the exchange ends once, and says truly how."""

import asyncio
import gzip
import zlib

import pytest

from engine.guards import turns, until
from engine.peers import CHUNKED, LAST_CHUNK, Peer, chunk, chunked, head, sized
from engine.upstream.conftest import Client
from headrace.engine.upstream import connection as connection_module
from headrace.errors import UpstreamConnect, UpstreamProtocol

OK = "HTTP/1.1 200 OK\r\n"

# name: what the provider sends before it closes, what of it is body, and the class of the error if there is one
WHOLE = {
    "chunked": (chunked(b"one", b"two"), b"onetwo", True),
    "chunk extensions": (head(CHUNKED) + b"3;a=b\r\none\r\n" + LAST_CHUNK, b"one", True),
    "upper-case sizes": (head(CHUNKED) + b"A\r\n0123456789\r\n" + LAST_CHUNK, b"0123456789", True),
    "trailers": (head(CHUNKED) + chunk(b"one") + b"0\r\nx-checksum: 1\r\ncontent-type: text/evil\r\n\r\n", b"one", True),
    "content-length": (sized(b"one"), b"one", True),
    "an empty body": (sized(b""), b"", True),
    "100 first": (b"HTTP/1.1 100 Continue\r\n\r\n" + sized(b"one"), b"one", True),
    "103 first, twice": (b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" * 2 + chunked(b"one"), b"one", True),
    "connection: close": (sized(b"one", "connection: close"), b"one", False),
    "HTTP/1.0 with a length": (b"HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\none", b"one", False),
    "HTTP/1.0 that ends where it ends": (head(version="1.0") + b"one", b"one", False),
    "HTTP/1.1 that ends where it ends": (head() + b"one", b"one", False),
    "headers of any case": (b"HTTP/1.1 200 OK\r\nContent-TYPE: Text/Event-Stream; x=y\r\nCONTENT-length:   3  \r\n\r\none", b"one", True),
    "an odd status": (b"HTTP/1.1 299 \r\ncontent-length: 3\r\n\r\none", b"one", True),
}
BROKEN = {
    "content-length that is too long": (sized(b"one").replace(b": 3", b": 9"), b"one", UpstreamConnect),
    "no last chunk": (head(CHUNKED) + chunk(b"one"), b"one", UpstreamConnect),
    "a chunk that is too short": (head(CHUNKED) + b"9\r\none", b"one", UpstreamConnect),
    "a chunk size that is none": (head(CHUNKED) + chunk(b"one") + b"zz\r\n", b"one", UpstreamProtocol),
    "a negative chunk size": (head(CHUNKED) + b"-1\r\none\r\n", b"", UpstreamProtocol),
    "a chunk size without end": (head(CHUNKED) + b"f" * 40 + b"\r\n", b"", UpstreamProtocol),
    "half a head": (b"HTTP/1.1 200 OK\r\ncontent-", b"", UpstreamConnect),
    "nothing": (b"", b"", UpstreamConnect),
    "only 100": (b"HTTP/1.1 100 Continue\r\n\r\n", b"", UpstreamConnect),
    "SSH": (b"SSH-2.0-OpenSSH_9.2\r\n", b"", UpstreamProtocol),
    "TLS": (b"\x15\x03\x01\x00\x02\x02\x46", b"", UpstreamProtocol),
    "a page without a head": (b"<html><body>502</body></html>", b"", UpstreamProtocol),
    "HTTP of the future": (b"HTTP/9.9 200 OK\r\n\r\n", b"", UpstreamProtocol),
    "a status of two digits": (b"HTTP/1.1 20 OK\r\n\r\n", b"", UpstreamProtocol),
    "a request": (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"", UpstreamProtocol),
    "two lengths": (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nones", b"", UpstreamProtocol),
    "a length that is none": (b"HTTP/1.1 200 OK\r\ncontent-length: three\r\n\r\none", b"", UpstreamProtocol),
    "an upgrade": (b"HTTP/1.1 101 Switching\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n", b"", UpstreamProtocol),
    "an encoding that cannot be undone": (sized(b"one", "content-encoding: br"), b"", UpstreamProtocol),
    "an encoding that was not used": (sized(b"plain text", "content-encoding: gzip"), b"", UpstreamProtocol),
}


async def deliver(peer: Peer, data: bytes, *, byte_by_byte: bool) -> None:
    if not byte_by_byte:
        peer.send(data)
        return
    for at in range(len(data)):
        if peer.left.is_set():
            return
        peer.send(data[at : at + 1])
        await turns(2)


@pytest.mark.parametrize("byte_by_byte", [False, True], ids=["at once", "byte by byte"])
@pytest.mark.parametrize("name", WHOLE)
async def test_a_response_that_is_whole(client: Client, name: str, byte_by_byte: bool) -> None:
    wire, body, keeps = WHOLE[name]
    connection, exchange, peer = await client.ask()

    await deliver(peer, wire, byte_by_byte=byte_by_byte)
    if not keeps:
        peer.fin()
    await exchange.over()

    assert (exchange.error, exchange.body, len(exchange.heads)) == (None, body, 1)
    assert exchange.heads[0].content_type in ("text/event-stream", "application/json", "")
    assert client.pool.statistics()["idle"] == keeps
    if not keeps:
        await until(lambda: connection.closed)


@pytest.mark.parametrize("byte_by_byte", [False, True], ids=["at once", "byte by byte"])
@pytest.mark.parametrize("name", BROKEN)
async def test_a_response_that_is_broken(client: Client, name: str, byte_by_byte: bool) -> None:
    wire, body, error = BROKEN[name]
    connection, exchange, peer = await client.ask()

    await deliver(peer, wire, byte_by_byte=byte_by_byte)
    peer.fin()
    await exchange.over()

    assert isinstance(exchange.error, error)
    assert body.startswith(exchange.body)
    await until(lambda: connection.closed)
    assert client.pool.statistics() == {"open": 0, "idle": 0, "opened": 1}


@pytest.mark.parametrize(
    "body",
    [head(CHUNKED) + chunk(b"one"), head(version="1.0") + b"one", head("content-length: 9") + b"one"],
    ids=["chunked", "without a length", "with a length"],
)
async def test_a_reset_is_never_a_proper_end(client: Client, body: bytes) -> None:
    _, exchange, peer = await client.ask()
    peer.send(body)
    await until(lambda: exchange.body == b"one")

    peer.rst()
    await exchange.over()

    assert isinstance(exchange.error, UpstreamConnect)


async def test_trailers_are_no_headers(client: Client) -> None:
    _, exchange, peer = await client.ask()
    peer.send(WHOLE["trailers"][0])
    await exchange.over()

    assert exchange.heads[0].headers == {"transfer-encoding": "chunked", "content-type": "text/event-stream"}


@pytest.mark.parametrize("byte_by_byte", [False, True])
@pytest.mark.parametrize("more", [b"!", chunked(b"another answer"), sized(b"{}")], ids=["a byte", "a stream", "an answer"])
async def test_what_comes_behind_a_whole_response_belongs_to_nobody(client: Client, more: bytes, byte_by_byte: bool) -> None:
    """A content-length that is too short, or an answer that nobody asked for."""
    connection, exchange, peer = await client.ask()

    await deliver(peer, sized(b"one") + more, byte_by_byte=byte_by_byte)
    await exchange.over()

    assert (exchange.body, len(exchange.heads), len(exchange.ends)) == (b"one", 1, 1)
    await until(lambda: connection.closed)
    await peer.gone()
    assert client.pool.statistics()["idle"] == 0


# --- size ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", [b"x: " + b"y" * 500 + b"\r\n", b"y" * 500], ids=["many headers", "one header"])
async def test_a_head_without_end_is_refused(client: Client, line: bytes) -> None:
    _, exchange, peer = await client.ask()

    peer.send(OK.encode(), b"x: ")
    while not exchange.ends:
        peer.send(line)
        await turns(2)
        assert peer.sent < 4 * connection_module.HEAD_BYTES_MAX

    assert isinstance(exchange.error, UpstreamProtocol)
    await peer.gone()


async def test_trailers_without_end_take_no_memory(client: Client) -> None:
    _, exchange, peer = await client.ask()
    peer.send(head(CHUNKED), chunk(b"one"), b"0\r\n")
    for n in range(2000):
        peer.send(b"x-%d: %b\r\n" % (n, b"y" * 100))
        await turns(1)
    await until(lambda: exchange.heads)

    assert len(exchange.heads[0].headers) == 2


# --- compression, though nobody asked ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "compressed"),
    [
        ("gzip", gzip.compress(b"data: 1\n\ndata: 2\n\n")),
        ("x-gzip", gzip.compress(b"data: 1\n\ndata: 2\n\n")),
        ("GZIP", gzip.compress(b"data: 1\n\ndata: 2\n\n")),
        ("deflate", zlib.compress(b"data: 1\n\ndata: 2\n\n")),
        ("identity", b"data: 1\n\ndata: 2\n\n"),
    ],
    ids=["gzip", "x-gzip", "GZIP", "deflate", "identity"],
)
@pytest.mark.parametrize("byte_by_byte", [False, True])
async def test_compression_is_undone(client: Client, encoding: str, compressed: bytes, byte_by_byte: bool) -> None:
    _, exchange, peer = await client.ask()

    await deliver(peer, head(CHUNKED, f"content-encoding: {encoding}"), byte_by_byte=False)
    await deliver(peer, chunk(compressed) + LAST_CHUNK, byte_by_byte=byte_by_byte)
    await exchange.over()

    assert (exchange.error, exchange.body) == (None, b"data: 1\n\ndata: 2\n\n")


async def test_what_a_provider_flushes_is_delivered_at_once(client: Client) -> None:
    _, exchange, peer = await client.ask()
    packer = zlib.compressobj(wbits=31)

    peer.send(head(CHUNKED, "content-encoding: gzip"))
    for n in range(1, 4):
        peer.send(chunk(packer.compress(b"data: %d\n\n" % n) + packer.flush(zlib.Z_SYNC_FLUSH)))
        await until(lambda n=n: exchange.body.endswith(b"data: %d\n\n" % n))
    assert not exchange.ends


async def test_a_bomb_is_inflated_in_steps(client: Client) -> None:
    _, exchange, peer = await client.ask()
    bomb = gzip.compress(bytes(32 * 1024 * 1024))

    peer.send(head(CHUNKED, "content-encoding: gzip"), chunk(bomb), LAST_CHUNK)
    await exchange.over()

    assert len(exchange.body) == 32 * 1024 * 1024
    assert max(map(len, exchange.pieces)) <= 256 * 1024


@pytest.mark.parametrize("damage", ["cut", "broken"])
async def test_damaged_compression_is_no_success(client: Client, damage: str) -> None:
    _, exchange, peer = await client.ask()
    packed = gzip.compress(b"data: " + bytes(range(256)) * 20)
    packed = packed[: len(packed) // 2] if damage == "cut" else packed[:30] + b"\xff" * 40 + packed[70:]

    peer.send(head(CHUNKED, "content-encoding: gzip"), chunk(packed), LAST_CHUNK)
    await exchange.over()

    assert isinstance(exchange.error, UpstreamProtocol)


# --- reuse -----------------------------------------------------------------------------------------------------------


async def test_a_connection_is_used_again_after_a_response_that_was_read_to_its_end(client: Client) -> None:
    await client.idle()

    connection = client.pool.take(client.origin)
    assert connection is not None
    assert connection.reused
    _, exchange, peer = await client.ask(connection)
    peer.send(chunked(b"second"))
    await exchange.over()

    assert exchange.body == b"second"
    assert client.listener.accepted == 1


async def test_each_response_of_a_connection_is_its_own(client: Client) -> None:
    """Nothing of the first one's head, framing or compression reaches the second."""
    _, first, peer = await client.ask()
    peer.send(head(CHUNKED, "content-encoding: gzip", "x-first: 1"), chunk(gzip.compress(b"one")), LAST_CHUNK)
    await first.over()
    connection = client.pool.take(client.origin)
    assert connection is not None

    _, second, peer = await client.ask(connection)
    peer.send(sized(b"two"))
    await second.over()

    assert (second.body, second.heads[0].headers) == (b"two", {"content-length": "3", "content-type": "application/json"})


async def test_whoever_has_enough_before_the_end_gives_the_connection_back_when_the_end_comes(client: Client) -> None:
    connection, exchange, peer = await client.ask()
    peer.send(head(CHUNKED), chunk(b"data: [DONE]\n\n"))
    await until(lambda: exchange.body)

    connection.release()
    assert client.pool.statistics()["idle"] == 0  # not yet: a response is still on it
    peer.send(LAST_CHUNK)

    await until(lambda: client.pool.statistics()["idle"] == 1)
    assert exchange.ends == []


async def test_a_response_that_does_not_end_by_itself_costs_its_connection(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "DRAIN_S", 0.01)
    connection, exchange, peer = await client.ask()
    peer.send(head(CHUNKED), chunk(b"data: [DONE]\n\n"))
    await until(lambda: exchange.body)

    connection.release()
    peer.send(chunk(b"and on it goes"))

    await peer.gone()
    assert client.pool.statistics() == {"open": 0, "idle": 0, "opened": 1}
    assert exchange.body == b"data: [DONE]\n\n"


async def test_the_drain_of_one_response_does_not_end_the_next(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "DRAIN_S", 0.02)
    connection, exchange, peer = await client.ask()
    peer.send(head(CHUNKED), chunk(b"one"))
    await until(lambda: exchange.body)
    connection.release()
    peer.send(LAST_CHUNK)
    await until(lambda: client.pool.statistics()["idle"] == 1)

    again = client.pool.take(client.origin)
    assert again is connection
    _, second, peer = await client.ask(again)
    peer.send(head(CHUNKED), chunk(b"two"))
    late, third, other = await client.ask()  # something that takes longer than the drain
    other.send(head(CHUNKED))
    late.release()
    await other.gone()

    peer.send(LAST_CHUNK)
    await second.over()
    assert (second.error, second.body) == (None, b"two")
    assert third.ends == []


# --- backpressure and abort --------------------------------------------------------------------------------------------


async def test_a_pause_reaches_the_provider_and_a_resume_does_too(client: Client) -> None:
    connection, exchange, peer = await client.ask()
    peer.send(head(CHUNKED))
    await until(lambda: exchange.heads)

    connection.pause_reading()
    connection.pause_reading()
    before = len(exchange.body)
    pouring = asyncio.create_task(peer.pour(chunk(b"x" * 65536)))
    await until(lambda: not peer._writable.is_set())
    flat = peer.sent
    await turns(50)
    assert (peer.sent, len(exchange.body)) == (flat, before)

    connection.resume_reading()
    await until(lambda: peer.sent > 4 * flat)
    connection.abort()
    await pouring


@pytest.mark.parametrize("phase", ["before the head", "inside the body", "paused", "idle"])
async def test_an_abort_closes_at_once(client: Client, phase: str) -> None:
    connection, exchange, peer = await client.ask()
    if phase != "before the head":
        peer.send(head(CHUNKED), chunk(b"one"))
        await until(lambda: exchange.body)
    if phase == "paused":
        connection.pause_reading()
        peer.send(chunk(b"x" * 1000))
    if phase == "idle":
        peer.send(LAST_CHUNK)
        await exchange.over()
    ends = list(exchange.ends)

    connection.abort()
    connection.abort()
    connection.pause_reading()  # too late for either, and harmless
    connection.resume_reading()

    await peer.gone()
    await until(lambda: connection.closed)
    assert exchange.ends == ends
    assert client.pool.take(client.origin) is None
