"""One generation: its log, its owner, its readers.

A `Stream` alone holds the upstream connection, appends events, meters them, and ends itself exactly once. Everything that
happens to it (a token, a Stop, a deadline, the last reader's leaving) comes through here, and every way out goes through
`_conclude`.

The hot path is one call stack, from the socket's read to the transport's write: `on_body` → decoder → log → readers' sinks.
Around it stands one task for what must wait: the line, connecting, the response's head, backing off.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Literal, NamedTuple

from headrace.engine.log import Log
from headrace.engine.meter import Meter
from headrace.engine.provider import Target, error_from_response, is_stream
from headrace.engine.reader import Reader, Sink
from headrace.engine.upstream.connection import ResponseHead, UpstreamConnection
from headrace.errors import (
    HeadraceError,
    QueueTimeout,
    StreamTooLong,
    UpstreamConnect,
    UpstreamError,
    UpstreamFirstTokenTimeout,
    UpstreamIdle,
    UpstreamTruncated,
)
from headrace.policy import retry
from headrace.policy.admission import Line, Ticket
from headrace.protocol import events as ev
from headrace.protocol.dialects import Decoder
from headrace.protocol.native import Encoding
from headrace.protocol.request import ChatRequest

if TYPE_CHECKING:
    from headrace.engine.streams import Streams

Phase = Literal["queued", "connecting", "headers", "first_token", "thinking", "text", "tool_arguments", "after_last_token", "ended"]
Status = Literal["queued", "connecting", "waiting", "streaming", "completed", "cancelled", "failed"]
CancelCause = Literal["user", "disconnect"]

ERROR_BODY_BYTES_MAX = 64 * 1024
_TOKENS = frozenset({ev.Text, ev.Thinking, ev.ToolCallDelta})
_NOT_CONTENT = frozenset({ev.Usage, ev.Notice, ev.Queue, ev.Data})
_PHASE_OF: dict[type[ev.Event], Phase] = {
    ev.Text: "text",
    ev.Thinking: "thinking",
    ev.ToolCallDelta: "tool_arguments",
    ev.ToolCallStart: "tool_arguments",
}

monotonic = time.monotonic


class Receipt(NamedTuple):
    """What a Stop did. Times are Unix seconds; `cancel_ms` runs from the asking to the closing of the upstream socket."""

    requested_at: float
    upstream_closed_at: float | None
    cancel_ms: float | None
    phase: Phase
    tokens_before: int
    tokens_after: int
    already_ended: bool


class Stream:
    """One generation. Made and kept by `Streams`; see the module's text for who may do what."""

    def __init__(
        self,
        streams: Streams,
        stream_id: str,
        request: ChatRequest,
        targets: list[Target],
        *,
        user: str,
        request_id: str,
        received_at: float,
    ) -> None:
        self.streams = streams
        self.settings = streams.settings
        self.id = stream_id
        self.request = request
        self.targets = targets
        self.target = targets[0]
        self.user = user
        self.request_id = request_id
        self.created_at = time.time()
        self.expires_at = self.created_at + self.settings.total_s + self.settings.retention_s
        self.log = Log(self.settings.log_bytes_max)
        self.meter = Meter(received_at)
        self.readers: list[Reader] = []
        self.readers_total = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.ended = False
        self.end: ev.StreamEnd | ev.Error | None = None
        self.receipt: Receipt | None = None
        self.usage: ev.Usage | None = None
        self.tool_calls: list[tuple[str, int, int]] = []
        self.detail: str | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._phase: Phase = "queued"
        self.task: asyncio.Task[None] | None = None
        self._ticket: Ticket | None = None
        self._first_request = b""
        self._turn: asyncio.Future[None] | None = None
        self._connection: UpstreamConnection | None = None
        self._outcome: asyncio.Future[UpstreamError | None] | None = None
        self._decoder: Decoder | None = None
        self._head: ResponseHead | None = None
        self._error_body: bytearray | None = None
        self._content = False
        self._paused = False
        self.cancel_cause: CancelCause | None = None
        self._cancel_asked = (0.0, 0.0)
        self._cancel_phase: Phase = "queued"
        self._last_upstream = received_at
        self._far_position = 0
        self._detached_at: float | None = received_at
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0

    # --- state -------------------------------------------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        """Where the generation is; once content has come, what the newest content is."""
        if self.ended:
            return "ended"
        if self._phase != "first_token" or not self._content:
            return self._phase
        last, _ = self.log.read(self.log.last_seq - 1, 1, compact=False)
        return _PHASE_OF.get(type(last[-1]), "after_last_token")

    @property
    def status(self) -> Status:
        if isinstance(self.end, ev.Error):
            return "failed"
        if self.end is not None:
            return "cancelled" if self.end.finish_reason == "cancelled" else "completed"
        if self._content:
            return "streaming"
        waiting: dict[Phase, Status] = {"queued": "queued", "connecting": "connecting"}
        return waiting.get(self._phase, "waiting")

    @property
    def grace_s(self) -> float | None:
        """How long the stream lives without a reader; None is: to its end."""
        wish = self.request.on_disconnect
        if wish is None or wish == "grace":
            return self.settings.disconnect_grace_s
        if wish == "continue":
            return None
        return 0.0 if wish == "cancel" else float(wish)

    # --- life --------------------------------------------------------------------------------------------------------

    def start(self, ticket: Ticket, message_id: str, first_request: bytes) -> None:
        """Open the log and start the owner's task. `first_request`: what goes to the first target, made while a 4xx was still possible."""
        self._ticket = ticket
        self._first_request = first_request
        self._append(
            ev.StreamStart(
                stream_id=self.id,
                message_id=message_id,
                model=self.target.model,
                provider=self.target.provider.name,
                protocol=ev.PROTOCOL_VERSION,
                resumable=True,
                expires_at=round(self.expires_at, 3),
            )
        )
        if not ticket.admitted:
            self.tell_place()
        self.task = asyncio.get_running_loop().create_task(self._run(), name=f"stream {self.id}")
        self._schedule(monotonic())

    async def _run(self) -> None:
        try:
            await self._wait_turn()
            await self._try_targets()
        except asyncio.CancelledError:
            if self.cancel_cause is None:  # not by `cancel`: the loop is going down
                self._fail(UpstreamTruncated(detail="the relay's task was cancelled"))
            else:
                self._conclude_cancelled()
        except HeadraceError as error:
            self._fail(error)
        except Exception as error:
            self.streams.observer.internal_error(self, error)
            self._fail(HeadraceError(detail=repr(error)))

    async def _wait_turn(self) -> None:
        assert self._ticket is not None
        if not self._ticket.admitted:
            self._turn = asyncio.get_running_loop().create_future()
            await self._turn
        self.meter.queued_s = monotonic() - self.meter.start

    def turn_came(self) -> None:
        """The line has admitted this stream."""
        if self._turn is not None and not self._turn.done():
            self._turn.set_result(None)

    def waits_at(self, line: Line) -> bool:
        return self._turn is not None and not self._turn.done() and self._ticket is not None and self._ticket.line is line

    def has_ticket(self, tickets: set[int]) -> bool:
        return id(self._ticket) in tickets

    def tell_place(self) -> None:
        """Tell readers where the stream stands in line."""
        assert self._ticket is not None
        place = self._ticket.line.place(self._ticket)
        event = ev.Queue(position=place.position, depth=place.depth, eta_seconds=place.eta_s, reason="provider_concurrency")
        self._append_and_deliver([event])

    # --- attempts ----------------------------------------------------------------------------------------------------

    async def _try_targets(self) -> None:
        at, attempt = 0, 1
        while True:
            self.target = self.targets[at]
            self.meter.attempts += 1
            error = await self._attempt(self.target)
            if error is None:
                return
            again = retry.decide(self.settings.retry, error, attempt, more_targets=at + 1 < len(self.targets), chance=random.random())
            if again is None:
                raise error
            if again.next_target:
                at, attempt = at + 1, 1
                following = self.targets[at]
                self._notify("fallback_model", f"{self.target.model} failed; {following.model} answers instead.")
            else:
                attempt += 1
                self._notify("retrying", f"{error.public_message} Trying again.")
            self._phase = "connecting"
            await asyncio.sleep(again.delay_s)

    async def _attempt(self, target: Target) -> UpstreamError | None:
        """Send the request and wait until the stream has ended (None) or this attempt has failed without content."""
        pool, origin = self.streams.pool, target.provider.origin
        request, self._first_request = self._first_request, b""
        if not request:
            request = target.provider.request_bytes(self.request, target.model, self.request_id)
        self._phase = "connecting"
        connection = pool.take(origin)
        try:
            if connection is not None:
                error = await self._exchange(connection, request)
                if error is None or not self._was_stale(connection):
                    return error
            return await self._exchange(await pool.open(origin), request)
        except UpstreamError as error:
            return error

    def _was_stale(self, connection: UpstreamConnection) -> bool:
        return connection.closed and not connection.received_any

    async def _exchange(self, connection: UpstreamConnection, request: bytes) -> UpstreamError | None:
        self._connection = connection
        self._head = None
        self._error_body = None
        self._decoder = None
        self._outcome = asyncio.get_running_loop().create_future()
        self._phase = "headers"
        self.meter.sent_at = self._last_upstream = now = monotonic()
        connection.begin(self, request)
        self._schedule(now)
        return await self._outcome

    def _attempt_failed(self, error: UpstreamError) -> None:
        """This attempt brought no content: let the task decide whether there is another."""
        connection, self._connection = self._connection, None
        if connection is not None and connection.exchange is self:
            connection.abort()
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_result(error)

    # --- the upstream exchange: called on the stack of the socket's read -------------------------------------------------

    def on_head(self, head: ResponseHead) -> None:
        self._head = head
        self.meter.headers_at = self._last_upstream = monotonic()
        self._phase = "first_token"
        if is_stream(head):
            provider = self.target.provider
            self._decoder = provider.dialect.new_decoder(provider.quirks)
        else:
            self._error_body = bytearray()

    def on_body(self, data: bytes) -> None:
        now = self._last_upstream = monotonic()
        self.bytes_in += len(data)
        if self._decoder is not None:
            events = self._decoder.feed(data)
            if events:
                self._take(events, now)
        elif self._error_body is not None and len(self._error_body) < ERROR_BODY_BYTES_MAX:
            self._error_body += data

    def on_end(self, error: Exception | None) -> None:
        if self.ended or self.cancel_cause is not None:
            return
        if self._decoder is None:
            self._end_without_stream(error)
            return
        if error is not None:
            self.detail = str(error)
        self._take(self._decoder.finish(), monotonic())

    def _end_without_stream(self, error: Exception | None) -> None:
        if self._head is not None and self._error_body is not None:
            self._attempt_failed(error_from_response(self.target.provider, self._head, bytes(self._error_body)))
        else:
            self._attempt_failed(error if isinstance(error, UpstreamError) else UpstreamConnect(detail=str(error)))

    def _take(self, events: list[ev.Event], now: float) -> None:
        """Append what the decoder made of one read, pass it on, and end where it says so."""
        last = events[-1]
        terminal: ev.StreamEnd | ev.Error | None = None
        if isinstance(last, ev.StreamEnd | ev.Error):
            terminal = last
            events.pop()
        log, tokens, first = self.log, 0, self.log.last_seq
        for event in events:
            cls = type(event)
            if cls in _TOKENS:
                tokens += 1
            elif cls is ev.Usage:
                self.usage = event  # type: ignore[assignment]
            log.append(event)
        if tokens:
            self.meter.ingress.add(tokens, now)
            self._content = True
        elif not self._content:
            self._content = any(type(event) not in _NOT_CONTENT for event in events)
        if events:
            self._deliver(events, first, tokens, now)
        if terminal is not None:
            if isinstance(terminal, ev.Error) and not self._content and self._retry_possible(terminal):
                return
            self._conclude(terminal)

    def _retry_possible(self, terminal: ev.Error) -> bool:
        """An error inside a 200 before any content is an attempt that failed, like an error status."""
        self._collect_calls()
        error = UpstreamError(terminal.message, retry_after_s=terminal.retry_after_seconds, detail=f"{terminal.code} inside the stream")
        error.code = terminal.code  # type: ignore[misc]
        error.retryable = terminal.retryable  # type: ignore[misc]
        self._attempt_failed(error)
        return True

    # --- readers -----------------------------------------------------------------------------------------------------

    def attach(self, sink: Sink, encoding: Encoding, after: int = 0) -> Reader:
        """Add a reader that has everything up to `after`; what it lacks is written at once, as far as its sink takes it."""
        now = monotonic()
        reader = Reader(self, sink, encoding, now)
        reader.cursor = after
        reader.position = self.log.total - self.log.distance(after)
        self.readers.append(reader)
        self.readers_total += 1
        self._detached_at = None
        reader.catch_up(now)
        self._review_pressure()
        if not self.ended:
            self._schedule(now)
        return reader

    def detach(self, reader: Reader, reason: str) -> None:
        """Remove a reader. The last one's leaving starts the grace time, unless the stream is over."""
        reader.close(reason)
        if reader not in self.readers:
            return
        self.readers.remove(reader)
        self.bytes_out += reader.bytes_out
        self._far_position = max(self._far_position, reader.position)
        self.streams.observer.reader_closed(self, reason)
        if self.ended:
            return
        now = monotonic()
        if not self.readers:
            self._detached_at = now
            if self.grace_s == 0:
                self.cancel("disconnect")
                return
            self._schedule(now)
        self._review_pressure()

    def reader_drained(self, reader: Reader) -> None:
        reader.catch_up(monotonic())
        self._review_pressure()

    def reader_delivered(self, reader: Reader, now: float) -> None:
        """A reader has all there is: after the terminal event that is the end of it."""
        if self.log.ended:
            if reader.encoding.end_marker:
                reader.write(reader.encoding.end_marker, now)
            reader.close("complete")

    def _deliver(self, events: list[ev.Event], before: int, tokens: int, now: float) -> None:
        """Write a batch to every reader that is right behind it; the others find it in the log when they drain."""
        log = self.log
        encoding: Encoding | None = None
        data = b""
        foremost = False
        for reader in self.readers:
            if reader.cursor != before or reader.sink.full:
                continue
            if reader.encoding is not encoding:
                encoding = reader.encoding
                data = encoding.encode(events)
            reader.write(data, now)
            reader.cursor = log.last_seq
            reader.position = log.total
            foremost = True
        if foremost:
            if tokens:
                self.meter.egress.add(tokens, now)
        else:
            self._review_pressure()

    def _review_pressure(self) -> None:
        """Pause the upstream where the foremost reader is too far behind, resume it where it has caught up.

        Under the policy `gap` nobody is waited for. Without a reader the furthest place that any had reached counts, with more room.
        """
        settings = self.settings
        if self.ended or self._connection is None or (self.request.slow_reader or settings.slow_reader) == "gap":
            return
        high = settings.high_water_bytes
        if self.readers:
            lag = self.log.total - max(reader.position for reader in self.readers)
        else:
            lag = self.log.total - self._far_position
            high = settings.log_bytes_max if self.grace_s is None else max(high, settings.detached_bytes_max)
        if not self._paused and lag > high:
            self._paused = True
            self._connection.pause_reading()
        elif self._paused and lag <= min(high, settings.low_water_bytes if self.readers else high):
            self._paused = False
            self._last_upstream = monotonic()
            self._connection.resume_reading()
            self._schedule(self._last_upstream)

    # --- events of our own -------------------------------------------------------------------------------------------

    def _append(self, event: ev.Event) -> None:
        self.log.append(event)

    def _append_and_deliver(self, events: list[ev.Event]) -> None:
        first = self.log.last_seq
        for event in events:
            self.log.append(event)
        if events:
            self._deliver(events, first, 0, monotonic())

    def _notify(self, code: str, message: str) -> None:
        self._append_and_deliver([ev.Notice(code=code, message=message)])

    # --- endings -----------------------------------------------------------------------------------------------------

    def cancel(self, cause: CancelCause) -> None:
        """Stop, in whatever phase. Asking twice is asking once; `done` tells when the upstream socket is closed."""
        if self.ended or self.cancel_cause is not None:
            return
        self._cancel_phase = self.phase
        self.cancel_cause = cause
        self._cancel_asked = (monotonic(), time.time())
        connection = self._connection
        if connection is not None and not connection.closed and connection.exchange is self:
            connection.abort(self._conclude_cancelled)
        elif self.task is not None and not self.task.done():
            self.task.cancel()
        else:
            self._conclude_cancelled()

    def fail(self, error: HeadraceError) -> None:
        """End with an error that is not the provider's: a deadline, a limit, a shutdown."""
        self._fail(error)
        if self.task is not None and not self.task.done():
            self.task.cancel()

    def _conclude_cancelled(self) -> None:
        if self.ended:
            return
        now = monotonic()
        asked, asked_wall = self._cancel_asked
        connected = self._connection is not None
        if connected:
            self.meter.cancel_s = now - asked
        tokens = self.meter.ingress.tokens
        self.receipt = Receipt(
            requested_at=round(asked_wall, 6),
            upstream_closed_at=round(asked_wall + now - asked, 6) if connected else None,
            cancel_ms=round((now - asked) * 1000, 3) if connected else None,
            phase=self._cancel_phase,
            tokens_before=tokens,
            tokens_after=0,
            already_ended=False,
        )
        self._close_blocks()
        self._conclude(ev.StreamEnd(finish_reason="cancelled"))

    def _fail(self, error: HeadraceError) -> None:
        if self.ended:
            return
        self.detail = error.detail or self.detail
        self._close_blocks()
        self._conclude(
            ev.Error(
                code=error.code,
                message=error.public_message,
                retryable=error.retryable,
                retry_after_seconds=error.retry_after_s,
                partial=self._content,
            )
        )

    def _close_blocks(self) -> None:
        """Close what is open, as the decoder does for a stream that was cut, but without its verdict on the whole."""
        if self._decoder is None or self._decoder.finished:
            return
        closing = [event for event in self._decoder.finish() if not isinstance(event, ev.StreamEnd | ev.Error)]
        self._append_and_deliver(closing)

    def _collect_calls(self) -> None:
        if self._decoder is not None:
            self.tool_calls += [(name, arguments.fragments, arguments.parses) for name, arguments in self._decoder.finished_calls]
            self._decoder.finished_calls.clear()

    def _conclude(self, terminal: ev.StreamEnd | ev.Error) -> None:
        """The one way out: append the terminal event, let everything go, tell the observer. Exactly once."""
        if self.ended:
            return
        self.ended = True
        now = monotonic()
        self._collect_calls()
        terminal.usage = self._totals()
        visible = None
        if self.usage is not None and self.usage.output_tokens is not None:
            visible = self.usage.output_tokens
        terminal.metrics = self.meter.metrics(now, visible)
        if isinstance(terminal, ev.Error):
            terminal.partial = self._content
        self.end = terminal
        self.expires_at = time.time() + self.settings.retention_s
        self.log.append(terminal)
        self._release_upstream()
        if self._timer is not None:
            self._timer.cancel()
        for reader in list(self.readers):
            if not reader.sink.full:
                reader.catch_up(now)
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_result(None)
        self.streams.ended(self, self._ticket, now)
        if not self.done.done():
            self.done.set_result(None)

    def _release_upstream(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None or connection.exchange is not self:
            return
        if isinstance(self.end, ev.StreamEnd) and self.end.finish_reason != "cancelled":
            if self._paused:
                connection.resume_reading()
            connection.release()
        else:
            connection.abort()
        self._decoder = None

    def _totals(self) -> ev.UsageTotals | None:
        """The provider's figures where its count is final, else what the relay saw pass."""
        usage, seen = self.usage, self.meter.ingress.tokens
        final = isinstance(self.end, ev.StreamEnd) or self.cancel_cause is None
        if usage is not None and final and usage.output_tokens is not None and usage.output_tokens >= min(seen, 2):
            return ev.UsageTotals(
                source=usage.source,
                input_tokens=usage.input_tokens,
                output_tokens=usage.output_tokens,
                reasoning_tokens=usage.reasoning_tokens,
                cached_tokens=usage.cached_tokens,
                cost_usd=usage.cost_usd,
            )
        if usage is None and not seen:
            return None
        said = usage.output_tokens if usage is not None and usage.output_tokens is not None else 0
        return ev.UsageTotals(
            source="estimated",
            input_tokens=usage.input_tokens if usage is not None else None,
            output_tokens=max(said, seen),
            cached_tokens=usage.cached_tokens if usage is not None else None,
        )

    # --- deadlines and heartbeats: one lazy timer --------------------------------------------------------------------

    def _schedule(self, now: float) -> None:
        """Arm the timer for the nearest deadline. Tokens do not touch it: it finds out when it fires that it is not due yet."""
        due = self._next_due()
        if self._timer is not None:
            if self._timer_due <= due:
                return
            self._timer.cancel()
        self._timer_due = due
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(max(0.0, due - now), self._on_timer)

    def _next_due(self) -> float:
        settings = self.settings
        due = self.meter.start + settings.total_s
        if self._phase == "queued":
            due = min(due, self.meter.start + settings.queue_wait_s_max)
        elif self._content:
            if not self._paused:
                due = min(due, self._last_upstream + settings.idle_s)
        elif self._phase in ("headers", "first_token") and self.meter.sent_at is not None:
            due = min(due, self.meter.sent_at + settings.first_token_s)
        if self._detached_at is not None and self.grace_s is not None:
            due = min(due, self._detached_at + self.grace_s)
        for reader in self.readers:
            blocked = reader.blocked_at is not None
            due = min(due, reader.blocked_at + settings.slow_reader_s if blocked else reader.wrote_at + settings.heartbeat_s)  # type: ignore[operator]
        return due

    def _on_timer(self) -> None:
        self._timer = None
        if self.ended:
            return
        now = monotonic()
        error = self._expired(now)
        if error is not None:
            self.fail(error)
            return
        for reader in list(self.readers):
            self._look_after(reader, now)
        if self._detached_at is not None and self.grace_s is not None and now >= self._detached_at + self.grace_s:
            self.cancel("disconnect")
        if not self.ended:
            self._schedule(now)

    def _expired(self, now: float) -> HeadraceError | None:
        settings = self.settings
        if now >= self.meter.start + settings.total_s:
            return StreamTooLong()
        if self._phase == "queued":
            return QueueTimeout() if now >= self.meter.start + settings.queue_wait_s_max else None
        if self._content:
            return UpstreamIdle() if not self._paused and now >= self._last_upstream + settings.idle_s else None
        if (
            self._phase in ("headers", "first_token")
            and self.meter.sent_at is not None
            and now >= self.meter.sent_at + settings.first_token_s
        ):
            return UpstreamFirstTokenTimeout()
        return None

    def _look_after(self, reader: Reader, now: float) -> None:
        """Send a heartbeat to a reader that has heard nothing, close one that takes nothing."""
        if reader.blocked_at is not None:
            pending = reader.sink.pending
            if pending < reader.pending_mark:
                reader.blocked_at, reader.pending_mark = now, pending
            elif now >= reader.blocked_at + self.settings.slow_reader_s:
                reader.sink.abort()
                self.detach(reader, "slow_consumer")
        elif now >= reader.wrote_at + self.settings.heartbeat_s - 0.001:
            reader.write(reader.encoding.heartbeat, now)
