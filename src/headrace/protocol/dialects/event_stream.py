"""What the decoders of all dialects share that come as server-sent events: bytes in, one honest end out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from headrace.errors import RemoteProtocolError, UpstreamError, UpstreamProtocol
from headrace.protocol import events as ev
from headrace.protocol.blocks import BlockWriter, ToolArguments
from headrace.protocol.lenient import is_json
from headrace.protocol.provider_error import error_of_head, plain_error_event
from headrace.protocol.sse import EVENT_BYTES_MAX, SSEEvent, SSEParser

_HEAD_BYTES_MAX = 64 * 1024


class EventStreamDecoder(ABC):
    """Turn a body of server-sent events into our events. A dialect adds what one of its events means.

    The quirk `line_bytes_max` bounds a line of the body; whole images may come in one, so the default is that of an event.

    Attributes:
        finished: whether the terminal event has been returned.
        frames: the body's events as they came, if somebody set a list to put them in.
    """

    __slots__ = ("_head", "_sse", "_writer", "finished", "frames")

    def __init__(self, quirks: Mapping[str, object] | None = None, *, event_fields: Sequence[str] = ()) -> None:
        line_bytes_max = (quirks or {}).get("line_bytes_max")
        line_bytes_max = line_bytes_max if isinstance(line_bytes_max, int) else EVENT_BYTES_MAX
        self._sse = SSEParser(line_bytes_max, EVENT_BYTES_MAX, event_fields)
        self._writer = BlockWriter()
        self.finished = False
        self.frames: list[SSEEvent] | None = None
        # The body's beginning, until a dialect has seen an event of its own and sets None: a body without any may still be a
        # plain JSON error.
        self._head: bytearray | None = bytearray()

    @property
    def begun(self) -> bool:
        """Whether anything of the answer itself has come."""
        return self._writer.begun

    @property
    def finished_calls(self) -> list[tuple[str, ToolArguments]]:
        """Name and arguments of each completed tool call."""
        return self._writer.finished_calls

    def feed(self, chunk: bytes) -> list[ev.Event]:
        """Return the events that `chunk` completes."""
        if self.finished:
            return []
        try:
            frames = self.frames
            for event in self._sse.feed(chunk):
                if frames is not None:
                    frames.append(event)
                if self._take(event):
                    break
        except RemoteProtocolError:
            self._fail(UpstreamProtocol)
        if self._head is not None:
            self._head += chunk[: _HEAD_BYTES_MAX - len(self._head)]
        return self._writer.take()

    def finish(self) -> list[ev.Event]:
        """Return what the end of the body means.

        An event that lacks only its blank line is taken: its data tell whether they are whole. It is no frame that others would see.
        """
        if self.finished:
            return []
        try:
            for event in self._sse.feed(b"\n\n"):
                if event.data.startswith(b"[DONE]") or is_json(event.data):
                    self._take(event)
            self._sse.finish()
        except RemoteProtocolError:
            self._fail(UpstreamProtocol)
        if not self.finished:
            self._take_end_of_body()
        return self._writer.take()

    # --- for a dialect ---------------------------------------------------------------------------------------------

    @abstractmethod
    def _take(self, event: SSEEvent) -> bool:
        """Write what the event means; return whether it was the last."""

    def _take_end_of_body(self) -> None:
        """The body is over and no terminator came."""
        self._fail_as(error_of_head(bytes(self._head or b""), partial=self._writer.begun))

    def _close_blocks(self) -> None:
        """Close what is open when the answer has failed."""
        self._writer.end_all(truncated=True)

    def _end(self, reason: ev.FinishReason) -> None:
        self._writer.events.append(ev.StreamEnd(finish_reason=reason))
        self.finished = True

    def _fail(self, cls: type[UpstreamError], message: str | None = None) -> None:
        self._fail_as(plain_error_event(cls, partial=self._writer.begun, message=message))

    def _fail_as(self, error: ev.Error) -> None:
        self._close_blocks()
        self._writer.events.append(error)
        self.finished = True
