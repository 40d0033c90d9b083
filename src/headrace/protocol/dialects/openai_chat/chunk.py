"""A chunk as far as we read it. Scalars are of any type, because vendors are; an odd structure takes the slower way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct

from headrace.protocol.lenient import NO_RAW, dicts, raw


class Function(Struct, gc=False):
    name: Any = None
    arguments: Any = None


class ToolCall(Struct, gc=False):
    index: Any = None
    id: Any = None
    function: Function | None = None
    custom: Any = None


class Delta(Struct, gc=False):
    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    tool_calls: list[ToolCall] | None = None
    reasoning_details: Any = None
    refusal: Any = None
    function_call: Function | None = None
    annotations: Any = None
    audio: Any = None
    images: Any = None


class Choice(Struct, gc=False):
    index: Any = None
    delta: Delta | None = None
    finish_reason: Any = None
    usage: Raw = NO_RAW


class Chunk(Struct, gc=False):
    choices: list[Choice] | None = None
    usage: Raw = NO_RAW
    error: Any = None
    x_groq: Raw = NO_RAW
    citations: Raw = NO_RAW
    search_results: Raw = NO_RAW


decode_chunk: Callable[[bytes], Chunk] = msgspec.json.Decoder(Chunk).decode


def loose_chunk(value: dict[str, Any]) -> Chunk:
    """Build a chunk from JSON in which something has an unexpected structure; what cannot be read is left out."""
    chunk = _pick(Chunk, value)
    if "choices" in value:
        chunk.choices = [_loose_choice(choice) for choice in dicts(value["choices"])]
    return chunk


def _loose_choice(value: dict[str, Any]) -> Choice:
    choice = _pick(Choice, value)
    delta = value.get("delta")
    if isinstance(delta, dict):
        choice.delta = _pick(Delta, delta)
        choice.delta.function_call = _loose_function(delta.get("function_call"))
        choice.delta.tool_calls = [_loose_call(call) for call in dicts(delta.get("tool_calls"))]
    return choice


def _loose_call(value: dict[str, Any]) -> ToolCall:
    call = _pick(ToolCall, value)
    call.function = _loose_function(value.get("function"))
    return call


def _loose_function(value: object) -> Function | None:
    return _pick(Function, value) if isinstance(value, dict) else None


_Picked = TypeVar("_Picked", bound=Struct)


def _pick(cls: type[_Picked], value: dict[str, Any]) -> _Picked:
    """Return a `cls` with those of its loosely typed fields that `value` has."""
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(cls):
        item = value.get(field.name)
        if field.type is Any:
            found[field.name] = item
        elif field.type is Raw and item is not None:
            found[field.name] = raw(item)
    return cls(**found)
