"""How one reader is spoken to: events, or a provider's own frames, to bytes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from headrace.errors import LocalProtocolError
from headrace.protocol import events as ev
from headrace.protocol.sse import HEARTBEAT, SSEEvent

SSE_TYPE = "text/event-stream; charset=utf-8"


class Encoding(ABC):
    """Turn a stream's events into the bytes of one reader.

    One without state may be shared by readers, and so is what it made of a batch. One with state belongs to one reader and is given
    every event from the first on, in order.

    Where the provider speaks the reader's own dialect, the reader gets the provider's frames instead: `forward` is given those, and
    `encode` only what no frame stands for: `stream_start`, the stream's own `queue` and `notice`, and always the terminal event.
    An encoding then adds to the frames what they lack, and nothing that they have said already.

    Attributes:
        content_type: of the response.
        heartbeat: what is sent when there has been nothing to send for a while; empty for none.
        end_marker: what ends the body, behind the terminal event.
        dialect: the provider dialect whose frames can be passed on as they are, or None.
        compact: whether a reader that is behind may be given one event for several.
    """

    content_type = SSE_TYPE
    heartbeat = HEARTBEAT
    end_marker = b""
    dialect: str | None = None
    compact = True

    @abstractmethod
    def encode(self, events: Sequence[ev.Event]) -> bytes:
        """Return the bytes for `events`; they may be none."""

    def forward(self, frames: Sequence[SSEEvent]) -> bytes:
        """Return the bytes for frames of `dialect`."""
        raise LocalProtocolError(detail=f"{type(self).__name__} takes no frames")


class Reply(Encoding):
    """A whole answer for a caller who asked for no stream: it takes everything and gives it at the end, as one body."""

    content_type = "application/json"
    heartbeat = b""

    @abstractmethod
    def body(self) -> bytes:
        """Return the answer. Called once, after a terminal event that is a `stream_end` and not `cancelled`."""


def frame(event: SSEEvent) -> bytes:
    """Return a provider's event as it goes on: its name where it has one, and its data, line by line."""
    data = event.data
    if 10 in data:  # a line feed
        data = data.replace(b"\n", b"\ndata: ")
    if event.event == "message" and not event.named:
        return b"data: %b\n\n" % data
    return b"event: %b\ndata: %b\n\n" % (event.event.encode(), data)
