"""A whole answer as one `message` of the Messages API.

It is what a reader of the stream would have put together, whoever made the stream: the provider's own frames are merged field by field,
so that blocks, deltas and fields that are not known here survive, and our own events are said as frames first.

1. Deltas are joined by their type where it is known; of an unknown type texts are appended, lists extended, and the rest replaced.
2. Arguments that were cut off by a limit are reduced to their whole members. Arguments that are no JSON although the model was done
   with them stand as text under `INVALID_JSON`: an empty object would be a call that nobody made.
3. Usage is cumulative, so later figures replace earlier ones; a null says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from headrace.protocol import events as ev
from headrace.protocol.dialects.anthropic.encode import AnthropicStream, message_shape
from headrace.protocol.encoding import Reply
from headrace.protocol.lenient import encodable, loads
from headrace.protocol.sse import SSEEvent
from headrace.protocol.surface import SurfaceRequest

# Deltas whose one field goes to the end of the block's field of the same name.
_APPENDED = {"text_delta": "text", "thinking_delta": "thinking"}
_REPLACED = ("signature_delta", "compaction_delta")
# The arguments of a call cannot have been cut off where its answer ended with one of these.
_DONE = ("tool_use", "end_turn", "stop_sequence", "pause_turn")
_CLOSERS = {"{": "}", "[": "]"}


class AnthropicReply(Reply):
    """The whole answer for one caller."""

    dialect = "anthropic"

    def __init__(self, request: SurfaceRequest | None = None) -> None:
        self._stream = AnthropicStream(request)
        self._start: ev.StreamStart | None = None
        self._message: dict[str, Any] | None = None
        self._blocks: dict[object, dict[str, Any]] = {}
        # Fragments by their block's identity, joined at the end, so that a long answer costs what it weighs.
        self._texts: dict[tuple[int, str], tuple[dict[str, Any], list[str]]] = {}
        self._arguments: dict[int, tuple[dict[str, Any], list[str]]] = {}
        self._forwarded = False

    def encode(self, events: Sequence[ev.Event]) -> bytes:
        """Take `events`; there is nothing to send yet."""
        if events and isinstance(events[0], ev.StreamStart):
            self._start = events[0]
        if not self._forwarded:
            for said in self._stream.encode(events).split(b"\n\n"):
                if said:
                    self._take(loads(said.partition(b"\ndata: ")[2]))
        return b""

    def forward(self, frames: Sequence[SSEEvent]) -> bytes:
        """Take a provider's frames; there is nothing to send yet."""
        self._forwarded = True
        for event in frames:
            try:
                value = loads(event.data)
            except ValueError:
                continue
            if isinstance(value, dict):
                self._take(value)
        return b""

    def body(self) -> bytes:
        """Return the message."""
        message = self._whole()
        for (_, name), (block, texts) in self._texts.items():
            block[name] = "".join(texts)
        for block, fragments in self._arguments.values():
            if raw := "".join(fragments):
                block["input"] = _arguments(raw, cut=message.get("stop_reason") not in _DONE)
        return msgspec.json.encode(encodable(message))

    # --- one event -------------------------------------------------------------------------------------------------

    def _take(self, event: dict[str, Any]) -> None:
        match event.get("type"):
            case "message_start" if self._message is None:
                self._take_start(event.get("message"))
            case "content_block_start":
                self._take_block(event.get("index"), event.get("content_block"))
            case "content_block_delta":
                block, delta = self._blocks.get(_key(event.get("index"))), event.get("delta")
                if block is not None and isinstance(delta, dict):
                    self._take_delta(block, delta)
            case "message_delta":
                self._take_message_delta(event)

    def _take_start(self, message: object) -> None:
        self._message = message_shape(self._start, {})
        if isinstance(message, dict):
            self._message.pop("usage")
            self._message |= message
        content = self._message.get("content")
        self._message["content"] = []
        for position, block in enumerate(content if isinstance(content, list) else []):
            self._take_block(position, block)

    def _take_block(self, index: object, block: object) -> None:
        if isinstance(block, dict):
            block = self._blocks[_key(index)] = dict(block)
            message = self._whole()
            message["content"].append(block)
            # The last of these names the model that gave the answer.
            served = block.get("to")
            if block.get("type") == "fallback" and isinstance(served, dict) and isinstance(served.get("model"), str):
                message["model"] = served["model"]

    def _take_delta(self, block: dict[str, Any], delta: dict[str, Any]) -> None:
        kind = delta.get("type")
        if kind == "input_json_delta":
            if isinstance(fragment := delta.get("partial_json"), str):
                self._arguments.setdefault(id(block), (block, []))[1].append(fragment)
        elif isinstance(kind, str) and (name := _APPENDED.get(kind)) is not None:
            if isinstance(text := delta.get(name), str):
                self._append(block, name, text)
        elif kind == "citations_delta":
            self._merge(block, "citations", [delta.get("citation")], replace=False)
        else:
            for name, value in delta.items():
                if name != "type":
                    self._merge(block, name, value, replace=kind in _REPLACED)

    def _append(self, block: dict[str, Any], name: str, text: str) -> None:
        joined = self._texts.get((id(block), name))
        if joined is None:
            first = block.get(name)
            joined = self._texts[id(block), name] = block, [first] if isinstance(first, str) else []
        joined[1].append(text)

    def _merge(self, block: dict[str, Any], name: str, value: object, *, replace: bool) -> None:
        if isinstance(value, str) and not replace:
            self._append(block, name, value)
        elif isinstance(value, list) and isinstance(block.get(name), list) and not replace:
            block[name] += value
        else:
            block[name] = value

    def _take_message_delta(self, event: dict[str, Any]) -> None:
        message = self._whole()
        delta, usage = event.get("delta"), event.get("usage")
        if isinstance(delta, dict):
            message |= {name: value for name, value in delta.items() if value is not None or name != "container"}
        if isinstance(usage, dict):
            counted = message.get("usage")
            told = {name: value for name, value in usage.items() if value is not None}
            message["usage"] = {**counted, **told} if isinstance(counted, dict) else told
        for name, value in event.items():
            if name not in ("type", "delta", "usage") and value is not None:
                message[name] = value

    # --- what has come ---------------------------------------------------------------------------------------------

    def _whole(self) -> dict[str, Any]:
        """Return the message, also where its start never came."""
        if self._message is None:
            self._message = message_shape(self._start, {})
        return self._message


def _key(index: object) -> object:
    return index if isinstance(index, int | float | str) else None


def _arguments(raw: str, *, cut: bool) -> object:
    """Return a call's arguments (note 2)."""
    try:
        value = loads(raw.encode("utf-8", "surrogatepass"))
    except ValueError:
        value = None
    if isinstance(value, dict):
        return value
    return whole_members(raw) if cut else {"INVALID_JSON": raw}


def whole_members(raw: str) -> dict[str, Any]:
    """Return of an object that was cut off what is whole: its members, and those of what it holds."""
    stack: list[str] = []
    end = 0  # Behind the last whole value. Nothing opens or closes after it, so that `stack` is what is open there.
    in_string = escaped = is_name = False
    for position, character in enumerate(raw):
        if in_string:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == '"':
                in_string = False
                end = end if is_name else position + 1
        elif character == '"':
            in_string = True
        elif character in "{[":
            stack.append(_CLOSERS[character])
            is_name = character == "{"
            end = position + 1
        elif character in "}]" and stack:
            stack.pop()
            end = position + 1
        elif character == ":":
            is_name = False
        elif character == ",":
            is_name = stack[-1:] == ["}"]
            end = position
    try:
        value = loads((raw[:end] + "".join(reversed(stack))).encode("utf-8", "surrogatepass"))
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
