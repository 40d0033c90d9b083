"""A reader: a place in a stream's log, and the sink that takes its bytes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from headrace.protocol.native import Encoding

if TYPE_CHECKING:
    from headrace.engine.stream import Stream

READ_BYTES = 16 * 1024


class Sink(Protocol):
    """Where a reader's bytes go. `write` never waits; a full sink is not written to until it says that it has drained."""

    @property
    def full(self) -> bool:
        """Whether it has more than it can pass on. The owner calls `Reader.drained` when that is over."""
        ...

    @property
    def pending(self) -> int:
        """Bytes that were written and not yet taken, to tell a slow reader from one that takes nothing."""
        ...

    def write(self, data: bytes) -> None: ...

    def abort(self) -> None:
        """Give up on the connection at once."""
        ...


class Reader:
    """One attached reader of a stream.

    Attributes:
        cursor: the last `seq` that was written to the sink.
        position: that place in bytes of the log (`Log.total`'s measure).
        closed: done when nothing more will be written; its result is the reason.
    """

    __slots__ = ("blocked_at", "bytes_out", "closed", "cursor", "encoding", "pending_mark", "position", "sink", "stream", "wrote_at")

    def __init__(self, stream: Stream, sink: Sink, encoding: Encoding, now: float) -> None:
        self.stream = stream
        self.sink = sink
        self.encoding = encoding
        self.cursor = 0
        self.position = 0
        self.wrote_at = now
        self.blocked_at: float | None = None
        self.pending_mark = 0
        self.bytes_out = 0
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def catch_up(self, now: float) -> None:
        """Write from the log until the sink is full or the reader is where the writer is, then the end marker if it is the end."""
        log = self.stream.log
        while self.cursor < log.last_seq and not self.sink.full:
            gap = self.cursor + 1 < log.first_seq
            events, cost = log.read(self.cursor, READ_BYTES, compact=True)
            self.write(self.encoding.encode(events), now)
            self.cursor = events[-1].seq
            self.position = self.position + cost if not gap else log.total - log.distance(self.cursor)
        if self.cursor == log.last_seq:
            self.position = log.total
            self.stream.reader_delivered(self, now)

    def write(self, data: bytes, now: float) -> None:
        self.sink.write(data)
        self.bytes_out += len(data)
        self.wrote_at = now
        if self.sink.full:
            self.filled(now)

    def filled(self, now: float) -> None:
        """The sink has become full: the time in which it must take something begins."""
        if self.blocked_at is None:
            self.blocked_at = now
            self.pending_mark = self.sink.pending

    def drained(self) -> None:
        """The sink takes bytes again. Called by whoever owns the sink."""
        if not self.closed.done():
            self.blocked_at = None
            self.stream.reader_drained(self)

    def close(self, reason: str) -> None:
        if not self.closed.done():
            self.closed.set_result(reason)
