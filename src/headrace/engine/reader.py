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


class Reader:
    """One attached reader of a stream.

    Attributes:
        cursor: the last `seq` that was written to the sink.
        blocked_at: since when the sink has been full, or when it last took anything since.
        closed: done when nothing more will be written; its result is the reason.
    """

    __slots__ = ("blocked_at", "bytes_out", "closed", "cursor", "encoding", "pending_mark", "sink", "stream", "wrote_at")

    def __init__(self, stream: Stream, sink: Sink, encoding: Encoding, after: int) -> None:
        self.stream = stream
        self.sink = sink
        self.encoding = encoding
        self.cursor = after
        self.wrote_at = time.monotonic()
        self.blocked_at: float | None = None
        self.pending_mark = 0
        self.bytes_out = 0
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @property
    def lag(self) -> int:
        """How far it is behind the writer, in bytes of the log."""
        return self.stream.log.distance(self.cursor)

    @property
    def heard_at(self) -> float:
        """When the reader was last sent anything: for one that is right behind the writer, the newest token at the latest.

        A token does not note its own time here, so an event that is none may go unnoticed; a heartbeat then comes early.
        """
        stream = self.stream
        return max(self.wrote_at, stream.meter.ingress.last) if self.cursor == stream.log.last_seq else self.wrote_at

    def catch_up(self) -> None:
        """Write from the log until the sink is full or the reader is where the writer is, then the end marker if it is the end."""
        log = self.stream.log
        while self.cursor < log.last_seq and not self.sink.full:
            events, _ = log.read(self.cursor, READ_BYTES, compact=True)
            self.write(self.encoding.encode(events))
            self.cursor = events[-1].seq
        if self.cursor == log.last_seq:
            self.stream.reader_delivered(self)

    def write(self, data: bytes) -> None:
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

    def close(self, reason: str) -> None:
        if not self.closed.done():
            self.closed.set_result(reason)
