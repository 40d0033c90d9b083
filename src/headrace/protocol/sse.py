"""Server-sent events: bytes to events and back, without I/O.

The parser follows WHATWG HTML, section 9.2.6 ("Interpreting an event stream"), with two departures:

1. A line or an event that outgrows its limit is an error, because an endless one would otherwise be endless memory.
2. `retry` saturates at `RETRY_MS_MAX`: the standard puts no bound on its digits, and a number of a million digits is an attack.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from headrace.errors import LocalProtocolError, RemoteProtocolError

LINE_BYTES_MAX = 1024 * 1024
EVENT_BYTES_MAX = 8 * 1024 * 1024
RETRY_MS_MAX = 10**15

# One line feed, not two: a comment needs no blank line, and some readers, the official OpenAI Python SDK among them, take every
# blank line for the end of an event once they have seen an `id`. They would then parse the empty data as JSON and fail.
HEARTBEAT = b": ping\n"
DONE = b"data: [DONE]\n\n"

_BOM = b"\xef\xbb\xbf"
_FIELDS = (b"data:", b"event:", b"id:", b"retry:")
# A chunk is split into a list of its lines, which for very short lines is many times its size: so never more than this at once.
_PIECE_BYTES_MAX = 64 * 1024


class LineTooLong(RemoteProtocolError):
    """The peer sent a line of more than `line_bytes_max` bytes."""


class EventTooLong(RemoteProtocolError):
    """The peer sent an event whose data lines are more than `event_bytes_max` bytes together."""


class SSEEvent(msgspec.Struct, frozen=True, gc=False):
    """One dispatched event. `data` is valid UTF-8 whatever the peer sent; `id` is the last event id at dispatch.

    `named` tells an `event: message` that was written out from no name at all: the standard takes them for the same, some readers do not.
    """

    data: bytes
    event: str = "message"
    id: str = ""
    named: bool = False

    @property
    def text(self) -> str:
        return self.data.decode()


class SSEParser:
    """Split one `text/event-stream` into events. Holds state, does no I/O.

    `line_bytes_max` bounds a line without its end, `event_bytes_max` the data lines of one event as they were received.
    Comments and unknown fields are dropped as they arrive: they take no memory and have no limit.
    `event_fields` are field names, unknown to the standard, that a peer is known to use in place of an event: such a line is an
    event of that name at once. (The server of llama.cpp wrote `error: {…}`, which every other reader takes for nothing.)

    Attributes:
        retry_ms: the last valid `retry`, or None.
        last_event_id: the id to resume from; that of an event which never ended does not count.
        comments: how many comment lines have begun. Where it grows, the peer is alive although it has nothing to say.
    """

    __slots__ = (
        "_after_cr",
        "_at_start",
        "_between_events",
        "_closed",
        "_data",
        "_event",
        "_event_bytes",
        "_event_bytes_max",
        "_event_fields",
        "_fast_bytes_max",
        "_fault",
        "_fields",
        "_id",
        "_line",
        "_line_bytes_max",
        "_name",
        "_name_line",
        "_skipping",
        "comments",
        "last_event_id",
        "retry_ms",
    )

    def __init__(
        self, line_bytes_max: int = LINE_BYTES_MAX, event_bytes_max: int = EVENT_BYTES_MAX, event_fields: Sequence[str] = ()
    ) -> None:
        self.retry_ms: int | None = None
        self.last_event_id = ""
        self.comments = 0
        self._line_bytes_max = line_bytes_max
        self._event_bytes_max = event_bytes_max
        self._event_fields = {name.encode(): name for name in event_fields}
        self._fields = (*_FIELDS, *(b"%b:" % name for name in self._event_fields))
        # The event under way. Every data line has a name, so 0 bytes means "no data line yet", and nothing to dispatch.
        self._data = bytearray()
        self._event_bytes = 0
        self._event = ""
        self._id = ""  # becomes `last_event_id` at the blank line
        # Cuts. `_line` holds the beginning of a line, or of the byte order mark while `_at_start`; `_skipping` says that the
        # line under way is being dropped; `_after_cr` that a line feed at the start of the next chunk belongs to the last line.
        self._line = bytearray()
        self._at_start = True
        self._skipping = False
        self._after_cr = False
        self._closed = False
        self._fault: RemoteProtocolError | None = None
        # The fast path: taken between events only, and for chunks that are too small to break a limit. The last name is kept,
        # because names repeat from event to event.
        self._between_events = False
        self._fast_bytes_max = min(line_bytes_max, event_bytes_max, _PIECE_BYTES_MAX)
        self._name_line = b""
        self._name = "message"

    def feed(self, chunk: bytes) -> list[SSEEvent]:
        """Return the events that `chunk` completes, oldest first.

        How the stream was cut into chunks never changes the result. To keep it so, an error that follows complete events in the
        same chunk is raised by the next call, be it `feed` or `finish`: what arrived whole is not lost.

        Raises:
            LineTooLong, EventTooLong: the peer broke a limit; the parser stays closed.
            LocalProtocolError: the parser is closed.
        """
        if self._between_events and len(chunk) <= self._fast_bytes_max and chunk.endswith(b"\n"):
            events = self._whole_events(chunk)
            if events is not None:
                return events
        return self._feed_pieces(chunk)

    def finish(self) -> list[SSEEvent]:
        """Take the end of the stream and close. The list is always empty: an event without its blank line is discarded.

        A bare CR at the very end needs no flush, because a CR ends its line when it arrives. Finishing twice is allowed.

        Raises:
            LineTooLong, EventTooLong: the error that the last `feed` held back.
        """
        fault, self._fault = self._fault, None
        self._close()
        if fault is not None:
            raise fault
        return []

    def _whole_events(self, chunk: bytes) -> list[SSEEvent] | None:
        """Parse a chunk of nothing but whole events, or return None and leave everything as it was.

        This is the case of one token, one write. It is `_take_line` for the spelling that every server uses, `field: value`, and
        for events with one data line; `feed` has made sure that the chunk can break no limit.
        """
        lines = chunk.splitlines()
        if lines[-1]:
            return None
        events: list[SSEEvent] = []
        data: bytes | None = None
        name = "message"
        last_id = self.last_event_id
        for line in lines:
            if not line:
                if data is None:
                    return None
                events.append(SSEEvent(data, name, last_id))
                data = None
                name = "message"
            elif line.startswith(b"data: "):
                if data is not None:
                    return None
                data = line[6:]
                if not data.isascii():
                    data = _valid_utf8(data)
            elif line == self._name_line:
                name = self._name
            elif line.startswith(b"event: "):
                if line == b"event: message":
                    return None  # the other way keeps that it was said
                name = _text(line[7:]) or "message"
                self._name_line, self._name = line, name
            elif line.startswith(b"id: ") and 0 not in line:
                last_id = _text(line[4:])
            else:
                return None
        self._id = self.last_event_id = last_id
        return events

    def _feed_pieces(self, chunk: bytes) -> list[SSEEvent]:
        if self._closed:
            fault, self._fault = self._fault, None
            raise fault or LocalProtocolError(detail="fed an SSE parser that is closed")
        events: list[SSEEvent] = []
        try:
            for start in range(0, len(chunk), _PIECE_BYTES_MAX):
                self._take_piece(chunk[start : start + _PIECE_BYTES_MAX], events)
        except RemoteProtocolError as fault:
            self._close()
            if not events:
                raise
            self._fault = fault.with_traceback(None)
        return events

    def _take_piece(self, piece: bytes, events: list[SSEEvent]) -> None:
        if self._at_start:
            piece = self._without_bom(piece)
        if self._after_cr:
            self._after_cr = False
            piece = piece.removeprefix(b"\n")
        if not piece:
            return
        self._after_cr = piece.endswith(b"\r")
        lines = piece.splitlines()  # of bytes: at CR, LF and CRLF and nowhere else
        tail = b"" if piece.endswith((b"\r", b"\n")) else lines.pop()
        if lines and self._skipping:
            self._skipping = False
            del lines[0]
        elif lines and self._line:
            lines[0] = bytes(self._line + lines[0])
            self._line.clear()
        for line in lines:
            self._take_line(line, events)
        if tail and not self._skipping:
            self._hold(tail)
        self._between_events = not (
            self._line or self._skipping or self._after_cr or self._event_bytes or self._event or self._id != self.last_event_id
        )

    def _without_bom(self, piece: bytes) -> bytes:
        """Drop one byte order mark from the start of the stream; hold what may still become one."""
        head = bytes(self._line) + piece
        if _BOM.startswith(head):
            self._line[:] = head
            return b""
        self._line.clear()
        self._at_start = False
        return head.removeprefix(_BOM)

    def _hold(self, part: bytes) -> None:
        """Keep the beginning of a line until its end comes, unless it can no longer become a known field."""
        line = self._line
        line += part
        if line.startswith(self._fields):
            self._check_size(len(line), of_data=line.startswith(b"data:"))
        elif not any(field.startswith(line) for field in self._fields):
            self.comments += line.startswith(b":")
            self._skipping = True
            line.clear()

    def _take_line(self, line: bytes, events: list[SSEEvent]) -> None:
        if not line:
            self._dispatch(events)
            return
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._check_size(len(line), of_data=True)
            if self._event_bytes:
                self._data += b"\n"
            self._data += value
            self._event_bytes += len(line) + 1
        elif field == b"event":
            self._check_size(len(line))
            self._event = _text(value)
        elif field == b"id":
            self._check_size(len(line))
            if 0 not in value:
                self._id = _text(value)
        elif field == b"retry":
            self._check_size(len(line))
            if value.isdigit():  # of bytes: ASCII digits only, where int() would take signs, spaces and underscores
                self.retry_ms = min(int(value.lstrip(b"0")[:16] or b"0"), RETRY_MS_MAX)
        elif not field:
            self.comments += 1
        elif field in self._event_fields:
            self._check_size(len(line))
            events.append(SSEEvent(_valid_utf8(value), self._event_fields[field], self._id))

    def _dispatch(self, events: list[SSEEvent]) -> None:
        self.last_event_id = self._id
        if self._event_bytes:
            events.append(SSEEvent(_valid_utf8(bytes(self._data)), self._event or "message", self._id, self._event == "message"))
            self._data.clear()
            self._event_bytes = 0
        self._event = ""

    def _check_size(self, line_bytes: int, *, of_data: bool = False) -> None:
        """Raise for the limit that the line broke first, so that a cut does not decide which error it is."""
        room = self._event_bytes_max - self._event_bytes if of_data else self._line_bytes_max
        if line_bytes <= min(room, self._line_bytes_max):
            return
        if room < self._line_bytes_max:
            raise EventTooLong(detail=f"more than {self._event_bytes_max} bytes of data lines in one SSE event")
        raise LineTooLong(detail=f"more than {self._line_bytes_max} bytes in one SSE line")

    def _close(self) -> None:
        self._closed = True
        self._between_events = False
        self._line.clear()
        self._data.clear()


def encode_event(data: bytes | str, *, event: str | None = None, id: str | None = None, retry_ms: int | None = None) -> bytes:
    """Return one event in LF framing, the form that even readers without a real parser understand.

    A line end of any kind in `data` starts another data line, so a reader gets it back as LF. Bytes must be UTF-8; a lone
    surrogate in a string becomes U+FFFD.

    Raises:
        LocalProtocolError: CR, LF or NUL in `event` or `id`, which could forge a field or a frame, or a negative `retry_ms`.
    """
    payload = data if isinstance(data, bytes) else _utf8(data)
    if 13 in payload:
        payload = payload.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if 10 in payload:
        payload = payload.replace(b"\n", b"\ndata: ")
    frame = b"data: %b\n\n" % payload
    if retry_ms is not None:
        if retry_ms < 0:
            raise LocalProtocolError(detail="retry_ms is negative")
        frame = b"retry: %d\n%b" % (retry_ms, frame)
    if id is not None:
        frame = b"id: %b\n%b" % (_field_value("id", id), frame)
    if event is not None:
        frame = b"event: %b\n%b" % (_field_value("event", event), frame)
    return frame


def _field_value(field: str, value: str) -> bytes:
    if "\n" in value or "\r" in value or "\0" in value:
        raise LocalProtocolError(detail=f"CR, LF or NUL in the {field} of an SSE event")
    return _utf8(value)


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:  # surrogates: pairs become their character, lone ones U+FFFD
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _valid_utf8(data: bytes) -> bytes:
    """Return `data` itself if it is UTF-8, else with U+FFFD where the UTF-8 decoder of the WHATWG Encoding standard puts it."""
    if data.isascii():
        return data
    try:
        data.decode()
    except UnicodeDecodeError:
        return _text(data).encode()
    return data
