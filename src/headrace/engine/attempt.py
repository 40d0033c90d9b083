"""One attempt at one target: a connection, a request, a response, and what its bytes mean.

It is the `Exchange` of an upstream connection: `on_head`, `on_body` and `on_end` are called on the stack of the socket's read, and pass
what the decoder makes of them to the stream.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Literal

from headrace.engine.provider import Target, error_from_response, is_stream
from headrace.engine.upstream.connection import ResponseHead, UpstreamConnection
from headrace.errors import HeadraceError, StreamTooLarge, UpstreamConnect, UpstreamError
from headrace.protocol import events as ev
from headrace.protocol.dialects import Decoder

if TYPE_CHECKING:
    from headrace.engine.stream import Stream

AttemptPhase = Literal["connecting", "headers", "first_token"]

ERROR_BODY_BYTES_MAX = 64 * 1024

monotonic = time.monotonic


class Attempt:
    """One request to one target.

    Attributes:
        phase: how far it has come; "first_token" from the response's head on.
        heard_at: when the provider last sent anything, or when the request went out (monotonic seconds).
    """

    __slots__ = ("_connection", "_decoder", "_error_body", "_head", "_outcome", "_stream", "cut", "heard_at", "phase", "target")

    def __init__(self, stream: Stream, target: Target) -> None:
        self.target = target
        self.phase: AttemptPhase = "connecting"
        self.heard_at = monotonic()
        self.cut: str | None = None
        self._stream = stream
        self._connection: UpstreamConnection | None = None
        self._decoder: Decoder | None = None
        self._head: ResponseHead | None = None
        self._error_body = bytearray()
        self._outcome: asyncio.Future[UpstreamError | None] | None = None

    async def run(self, request: bytes) -> UpstreamError | None:
        """Send the request; return None when the stream has ended, or why this attempt failed before it brought any content.

        A connection from the pool that turns out stale is replaced once: nothing of an answer had come, so nothing is repeated.
        """
        pool, origin = self._stream.streams.pool, self.target.provider.origin
        try:
            pooled = pool.take(origin)
            if pooled is not None:
                error = await self._exchange(pooled, request)
                if error is None or not pooled.closed or pooled.received_any:
                    return error
                self.phase = "connecting"
            return await self._exchange(await pool.open(origin), request)
        except UpstreamError as error:
            return error

    async def _exchange(self, connection: UpstreamConnection, request: bytes) -> UpstreamError | None:
        self._connection = connection
        self._outcome = asyncio.get_running_loop().create_future()
        self.phase = "headers"
        self.heard_at = monotonic()
        self._stream.request_sent(self.heard_at)
        connection.begin(self, request)
        return await self._outcome

    # --- for the stream ----------------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether there is a socket to the provider on which this attempt's answer is still due."""
        connection = self._connection
        return connection is not None and not connection.closed and connection.exchange is self

    def pause_reading(self) -> None:
        if self._connection is not None:
            self._connection.pause_reading()

    def resume_reading(self) -> None:
        self.heard_at = monotonic()
        if self._connection is not None:
            self._connection.resume_reading()

    def abort(self) -> None:
        """Close the socket at once."""
        if self.connected:
            assert self._connection is not None
            self._connection.abort()

    def give_up(self, error: HeadraceError) -> None:
        """The provider has gone silent for good. What it sent may have been whole all the same, and only its terminator missing."""
        try:
            events = self._decoder.finish() if self._decoder is not None else []
        except Exception as bug:
            self._break(bug)
            return
        if events and isinstance(events[-1], ev.StreamEnd):
            self._stream.take(events, monotonic())
        else:
            closing = [event for event in events if not isinstance(event, ev.Error)]
            if closing:
                self._stream.take(closing, monotonic())
            self._stream.fail(error)

    def conclude(self, *, keep_connection: bool) -> None:
        """The stream has ended. A connection whose answer came to its end may serve another."""
        if self.connected:
            assert self._connection is not None
            if keep_connection:
                self._connection.release()
            else:
                self._connection.abort()
        self._decoder = None
        self._settle(None)

    def fail(self, error: UpstreamError) -> None:
        """This attempt brought no content: let the owner decide whether there is another."""
        self.abort()
        self._settle(error)

    def close_blocks(self) -> list[ev.Event]:
        """Return what closes the open blocks, as for a stream that was cut, but without the verdict on the whole."""
        if self._decoder is None or self._decoder.finished:
            return []
        return [event for event in self._decoder.finish() if not isinstance(event, ev.StreamEnd | ev.Error)]

    def finished_calls(self) -> list[tuple[str, int, int]]:
        """Return (name, fragments, parses) of the tool calls that were completed."""
        calls = self._decoder.finished_calls if self._decoder is not None else []
        return [(name, arguments.fragments, arguments.parses) for name, arguments in calls]

    # --- the exchange: called on the stack of the socket's read ------------------------------------------------------------

    def on_head(self, head: ResponseHead) -> None:
        self._head = head
        self.phase = "first_token"
        self.heard_at = monotonic()
        self._stream.meter.headers_at = self.heard_at
        if is_stream(head):
            provider = self.target.provider
            self._decoder = provider.dialect.new_decoder(provider.quirks)
            if self._stream.provider_answered(provider.dialect.name):
                self._decoder.frames = []

    def on_body(self, data: bytes) -> None:
        now = self.heard_at = monotonic()
        self._stream.bytes_in += len(data)
        decoder = self._decoder
        if decoder is not None:
            try:
                events = decoder.feed(data)
                if decoder.frames:
                    self._stream.take(events, now, decoder)
                elif events:
                    self._stream.take(events, now)
            except Exception as error:
                self._break(error)
            if self._stream.bytes_in > self._stream.bytes_in_max:
                self._stream.fail(StreamTooLarge())
        elif len(self._error_body) < ERROR_BODY_BYTES_MAX:
            self._error_body += data

    def on_end(self, error: Exception | None) -> None:
        if self._decoder is not None:
            self.cut = str(error) if error is not None else None
            try:
                events = self._decoder.finish()
                if events:
                    self._stream.take(events, monotonic(), self._decoder if self._decoder.frames is not None else None)
            except Exception as bug:
                self._break(bug)
        elif self._head is not None:
            self._settle(error_from_response(self.target.provider, self._head, bytes(self._error_body)))
        else:
            self._settle(error if isinstance(error, UpstreamError) else UpstreamConnect(detail=str(error)))

    def _break(self, bug: Exception) -> None:
        """A bug of ours came up the socket's stack. On it nobody would end the stream, and the decoder is not to be asked again."""
        self._decoder = None
        self._stream.broke(bug)

    def _settle(self, outcome: UpstreamError | None) -> None:
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_result(outcome)
