"""One answer as its reader knows it: what has come, what to ask for next, and what each setback means. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from headrace.client import asks, recovery
from headrace.client.answers import Connection, Reply
from headrace.client.frames import CONTENT_TYPES, Batch, EventReader, Transport
from headrace.client.measures import Stopwatch
from headrace.client.recovery import Decision, Finish, GiveUp, Policy, Refused, Resume, Setback, Situation
from headrace.protocol import events as ev


class Plan(NamedTuple):
    """How one answer is to be read: either `body`, to ask for it, or `stream_id`, to join it behind `after`."""

    body: bytes | None = None
    key: str = ""
    stream_id: str | None = None
    after: int = 0
    policy: Policy = Policy()
    transport: Transport = "sse"
    stop_on_exit: bool = False
    on_connection: Callable[[Connection], None] | None = None


class Session:
    """The state of one answer's reading.

    Attributes:
        reply: what has been handed out so far, put together.
        stream_id: known from the first response's head on.
        last_seq: the last event that came; what is handed out may be behind it.
        over: nothing more is to be read.
        heard_at: when anything came last, be it a heartbeat.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.reply = Reply()
        self.stopwatch = Stopwatch()
        self.connection = Connection(state="idle")
        self.heard_at: float | None = None
        self.stream_id = plan.stream_id
        self.last_seq = plan.after
        self.sent = False
        self.stop_asked = False
        self.over = False
        self._begun = False
        self._resuming = plan.body is None
        self._failures = 0
        self._reader: EventReader | None = None

    def ask(self, now: float) -> asks.Ask:
        """Return the request to send now."""
        self.stopwatch.started(now)
        if not self.sent:
            self.sent = True
            self._tell(Connection(state="connecting"))
        plan = self.plan
        if self._resuming or plan.body is None:
            assert self.stream_id is not None
            return asks.events(self.stream_id, self.last_seq, plan.transport)
        return asks.chat(plan.body, plan.key, plan.transport)

    def is_stream(self, status: int, headers: Mapping[str, str]) -> bool:
        """Whether a response is what was asked for. Another 200, of a proxy's login page say, is not."""
        return status == 200 and headers.get("content-type", "").startswith(CONTENT_TYPES[self.plan.transport])

    def opened(self, headers: Mapping[str, str], now: float) -> None:
        """The head of a stream came."""
        self.stream_id = headers.get("x-stream-id") or self.stream_id
        self.heard_at = now
        self.stopwatch.opened(now, again=self._begun)
        self._begun = True
        self._reader = EventReader(self.plan.transport, self.last_seq)
        self._tell(Connection(state="live"))

    def take(self, chunk: bytes | None, now: float) -> Batch:
        """Return what `chunk` brought; None is the body's end."""
        reader = self._reader
        assert reader is not None
        self.heard_at = now
        batch = reader.feed(chunk) if chunk is not None else reader.finish()
        if batch.last_seq > self.last_seq:
            self._failures = 0
            self.last_seq = batch.last_seq
        if self.stream_id is None:  # something on the way took the header off
            self.stream_id = next((event.stream_id for event in batch.events if isinstance(event, ev.StreamStart)), None)
        replayed = self.stopwatch.took(batch.events, now)
        if replayed is not None:
            self._tell(Connection(state="resumed", replayed=replayed))
        if reader.ended:
            self.finish(now)
        return batch

    def deliver(self, event: ev.Event) -> ev.Event:
        """Put an event into the reply as it is handed out."""
        self.reply.feed(event)
        return event

    def decide(self, setback: Setback, *, chance: float, now: float) -> Decision:
        """Return what to do after a setback, and remember it."""
        plan = self.plan
        situation = Situation(
            failures=self._failures,
            last_seq=self.last_seq,
            stream_id=self.stream_id,
            begun=self._begun,
            can_resend=plan.body is not None,
            stop_asked=self.stop_asked,
        )
        decision = recovery.decide(plan.policy, situation, setback, chance=chance)
        if isinstance(decision, GiveUp | Finish):
            self.finish(now, reason=_reason(setback))
            return decision
        self._failures += 1
        self._resuming = isinstance(decision, Resume)
        again = Connection(
            state="reconnecting" if self._begun else "connecting",
            attempt=self._failures + (not self._begun),
            delay_s=decision.delay_s,
            reason=_reason(setback),
        )
        self._tell(again)
        return decision

    def ask_stop(self) -> None:
        self.stop_asked = True
        if not self.over:
            self._tell(Connection(state="stopping"))

    def finish(self, now: float, *, reason: str | None = None) -> None:
        """Read no more. What came is kept."""
        if self.over:
            return
        self.over = True
        self.stopwatch.ended(now)
        self.reply.metrics = self.stopwatch.metrics(now)
        self._tell(Connection(state="ended", reason=reason))

    def _tell(self, connection: Connection) -> None:
        if self.stop_asked and connection.state not in ("stopping", "ended"):
            return
        self.connection = connection
        if self.plan.on_connection is not None:
            self.plan.on_connection(connection)


def _reason(setback: Setback) -> str:
    return setback.error.code if isinstance(setback, Refused) else setback.reason
