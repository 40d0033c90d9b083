"""The short way out: write to the socket on the stack on which the token came in.

ASGI's `send` is a coroutine, and so a task switch for each token. This subclass of uvicorn's httptools protocol offers the
extension `headrace.direct`, which exposes three things for one response: writing, whether the transport is full, and the news that it
has drained or that the client has gone. The response is still opened and closed with `send`.

Under another ASGI server the extension is missing and `AsgiSink` takes its place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

EXTENSION = "headrace.direct"


class DirectConnection:
    """One response's hold on its connection: a `Sink` of the engine. It is full when the transport is, past its high-water mark."""

    __slots__ = ("_chunked", "_cycle", "_transport", "full", "lost", "on_drain", "on_lost")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._transport = cycle.transport
        self._chunked = True
        self.full = False
        self.lost = False
        self.on_drain: Callable[[], None] | None = None
        self.on_lost: Callable[[], None] | None = None

    @property
    def pending(self) -> int:
        return self._transport.get_write_buffer_size()

    def write(self, data: bytes) -> None:
        """Send a piece of the body. What is written after the client has gone is dropped."""
        if self.lost:
            return
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self._transport.write(data)

    def opened(self) -> None:
        """The response's head has been sent: now its framing is known."""
        self._chunked = bool(self._cycle.chunked_encoding)

    def abort(self) -> None:
        self._transport.abort()


class DirectProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with the extension in every request's scope."""

    _direct: DirectConnection | None = None

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        direct = self._direct = DirectConnection(cycle)
        direct.full = self.flow.write_paused
        cycle.scope["extensions"] = {EXTENSION: direct}  # type: ignore[dict-item]
        super()._start_asgi_task(cycle, app)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._direct is not None:
            self._direct.full = True

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
