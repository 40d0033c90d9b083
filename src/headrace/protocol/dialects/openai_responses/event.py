"""An event of the stream as far as we read it. Scalars are of any type, because vendors are; an odd structure takes the slower way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Raw, Struct

from headrace.protocol.lenient import NO_RAW, raw


class ResponseEvent(Struct, gc=False):
    type: Any = None
    output_index: int | str | float | None = None
    content_index: int | str | float | None = None
    summary_index: int | str | float | None = None
    item_id: Any = None
    delta: Any = None
    text: Any = None
    arguments: Any = None
    name: Any = None
    refusal: Any = None
    error: Any = None
    item: Raw = NO_RAW
    part: Raw = NO_RAW
    annotation: Raw = NO_RAW
    response: Raw = NO_RAW


decode_event: Callable[[bytes], ResponseEvent] = msgspec.json.Decoder(ResponseEvent).decode

_SCALARS = ("type", "item_id", "delta", "text", "arguments", "name", "refusal", "error")
_INDICES = ("output_index", "content_index", "summary_index")
_RAWS = ("item", "part", "annotation", "response")


def loose_event(value: dict[str, Any]) -> ResponseEvent:
    """Build an event from JSON in which something has an unexpected type; what cannot be read is left out."""
    event = ResponseEvent()
    for name in _SCALARS:
        setattr(event, name, value.get(name))
    for name in _INDICES:
        index = value.get(name)
        setattr(event, name, index if isinstance(index, int | float | str) else None)
    for name in _RAWS:
        if value.get(name) is not None:
            setattr(event, name, raw(value[name]))
    return event
