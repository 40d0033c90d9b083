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
    the first one's greeting. A position is a number of frames, and always between two batches.

    Attributes:
        dialect: whose frames they are.
        start_seq: the log's last `seq` when the provider answered. What came before it was the relay's own.
        committed: whether frames are passed on; from then on there is no other attempt.
        count: how many were passed on.
        first: how many of those are no longer here.
        size: bytes kept.
    """

    __slots__ = ("_batches", "_held", "_held_bytes", "bytes_max", "committed", "count", "dialect", "first", "keep", "size", "start_seq")

    def __init__(self, dialect: str, start_seq: int, *, keep: bool, bytes_max: int) -> None:
        self.dialect = dialect
        self.start_seq = start_seq
        self.keep = keep
        self.bytes_max = bytes_max
        self.committed = False
        self.count = 0
        self.first = 0
        self.size = 0
        self._held: list[SSEEvent] = []
        self._held_bytes = 0
        self._batches: deque[tuple[int, int, list[SSEEvent]]] = deque()  # where each ends, its bytes, its frames

    def admit(self, frames: list[SSEEvent], *, begun: bool) -> list[SSEEvent]:
        """Return what may be passed on now: these frames and those before them, or nothing while the answer has not begun."""
        self._held += frames
        self._held_bytes += _cost(frames)
        return self.commit() if begun or self._held_bytes > HELD_BYTES_MAX else []

    def commit(self) -> list[SSEEvent]:
        """Return what was held back. It is this attempt's answer that readers get."""
        self.committed = True
        held, self._held = self._held, []
        return held

    def store(self, frames: list[SSEEvent]) -> None:
        """Keep a batch that not every reader has taken. It has been counted already."""
        if not self._batches:
            self.first = self.count - len(frames)
        size = _cost(frames)
        self.size += size
        self._batches.append((self.count, size, frames))
        while self.keep and self.size > self.bytes_max and len(self._batches) > 1:
            self._drop()

    def lag(self, position: int) -> int:
        """Return how many bytes lie behind `position`."""
        return sum(size for end, size, _ in self._batches if end > position)

    def read(self, position: int, bytes_max: int) -> tuple[Sequence[SSEEvent], int]:
        """Return frames behind `position`, of at least one batch and about `bytes_max` bytes, and the position behind them."""
        taken: list[SSEEvent] = []
        spent = 0
        for end, size, frames in self._batches:
            if end <= position:
                continue
            taken += frames
            position = end
            spent += size
            if spent >= bytes_max:
                break
        return taken, position

    def release(self, position: int) -> None:
        """Let go of what lies before `position`, unless it is kept for those who come back."""
        while not self.keep and self._batches and self._batches[0][0] <= position:
            self._drop()

    def _drop(self) -> None:
        self.first, size, _ = self._batches.popleft()
        self.size -= size


def _cost(frames: Sequence[SSEEvent]) -> int:
    """Return what frames weigh, by the measure of the log."""
    return sum([len(frame.data) for frame in frames]) + EVENT_COST * len(frames)
