"""The log of one stream: one writer, gapless `seq`, any number of readers at their own place.

Deltas of one block that follow each other are kept as one run (a buffer and the ends of its pieces), not as objects: about
4 bytes beside the text for each token. Everything else is kept as the event that it is. Reading builds events again, one
for one for a reader that is close behind, or compacted (`from_seq` … `seq`) for one that comes back.

Past `bytes_max` the oldest segments go; a reader that is further behind is told by `gap`.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right

from headrace.protocol import events as ev
from headrace.protocol.lifecycle import Lifecycle

RUN_BYTES_MAX = 32 * 1024
PACK_EVENTS = 64  # pieces that may wait to be packed
PACK_BYTES = 1024  # a piece that does not wait
EVENT_COST = 32  # what an event weighs beside its text, for limits and distances

_RUN_TYPES = (ev.Text, ev.Thinking, ev.ToolCallDelta)


class Run:
    """Consecutive deltas of one block: events `first` … `last`.

    The newest pieces wait in a list and are packed a batch at a time: packing each as it comes would touch two buffers of a stream
    that has long left the processor's cache.
    """

    __slots__ = ("_ends", "_text", "cls", "first", "key", "kind", "pieces")

    def __init__(self, first: int, cls: type[ev.Event], key: int | str, kind: ev.ThinkingKind) -> None:
        self.first = first
        self.cls = cls
        self.key = key
        self.kind = kind
        self.pieces: list[str] = []
        self._text = bytearray()
        self._ends = array("I")

    @property
    def text(self) -> bytearray:
        """All the text, in UTF-8."""
        if self.pieces:
            self.pack()
        return self._text

    @property
    def ends(self) -> array[int]:
        """Where in `text` each event ends."""
        if self.pieces:
            self.pack()
        return self._ends

    @property
    def cost(self) -> int:
        return len(self.text) + EVENT_COST * len(self.ends)

    @property
    def last(self) -> int:
        return self.first + len(self._ends) + len(self.pieces) - 1

    def pack(self) -> int:
        """Pack what has come since the last time; return the size of all."""
        text, ends = self._text, self._ends
        for piece in self.pieces:
            text += piece.encode()
            ends.append(len(text))
        self.pieces.clear()
        return len(text)

    def event(self, first: int, last: int) -> ev.Event:
        """Return events `first` … `last` as one."""
        start = self.ends[first - self.first - 1] if first > self.first else 0
        text = self.text[start : self.ends[last - self.first]].decode()
        from_seq = first if first != last else None
        if self.cls is ev.Text:
            return ev.Text(seq=last, index=self.key, text=text, from_seq=from_seq)  # type: ignore[arg-type]
        if self.cls is ev.Thinking:
            return ev.Thinking(seq=last, index=self.key, text=text, kind=self.kind, from_seq=from_seq)  # type: ignore[arg-type]
        return ev.ToolCallDelta(seq=last, tool_call_id=self.key, arguments_delta=text, from_seq=from_seq)  # type: ignore[arg-type]


class Log:
    """Append-only events of one stream.

    Attributes:
        last_seq: number of the newest event, 0 before the first.
        first_seq: number of the oldest event that is still here.
        size: bytes held, `total`: bytes ever appended; both by the same measure (text plus `EVENT_COST` an event).
    """

    __slots__ = (
        "_dropped",
        "_lifecycle",
        "_run",
        "_segments",
        "_starts",
        "bytes_max",
        "dropped_characters",
        "first_seq",
        "last_seq",
        "total",
    )

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.last_seq = 0
        self.first_seq = 1
        self.total = 0
        self.dropped_characters = 0
        self._dropped = 0
        self._lifecycle = Lifecycle()
        self._segments: list[Run | ev.Event] = []
        self._starts: list[int] = []
        self._run: Run | None = None

    @property
    def size(self) -> int:
        return self.total - self._dropped

    @property
    def ended(self) -> bool:
        return self._lifecycle.state == "ended"

    def append(self, event: ev.Event) -> None:
        """Give `event` the next number and keep it.

        Raises:
            LocalProtocolError: the event may not come now (`protocol.lifecycle`); the log is as before.
        """
        run = self._run
        cls = event.__class__
        if run is not None and cls is run.cls:
            # The same block as the event before: the lifecycle cannot have changed.
            if cls is ev.Text:
                text = event.text if event.index == run.key else None  # type: ignore[attr-defined]
            else:
                text = _plain_text(event) if _continues(run, event) else None
            if text is not None:
                self._extend(run, event, text)
                return
        self._lifecycle.step(event)
        if run is not None:
            run.pack()
        text = _plain_text(event) if cls in _RUN_TYPES else None
        if text is None:
            self._run = None
            self._keep(event)
        else:
            self._run = run = _new_run(self.last_seq + 1, event)
            self._segments.append(run)
            self._starts.append(run.first)
            self._extend(run, event, text)
        if self.size > self.bytes_max:
            self._trim()

    def read(self, after: int, bytes_max: int, *, compact: bool) -> tuple[list[ev.Event], int]:
        """Return events behind `after`, oldest first, of at least one and about `bytes_max` bytes, and what they cost.

        A reader that is further behind than the log reaches gets a `gap` first.
        """
        events: list[ev.Event] = []
        cost = 0
        if after + 1 < self.first_seq:
            events.append(self._gap(after + 1))
            after = self.first_seq - 1
        at = bisect_right(self._starts, after + 1) - 1
        while at < len(self._segments) and cost < bytes_max:
            segment = self._segments[at]
            if isinstance(segment, Run):
                last, spent = self._read_run(segment, after, bytes_max - cost, compact=compact, into=events)
                cost += spent
                after = last
                if last < segment.last:
                    break
            elif segment.seq > after:
                events.append(segment)
                cost += _event_cost(segment)
                after = segment.seq
            at += 1
        return events, cost

    def distance(self, after: int) -> int:
        """Return how many bytes lie behind `after`."""
        if after >= self.last_seq:
            return 0
        at = max(bisect_right(self._starts, after + 1) - 1, 0)
        behind = 0
        for segment in self._segments[at:]:
            if isinstance(segment, Run):
                skip = after - segment.first
                if skip < 0:
                    behind += segment.cost
                elif skip < len(segment.ends):
                    behind += segment.cost - segment.ends[skip] - EVENT_COST * (skip + 1)
            elif segment.seq > after:
                behind += _event_cost(segment)
        return behind

    def closing(self) -> list[ev.Event]:
        """Return what closes the blocks that are still open. Decoders close their own; this is for the end after a bug."""
        events: list[ev.Event] = []
        for index, kind, call in self._lifecycle.open_blocks():
            if call is not None:
                events.append(self._broken_call(call))
            events.append(ev.BlockEnd(index=index, kind=kind))
        return events

    def _broken_call(self, call: str) -> ev.ToolCallComplete:
        names = [segment.name for segment in self._segments if isinstance(segment, ev.ToolCallStart) and segment.tool_call_id == call]
        raw = b"".join(run.text for run in self._segments if isinstance(run, Run) and run.cls is ev.ToolCallDelta and run.key == call)
        return ev.ToolCallComplete(
            tool_call_id=call,
            name="".join(names),
            arguments=None,
            arguments_raw=raw.decode(),
            valid=False,
            error="the relay failed while it read them",
        )

    def _read_run(self, run: Run, after: int, bytes_max: int, *, compact: bool, into: list[ev.Event]) -> tuple[int, int]:
        first = max(after + 1, run.first)
        last, spent = first - 1, 0
        start = run.ends[first - run.first - 1] if first > run.first else 0
        while last < run.last and (spent < bytes_max):
            last += 1
            end = run.ends[last - run.first]
            spent += end - start + EVENT_COST
            start = end
        if last < first:
            return after, 0
        if compact:
            into.append(run.event(first, last))
        else:
            into.extend(run.event(seq, seq) for seq in range(first, last + 1))
        return last, spent

    def _extend(self, run: Run, event: ev.Event, text: str) -> None:
        pieces = run.pieces
        pieces.append(text)
        size = len(text) if text.isascii() else len(text.encode())
        if (len(pieces) >= PACK_EVENTS or size > PACK_BYTES) and run.pack() >= RUN_BYTES_MAX:
            self._run = None
        self.total += size + EVENT_COST
        event.seq = self.last_seq = self.last_seq + 1

    def _keep(self, event: ev.Event) -> None:
        self.last_seq += 1
        event.seq = self.last_seq
        self.total += _event_cost(event)
        self._segments.append(event)
        self._starts.append(event.seq)

    def _trim(self) -> None:
        """Drop the oldest segments but one until the log fits again. `stream_start` goes too: a reader has it, or its id."""
        dropped = 0
        while self.size > self.bytes_max and dropped < len(self._segments) - 1:
            segment = self._segments[dropped]
            if isinstance(segment, Run):
                self._dropped += segment.cost
                self.dropped_characters += len(segment.text.decode())
            else:
                self._dropped += _event_cost(segment)
            dropped += 1
        del self._segments[:dropped], self._starts[:dropped]
        self.first_seq = self._starts[0]

    def _gap(self, from_seq: int) -> ev.Gap:
        to_seq = self.first_seq - 1
        characters = self.dropped_characters if from_seq == 1 else None
        return ev.Gap(seq=to_seq, from_seq=from_seq, to_seq=to_seq, characters=characters, reason="slow_reader", recoverable=False)


def _plain_text(event: ev.Event) -> str | None:
    """Return a delta's text if there is nothing else to it."""
    cls = type(event)
    if cls is ev.Text:
        return event.text  # type: ignore[attr-defined, no-any-return]
    if cls is ev.ToolCallDelta:
        return event.arguments_delta  # type: ignore[attr-defined, no-any-return]
    if isinstance(event, ev.Thinking) and event.signature is None and event.redacted is None:
        return event.text
    return None


def _continues(run: Run, event: ev.Event) -> bool:
    """Whether `event`, of the run's class, is a delta of the same block and, as thinking, of the same kind."""
    if isinstance(event, ev.Thinking):
        return event.index == run.key and event.kind == run.kind
    return getattr(event, "tool_call_id", None) == run.key


def _new_run(first: int, event: ev.Event) -> Run:
    if isinstance(event, ev.ToolCallDelta):
        return Run(first, ev.ToolCallDelta, event.tool_call_id, "raw")
    if isinstance(event, ev.Thinking):
        return Run(first, ev.Thinking, event.index, event.kind)
    assert isinstance(event, ev.Text)
    return Run(first, ev.Text, event.index, "raw")


def _event_cost(event: ev.Event) -> int:
    cost = EVENT_COST
    if isinstance(event, ev.ToolCallComplete):
        cost += 2 * len(event.arguments_raw)
    elif isinstance(event, ev.Thinking):
        cost += len(event.text) + len(event.signature or "") + len(event.redacted or "")
    elif isinstance(event, ev.Data | ev.ToolResult):
        cost += len(ev.encode(event))
    return cost
