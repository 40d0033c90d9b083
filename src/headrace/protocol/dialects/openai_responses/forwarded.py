"""What a provider's own Responses frames tell of the response that they make up, read beside passing them on.

Only what is needed is read: an event's type from its name, and its data when somebody asks what became of the response.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from headrace.protocol.lenient import encodable, load_dict
from headrace.protocol.sse import SSEEvent

ENDS = frozenset({"response.completed", "response.incomplete", "response.failed", "response.cancelled", "response.done"})
LIFECYCLE = ENDS | {"response.created", "response.queued", "response.in_progress"}
# Names of frames that tell something of the response as a whole. Where a frame has no name of the protocol's, its data may.
_TELLING = LIFECYCLE | {"response.output_item.done"}


class _Head(Struct, gc=False):
    type: Any = None
    sequence_number: Any = None


_decode_head: Callable[[bytes], _Head] = msgspec.json.Decoder(_Head).decode


def kind_of(frame: SSEEvent) -> str:
    """Return the type of the event: its name, or what its data say where it has none."""
    if frame.event.startswith("response."):
        return frame.event
    kind = _head(frame).type
    return kind if isinstance(kind, str) else frame.event


def number_of(frame: SSEEvent) -> int | None:
    """Return the event's own `sequence_number`."""
    number = _head(frame).sequence_number
    return number if isinstance(number, int) and not isinstance(number, bool) and number >= 0 else None


def response_id_of(frame: SSEEvent) -> str | None:
    """Return the provider's own id of the response that the event is about, if it tells."""
    if kind_of(frame) not in LIFECYCLE:
        return None
    found = _object(frame, "response").get("id")
    return found if isinstance(found, str) and found else None


class Forwarded:
    """The response as the frames have told it so far.

    Attributes:
        ended: whether the provider has said its end.
        said_error: whether the last that it said was an error.
    """

    __slots__ = ("_items", "_last", "_lifecycle", "_numbered", "ended")

    def __init__(self) -> None:
        self.ended = False
        self._lifecycle: SSEEvent | None = None
        self._items: list[SSEEvent] = []
        self._last: SSEEvent | None = None
        self._numbered = 0

    @property
    def said_error(self) -> bool:
        if self._last is None or kind_of(self._last) != "error":
            return False
        told = data_of(self._last)
        return bool(told.get("message") or told.get("error"))

    def take(self, frames: Sequence[SSEEvent]) -> None:
        """Take the next frames."""
        for frame in frames:
            name = frame.event
            if name in _TELLING or not name.startswith("response."):
                self._note(frame, kind_of(frame))
        if frames:
            self._last = frames[-1]
            self._numbered += len(frames)

    def _note(self, frame: SSEEvent, kind: str) -> None:
        if kind in LIFECYCLE:
            self._lifecycle = frame
            self.ended = kind in ENDS
        elif kind == "response.output_item.done":
            self._items.append(frame)

    def next_number(self) -> int:
        """Return the `sequence_number` that follows the last frame's."""
        number = None if self._last is None else number_of(self._last)
        return self._numbered if number is None else number + 1

    def response(self) -> dict[str, Any]:
        """Return the newest `response` object, with the items that are finished where it does not list them itself."""
        shape = {} if self._lifecycle is None else _object(self._lifecycle, "response")
        if not shape.get("output"):
            shape["output"] = [item for _, item in sorted(self.items().items())]
        return shape

    def items(self) -> dict[int, dict[str, Any]]:
        """Return the finished items by their place in the output."""
        found: dict[int, dict[str, Any]] = {}
        for position, frame in enumerate(self._items):
            event = data_of(frame)
            if isinstance(event.get("item"), dict):
                index = event.get("output_index")
                found[index if isinstance(index, int) else position] = event["item"]
        return found


def _head(frame: SSEEvent) -> _Head:
    try:
        return _decode_head(frame.data)
    except (msgspec.DecodeError, RecursionError):
        pass
    event = data_of(frame)
    return _Head(event.get("type"), event.get("sequence_number"))


def data_of(frame: SSEEvent) -> dict[str, Any]:
    """Return the event's data, fit to be encoded again; none where they are no object."""
    try:
        return {name: encodable(value) for name, value in load_dict(frame.data).items()}
    except ValueError:
        return {}


def _object(frame: SSEEvent, name: str) -> dict[str, Any]:
    value = data_of(frame).get(name)
    return value if isinstance(value, dict) else {}
