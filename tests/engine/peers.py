"""The other end of a connection, in a test's hand: it reads what came, writes any bytes, and leaves in any way."""

import asyncio
import ssl
import struct
from socket import SO_LINGER, SOL_SOCKET
from typing import Self

from engine.guards import PATIENCE_S, until

CHUNKED = "transfer-encoding: chunked"
LAST_CHUNK = b"0\r\n\r\n"


def head(*headers: str, status: int = 200, content_type: str | None = "text/event-stream", version: str = "1.1") -> bytes:
    lines = [f"HTTP/{version} {status} Whatever", *headers]
    if content_type is not None:
        lines.append(f"content-type: {content_type}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def chunked(*parts: bytes) -> bytes:
    """A whole response to a request: a head, and each part as a chunk of its own."""
    return head(CHUNKED) + b"".join(chunk(part) for part in parts) + LAST_CHUNK


def sized(body: bytes, *headers: str, status: int = 200, content_type: str = "application/json") -> bytes:
    return head(f"content-length: {len(body)}", *headers, status=status, content_type=content_type) + body


class Peer(asyncio.Protocol):
    """One accepted connection. `left` is set when the other side has closed, in whatever way."""

    def __init__(self, listener: "Listener") -> None:
        self.received = bytearray()
        self.left = asyncio.Event()
        self.how: Exception | None = None
        self.sent = 0
        self._listener = listener
        self._news = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self._listener.opened(self)

    def data_received(self, data: bytes) -> None:
        self.received += data
        self._news.set()

    def eof_received(self) -> bool:
        self.left.set()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.how = exc
        self.left.set()
        self._news.set()
        self._writable.set()
        self._listener.closed(self)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    async def request(self) -> bytes:
        """Take the next whole request, head and body, from what came."""
        async with asyncio.timeout(PATIENCE_S):
            while (whole := self._whole_request()) is None:
                assert not self.left.is_set(), f"left before a whole request: {bytes(self.received)!r}"
                self._news.clear()
                await self._news.wait()
        request = bytes(self.received[:whole])
        del self.received[:whole]
        return request

    def _whole_request(self) -> int | None:
        end = self.received.find(b"\r\n\r\n")
        if end < 0:
            return None
        length = 0
        for line in bytes(self.received[:end]).split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        whole = end + 4 + length
        return whole if len(self.received) >= whole else None

    def send(self, *parts: bytes) -> None:
        data = b"".join(parts)
        self.sent += len(data)
        self.transport.write(data)

    async def pour(self, piece: bytes) -> None:
        """Send `piece` again and again, as fast as the other side takes it, until it leaves. `sent` counts."""
        while not self.left.is_set():
            await self._writable.wait()
            if not self.left.is_set():
                self.send(piece)
            await asyncio.sleep(0)

    def fin(self) -> None:
        """Close in order, behind everything sent."""
        self.transport.close()

    def rst(self) -> None:
        """Reset."""
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    async def gone(self) -> None:
        """Wait until the other side has closed."""
        async with asyncio.timeout(PATIENCE_S):
            await self.left.wait()


class Listener:
    """Accepts connections on loopback and hands each to the test."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.port = 0
        self.peers: list[Peer] = []
        self.accepted = 0
        self._context = context
        self._open: set[Peer] = set()
        self._waiting: asyncio.Queue[Peer] = asyncio.Queue()
        self._server: asyncio.Server

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Peer(self), "127.0.0.1", 0, ssl=self._context, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for peer in list(self._open):
            peer.transport.abort()
        await until(lambda: not self._open, "every connection closed")

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def opened(self, peer: Peer) -> None:
        self.accepted += 1
        self.peers.append(peer)
        self._open.add(peer)
        self._waiting.put_nowait(peer)

    def closed(self, peer: Peer) -> None:
        self._open.discard(peer)

    async def accept(self) -> Peer:
        """Return the next connection that nobody has taken yet."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._waiting.get()
