"""The Responses stream of OpenAI, and of those who copy it, to events.

https://platform.openai.com/docs/api-reference/responses-streaming

1. The end is `response.completed`, `response.incomplete` or `response.failed`; what the response says about its status counts for
   more than the event's name. `[DONE]`, which some send after it, ends nothing: without a status the answer was cut off.
2. The type inside the data decides; the SSE event's name is only asked where there is none.
3. What belongs together is told by `output_index`. Ids are no help: some gateways give an item another one in every event. Where
   there is no index, the id is asked, and then the item that was opened last.
4. Whatever never came in pieces is taken from the finished part, the finished item, or the finished response, so that a vendor may
   leave out any of the events in between. What came in pieces is not compared with its finished form.
5. Each part of a message and of a summary is a block of its own. They close with their item, because a vendor may end its
   reasoning after the text has begun. `phase`, which tells remarks between two calls from the answer, has no place in our events.
6. `encrypted_content` is the `signature` of the reasoning that it belongs to, or `redacted` where none of that is shown: behind the
   item's id and a colon, because some vendors want the id back with it. Only that of the finished item is whole. Either goes back in a
   later request, see `request`.
7. Tools that the provider runs itself, custom tools (whose input is free text and no call in our words) and items of types that are
   not known here are `data` events named `openai_responses.<type>`, one for each whole item. Their progress is not told. Citations,
   and the addresses that a search found, are `source` events; a cited file has a name but no address.
8. An `error` is the end, also where `response.failed` follows. But a reader of the provider's own frames gets those as far as an
   official SDK would read, so the verdict then waits for the stream's own end. The same holds for a second answer inside this one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import msgspec

from headrace.errors import UpstreamError, UpstreamProtocol, UpstreamRejected, UpstreamTruncated
from headrace.protocol import events as ev
from headrace.protocol.dialects.event_stream import EventStreamDecoder
from headrace.protocol.dialects.openai_responses.event import ResponseEvent, decode_event, loose_event
from headrace.protocol.dialects.openai_responses.item import (
    PARTS,
    Item,
    ItemKind,
    PartKind,
    annotation_event,
    data_event,
    identity,
    kind_of,
    parts,
    result_sources,
    seal,
)
from headrace.protocol.lenient import count, dicts, load_dict, loads, raw, string, whole
from headrace.protocol.provider_error import error_event, plain_error_event, public_text, read_error
from headrace.protocol.sse import SSEEvent

_REFUSAL_CHARACTERS_MAX = 16 * 1024

# Why a response is incomplete.
INCOMPLETE_REASONS: dict[str, ev.FinishReason] = {
    "max_output_tokens": "length",
    "max_tokens": "length",
    "length": "length",
    "max_messages": "length",
    "content_filter": "content_filter",
    "steered": "pause",
}
# Codes of errors for which the request itself is to blame, beside those whose words every dialect knows.
_REJECTED = ("invalid_", "image", "_policy", "data_residency", "unsupported_")
# The event that ends the stream, to the status that it stands for where the response tells none.
_ENDS = {
    "response.completed": "completed",
    "response.done": "completed",
    "response.incomplete": "incomplete",
    "response.failed": "failed",
    "response.cancelled": "cancelled",
}
_STATUSES = frozenset(_ENDS.values())


class OpenAIResponsesDecoder(EventStreamDecoder):
    """Events of one Responses stream."""

    __slots__ = ("_done_items", "_items", "_last", "_number", "_refusal", "_response_id", "_told_usage", "_verdict")

    def __init__(self, quirks: Mapping[str, object] | None = None) -> None:
        super().__init__(quirks)
        self._items: dict[Hashable, Item] = {}
        self._last: Hashable = None
        self._number = 0
        self._done_items: set[Hashable] = set()
        self._refusal = ""
        self._response_id = ""
        self._told_usage: ev.Usage | None = None
        self._verdict: ev.Error | None = None

    @property
    def begun(self) -> bool:
        """Whether any item has come, also one that is carried as it is."""
        return self._number > 0

    def _take(self, event: SSEEvent) -> bool:
        try:
            taken = decode_event(event.data)
        except (msgspec.DecodeError, RecursionError):
            self._take_odd_event(event)
            return self.finished
        # The branch of nearly every event: a piece of text for a part whose block is open.
        if taken.type == "response.output_text.delta" and taken.delta.__class__ is str:
            item = self._items.get(taken.output_index)
            if item is not None and item.streamed:
                key = (item.number, "text", taken.content_index or 0)
                if key in self._writer.open:
                    self._writer.text(key, taken.delta)
                    return False
        self._take_event(taken, event)
        return self.finished

    def _take_odd_event(self, event: SSEEvent) -> None:
        """Take what is no event at first sight: one with an odd structure, the end marker of another API, or no JSON."""
        data = event.data.strip()
        if data.startswith(b"[DONE]"):
            if self._head is None or self._verdict is not None:
                self._take_end_of_body()
            return
        try:
            value = loads(data)
        except ValueError:
            if event.event == "error":
                self._fail_as(self._verdict or error_event(event.text, partial=self._writer.begun))
            elif data and (event.event in ("message", *_ENDS) or event.event in _TAKERS):
                self._fail(UpstreamProtocol)
            return
        if isinstance(value, dict):
            self._take_event(loose_event(value), event)

    def _take_event(self, taken: ResponseEvent, event: SSEEvent) -> None:
        kind = taken.type if isinstance(taken.type, str) else event.event
        if kind in _ENDS:
            self._head = None
            response = load_dict(taken.response)
            self._take_end(response if response.get("error") else response | {"error": taken.error}, _ENDS[kind])
        elif kind in ("error", "response.error") or taken.error:
            self._take_error(taken, event)
        elif kind in _TAKERS:
            self._head = None
            _TAKERS[kind](self, taken)

    # --- items -----------------------------------------------------------------------------------------------------

    def _take_created(self, taken: ResponseEvent) -> None:
        response = load_dict(taken.response)
        found = string(response.get("id"))
        if self._number and self._response_id and found != self._response_id:
            self._judge(plain_error_event(UpstreamProtocol, partial=True, message="The provider began a second answer inside this one."))
            return
        self._response_id = found

    def _take_item_added(self, taken: ResponseEvent) -> None:
        shape = load_dict(taken.item)
        key = taken.output_index if taken.output_index is not None else self._new_place()
        item = self._items.get(key)
        if item is not None:
            if identity(item.shape) == identity(shape) and (identity(shape)[1] or not item.told):
                return
            self._finish_item(key, item, None)
        self._open_item(key, shape)

    def _take_item_done(self, taken: ResponseEvent) -> None:
        shape = load_dict(taken.item)
        key = self._place(taken, shape.get("id"), kind_of(shape))
        item = self._items.get(key)
        once = taken.output_index, identity(shape)
        if item is None or (item.shape and item.kind != kind_of(shape)):
            if once in self._done_items:
                return
            if item is not None:
                self._finish_item(key, item, None)
            item = self._open_item(key, shape)
        self._done_items.add(once)
        self._finish_item(key, item, shape)

    def _place(self, taken: ResponseEvent, id: object, kind: ItemKind | None = None) -> Hashable:
        """Return what the item of an event is kept by (note 3): one of that id, else the last one, which must be of the `kind` if given."""
        if taken.output_index is not None:
            return taken.output_index
        if id:
            for key, item in self._items.items():
                if item.shape.get("id") == id:
                    return key
        last = self._items.get(self._last)
        return self._last if last is not None and kind in (None, last.kind) else self._new_place()

    def _new_place(self) -> Hashable:
        return "item", self._number

    def _open_item(self, key: Hashable, shape: dict[str, Any], kind: ItemKind | None = None) -> Item:
        item = self._items[key] = Item(self._number, shape, kind or kind_of(shape))
        self._number += 1
        self._last = key
        if item.kind == "call":
            self._name_call(item, shape)
        return item

    def _item(self, taken: ResponseEvent, kind: ItemKind) -> Item:
        """Return the item that an event is about; one that was never announced opens now."""
        key = self._place(taken, taken.item_id)
        item = self._items.get(key)
        if item is not None and item.kind == "call" != kind:
            self._finish_item(key, item, None)
            item = None
        return item or self._open_item(key, {}, kind)

    def _finish_item(self, key: Hashable, item: Item, shape: dict[str, Any] | None, *, truncated: bool = False) -> None:
        """Tell what only the finished item says, and close what belongs to it. `shape` is None where the item never finished."""
        del self._items[key]
        if item.kind == "call":
            self._finish_call(item, shape, truncated=truncated)
        elif item.kind == "opaque":
            if whole_shape := shape or item.shape:
                self._writer.events += data_event(whole_shape, "item"), *result_sources(whole_shape)
        elif shape is not None:
            self._tell_parts(item, shape)
        for block in [block for block in self._writer.open if isinstance(block, tuple) and block[0] == item.number]:
            self._writer.end(block, truncated=truncated)

    def _tell_parts(self, item: Item, shape: dict[str, Any]) -> None:
        if not item.streamed:
            for kind, position, part in parts(shape):
                self._tell_part(item, kind, position, part)
        elif item.kind == "message":
            for kind, position, part in parts(shape):
                if kind == "text":
                    self._tell_annotations(item, position, part)
        sealed = seal(shape)
        if not sealed:
            return
        if item.thinking is not None:
            self._writer.thinking(item.thinking, "", "raw" if item.thinking[1] == "raw" else "summary", signature=sealed)
        else:
            self._writer.thinking(item.key("summary", "sealed"), "", "summary", redacted=sealed)

    # --- parts of a message and of reasoning -----------------------------------------------------------------------

    def _take_text(self, taken: ResponseEvent) -> None:
        self._add(self._item(taken, "message"), "text", taken.content_index, taken.delta)

    def _take_refusal(self, taken: ResponseEvent) -> None:
        self._add(self._item(taken, "message"), "refusal", taken.content_index, taken.delta)

    def _take_reasoning(self, taken: ResponseEvent) -> None:
        self._add(self._item(taken, "reasoning"), "raw", taken.content_index, taken.delta)

    def _take_summary(self, taken: ResponseEvent) -> None:
        self._add(self._item(taken, "reasoning"), "summary", taken.summary_index, taken.delta)

    def _take_text_done(self, taken: ResponseEvent) -> None:
        self._complete(taken, "text", taken.content_index, taken.text)

    def _take_refusal_done(self, taken: ResponseEvent) -> None:
        self._complete(taken, "refusal", taken.content_index, taken.refusal)

    def _take_reasoning_done(self, taken: ResponseEvent) -> None:
        self._complete(taken, "raw", taken.content_index, taken.text)

    def _take_summary_done(self, taken: ResponseEvent) -> None:
        self._complete(taken, "summary", taken.summary_index, taken.text)

    def _take_part_done(self, taken: ResponseEvent) -> None:
        part = load_dict(taken.part)
        kind = PARTS.get(string(part.get("type")))
        item = self._item(taken, "reasoning" if kind in ("raw", "summary") else "message")
        index = taken.summary_index if kind == "summary" else taken.content_index
        if item.key(kind or "text", index) not in item.told:
            self._tell_part(item, kind, index, part)
        elif kind == "text":
            self._tell_annotations(item, index, part)

    def _add(self, item: Item, kind: PartKind, index: Hashable, piece: object) -> None:
        if isinstance(piece, str) and piece:
            item.streamed = True
            self._write(item, kind, index, piece)

    def _complete(self, taken: ResponseEvent, kind: PartKind, index: Hashable, text: object) -> None:
        """Tell a finished part of which nothing came. Reasoning that came in its other form is not told again."""
        item = self._item(taken, "reasoning" if kind in ("raw", "summary") else "message")
        if item.key(kind, index) in item.told or (item.streamed and kind in ("raw", "summary")):
            return
        if isinstance(text, str) and text:
            self._write(item, kind, index, text)

    def _write(self, item: Item, kind: PartKind, index: Hashable, text: str) -> None:
        key = item.key(kind, index)
        item.told.add(key)
        if kind == "text":
            self._writer.text(key, text)
        elif kind == "refusal":
            if len(self._refusal) < _REFUSAL_CHARACTERS_MAX:
                self._refusal += text
        else:
            if item.thinking is not None and item.thinking != key:
                self._writer.end(item.thinking)
            item.thinking = key
            self._writer.thinking(key, text, kind)

    def _tell_part(self, item: Item, kind: PartKind | None, index: Hashable, part: dict[str, Any]) -> None:
        if kind is None:
            marker = ("other", index or 0)
            if part and marker not in item.told:
                item.told.add(marker)
                self._writer.events.append(data_event(part, "part"))
            return
        text = part.get("refusal" if kind == "refusal" else "text")
        if isinstance(text, str) and text and item.key(kind, index) not in item.told:
            self._write(item, kind, index, text)
        if kind == "text":
            self._tell_annotations(item, index, part)

    # --- annotations -----------------------------------------------------------------------------------------------

    def _take_annotation(self, taken: ResponseEvent) -> None:
        if annotation := load_dict(taken.annotation):
            item = self._item(taken, "message")
            item.annotated.add(taken.content_index or 0)
            self._tell_annotation(item, taken.content_index, annotation)

    def _tell_annotations(self, item: Item, index: Hashable, part: dict[str, Any]) -> None:
        """Tell those of a finished part, if they did not come one by one."""
        if (index or 0) not in item.annotated and (found := dicts(part.get("annotations"))):
            item.annotated.add(index or 0)
            for annotation in found:
                self._tell_annotation(item, index, annotation)

    def _tell_annotation(self, item: Item, index: Hashable, annotation: dict[str, Any]) -> None:
        block = self._writer.open.get(item.key("text", index))
        self._writer.events.append(annotation_event(annotation, block.index if block is not None else None))

    # --- calls -----------------------------------------------------------------------------------------------------

    def _take_arguments(self, taken: ResponseEvent) -> None:
        item = self._item(taken, "call")
        if item.kind == "call" and isinstance(taken.delta, str):
            self._writer.arguments(item.call_key, taken.delta)

    def _take_arguments_done(self, taken: ResponseEvent) -> None:
        item = self._item(taken, "call")
        if item.kind == "call":
            if name := string(taken.name):
                self._writer.tool_call(item.call_key, None, name)
            self._tell_arguments(item, taken.arguments)

    def _name_call(self, item: Item, shape: dict[str, Any]) -> None:
        """A call is answered by its `call_id`; a vendor without one is answered by the item's id."""
        self._writer.tool_call(item.call_key, string(shape.get("call_id")) or string(shape.get("id")), string(shape.get("name")))

    def _tell_arguments(self, item: Item, arguments: object) -> None:
        """Take the arguments as a whole, if none came before."""
        block = self._writer.open.get(item.call_key)
        if block is None or block.arguments is None or block.arguments.raw or block.pending:
            return
        if isinstance(arguments, dict):
            arguments = bytes(raw(arguments)).decode()
        if isinstance(arguments, str):
            self._writer.arguments(item.call_key, arguments)

    def _finish_call(self, item: Item, shape: dict[str, Any] | None, *, truncated: bool) -> None:
        if shape is not None:
            self._name_call(item, shape)
            self._tell_arguments(item, shape.get("arguments"))
            truncated = truncated or shape.get("status") == "incomplete"
        self._tell_arguments(item, item.shape.get("arguments"))
        self._writer.end(item.call_key, truncated=truncated)

    # --- errors and the end ----------------------------------------------------------------------------------------

    def _take_error(self, taken: ResponseEvent, event: SSEEvent) -> None:
        try:
            value = loads(event.data)
        except ValueError:
            value = event.text
        error = _error(value, partial=self._writer.begun)
        if taken.error:  # here an SDK stops reading, too
            self._fail_as(self._verdict or error)
        else:
            self._judge(error)

    def _judge(self, error: ev.Error) -> None:
        """End with `error`: at once, or where the frames are read by somebody, at the stream's own end (note 8)."""
        if self.frames is None:
            self._fail_as(error)
        elif self._verdict is None:
            self._verdict = error

    def _take_end(self, response: dict[str, Any], status: str) -> None:
        """The provider said that this is all."""
        named = response.get("status")
        status = named if isinstance(named, str) and named in _STATUSES else status
        error = response.get("error")
        if self._verdict is not None or status in ("failed", "cancelled") or (error and status == "completed"):
            self._tell_usage(response.get("usage"))
            self._fail_as(self._verdict or _failure(response, status, partial=self._writer.begun))
            return
        self._finish_items(response, truncated=status == "incomplete")
        self._tell_usage(response.get("usage"))
        self._end(self._finish_reason(response, status))

    def _finish_items(self, response: dict[str, Any], *, truncated: bool) -> None:
        """Close what is open, and take from the response what its events left out."""
        output = dicts(response.get("output"))
        if not self._number:
            for position, shape in enumerate(output):
                self._finish_item(position, self._open_item(position, shape), shape)
        for key, item in list(self._items.items()):
            shape = output[key] if isinstance(key, int) and 0 <= key < len(output) else {}
            same = shape and kind_of(shape) == item.kind
            self._finish_item(key, item, shape if same else None, truncated=truncated and len(self._items) == 1)
        self._writer.end_all()

    def _finish_reason(self, response: dict[str, Any], status: str) -> ev.FinishReason:
        notices = self._writer.events
        reason: ev.FinishReason = "tool_calls" if self._writer.finished_calls else "stop"
        if status == "incomplete":
            details = response.get("incomplete_details")
            named = string(details.get("reason")) if isinstance(details, dict) else ""
            if named not in INCOMPLETE_REASONS:
                message = f"The provider ended with a reason that is not known here: {public_text(named or status)[:100]}"
                notices.append(ev.Notice(code="unknown_finish_reason", message=message))
            reason = INCOMPLETE_REASONS.get(named, "length")
        if self._refusal:
            notices.append(ev.Notice(code="refusal", message=whole(self._refusal)))
            reason = "refusal" if reason == "stop" else reason
        return reason

    def _take_end_of_body(self) -> None:
        if self._verdict is not None:
            self._fail_as(self._verdict)
        else:
            super()._take_end_of_body()

    def _tell_usage(self, usage: object) -> None:
        told = ev.Usage(
            source="provider",
            input_tokens=count(usage, "input_tokens", "prompt_tokens"),
            output_tokens=count(usage, "output_tokens", "completion_tokens"),
            reasoning_tokens=count(usage.get("output_tokens_details"), "reasoning_tokens") if isinstance(usage, dict) else None,
            cached_tokens=count(usage.get("input_tokens_details"), "cached_tokens") if isinstance(usage, dict) else None,
        )
        if told not in (ev.Usage(source="provider"), self._told_usage):
            self._told_usage = told
            self._writer.events.append(told)


_TAKERS: dict[str, Callable[[OpenAIResponsesDecoder, ResponseEvent], None]] = {
    "response.created": OpenAIResponsesDecoder._take_created,
    "response.output_item.added": OpenAIResponsesDecoder._take_item_added,
    "response.output_item.done": OpenAIResponsesDecoder._take_item_done,
    "response.content_part.done": OpenAIResponsesDecoder._take_part_done,
    "response.output_text.delta": OpenAIResponsesDecoder._take_text,
    "response.output_text.done": OpenAIResponsesDecoder._take_text_done,
    "response.output_text.annotation.added": OpenAIResponsesDecoder._take_annotation,
    "response.refusal.delta": OpenAIResponsesDecoder._take_refusal,
    "response.refusal.done": OpenAIResponsesDecoder._take_refusal_done,
    "response.reasoning_text.delta": OpenAIResponsesDecoder._take_reasoning,
    "response.reasoning_text.done": OpenAIResponsesDecoder._take_reasoning_done,
    "response.reasoning_summary_text.delta": OpenAIResponsesDecoder._take_summary,
    "response.reasoning_summary_text.done": OpenAIResponsesDecoder._take_summary_done,
    "response.function_call_arguments.delta": OpenAIResponsesDecoder._take_arguments,
    "response.function_call_arguments.done": OpenAIResponsesDecoder._take_arguments_done,
}


def _error(value: object, *, partial: bool) -> ev.Error:
    """Return the error that an `error` event, or the `error` of a response, tells. Its own type says nothing."""
    if isinstance(value, dict) and value.get("type") == "error":
        value = {name: member for name, member in value.items() if name != "type"}
    found = read_error(value)
    cls: type[UpstreamError] = found.error_class()
    if cls is UpstreamError and any(known in word for word in found.words for known in _REJECTED):
        cls = UpstreamRejected
    return error_event(value, partial=partial, cls=cls)


def _failure(response: dict[str, Any], status: str, *, partial: bool) -> ev.Error:
    error = response.get("error")
    if error:
        return _error(error, partial=partial)
    if status == "cancelled":
        return plain_error_event(UpstreamTruncated, partial=partial, message="The answer was cancelled at the provider.")
    return plain_error_event(UpstreamError, partial=partial)
