"""The provider's own frames, for readers who speak its dialect.

They run beside the log, not in it: the log has what they mean. A frame is kept only while a reader has not taken it, or as long as
the stream where its caller may come back for it (`keep`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from headrace.engine.log import EVENT_COST
from headrace.protocol.sse import SSEEvent

HELD_BYTES_MAX = 64 * 1024


class Wire:
    """Frames of one attempt.

    Until the answer itself has begun they are held back: if the attempt fails before that, another one takes its place, and nobody has seen
    the first one's greeting. Positions are in bytes, and always between two batches.

    Attributes:
        dialect: whose frames they are.
        start_seq: the log's last `seq` when the provider answered. What came before it was the relay's own.
        committed: whether frames are passed on; from then on there is no other attempt.
        total: bytes of all frames that were passed on.
        first: bytes of those that are no longer here.
    """

    __slots__ = ("_batches", "_held", "_held_bytes", "bytes_max", "committed", "dialect", "first", "keep", "start_seq", "total")

    def __init__(self, dialect: str, start_seq: int, *, keep: bool, bytes_max: int) -> None:
        self.dialect = dialect
        self.start_seq = start_seq
        self.keep = keep
        self.bytes_max = bytes_max
        self.committed = False
        self.total = 0
        self.first = 0
        self._held: list[SSEEvent] = []
        self._held_bytes = 0
        self._batches: deque[tuple[int, list[SSEEvent]]] = deque()  # where each ends, and its frames

    @property
    def size(self) -> int:
        """Bytes kept."""
        return self.total - self.first if self._batches else 0

    def admit(self, frames: list[SSEEvent], *, begun: bool) -> list[SSEEvent]:
        """Return what may be passed on now: these frames and those before them, or nothing while the answer has not begun."""
        if self.committed:
            return frames
        self._held += frames
        self._held_bytes += cost(frames)
        return self.commit() if begun or self._held_bytes > HELD_BYTES_MAX else []

    def commit(self) -> list[SSEEvent]:
        """Return what was held back. It is this attempt's answer that readers get."""
        self.committed = True
        held, self._held = self._held, []
        return held

    def store(self, frames: list[SSEEvent], size: int) -> None:
        """Keep a batch that not every reader has taken. It has been counted in `total` already."""
        if not self._batches:
            self.first = self.total - size
        self._batches.append((self.total, frames))
        while self.keep and self.size > self.bytes_max and len(self._batches) > 1:
            self.first, _ = self._batches.popleft()

    def read(self, position: int, bytes_max: int) -> tuple[Sequence[SSEEvent], int]:
        """Return frames behind `position`, of at least one batch and about `bytes_max` bytes, and the position behind them."""
        taken: list[SSEEvent] = []
        end = position
        for batch_end, frames in self._batches:
            if batch_end <= position:
                continue
            taken += frames
            end = batch_end
            if end - position >= bytes_max:
                break
        return taken, end

    def release(self, position: int) -> None:
        """Let go of what lies before `position`, unless it is kept for those who come back."""
        while not self.keep and self._batches and self._batches[0][0] <= position:
            self.first, _ = self._batches.popleft()


def cost(frames: Sequence[SSEEvent]) -> int:
    """Return what frames weigh, by the measure of the log."""
    return sum([len(frame.data) for frame in frames]) + EVENT_COST * len(frames)
