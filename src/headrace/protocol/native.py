"""The native protocol's two framings of events: SSE and NDJSON. Pure bytes, no state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from headrace.protocol import events as ev
from headrace.protocol.sse import DONE, HEARTBEAT

_encode = ev.encode


class Encoding(Protocol):
    """How events become bytes for one reader. An encoding without state is shared, and so is what it made of a batch."""

    content_type: str
    heartbeat: bytes
    end_marker: bytes

    def encode(self, events: Sequence[ev.Event]) -> bytes: ...


class NativeSSE:
    """`id: <seq>` and one `data:` line of JSON; no `event:` line, so an `EventSource` needs one handler only."""

    content_type = "text/event-stream; charset=utf-8"
    heartbeat = HEARTBEAT
    end_marker = DONE

    def encode(self, events: Sequence[ev.Event]) -> bytes:
        if len(events) == 1:
            event = events[0]
            return b"id: %d\ndata: %b\n\n" % (event.seq, _encode(event))
        return b"".join([b"id: %d\ndata: %b\n\n" % (event.seq, _encode(event)) for event in events])


class NativeNDJSON:
    """One object a line; a heartbeat is a line of its own, the end marker is the end of the body."""

    content_type = "application/x-ndjson; charset=utf-8"
    heartbeat = b'{"type":"ping"}\n'
    end_marker = b""

    def encode(self, events: Sequence[ev.Event]) -> bytes:
        return b"".join([_encode(event) + b"\n" for event in events])


SSE = NativeSSE()
NDJSON = NativeNDJSON()
