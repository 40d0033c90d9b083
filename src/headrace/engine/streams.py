"""All streams of one process: made, found again, kept for a while after their end, and drained at shutdown."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

from headrace.engine.provider import Target, first_sayable
from headrace.engine.stream import Stream
from headrace.engine.upstream.pool import Pool
from headrace.errors import ExpiredStream, IdempotencyConflict, ServerShutdown, TooManyStreams, UnknownStream
from headrace.policy.admission import Line, Ticket
from headrace.policy.retry import RetryPolicy
from headrace.protocol.request import Request

REMEMBERED_IDS_MAX = 20_000
EARLY_CANCEL_S = 60.0


class Settings(NamedTuple):
    """Every deadline and bound of a stream; units are in the names."""

    connect_s: float = 10.0
    first_token_s: float = 120.0
    idle_s: float = 60.0
    total_s: float = 1800.0
    queue_wait_s_max: float = 60.0
    heartbeat_s: float = 10.0
    slow_reader_s: float = 30.0
    slow_reader: Literal["pause", "gap"] = "pause"
    disconnect_grace_s: float = 10.0
    high_water_bytes: int = 128 * 1024
    low_water_bytes: int = 32 * 1024
    detached_bytes_max: int = 1024 * 1024
    log_bytes_max: int = 4 * 1024 * 1024
    reply_bytes_max: int = 32 * 1024 * 1024
    retention_s: float = 600.0
    retained_bytes_max: int = 256 * 1024 * 1024
    concurrent_streams: int = 0
    retry: RetryPolicy = RetryPolicy()


class Observer(Protocol):
    """What the engine tells the outside: for logs and metrics. None of it may raise or wait."""

    def stream_started(self, stream: Stream) -> None: ...

    def stream_ended(self, stream: Stream) -> None: ...

    def reader_closed(self, stream: Stream, reason: str) -> None: ...

    def internal_error(self, stream: Stream, error: Exception) -> None: ...


class SilentObserver:
    def stream_started(self, stream: Stream) -> None: ...

    def stream_ended(self, stream: Stream) -> None: ...

    def reader_closed(self, stream: Stream, reason: str) -> None: ...

    def internal_error(self, stream: Stream, error: Exception) -> None:
        raise error


class _Claim(NamedTuple):
    """What an idempotency key stands for. `stream_id` None: the key was cancelled before its request came."""

    stream_id: str | None
    digest: bytes
    until: float


class Streams:
    """The registry. Streams of other users do not exist, for whoever asks."""

    def __init__(self, settings: Settings, pool: Pool | None = None, observer: Observer | None = None) -> None:
        self.settings = settings
        self.pool = pool or Pool(connect_s=settings.connect_s)
        self.observer: Observer = observer or SilentObserver()
        self.draining = False
        self.retained_bytes = 0
        self._streams: dict[str, Stream] = {}
        self._ended: deque[tuple[float, Stream]] = deque()
        self._expired: OrderedDict[str, str] = OrderedDict()
        self._claims: OrderedDict[tuple[str, str], _Claim] = OrderedDict()
        self._running: dict[str, int] = {}
        self._waiting: dict[Ticket, Stream] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._idle: list[Callable[[], None]] = []

    # --- making and finding ------------------------------------------------------------------------------------------

    @property
    def running(self) -> int:
        return sum(self._running.values())

    def live(self) -> list[Stream]:
        return [stream for stream in self._streams.values() if not stream.ended]

    def claimed(self, user: str, key: str, body: bytes) -> Stream | None:
        """Return the stream that `key` began before, or None for a new key.

        Raises:
            IdempotencyConflict: the key came with another body.
            ExpiredStream: its stream is no longer kept.
        """
        claim = self._claims.get((user, key))
        if claim is None or claim.stream_id is None or claim.until <= time.monotonic():
            return None
        if claim.digest != hashlib.sha256(body).digest():
            raise IdempotencyConflict()
        return self._stream_of(claim.stream_id, user)

    def create(
        self,
        request: Request,
        targets: list[Target],
        *,
        user: str,
        request_id: str | None,
        received_at: float,
        key: str | None = None,
        body: bytes = b"",
    ) -> Stream:
        """Start a stream at the first of `targets` that can be asked this, or put it in line there. Without a `request_id` it gets one.

        Raises:
            BadRequest: no target's dialect can say what the request says; the error names the field.
            ServerShutdown: the relay is draining.
            TooManyStreams: this user has as many running as allowed.
            QueueFull: too many are waiting for this provider.
        """
        if self.draining:
            raise ServerShutdown(retry_after_s=1)
        limit = self.settings.concurrent_streams
        if limit and self._running.get(user, 0) >= limit:
            raise TooManyStreams(f"{limit} answers are streaming for you already. Stop one, or wait until one ends.", retry_after_s=1)
        entropy = secrets.token_hex(40)
        request_id = request_id or "req_" + entropy[56:]
        skipped, first_request = first_sayable(targets, request, request_id)
        targets = targets[skipped:]
        ticket = targets[0].provider.line.enter(user)
        stream = Stream(self, "st_" + entropy[:32], request, targets, user=user, request_id=request_id, received_at=received_at)
        self._streams[stream.id] = stream
        if not ticket.admitted:
            self._waiting[ticket] = stream
        self._running[user] = self._running.get(user, 0) + 1
        self.observer.stream_started(stream)
        stream.start(ticket, "msg_" + entropy[32:56], first_request)
        if key is not None and self._claim(user, key, stream.id, body):
            stream.cancel("user")
        return stream

    def find(self, stream_id: str, user: str) -> Stream:
        """Return the stream.

        Raises:
            UnknownStream: there is none of that id, or it is somebody else's.
            ExpiredStream: it was kept for its time and is gone.
        """
        stream = self._streams.get(stream_id)
        if stream is not None and stream.user == user:
            return stream
        if self._expired.get(stream_id) == user:
            raise ExpiredStream()
        raise UnknownStream()

    def cancel_by_key(self, user: str, key: str) -> Stream | None:
        """Stop the stream that `key` began and return it. A key that has not come yet is remembered: its request ends at once."""
        claim = self._claims.get((user, key))
        if claim is not None and claim.stream_id is not None and claim.until > time.monotonic():
            stream = self._stream_of(claim.stream_id, user)
            stream.cancel("user")
            return stream
        self._remember_claim(user, key, _Claim(None, b"", time.monotonic() + EARLY_CANCEL_S))
        return None

    def _stream_of(self, stream_id: str, user: str) -> Stream:
        """Return the stream that a key stands for. There was one, so its not being known any more is its having expired."""
        try:
            return self.find(stream_id, user)
        except UnknownStream:
            raise ExpiredStream() from None

    def _claim(self, user: str, key: str, stream_id: str, body: bytes) -> bool:
        """Tie `key` to the stream; return whether it was cancelled before it came."""
        early = self._claims.get((user, key))
        kept_s = self.settings.total_s + self.settings.retention_s
        self._remember_claim(user, key, _Claim(stream_id, hashlib.sha256(body).digest(), time.monotonic() + kept_s))
        return early is not None and early.stream_id is None and early.until > time.monotonic()

    def _remember_claim(self, user: str, key: str, claim: _Claim) -> None:
        self._claims[user, key] = claim
        self._claims.move_to_end((user, key))
        while len(self._claims) > REMEMBERED_IDS_MAX:
            self._claims.popitem(last=False)

    # --- ends --------------------------------------------------------------------------------------------------------

    def ended(self, stream: Stream, ticket: Ticket | None, now: float) -> None:
        """A stream has ended: release its place and keep it for its readers to come. Called once by the stream itself."""
        left = self._running.get(stream.user, 1) - 1
        if left:
            self._running[stream.user] = left
        else:
            self._running.pop(stream.user, None)
        if ticket is not None:
            self._release(ticket, now - stream.meter.start - (stream.meter.queued_s or 0.0))
        self.retained_bytes += stream.size
        self._ended.append((now + self.settings.retention_s, stream))
        self._sweep(now)
        self.observer.stream_ended(stream)
        if not self._running:
            for call in self._idle:
                call()
            self._idle.clear()

    def change_line(self, stream: Stream, ticket: Ticket, line: Line) -> Ticket:
        """Exchange a place for one at another provider.

        Raises:
            QueueFull: too many are waiting there; the old place is kept until the stream ends.
        """
        following = line.enter(stream.user)
        if not following.admitted:
            self._waiting[following] = stream
        self._release(ticket, None)
        return following

    def _release(self, ticket: Ticket, held_s: float | None) -> None:
        self._waiting.pop(ticket, None)
        for admitted in ticket.line.leave(ticket, held_s):
            self._waiting.pop(admitted).turn_came()
        for waiting in list(ticket.line.waiting):
            self._waiting[waiting].tell_place()

    def _sweep(self, now: float) -> None:
        """Forget what has been kept long enough, and the oldest of the rest while all together weigh too much."""
        kept = self._ended
        while kept and (kept[0][0] <= now or (self.retained_bytes > self.settings.retained_bytes_max and len(kept) > 1)):
            _, stream = kept.popleft()
            self.retained_bytes -= stream.size
            self._streams.pop(stream.id, None)
            self._expired[stream.id] = stream.user
            for reader in list(stream.readers):
                if not reader.closed.done():  # one that has everything is on its way out by itself
                    reader.sink.abort()
                    stream.detach(reader, "expired")
            if len(self._expired) > REMEMBERED_IDS_MAX:
                self._expired.popitem(last=False)
        if kept and self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(max(0.05, kept[0][0] - now), self._on_sweep)

    def _on_sweep(self) -> None:
        self._sweeper = None
        self._sweep(time.monotonic())

    # --- shutdown ----------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Take no new stream; the running ones go on."""
        self.draining = True

    def end_all(self) -> None:
        """End every running stream with an honest error."""
        for stream in self.live():
            stream.fail(ServerShutdown(retry_after_s=1))

    async def wait_idle(self) -> None:
        if self._running:
            idle = asyncio.Event()
            self._idle.append(idle.set)
            await idle.wait()

    async def aclose(self) -> None:
        self.drain()
        tasks = [stream.task for stream in self._streams.values() if stream.task is not None]
        self.end_all()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._sweeper is not None:
            self._sweeper.cancel()
        await self.pool.aclose()
