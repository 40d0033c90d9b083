"""How events reach a stream's readers, and how its readers hold back the provider. Part of the hot path: plain functions of the stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace.engine.reader import Nowhere, Reader
from headrace.engine.wire import Wire
from headrace.protocol import events as ev
from headrace.protocol.encoding import Encoding
from headrace.protocol.sse import SSEEvent

if TYPE_CHECKING:
    from headrace.engine.stream import Stream

# What the relay says itself, which no frame of a provider stands for.
_OWN = frozenset({ev.StreamStart, ev.Queue, ev.Notice, ev.StreamEnd, ev.Error})


def deliver(stream: Stream, events: list[ev.Event], before: int, tokens: int, now: float, frames: list[SSEEvent] | None = None) -> None:
    """Write a batch to every reader that is right behind it; the others find it in the log, or on the wire, when they drain.

    Without `frames` the events are the relay's own, and those who read frames are told them as well.
    """
    last_seq = stream.log.last_seq
    encoding: Encoding | None = None
    data = b""
    passed = stream.wire is not None and _deliver_frames(stream, stream.wire, events, before, now, frames)
    for reader in stream.readers:
        sink = reader.sink
        if reader.cursor != before or sink.full or reader.raw:
            continue
        if reader.encoding is not encoding:
            encoding = reader.encoding
            data = encoding.encode(events)
        reader.cursor = last_seq
        if data:
            reader.bytes_out += len(data)
            reader.wrote_at = now
            sink.write(data)
    if passed or encoding is not None:
        if tokens:
            stream.meter.passed(tokens, now)
    else:
        if tokens:
            stream.meter.held_back(tokens, now)
        review_pressure(stream)


def _deliver_frames(stream: Stream, wire: Wire, events: list[ev.Event], before: int, now: float, frames: list[SSEEvent] | None) -> bool:
    """The same for those who read the provider's frames; return whether any of them got the batch."""
    start = wire.count
    if frames:
        wire.count = start + len(frames)
    passed, behind = False, wire.keep
    for reader in stream.readers:
        if not reader.raw:
            continue
        sink = reader.sink
        if reader.cursor != before or reader.position != start or sink.full:
            behind = True
            continue
        data = b""
        if frames:
            data = reader.encoding.forward(frames)
            reader.position = wire.count
        elif frames is None and (own := [event for event in events if type(event) in _OWN]):
            data = reader.encoding.encode(own)
        reader.cursor = stream.log.last_seq
        passed = True
        if data:
            reader.bytes_out += len(data)
            reader.wrote_at = now
            sink.write(data)
    if frames and behind:
        wire.store(frames)
    return passed


def review_pressure(stream: Stream) -> None:
    """Pause the upstream where the foremost reader is too far behind, resume it where it has caught up.

    Under the policy `gap` nobody is waited for. Without a reader the furthest place that any had reached counts, with more room.
    """
    settings = stream.settings
    if stream.ended or stream.attempt is None or (stream.request.slow_reader or settings.slow_reader) == "gap":
        return
    high = settings.high_water_bytes
    if stream.readers:
        lag = min(reader.lag for reader in stream.readers)
    else:
        lag = stream.log.total - stream.far_position
        high = settings.log_bytes_max if stream.grace_s is None else max(high, settings.detached_bytes_max)
    if not stream.paused and lag > high:
        stream.paused = True
        stream.attempt.pause_reading()
    elif stream.paused and lag <= min(high, settings.low_water_bytes if stream.readers else high):
        stream.paused = False
        stream.attempt.resume_reading()
        stream.schedule(stream.attempt.heard_at)


def replay(stream: Stream, encoding: Encoding) -> None:
    """Give `encoding`, which keeps it, all that has come so far, as to a reader that attached now."""
    reader = Reader(stream, Nowhere(), encoding, 0)
    reader.raw = stream.wire is not None and encoding.dialect == stream.wire.dialect
    reader.advance()
    reader.close("replayed")
