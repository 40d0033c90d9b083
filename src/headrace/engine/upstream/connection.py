"""One HTTP/1.1 connection to a provider: an asyncio protocol around llhttp, with one wake-up for each read of the socket.

The body is pushed, not pulled: what one read brought is handed to the exchange's `on_body` in one call, on the stack of the
read itself. Pausing the reading of the socket is how backpressure reaches the provider.
"""

from __future__ import annotations

import asyncio
import socket
import zlib
from collections.abc import Callable
from typing import Any, Protocol, cast

import httptools

from headrace.errors import UpstreamConnect, UpstreamProtocol

HEAD_BYTES_MAX = 64 * 1024
DRAIN_S = 1.0  # for the rest of a response that nobody waits for, before its connection is closed


class ResponseHead:
    """Status and headers of a response. Header names are lower case; of repeated ones the last counts."""

    __slots__ = ("headers", "status")

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}

    @property
    def content_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


class Exchange(Protocol):
    """Whoever sent the request. All three are called on the stack of the socket's read and must not block."""

    def on_head(self, head: ResponseHead) -> None: ...

    def on_body(self, data: bytes) -> None: ...

    def on_end(self, error: Exception | None) -> None:
        """The response is over: whole (None), or cut off with a reason. Nothing more is called after it."""


class UpstreamConnection(asyncio.Protocol):
    """A connection that carries one exchange at a time.

    States, told by two attributes: idle (`exchange` None, in the pool or on its way there), busy (`exchange` set), and closed.
    It may carry another exchange only if it read the last response to its end and both sides want to keep it.
    """

    __slots__ = (
        "_body",
        "_close_delimited",
        "_complete",
        "_decompressor",
        "_head_bytes",
        "_keep_alive",
        "_parser",
        "_pending_head",
        "closed",
        "exchange",
        "head",
        "on_closed",
        "on_reusable",
        "received_any",
        "reused",
        "transport",
    )

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.exchange: Exchange | None = None
        self.head: ResponseHead | None = None
        self.closed = False
        self.reused = False
        self.received_any = False
        self.on_closed: Callable[[], None] | None = None
        self.on_reusable: Callable[[UpstreamConnection], None] | None = None
        self._parser: Any = None
        self._body: list[bytes] = []
        self._complete = False
        self._keep_alive = False
        self._close_delimited = False
        self._head_bytes = 0
        self._decompressor: Any = None
        self._pending_head = ResponseHead()

    # --- for the engine ----------------------------------------------------------------------------------------------

    def begin(self, exchange: Exchange, request: bytes) -> None:
        """Send `request` (head and body as bytes) and give the response to `exchange`."""
        assert self.exchange is None
        self.exchange = exchange
        self.head = None
        self.received_any = False
        self._complete = False
        self._head_bytes = 0
        self._decompressor = None
        self._parser = httptools.HttpResponseParser(self)
        assert self.transport is not None
        self.transport.write(request)

    def release(self) -> None:
        """The exchange wants no more. The connection is kept if the response ends by itself within `DRAIN_S`, else closed."""
        self.exchange = None
        if not self._complete and not self.closed:
            asyncio.get_running_loop().call_later(DRAIN_S, self._give_up_draining, self._parser)

    def pause_reading(self) -> None:
        if self.transport is not None and not self.closed:
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self.transport is not None and not self.closed:
            self.transport.resume_reading()

    def abort(self) -> None:
        """Close at once, unread data and all. The provider's side hears of it before this returns.

        A transport closes its socket a turn of the loop later; with hundreds of streams stopped in one turn that is a long time.
        """
        self.exchange = None
        transport = self.transport
        if transport is None or self.closed or transport.is_closing():
            return
        _shut_down(transport)
        transport.abort()

    # --- asyncio.Protocol --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's transports are none by inheritance

    def data_received(self, data: bytes) -> None:
        parser = self._parser
        if parser is None:  # an idle connection has nothing to say; a provider that talks anyway is not to be trusted
            self.received_any = True
            self.abort()
            return
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail(UpstreamProtocol(detail="the provider wants to upgrade the connection"))
            return
        except httptools.HttpParserError as error:
            self._deliver()
            self._fail(UpstreamProtocol(detail=f"not HTTP: {error}"))
            return
        if not self.received_any or self.head is None:
            self._receive_head(len(data))
        if self._body:
            self._deliver()
        if self._complete:
            self._finish_exchange(None)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self.exchange is not None:
            if self.head is not None and self._close_delimited and exc is None:
                self._finish_exchange(None)
            else:
                reason = str(exc) if exc else "closed by the provider"
                where = "before its answer" if self.head is None else "in the middle of its answer"
                self._finish_exchange(UpstreamConnect(detail=f"connection lost {where}: {reason}"))
        self._parser = None
        if self.on_closed is not None:
            self.on_closed()

    # --- llhttp's callbacks ------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._complete:
            raise UpstreamProtocol(detail="a second response that nobody asked for")
        self._pending_head = ResponseHead()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.head is not None:  # a trailer
            return
        self._pending_head.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        head = self._pending_head
        head.status = self._parser.get_status_code()
        if head.status < 200:
            return
        self._keep_alive = self._parser.should_keep_alive()
        self._close_delimited = "content-length" not in head.headers and "chunked" not in head.headers.get("transfer-encoding", "").lower()
        self.head = head
        if self.exchange is not None:
            self._set_encoding(head)
        if self.exchange is not None:
            self.exchange.on_head(head)

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        if self.head is not None:
            self._complete = True

    # --- inside ------------------------------------------------------------------------------------------------------

    def _set_encoding(self, head: ResponseHead) -> None:
        """`identity` was asked for. Some gateways compress all the same; what cannot be undone as it comes is refused."""
        encoding = head.headers.get("content-encoding", "identity").strip().lower()
        if encoding in ("", "identity"):
            return
        if encoding in ("gzip", "x-gzip", "deflate"):
            self._decompressor = zlib.decompressobj(wbits=47)
            return
        self._fail(UpstreamProtocol(detail=f"content-encoding {encoding!r}, though identity was asked for"))

    def _receive_head(self, size: int) -> None:
        self.received_any = True
        self._head_bytes += size
        if self.head is None and not self._complete and self._head_bytes > HEAD_BYTES_MAX:
            self._fail(UpstreamProtocol(detail=f"a response head of more than {HEAD_BYTES_MAX} bytes"))

    def _deliver(self) -> None:
        pieces = self._body
        if not pieces:
            return
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        if self.exchange is None:
            return
        if self._decompressor is None:
            self.exchange.on_body(body)
        else:
            self._inflate(body)

    def _inflate(self, body: bytes) -> None:
        """Inflate in steps, so that a small body which grows a thousandfold never stands in memory as a whole."""
        while body and self.exchange is not None:
            try:
                data = self._decompressor.decompress(body, 256 * 1024)
            except zlib.error as error:
                self._fail(UpstreamProtocol(detail=f"broken compression: {error}"))
                return
            body = self._decompressor.unconsumed_tail
            if data:
                self.exchange.on_body(data)

    def _fail(self, error: Exception) -> None:
        self._finish_exchange(error)
        if self.transport is not None:
            self.transport.abort()

    def _finish_exchange(self, error: Exception | None) -> None:
        exchange, self.exchange = self.exchange, None
        if error is None and not self.closed:
            self._after_response()
        if error is None and self._decompressor is not None and not self._decompressor.eof:
            error = UpstreamProtocol(detail="compression cut off")
        if exchange is not None:
            exchange.on_end(error)

    def _give_up_draining(self, parser: object) -> None:
        if self.exchange is None and self._parser is parser and not self.closed:  # each response has a parser of its own
            self.abort()

    def _after_response(self) -> None:
        self._parser = None
        if self._keep_alive and not self._close_delimited and self.on_reusable is not None and not self.closed:
            self.reused = True
            self.on_reusable(self)
        elif self.transport is not None:
            self.transport.abort()


def _shut_down(transport: asyncio.Transport) -> None:
    held = transport.get_extra_info("socket")
    if held is None or held.fileno() < 0:
        return
    sock = socket.socket(held.family, held.type, held.proto, fileno=held.fileno())
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # the peer was faster
    finally:
        sock.detach()
