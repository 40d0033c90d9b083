"""A whole `chat.completion`, from our events, or from a provider's own chunks.

https://platform.openai.com/docs/api-reference/chat/object

How chunks are joined, so that what is not known here survives:

1. In a delta, strings are pieces of one string, except for those that are labels (`_LABELS`): of these the last one holds. Numbers and
   booleans are told anew; objects are joined by the same rules; entries of lists are joined by their `index`, and without one they
   follow each other.
2. Beside the deltas, the last value that is not null holds; objects are joined. `logprobs`, and lists of a choice, follow each other.
3. Which call a fragment belongs to is decided as the decoder decides it.
4. The first `id`, `model` and `created` that say something hold: Azure's first chunk has empty ones.
5. Content in parts, as Mistral has it, stays in parts; what follows as a string becomes one.
6. `obfuscation` is padding and left out. A `message` in a chunk counts only where no delta came: Perplexity repeats all in the last one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from headrace.protocol import events as ev
from headrace.protocol.dialects.openai_chat.calls import Calls
from headrace.protocol.dialects.openai_chat.encode import (
    FINISH_REASONS,
    ReasoningDetails,
    annotation_shape,
    completion_id,
    reasoning_field,
    usage_shape,
)
from headrace.protocol.encoding import Reply
from headrace.protocol.lenient import DEPTH_MAX, dicts, encodable, loads, string
from headrace.protocol.sse import SSEEvent
from headrace.protocol.surface import SurfaceRequest

_LABELS = frozenset(
    ("id", "type", "role", "name", "model", "object", "channel", "format", "status", "signature", "provider", "media_type", "mime_type")
)
_FIRST = ("id", "model", "created")
_PADDING = ("obfuscation", "p")
_encode = msgspec.json.Encoder().encode


class Pieces(list[str]):
    """A string under way."""


class OpenAIChatReply(Reply):
    """One caller's whole answer."""

    dialect = "openai_chat"

    def __init__(self, request: SurfaceRequest) -> None:
        self._created = request.created
        self._answer = EventAnswer(reasoning_field(request))
        self._chunks = ChunkAnswer()
        self._start: ev.StreamStart | None = None
        self._usage: ev.UsageTotals | None = None

    def encode(self, events: Sequence[ev.Event]) -> bytes:
        """Take `events`; there is nothing to send before the end."""
        for event in events:
            if isinstance(event, ev.StreamStart):
                self._start = event
            elif isinstance(event, ev.StreamEnd):
                self._usage = event.usage
            self._answer.take(event)
        return b""

    def forward(self, frames: Sequence[SSEEvent]) -> bytes:
        """Take frames of a Chat Completions stream."""
        for event in frames:
            self._chunks.take(event)
        return b""

    def body(self) -> bytes:
        """Return the completion."""
        completion: dict[str, Any] = {
            "id": completion_id(self._start),
            "object": "chat.completion",
            "created": self._created,
            "model": self._start.model if self._start else "",
        }
        if self._chunks.begun:
            completion |= self._chunks.completion(self._answer.finish_reason)
        else:
            completion["choices"] = [self._answer.choice()]
        if self._usage is not None and not completion.get("usage"):
            completion["usage"] = usage_shape(self._usage)
        return _encode(encodable(completion))


class EventAnswer:
    """The one choice that events make."""

    def __init__(self, field: str) -> None:
        self._field = field
        self._reset()
        self._ended: ev.FinishReason = "stop"

    def _reset(self) -> None:
        self._texts: list[str] = []
        self._characters = 0
        self._thoughts: list[str] = []
        self._details: list[dict[str, Any]] = []
        self._new_details = ReasoningDetails()
        self._calls: dict[str, dict[str, Any] | None] = {}  # by id, in the order in which they began
        self._annotations: list[dict[str, Any]] = []
        self._refusal: str | None = None

    def take(self, event: ev.Event) -> None:
        match event:
            case ev.Text(text=text):
                self._texts.append(text)
                self._characters += len(text)
            case ev.Thinking():
                self._take_thinking(event)
            case ev.ToolCallStart(tool_call_id=id):
                self._calls[id] = None
            case ev.ToolCallComplete(tool_call_id=id):
                arguments = event.arguments_raw if event.arguments_raw or not event.valid else "{}"
                self._calls[id] = {"id": id, "type": "function", "function": {"name": event.name, "arguments": arguments}}
            case ev.BlockEnd(kind="thinking", index=index):
                self._end_thinking(index)
            case ev.Source():
                self._annotations.append(annotation_shape(event, self._characters))
            case ev.Notice(code="refusal", message=message) if message:
                self._refusal = message
            case ev.Reset():
                self._reset()
            case ev.StreamEnd(finish_reason=reason):
                self._ended = reason
            case _:
                pass

    def _take_thinking(self, event: ev.Thinking) -> None:
        if event.text:
            self._thoughts.append(event.text)
            self._new_details.add(event.index, event.text)
        if (detail := self._new_details.take(event)) is not None:
            self._details.append({**detail, "index": len(self._details)})

    def _end_thinking(self, block: int) -> None:
        """Where entries are streamed, those without a signature have one as well."""
        detail = self._new_details.end(block)
        if detail is not None and self._field == "reasoning":
            self._details.append({**detail, "index": len(self._details)})

    @property
    def finish_reason(self) -> str:
        refused = self._refusal is not None and self._ended == "refusal"
        return "stop" if refused else FINISH_REASONS.get(self._ended, "stop")

    def choice(self) -> dict[str, Any]:
        content = "".join(self._texts)
        calls = [call for call in self._calls.values() if call is not None]
        silent = not content and (calls or self._refusal is not None)
        message: dict[str, Any] = {"role": "assistant", "content": None if silent else content, "refusal": self._refusal}
        if self._field != "none":
            if self._thoughts:
                message[self._field] = "".join(self._thoughts)
            if self._details:
                message["reasoning_details"] = self._details
        if self._annotations:
            message["annotations"] = self._annotations
        if calls:
            message["tool_calls"] = calls
        return {"index": 0, "message": message, "logprobs": None, "finish_reason": self.finish_reason}


class ChunkAnswer:
    """What a provider's chunks make together."""

    def __init__(self) -> None:
        self.begun = False
        self._fields: dict[str, Any] = {}
        self._choices: dict[int, ChunkChoice] = {}

    def take(self, event: SSEEvent) -> None:
        try:
            chunk = loads(event.data)
        except ValueError:
            return
        if not isinstance(chunk, dict) or chunk.pop("error", None):
            return
        if event.data.count(b"{") + event.data.count(b"[") > DEPTH_MAX:
            chunk = encodable(chunk)  # nothing that could be deeper than what can be joined and encoded
        self.begun = True
        for choice in dicts(chunk.pop("choices", None)):
            index = choice.get("index")
            place = index if isinstance(index, int) else 0
            if place not in self._choices:
                self._choices[place] = ChunkChoice(place)
            self._choices[place].take(choice)
        for name in _FIRST:
            if self._fields.get(name):
                chunk.pop(name, None)
        for name in _PADDING:
            chunk.pop(name, None)
        join_fields(self._fields, chunk)

    def completion(self, finish_reason: str) -> dict[str, Any]:
        """Return the completion; `finish_reason` is for a choice whose provider told none."""
        response = string(self._fields.get("id"))
        choices = [self._choices[place].whole(response, finish_reason) for place in sorted(self._choices)]
        fields = {name: value for name, value in self._fields.items() if value != "" and (value or name not in _FIRST)}
        return {**fields, "object": "chat.completion", "choices": choices}


class ChunkChoice:
    """One choice of them."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._fields: dict[str, Any] = {}
        self._message: dict[str, Any] = {}
        self._told: dict[str, Any] = {}
        self._calls = Calls()
        self._call_shapes: dict[int, dict[str, Any]] = {}

    def take(self, choice: dict[str, Any]) -> None:
        delta = choice.pop("delta", None)
        told = choice.pop("message", None)
        if isinstance(told, dict):
            self._told = told
        if isinstance(delta, dict):
            for fragment in dicts(delta.pop("tool_calls", None)):
                self._take_call(fragment)
            if "content" in delta:
                content = join_content(self._message.get("content"), delta.pop("content"))
                self._message["content"] = content
            join_delta(self._message, delta)
        logprobs = choice.pop("logprobs", None)
        if isinstance(logprobs, dict):
            known = self._fields.get("logprobs")
            self._fields["logprobs"] = known = known if isinstance(known, dict) else {}
            _follow(known, logprobs)
        _follow(self._fields, {name: value for name, value in choice.items() if isinstance(value, list)})
        join_fields(self._fields, {name: value for name, value in choice.items() if not isinstance(value, list)})

    def _take_call(self, fragment: dict[str, Any]) -> None:
        function = fragment.get("function")
        function = function if isinstance(function, dict) else {}
        arguments = function.get("arguments")
        if isinstance(arguments, dict):
            arguments = function["arguments"] = _encode(encodable(arguments)).decode()
        found, _ = self._calls.find(
            fragment.pop("index", None), string(fragment.get("id")), string(function.get("name")), string(arguments)
        )
        found.name = found.name or string(function.get("name"))
        found.last = string(arguments) or found.last
        shape = self._call_shapes.setdefault(found.number, {"id": None, "type": "function"})
        # A name or an id that comes again, or as an empty string, is no news.
        for holder in (fragment, function):
            for name in ("id", "name", "type"):
                if not holder.get(name):
                    holder.pop(name, None)
        if shape["id"]:
            fragment.pop("id", None)
        join_delta(shape, fragment)

    def whole(self, response: str, finish_reason: str) -> dict[str, Any]:
        message = {name: finish(value) for name, value in self._message.items()}
        spoken = any(value for name, value in message.items() if name != "role") or self._call_shapes
        if self._told and not spoken:
            message = self._told
        message["role"] = string(message.get("role")) or "assistant"
        message.setdefault("content", None)
        calls = []
        for number, shape in self._call_shapes.items():
            suffix = "".join(character for character in response if character.isascii() and character.isalnum())[-16:]
            calls.append({**finish(shape), "id": shape["id"] or f"call_{suffix}_{number}"})
        if calls:
            message["tool_calls"] = calls
        fields = {"logprobs": None, **self._fields, "finish_reason": self._fields.get("finish_reason") or finish_reason}
        return {**fields, "index": self._index, "message": message}


# --- joining ---------------------------------------------------------------------------------------------------------


def join_fields(known: dict[str, Any], more: dict[str, Any]) -> None:
    """Join what stands beside the deltas (note 2)."""
    for name, value in more.items():
        before = known.get(name)
        if isinstance(before, dict) and isinstance(value, dict):
            join_fields(before, value)
        elif value is not None or name not in known:
            known[name] = value


def _follow(known: dict[str, Any], more: dict[str, Any]) -> None:
    """Join two objects whose lists go on."""
    for name, value in more.items():
        before = known.get(name)
        if isinstance(before, list) and isinstance(value, list):
            before += value
        elif value is not None or name not in known:
            known[name] = value


def join_delta(known: dict[str, Any], delta: dict[str, Any]) -> None:
    """Join a delta to what came before (note 1)."""
    for name, value in delta.items():
        if value is None:
            known.setdefault(name, None)
        elif isinstance(value, str) and name not in _LABELS:
            _add_piece(known, name, value)
        elif isinstance(value, dict):
            before = known.get(name)
            known[name] = before = before if isinstance(before, dict) else {}
            join_delta(before, value)
        elif isinstance(value, list):
            before = known.get(name)
            known[name] = before = before if isinstance(before, list) and not isinstance(before, Pieces) else []
            _join_list(before, value)
        else:
            known[name] = value


def _add_piece(known: dict[str, Any], name: str, piece: str) -> None:
    before = known.get(name)
    if not isinstance(before, Pieces):
        known[name] = before = Pieces()
    if piece:
        before.append(piece)


def _join_list(known: list[Any], more: list[Any]) -> None:
    for entry in more:
        index = entry.get("index") if isinstance(entry, dict) else None
        if index is None:
            known.append(entry)
            continue
        place = next((item for item in known if isinstance(item, dict) and item.get("index") == index), None)
        if place is None:
            place = {}
            known.append(place)
        join_delta(place, entry)


def join_content(known: Any, more: Any) -> Any:
    """Join content, which is a string, or a list of parts (note 5)."""
    if more is None:
        return known
    if (isinstance(more, str) and not isinstance(known, list | dict)) or (isinstance(known, Pieces) and isinstance(more, str)):
        known = known if isinstance(known, Pieces) else Pieces()
        if more:
            known.append(more)
        return known
    parts: list[Any] = known if isinstance(known, list) and not isinstance(known, Pieces) else []
    if isinstance(known, Pieces) and known:
        parts.append({"type": "text", "text": known})
    for part in [{"type": "text", "text": more}] if isinstance(more, str) else dicts(more):
        _join_part(parts, part)
    return parts


def _join_part(parts: list[Any], part: dict[str, Any]) -> None:
    """Add a part, or go on with the last one if it is text or thinking as well."""
    last = parts[-1] if parts else None
    if last is None or last.get("type") != part.get("type") or part.get("type") not in ("text", "thinking"):
        last = {}
        parts.append(last)
    inner = part.pop("thinking", None)
    if isinstance(inner, list):
        thinking = last.setdefault("thinking", [])
        for piece in dicts(inner):
            if isinstance(thinking, list) and not isinstance(thinking, Pieces):
                _join_part(thinking, piece)
    elif isinstance(inner, str):
        _add_piece(last, "thinking", inner)
    join_delta(last, part)


def finish(value: Any) -> Any:
    """Return `value` with its strings whole."""
    if isinstance(value, Pieces):
        return "".join(value)
    if isinstance(value, dict):
        return {name: finish(item) for name, item in value.items()}
    return [finish(item) for item in value] if isinstance(value, list) else value
