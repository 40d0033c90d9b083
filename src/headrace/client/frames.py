"""The body of a stream: bytes in, events out, for both framings. What a heartbeat or an unknown event says is dropped here."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol, TypeAlias

import msgspec

from headrace.client.recovery import Dropped
from headrace.errors import RemoteProtocolError
from headrace.protocol import events as ev
from headrace.protocol.ndjson import NDJSONParser
from headrace.protocol.sse import SSEParser

Transport: TypeAlias = Literal["sse", "ndjson"]

LINE_BYTES_MAX = 32 * 1024 * 1024  # a call with a file in its arguments is one event, and has them twice

CONTENT_TYPES: dict[Transport, str] = {"sse": "text/event-stream", "ndjson": "application/x-ndjson"}


class Frames(Protocol):
    """One JSON object a frame, without what is around it."""

    def feed(self, chunk: bytes) -> list[bytes]: ...

    def finish(self) -> list[bytes]: ...


class SSEFrames:
    """Frames of `text/event-stream`. An event without data, which some proxies make of a heartbeat, is none."""

    def __init__(self) -> None:
        self._parser = SSEParser(line_bytes_max=LINE_BYTES_MAX, event_bytes_max=LINE_BYTES_MAX)

    def feed(self, chunk: bytes) -> list[bytes]:
        return [event.data for event in self._parser.feed(chunk) if event.data and event.data != b"[DONE]"]

    def finish(self) -> list[bytes]:
        self._parser.finish()
        return []


class Numbered(msgspec.Struct):
    """What may be known of an event whose type is not: its number."""

    seq: int = 0


class Batch(NamedTuple):
    """What one read brought. `fault` came behind the events: they count."""

    events: list[ev.Event]
    last_seq: int
    fault: Dropped | None


class EventReader:
    """Turn the body of one response into events; drop those up to `last_seq`, which have been seen."""

    def __init__(self, transport: Transport, last_seq: int) -> None:
        self._frames: Frames = SSEFrames() if transport == "sse" else NDJSONParser(LINE_BYTES_MAX)
        self.last_seq = last_seq
        self.ended = False

    def feed(self, chunk: bytes) -> Batch:
        """Return the new events that `chunk` completes. How the body was cut into chunks changes nothing."""
        try:
            frames = self._frames.feed(chunk)
        except RemoteProtocolError as error:
            return Batch([], self.last_seq, Dropped("garbled", str(error)))
        return self._decode(frames)

    def finish(self) -> Batch:
        """Take the body's end. Without a terminal event that end proves nothing, and is a fault."""
        try:
            frames = self._frames.finish()
        except RemoteProtocolError as error:
            return Batch([], self.last_seq, Dropped("garbled", str(error)))
        batch = self._decode(frames)
        if self.ended:
            return batch
        return Batch(batch.events, batch.last_seq, Dropped("ended_early", "the connection ended without a terminal event"))

    def _decode(self, frames: list[bytes]) -> Batch:
        events: list[ev.Event] = []
        for frame in frames:
            if self.ended:
                break
            try:
                event = self._new(frame)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, RemoteProtocolError) as error:
                return Batch(events, self.last_seq, Dropped("garbled", f"not an event: {error}"))
            if event is not None:
                events.append(event)
                self.ended = isinstance(event, ev.TERMINAL)
        return Batch(events, self.last_seq, None)

    def _new(self, frame: bytes) -> ev.Event | None:
        """Return the event, or None for one that was seen before or that this version does not know."""
        event = ev.decode(frame)
        seq = event.seq if event is not None else msgspec.json.decode(frame, type=Numbered).seq
        if 0 < seq <= self.last_seq:
            return None
        first = getattr(event, "from_seq", None)
        if first is not None and first <= self.last_seq and not isinstance(event, ev.Reset | ev.Gap):
            raise RemoteProtocolError(detail=f"events {first} to {seq} overlap with what came up to {self.last_seq}")
        self.last_seq = max(self.last_seq, seq)
        return event
