"""One connection: requests in order, each answered before the next, and the moment at which the reader leaves."""

import asyncio
import socket
from typing import Final, Protocol, cast

from headrace.simulator.anthropic import Anthropic
from headrace.simulator.ask import Dialect
from headrace.simulator.gemini import STREAM_PATH, WHOLE_PATH, Gemini, route
from headrace.simulator.http1 import CONTINUE, BadRequest, Request, RequestReader, response
from headrace.simulator.openai_chat import OpenAIChat
from headrace.simulator.openai_responses import OpenAIResponses
from headrace.simulator.outlet import hang_up
from headrace.simulator.performance import Performance
from headrace.simulator.player import Player
from headrace.simulator.stats import Ledger, RequestRecord
from headrace.simulator.steps import HangUp

_WRITE_BUFFER_BYTES = 16 * 1024
_SEND_BUFFER_BYTES = 64 * 1024
_PIPELINED_BYTES_MAX = 1024 * 1024
DIALECTS: Final[dict[str, Dialect]] = {
    "/v1/chat/completions": OpenAIChat(),
    "/v1/responses": OpenAIResponses(),
    "/v1/messages": Anthropic(),
    STREAM_PATH: Gemini(),
    WHOLE_PATH: Gemini(),
}


class House(Protocol):
    """What a connection needs from its server."""

    ledger: Ledger

    def page(self, request: Request) -> tuple[int, bytes]: ...

    def stage(self, dialect: Dialect, request: Request, record: RequestRecord) -> Performance: ...

    def opened(self, connection: "Connection") -> None: ...

    def closed(self, connection: "Connection") -> None: ...


class Connection(asyncio.Protocol):
    """Serve one socket.

    A reader that closes its sending side has left: an HTTP client has no reason to do so while it waits for an answer.
    """

    def __init__(self, house: House) -> None:
        self._house = house
        self._reader = RequestReader()
        self._transport: asyncio.Transport
        self._player: Player | None = None
        self._record: RequestRecord | None = None
        self._keep_alive = True
        self._closing = False
        self._full = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports are no subclasses of asyncio's
        self._transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        self._house.opened(self)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        if self._player is None:
            self._next_request()
        elif self._reader.waiting_bytes > _PIPELINED_BYTES_MAX:
            self._leave()

    def eof_received(self) -> None:
        self._leave()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        self._house.closed(self)

    def pause_writing(self) -> None:
        self._full = True
        if self._player is not None:
            self._player.outlet.pause()

    def resume_writing(self) -> None:
        self._full = False
        if self._player is not None:
            self._player.outlet.resume()

    def shut(self) -> None:
        """The server goes away, and its running answers with it."""
        if self._player is not None and self._record is not None:
            self._player.stop()
            self._house.ledger.end(self._record, "died")
            self._player = self._record = None
        self._closing = True
        self._transport.abort()

    def _leave(self) -> None:
        """The reader is gone: stop at once, and forget what has not been sent."""
        self._stop()
        self._closing = True
        self._transport.abort()

    def _stop(self) -> None:
        if self._player is not None and self._record is not None:
            self._house.ledger.left(self._record, self._player.stop())
        self._player = self._record = None

    def _next_request(self) -> None:
        while self._player is None and not self._closing:
            try:
                request = self._reader.next_request()
            except BadRequest as error:
                self._reject(error)
                return
            if self._reader.continue_expected:
                self._reader.continue_expected = False
                self._transport.write(CONTINUE)
            if request is None:
                return
            self._answer(request)

    def _reject(self, error: BadRequest) -> None:
        body = DIALECTS["/v1/chat/completions"].error(error.status, str(error), 0)
        self._transport.write(response(error.status, body, keep_alive=False))
        self._hang_up("fin")

    def _answer(self, request: Request) -> None:
        dialect = DIALECTS.get(route(request.path)) if request.method == "POST" else None
        if dialect is None:
            status, page = self._house.page(request)
            self._transport.write(response(status, page, keep_alive=request.keep_alive))
            if not request.keep_alive:
                self._hang_up("fin")
            return
        self._keep_alive = request.keep_alive
        record = self._record = self._house.ledger.begin(dialect.name, request.headers.get("x-request-id"))
        performance = self._house.stage(dialect, request, record)
        if request.version == "HTTP/1.0":
            performance = performance.close_delimited()
        identity = [("x-simulator-id", str(record.id)), dialect.request_id(record.id)]
        if not request.keep_alive or performance.closes:
            identity.append(("connection", "close"))
        self._player = Player(performance, identity, record, self._house.ledger, self._transport.write, self._ended)
        if self._full:
            self._player.outlet.pause()

    def _ended(self, how: HangUp | None) -> None:
        self._player = self._record = None
        if how is not None or not self._keep_alive:
            self._hang_up(how or "fin")
        else:
            self._next_request()

    def _hang_up(self, how: HangUp) -> None:
        self._closing = True
        hang_up(self._transport, how)
