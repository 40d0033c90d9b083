"""The whole `response` object: the answer to a request that asked for no stream, and what a response is while it grows.

From a provider's own frames it is the provider's own object, with what no one here knows in it. Before the provider has given the
whole one, it is the newest that came, with the items that are finished and what has come of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from headrace.protocol import events as ev
from headrace.protocol.dialects.openai_responses.forwarded import Forwarded, data_of, kind_of, response_id_of
from headrace.protocol.dialects.openai_responses.response import OVER, Answer, Ending, Part, Status, echo, ending, usage_json
from headrace.protocol.encoding import Reply
from headrace.protocol.sse import SSEEvent
from headrace.protocol.surface import SurfaceRequest

__all__ = ["ResponsesReply", "response_id_of"]

_json: Callable[[object], bytes] = msgspec.json.Encoder().encode
_loads = msgspec.json.Decoder().decode
_PLACES_MAX = 10_000


class _Delta(Struct, gc=False):
    """A delta of an item: the fields that say where it belongs."""

    output_index: int
    delta: str
    content_index: int = 0
    summary_index: int = 0


_decode_delta: Callable[[bytes], _Delta] = msgspec.json.Decoder(_Delta).decode

# The list in an item that a delta's part belongs to, the part's type, and the field of its text. Without a list the field is the item's.
_DELTAS: dict[str, tuple[str, str, str]] = {
    "response.output_text.delta": ("content", "output_text", "text"),
    "response.refusal.delta": ("content", "refusal", "refusal"),
    "response.reasoning_text.delta": ("content", "reasoning_text", "text"),
    "response.reasoning_summary_text.delta": ("summary", "summary_text", "text"),
    "response.function_call_arguments.delta": ("", "", "arguments"),
    "response.mcp_call_arguments.delta": ("", "", "arguments"),
    "response.custom_tool_call_input.delta": ("", "", "input"),
    "response.code_interpreter_call_code.delta": ("", "", "code"),
}


class _Silent:
    """A writer that writes nothing."""

    def tell(self, kind: str, members: bytes) -> None: ...

    def delta(self, part: Part, text: bytes) -> None: ...


class PartialItem:
    """An item that has begun: what it began with, and the text that came since, by list, place and kind."""

    __slots__ = ("_item", "_texts")

    def __init__(self, item: dict[str, Any]) -> None:
        self._item = item
        self._texts: dict[tuple[str, int, str, str], list[str]] = {}

    def append(self, kind: str, delta: _Delta) -> None:
        where, part, field = _DELTAS[kind]
        place = delta.summary_index if where == "summary" else delta.content_index
        if 0 <= place < _PLACES_MAX:
            self._texts.setdefault((where, place, part, field), []).append(delta.delta)

    def whole(self, *, over: bool) -> dict[str, Any]:
        """Return the item as it is now. `over`: nothing more of it will come."""
        item = dict(self._item)
        if over and item.get("status") == "in_progress":
            item["status"] = "incomplete"
        for (where, _, part, field), texts in sorted(self._texts.items()):
            text = "".join(texts)
            if not where:
                item[field] = text
                continue
            extra: dict[str, Any] = {"annotations": []} if part == "output_text" else {}
            parts = item.get(where)
            item[where] = [*(parts if isinstance(parts, list) else []), {"type": part, field: text, **extra}]
        return item


class ResponsesReply(Reply):
    """Everything of one response. `snapshot` may be asked for at any time, `body` after the end."""

    dialect = "openai_responses"

    def __init__(self, request: SurfaceRequest) -> None:
        self._request = request
        self._shell = echo(request)
        self._answer = Answer(request, _Silent())
        self._forwarded: Forwarded | None = None
        self._partial: dict[int, PartialItem] = {}
        self._end: ev.StreamEnd | ev.Error | None = None

    def encode(self, events: Sequence[ev.Event]) -> bytes:
        for event in events:
            if isinstance(event, ev.StreamEnd | ev.Error):
                self._end = event
            if self._forwarded is None or isinstance(event, ev.StreamStart):
                self._answer.take(event)
        return b""

    def forward(self, frames: Sequence[SSEEvent]) -> bytes:
        if self._forwarded is None:
            self._forwarded = Forwarded()
        self._forwarded.take(frames)
        for frame in frames:
            self._take_frame(frame, kind_of(frame))
        return b""

    def body(self) -> bytes:
        return self._answer.as_json() if self._forwarded is None else _json(self._whole(self._forwarded, None))

    def snapshot(self, status: Status | None = None) -> dict[str, Any]:
        """Return the response as it is now. `status` says what nobody but its owner knows, for instance that it was stopped."""
        if self._forwarded is None:
            shape: dict[str, Any] = _loads(self._answer.as_json(status))
        else:
            shape = self._whole(self._forwarded, status)
        if shape.get("status") == "cancelled":
            shape["error"] = None
        return shape

    def _take_frame(self, frame: SSEEvent, kind: str) -> None:
        if kind in _DELTAS:
            try:
                delta = _decode_delta(frame.data)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                return
            item = self._partial.get(delta.output_index)
            if item is not None:
                item.append(kind, delta)
        elif kind in ("response.output_item.added", "response.output_item.done"):
            event = data_of(frame)
            index, value = event.get("output_index"), event.get("item")
            if not isinstance(index, int):
                return
            self._partial.pop(index, None)
            if kind.endswith("added") and isinstance(value, dict):
                self._partial[index] = PartialItem(value)

    def _whole(self, forwarded: Forwarded, status: Status | None) -> dict[str, Any]:
        shape = forwarded.response()
        if not forwarded.ended:
            begun = {"id": self._answer.id, "model": self._answer.model, "status": "in_progress", "usage": None}
            shape = self._shell | begun | {"error": None, "incomplete_details": None} | shape
            over = self._end is not None or status in OVER
            items = forwarded.items() | {index: item.whole(over=over) for index, item in self._partial.items()}
            shape["output"] = [item for _, item in sorted(items.items())]
            if self._end is not None:
                shape |= ending(self._end).members()
                shape["usage"] = usage_json(self._end.usage) or shape["usage"]
        if status is not None and status != shape.get("status"):
            shape |= Ending("", status).members()
        return shape
