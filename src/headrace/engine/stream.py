"""One generation: its log, its owner, its readers.

A `Stream` alone holds the upstream connection, appends events, meters them, and ends itself exactly once. Everything that
happens to it (a token, a Stop, a deadline, the last reader's leaving) comes through here, and every way out goes through
`_conclude`.

The hot path is one call stack, from the socket's read to the transport's write: `on_body` → decoder → log → readers' sinks.
Around it stands one task for what must wait: the line, connecting, the response's head, backing off.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from typing import TYPE_CHECKING, Literal

from headrace.engine import deadlines, ending
from headrace.engine.attempt import Attempt
from headrace.engine.delivery import deliver, review_pressure
from headrace.engine.ending import PHASE_OF, Phase, Receipt
from headrace.engine.log import Log
from headrace.engine.meter import Meter
from headrace.engine.provider import Target, first_sayable
from headrace.engine.reader import Reader, Sink
from headrace.engine.wire import Wire
from headrace.errors import BadRequest, HeadraceError, LocalProtocolError, UpstreamError, UpstreamIdle, UpstreamTruncated
from headrace.policy import retry
from headrace.policy.admission import Ticket
from headrace.protocol import events as ev
from headrace.protocol.dialects import Decoder
from headrace.protocol.encoding import Encoding
from headrace.protocol.request import Request
from headrace.protocol.sse import SSEEvent

if TYPE_CHECKING:
    from headrace.engine.streams import Streams

Status = Literal["queued", "connecting", "waiting", "streaming", "completed", "cancelled", "failed"]
CancelCause = Literal["user", "disconnect"]

_TOKENS = frozenset({ev.Text, ev.Thinking, ev.ToolCallDelta})
_NOT_CONTENT = frozenset({ev.Usage, ev.Notice, ev.Queue, ev.Data})
monotonic = time.monotonic


class Stream:
    """One generation. Made and kept by `Streams`; see the module's text for who may do what."""

    __slots__ = (
        "_cancel_asked",
        "_cancel_phase",
        "_first_request",
        "_ticket",
        "_timer",
        "_timer_due",
        "_turn",
        "attempt",
        "bytes_in",
        "bytes_in_max",
        "bytes_out",
        "cancel_cause",
        "created_at",
        "delivered",
        "detached_at",
        "detail",
        "done",
        "end",
        "ended",
        "expires_at",
        "failure",
        "far_position",
        "has_content",
        "id",
        "log",
        "meter",
        "paused",
        "queued_at",
        "readers",
        "readers_total",
        "receipt",
        "request",
        "request_id",
        "settings",
        "streams",
        "target",
        "targets",
        "task",
        "tool_calls",
        "usage",
        "user",
        "wire",
    )

    def __init__(
        self,
        streams: Streams,
        stream_id: str,
        request: Request,
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
        self.bytes_in_max = math.inf  # for an answer that is kept whole
        self.bytes_out = 0
        self.ended = False
        self.delivered = False  # whether a reader has been given the end
        self.end: ev.StreamEnd | ev.Error | None = None
        self.failure: HeadraceError | None = None
        self.receipt: Receipt | None = None
        self.wire: Wire | None = None
        self.usage: ev.Usage | None = None
        self.tool_calls: list[tuple[str, int, int]] = []
        self.detail: str | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.attempt: Attempt | None = None
        self.has_content = False
        self.paused = False
        self.cancel_cause: CancelCause | None = None
        self.task: asyncio.Task[None] | None = None
        self._ticket: Ticket | None = None
        self._turn: asyncio.Future[None] | None = None
        self.queued_at = received_at
        self._first_request = b""
        self._cancel_asked = (0.0, 0.0)
        self._cancel_phase: Phase = "queued"
        self.far_position = 0
        self.detached_at: float | None = received_at
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0

    # --- state -------------------------------------------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        """Where the generation is; once content has come, what the newest content is."""
        if self.ended:
            return "ended"
        if self.has_content:
            last, _ = self.log.read(self.log.last_seq - 1, 1, compact=False)
            return PHASE_OF.get(type(last[-1]), "after_last_token")
        if self.attempt is not None:
            return self.attempt.phase
        return "queued" if self.in_line else "connecting"

    @property
    def size(self) -> int:
        """Bytes kept for readers to come; the same from the end on."""
        return self.log.size + (self.wire.size if self.wire is not None and self.wire.keep else 0)

    @property
    def in_line(self) -> bool:
        return self._turn is not None and not self._turn.done()

    @property
    def status(self) -> Status:
        if isinstance(self.end, ev.Error):
            return "failed"
        if self.end is not None:
            return "cancelled" if self.end.finish_reason == "cancelled" else "completed"
        if self.has_content:
            return "streaming"
        phase = self.phase
        return phase if phase in ("queued", "connecting") else "waiting"

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
        self._first_request = first_request
        self.log.append(
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
        self._stand_in_line(ticket)
        self.task = asyncio.get_running_loop().create_task(self._run())
        self.schedule(monotonic())

    def _stand_in_line(self, ticket: Ticket) -> None:
        self._ticket = ticket
        self.queued_at = monotonic()
        if not ticket.admitted:
            self._turn = asyncio.get_running_loop().create_future()
            self.tell_place()

    async def _run(self) -> None:
        try:
            if self._turn is not None:
                await self._turn
            self.meter.queued_s = monotonic() - self.meter.start
            await self._try_targets()
        except asyncio.CancelledError:
            self._fail(UpstreamTruncated(detail="the relay's task was cancelled"))  # does nothing after a Stop
        except Exception as error:
            if isinstance(error, HeadraceError) and not isinstance(error, LocalProtocolError):
                self._fail(error)
            else:
                self.broke(error)

    def turn_came(self) -> None:
        """The line has admitted this stream."""
        assert self._ticket is not None
        if self._turn is not None and not self._turn.done():
            self._turn.set_result(None)
            self._append_and_deliver([ev.Queue(position=0, depth=len(self._ticket.line.waiting), reason="admitted")])

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
            error = await self._try_once(self.target)
            if error is None:
                return
            again = retry.decide(self.settings.retry, error, attempt, more_targets=at + 1 < len(self.targets), chance=random.random())
            if again is None:
                raise error
            if again.next_target:
                try:
                    skipped, self._first_request = first_sayable(self.targets[at + 1 :], self.request, self.request_id)
                except BadRequest:
                    raise error from None  # no other can be asked this at all
                at, attempt = at + 1 + skipped, 1
                following = self.targets[at]
                self._notify("fallback_model", f"{self.target.model} failed; {following.model} answers instead.")
                await self._change_line(following)
            else:
                attempt += 1
                self._notify("retrying", f"{error.public_message} Trying again.")
            self.attempt = None
            await asyncio.sleep(again.delay_s)

    async def _change_line(self, target: Target) -> None:
        """Give up the place at the provider that failed, and take one, or wait for one, at the next."""
        assert self._ticket is not None
        if target.provider.line is self._ticket.line:
            return
        self.attempt = None
        self._stand_in_line(self.streams.change_line(self, self._ticket, target.provider.line))
        if self._turn is not None and not self._turn.done():
            self.schedule(self.queued_at)
            await self._turn

    async def _try_once(self, target: Target) -> UpstreamError | None:
        request, self._first_request = self._first_request, b""
        if not request:
            request = target.provider.request_bytes(self.request, target.model, self.request_id)
        self.attempt = Attempt(self, target)
        self._change_wire(None)
        return await self.attempt.run(request)

    def request_sent(self, now: float) -> None:
        """The request is on its way: the first-token deadline begins."""
        self.meter.sent_at = now
        self.schedule(now)

    def provider_answered(self, dialect: str) -> bool:
        """The provider has begun to stream. Return whether somebody reads its frames as they are."""
        if dialect == self.request.dialect:
            wire = Wire(dialect, self.log.last_seq, keep=self.request.keep_frames, bytes_max=self.settings.log_bytes_max)
            self._change_wire(wire)
        for reader in self.readers:
            reader.open()
        return self.wire is not None

    def _change_wire(self, wire: Wire | None) -> None:
        self.wire = wire
        for reader in self.readers:
            reader.raw = wire is not None and reader.encoding.dialect == wire.dialect
            reader.position = 0

    # --- the hot path: called on the stack of the socket's read ---------------------------------------------------------

    def take(self, events: list[ev.Event], now: float, decoder: Decoder | None = None) -> None:
        """Append what the decoder made of one read, pass it on, and end where it says so.

        `decoder`: where readers want the provider's own frames, the one that has them.
        """
        terminal: ev.StreamEnd | ev.Error | None = None
        if events:
            last = events[-1]
            if isinstance(last, ev.TERMINAL):
                terminal = last
                events.pop()
        log, tokens = self.log, 0
        before = log.last_seq
        for event in events:
            if type(event) in _TOKENS:
                tokens += 1
            elif isinstance(event, ev.Usage):
                self.usage = event
            log.append(event)
        if tokens:
            self.has_content = True
        elif not self.has_content:
            self.has_content = any(type(event) not in _NOT_CONTENT for event in events)
        if decoder is None:
            if events:
                deliver(self, events, before, tokens, now)
        elif (frames := self._admitted(decoder, terminal)) or events:
            deliver(self, events, before, tokens, now, frames)
        if terminal is not None:
            if isinstance(terminal, ev.Error):
                terminal.message = self.target.provider.redact(terminal.message)
            if isinstance(terminal, ev.Error) and self.attempt is not None and not self.answered:
                self.attempt.fail(ending.as_failure(terminal))
            else:
                self._conclude(terminal)

    def _admitted(self, decoder: Decoder, terminal: ev.Event | None) -> list[SSEEvent]:
        """Return the frames that may be passed on now."""
        frames, wire = decoder.frames or [], self.wire
        decoder.frames = []
        if isinstance(terminal, ev.Error) and frames:
            frames[-1] = self.target.provider.redact_frame(frames[-1])
        if wire is None or wire.committed:
            return frames
        return wire.admit(frames, begun=decoder.begun or isinstance(terminal, ev.StreamEnd))

    @property
    def answered(self) -> bool:
        """Whether readers have been given anything of an answer: from then on there is no other attempt."""
        return self.has_content or (self.wire is not None and self.wire.committed)

    # --- readers -----------------------------------------------------------------------------------------------------

    def attach(self, sink: Sink, encoding: Encoding, after: int = 0, *, held: bool = False) -> Reader:
        """Add a reader that has everything up to `after`; what it lacks is written at once, as far as its sink takes it.

        `held`: nothing is written before `Reader.release`; `Reader.opening` tells when it is known how the response begins.
        """
        reader = Reader(self, sink, encoding, after, held=held)
        if self.wire is not None:
            reader.raw = encoding.dialect == self.wire.dialect
        if self.ended:
            reader.open()
        self.readers.append(reader)
        self.readers_total += 1
        self.detached_at = None
        reader.catch_up()
        review_pressure(self)
        self.schedule(monotonic())
        return reader

    def detach(self, reader: Reader, reason: str) -> None:
        """Remove a reader. The last one's leaving starts the grace time, unless the stream is over."""
        reader.close(reason)
        if reader not in self.readers:
            return
        self.readers.remove(reader)
        self.frames_taken()
        self.bytes_out += reader.bytes_out
        self.far_position = max(self.far_position, self.log.total - reader.lag)
        self.streams.observer.reader_closed(self, reader.closed.result())
        if self.ended:
            return
        now = monotonic()
        if not self.readers:
            self.detached_at = now
            if self.grace_s == 0:
                self.cancel("disconnect")
                return
            self.schedule(now)
        review_pressure(self)

    def reader_drained(self, reader: Reader) -> None:
        reader.catch_up()
        review_pressure(self)

    def reader_filled(self) -> None:
        self.schedule(monotonic())

    def frames_taken(self) -> None:
        """A reader has taken frames from the wire: those that all have taken are let go."""
        if self.wire is not None:
            self.wire.release(min((reader.position for reader in self.readers if reader.raw), default=self.wire.count))

    def reader_delivered(self, reader: Reader) -> None:
        """A reader has all there is: after the terminal event that is the end of it."""
        self.meter.caught_up(monotonic())
        if self.log.ended:
            self.delivered = True
            if reader.encoding.end_marker:
                reader.write(reader.encoding.end_marker)
            reader.close("complete")

    # --- events of our own -------------------------------------------------------------------------------------------

    def _append_and_deliver(self, events: list[ev.Event]) -> None:
        first = self.log.last_seq
        for event in events:
            self.log.append(event)
        if events:
            deliver(self, events, first, 0, monotonic())

    def _notify(self, code: str, message: str) -> None:
        self._append_and_deliver([ev.Notice(code=code, message=message)])

    # --- endings -----------------------------------------------------------------------------------------------------

    def cancel(self, cause: CancelCause) -> None:
        """Stop, in whatever phase. Asking twice is asking once. Afterwards, or when `done` is, the upstream socket is closed."""
        if self.ended or self.cancel_cause is not None:
            return
        self._cancel_phase = self.phase
        self.cancel_cause = cause
        self._cancel_asked = (monotonic(), time.time())
        if self.attempt is not None:
            self.attempt.abort()
        self._give_up_waiting()  # the task may not have begun, so the conclusion is not left to it
        self._conclude_cancelled()

    def fail(self, error: HeadraceError) -> None:
        """End with an error that is not the provider's: a deadline, a limit, a shutdown."""
        self._fail(error)
        self._give_up_waiting()

    def broke(self, bug: Exception) -> None:
        """End with an error that is our own fault, and tell the operator."""
        self.streams.observer.internal_error(self, bug)
        self.fail(HeadraceError(detail=repr(bug)))

    def _give_up_waiting(self) -> None:
        task, self.task = self.task, None  # a cancelled task keeps its frame, and that keeps the stream
        if task is not None:
            task.cancel()

    def _conclude_cancelled(self) -> None:
        if self.ended:
            return
        asked, asked_wall = self._cancel_asked
        took_s = None if self._cancel_phase in ("queued", "connecting") else monotonic() - asked
        self.meter.cancel_s = took_s
        self.receipt = ending.receipt(asked_wall, took_s, self._cancel_phase, self.meter.ingress.tokens)
        self._close_blocks()
        self._conclude(ev.StreamEnd(finish_reason="cancelled"))

    def _fail(self, error: HeadraceError) -> None:
        if self.ended:
            return
        self.failure = error
        self.detail = error.detail or self.detail
        self._close_blocks()
        self._conclude(
            ev.Error(
                code=error.code,
                message=error.public_message,
                retryable=error.retryable,
                retry_after_seconds=error.retry_after_s,
                partial=self.has_content,
            )
        )

    def _close_blocks(self) -> None:
        try:
            if self.wire is not None and (held := self.wire.commit()):
                deliver(self, [], self.log.last_seq, 0, monotonic(), held)
            if self.attempt is not None:
                self._append_and_deliver(self.attempt.close_blocks())
        except Exception as bug:
            self.streams.observer.internal_error(self, bug)
        self._append_and_deliver(self.log.closing())

    def _conclude(self, terminal: ev.StreamEnd | ev.Error) -> None:
        """The one way out: append the terminal event, let everything go, tell the observer. Exactly once."""
        if self.ended:
            return
        if self.log.closing():
            raise LocalProtocolError(detail="the stream ends with open blocks")
        self.ended = True
        now = monotonic()
        if self.attempt is not None:
            self.tool_calls = self.attempt.finished_calls()
            self.detail = self.attempt.cut or self.detail
        self.detail = self.detail and self.target.provider.redact(self.detail)
        self.end = terminal
        complete = isinstance(terminal, ev.StreamEnd) and self.cancel_cause is None
        terminal.usage = ending.totals(self.usage, self.meter.ingress.tokens, complete=complete)
        terminal.metrics = self.meter.metrics(now, terminal.usage.output_tokens if terminal.usage is not None else None)
        if isinstance(terminal, ev.Error):
            terminal.partial = self.has_content
        self.expires_at = time.time() + self.settings.retention_s
        self.request.forget()
        self.log.append(terminal)
        if self.paused and self.attempt is not None:
            self.attempt.resume_reading()
        if self.attempt is not None:
            self.attempt.conclude(keep_connection=complete)
            self.attempt = None  # it holds the stream: without it, nobody waits for the garbage collector
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for reader in list(self.readers):
            reader.open()
            if not reader.sink.full:
                reader.catch_up()
        self.schedule(now)
        self.streams.ended(self, self._ticket, now)
        if not self.done.done():
            self.done.set_result(None)

    # --- deadlines and heartbeats: one lazy timer --------------------------------------------------------------------

    def schedule(self, now: float) -> None:
        """Arm the timer for the nearest deadline. Tokens do not touch it: it finds out when it fires that it is not due yet."""
        due = deadlines.next_due(self)
        if self._timer is not None:
            if self._timer_due <= due:
                return
            self._timer.cancel()
            self._timer = None
        if due == math.inf:
            return
        self._timer_due = due
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(max(0.0, due - now), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        now = monotonic()
        error = deadlines.expired(self, now) if not self.ended else None
        if error is not None:
            if isinstance(error, UpstreamIdle) and self.attempt is not None:
                self.attempt.give_up(error)
            else:
                self.fail(error)
            return
        for reader in list(self.readers):
            self._look_after(reader, now)
        if not self.ended and deadlines.grace_over(self, now):
            self.cancel("disconnect")
        self.schedule(now)

    def _look_after(self, reader: Reader, now: float) -> None:
        """Send a heartbeat to a reader that has heard nothing, close one that takes nothing."""
        if reader.blocked_at is not None:
            pending = reader.sink.pending
            if pending < reader.pending_mark:
                reader.blocked_at, reader.pending_mark = now, pending
            elif now >= reader.blocked_at + self.settings.slow_reader_s:
                reader.sink.abort()
                self.detach(reader, "slow_consumer")
        elif not self.ended and now >= reader.wrote_at + self.settings.heartbeat_s - deadlines.SLACK_S:
            reader.beat()
