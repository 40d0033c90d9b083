"""An event as far as we read it. Scalars are of any type, because vendors are; an odd structure takes the slower way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Raw, Struct

from headrace.protocol.lenient import NO_RAW, raw


class Delta(Struct, gc=False):
    type: Any = None
    text: Any = None
    partial_json: Any = None
    thinking: Any = None
    signature: Any = None
    stop_reason: Any = None
    citation: Raw = NO_RAW
    stop_details: Raw = NO_RAW


class MessageEvent(Struct, gc=False):
    type: Any = None
    index: int | str | float | None = None
    delta: Delta | None = None
    content_block: Raw = NO_RAW
    message: Raw = NO_RAW
    usage: Raw = NO_RAW
    error: Any = None


decode_event: Callable[[bytes], MessageEvent] = msgspec.json.Decoder(MessageEvent).decode


def loose_event(value: dict[str, Any]) -> MessageEvent:
    """Build an event from JSON in which something has an unexpected type; what cannot be read is left out."""
    event = MessageEvent(type=value.get("type"), error=value.get("error"))
    index = value.get("index")
    event.index = index if isinstance(index, int | float | str) else None
    for name in ("content_block", "message", "usage"):
        if value.get(name) is not None:
            setattr(event, name, raw(value[name]))
    if isinstance(delta := value.get("delta"), dict):
        event.delta = Delta()
        for name in ("type", "text", "partial_json", "thinking", "signature", "stop_reason"):
            setattr(event.delta, name, delta.get(name))
        for name in ("citation", "stop_details"):
            if delta.get(name) is not None:
                setattr(event.delta, name, raw(delta[name]))
    return event
