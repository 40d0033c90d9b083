"""The short way out: write to the socket without a task in between.

ASGI's `send` is a coroutine, and so a task switch for each token. This subclass of uvicorn's httptools protocol offers the
extension `headrace.direct`, which exposes three things for one response: writing, whether the transport is full, and the news
that it has drained or that the client has gone. The response is still opened and closed with `send`.

What the streams of one turn of the event loop wrote goes to the kernel together at the turn's end. A write that finds its reader
asleep wakes it, which on a busy relay costs more than the write; of many writes in a row only the first does.

Under another ASGI server the extension is missing and `AsgiSink` takes its place.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

EXTENSION = "headrace.direct"
UNSENT_BYTES_MAX = 128 * 1024  # what the kernel holds of a connection beyond what its peer has room for
TCP_NOTSENT_LOWAT = getattr(socket, "TCP_NOTSENT_LOWAT", 25)
NOT_HTTP = b'{"error":{"code":"invalid_request","message":"These bytes are not an HTTP request.","retryable":false}}'
AT_ONCE_BYTES = 4096  # a replay's pieces are not collected: whether the transport is full must be known after each


class Outbox:
    """The writes of one turn of the loop, in the order in which they were made."""

    __slots__ = ("_loop", "_writes")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._writes: list[tuple[DirectConnection, bytes]] = []

    def put(self, connection: DirectConnection, data: bytes) -> None:
        if not self._writes:
            self._loop.call_soon(self.flush)
        self._writes.append((connection, data))

    def flush(self) -> None:
        writes, self._writes = self._writes, []
        for connection, data in writes:
            if not connection.lost:
                try:
                    connection.transport.write(data)
                except Exception:  # one that cannot be written to must not cost the others their frames
                    connection.abort()


class DirectConnection:
    """One response's hold on its connection: a `Sink` of the engine. It is full when the transport is, past its high-water mark."""

    __slots__ = ("_chunked", "_cycle", "_outbox", "full", "lost", "on_drain", "on_full", "on_lost", "transport")

    def __init__(self, cycle: RequestResponseCycle, outbox: Outbox) -> None:
        self.transport = cycle.transport
        self._cycle = cycle
        self._outbox = outbox
        self._chunked = True
        self.full = False
        self.lost = False
        self.on_drain: Callable[[], None] | None = None
        self.on_full: Callable[[], None] | None = None
        self.on_lost: Callable[[], None] | None = None

    @property
    def pending(self) -> int:
        return self.transport.get_write_buffer_size()

    def choose_framing(self) -> None:
        """Called before the head is sent: HTTP/1.0 has no chunks, so its body ends with the connection (RFC 9112, section 6.1)."""
        if self._cycle.scope["http_version"] == "1.0":
            self._cycle.chunked_encoding = False

    def open(self) -> None:
        """The response's head has been sent: from now on its body is written here."""
        self._chunked = bool(self._cycle.chunked_encoding)

    def write(self, data: bytes) -> None:
        """Send a piece of the body. What is written after the client has gone is dropped, and nothing is no piece."""
        if not data:  # as a chunk it would be the end of the body
            return
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self._outbox.put(self, data)
        if len(data) > AT_ONCE_BYTES:
            self._outbox.flush()

    def flush(self) -> None:
        """Hand over what was written, so that what follows with `send` comes behind it."""
        self._outbox.flush()

    def close(self) -> None:
        self.on_drain = self.on_full = self.on_lost = None

    def abort(self) -> None:
        self.transport.abort()


class DirectProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with the extension in every request's scope."""

    _direct: DirectConnection | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        held = transport.get_extra_info("socket")
        if held is not None and held.family in (socket.AF_INET, socket.AF_INET6):
            # Without a bound the kernel takes megabytes for a reader that takes none of them.
            held.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, UNSENT_BYTES_MAX)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        outbox = self.app_state.get(EXTENSION)
        if outbox is None:
            outbox = self.app_state[EXTENSION] = Outbox(self.loop)
        direct = self._direct = DirectConnection(cycle, outbox)
        direct.full = self.flow.write_paused
        cycle.scope["extensions"] = {EXTENSION: direct}  # type: ignore[dict-item]
        super()._start_asgi_task(cycle, app)

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are no request in the shape of every other error; inside a response there is no place for an answer."""
        if self.cycle is None or self.cycle.response_complete:
            head = b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
            self.transport.write(head % len(NOT_HTTP) + NOT_HTTP)
        self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._direct is not None:
            self._direct.full = True
            if self._direct.on_full is not None:
                self._direct.on_full()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._direct is not None:
            self._direct.full = False
            if self._direct.on_drain is not None:
                self._direct.on_drain()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        direct, self._direct = self._direct, None
        if direct is not None:
            direct.lost = True
            if direct.on_lost is not None:
                direct.on_lost()
