"""A reader: a place in a stream's log, and the sink that takes its bytes."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Protocol

from headrace.protocol.encoding import Encoding

if TYPE_CHECKING:
    from headrace.engine.stream import Stream

READ_BYTES = 16 * 1024


class Sink(Protocol):
    """Where a reader's bytes go. `write` never waits; a full sink is not written to until it says that it has drained."""

    @property
    def full(self) -> bool:
        """Whether it has more than it can pass on. Its owner calls `Reader.filled` when that begins,
        `Reader.drained` when it is over."""
        ...

    @property
    def pending(self) -> int:
        """Bytes that were written and not yet taken, to tell a slow reader from one that takes nothing."""
        ...

    def write(self, data: bytes) -> None: ...

    def abort(self) -> None:
        """Give up on the connection at once."""
        ...


class Nowhere:
    """A sink for an encoding that keeps what it is given, and writes nothing."""

    full = False
    pending = 0

    def write(self, data: bytes) -> None: ...

    def abort(self) -> None: ...


class Reader:
    """One attached reader of a stream.

    Attributes:
        cursor: the last `seq` that was written to the sink.
        blocked_at: since when the sink has been full, or when it last took anything since.
        closed: done when nothing more will be written; its result is the reason.
        opening: for a response that is opened only when it is known how (`held`): done when the provider has answered, when the stream or
            the reader is over, or when a heartbeat is due. Nothing is written before `release`.
        raw: whether it gets the provider's own frames, of which it has those up to `position`.
    """

    __slots__ = (
        "blocked_at",
        "bytes_out",
        "closed",
        "cursor",
        "encoding",
        "held",
        "opening",
        "pending_mark",
        "position",
        "raw",
        "sink",
        "stream",
        "wrote_at",
    )

    def __init__(self, stream: Stream, sink: Sink, encoding: Encoding, after: int, *, held: bool = False) -> None:
        self.stream = stream
        self.sink = sink
        self.encoding = encoding
        self.cursor = after
        self.wrote_at = time.monotonic()
        self.blocked_at: float | None = None
        self.pending_mark = 0
        self.bytes_out = 0
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.held = held
        self.opening: asyncio.Future[None] | None = asyncio.get_running_loop().create_future() if held else None
        self.raw = False
        self.position = 0

    @property
    def lag(self) -> int:
        """How far it is behind the writer, in bytes of the log, or of the provider's frames if it gets those."""
        wire = self.stream.wire
        if self.raw and wire is not None:
            return wire.lag(self.position)
        return self.stream.log.distance(self.cursor)

    def catch_up(self) -> None:
        """Write from the log until the sink is full or the reader is where the writer is, then the end marker if it is the end."""
        if self.held:
            return
        self.advance()
        if self.cursor == self.stream.log.last_seq:
            self.stream.reader_delivered(self)

    def advance(self) -> None:
        """Write from the log until the sink is full or the reader is where the writer is."""
        if self.raw:
            self._advance_frames()
            return
        log, compact = self.stream.log, self.encoding.compact
        while self.cursor < log.last_seq and not self.sink.full:
            events, _ = log.read(self.cursor, READ_BYTES, compact=compact)
            self.write(self.encoding.encode(events))
            self.cursor = events[-1].seq

    def _advance_frames(self) -> None:
        """The same from the provider's frames: what the relay said before them, they themselves, and the end."""
        stream, wire = self.stream, self.stream.wire
        assert wire is not None
        if self.cursor < wire.start_seq:
            events, _ = stream.log.read(self.cursor, READ_BYTES, compact=False)
            self.write(self.encoding.encode([event for event in events if event.seq <= wire.start_seq]))
            self.cursor = wire.start_seq
        while self.position < wire.count and not self.sink.full:
            frames, self.position = wire.read(self.position, READ_BYTES)
            self.write(self.encoding.forward(frames))
        stream.frames_taken()
        if self.position == wire.count and not self.sink.full:
            if stream.log.ended and stream.end is not None:
                self.write(self.encoding.encode([stream.end]))
            self.cursor = stream.log.last_seq

    def open(self) -> None:
        """It is known how the response begins."""
        if self.opening is not None and not self.opening.done():
            self.opening.set_result(None)

    def release(self) -> None:
        """The response has been opened: write what has come, and whatever comes."""
        self.held = False
        self.stream.reader_drained(self)

    def write(self, data: bytes) -> None:
        if data:
            self.sink.write(data)
            self.bytes_out += len(data)
        self.wrote_at = time.monotonic()

    def filled(self) -> None:
        """The sink has become full: the time in which it must take something begins. Called by whoever owns the sink."""
        if self.blocked_at is None:
            self.blocked_at = time.monotonic()
            self.pending_mark = self.sink.pending
            self.stream.reader_filled()

    def drained(self) -> None:
        """The sink takes bytes again. Called by whoever owns the sink."""
        self.blocked_at = None
        if not self.closed.done():
            self.stream.reader_drained(self)

    def beat(self) -> None:
        """There has been nothing to send for a while."""
        if self.held:
            self.wrote_at = time.monotonic()
            self.open()
        else:
            self.write(self.encoding.heartbeat)

    def close(self, reason: str) -> None:
        self.open()
        if not self.closed.done():
            self.closed.set_result(reason)
