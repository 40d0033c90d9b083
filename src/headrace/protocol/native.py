"""The native protocol's two framings of events: SSE and NDJSON. Pure bytes, no state."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.protocol import events as ev
from headrace.protocol.encoding import Encoding
from headrace.protocol.sse import DONE

_encode = ev.encode


class NativeSSE(Encoding):
    """`id: <seq>` and one `data:` line of JSON; no `event:` line, so an `EventSource` needs one handler only."""

    end_marker = DONE

    def encode(self, events: Sequence[ev.Event]) -> bytes:
        if len(events) == 1:
            event = events[0]
            return b"id: %d\ndata: %b\n\n" % (event.seq, _encode(event))
        return b"".join([b"id: %d\ndata: %b\n\n" % (event.seq, _encode(event)) for event in events])


class NativeNDJSON(Encoding):
    """One object a line; a heartbeat is a line of its own, the end marker is the end of the body."""

    content_type = "application/x-ndjson; charset=utf-8"
    heartbeat = b'{"type":"ping"}\n'
    end_marker = b""

    def encode(self, events: Sequence[ev.Event]) -> bytes:
        return b"".join([_encode(event) + b"\n" for event in events])


SSE = NativeSSE()
NDJSON = NativeNDJSON()
