"""What a caller asks for, in no provider's dialect: the body of `POST /v1/chat/stream`, and what request builders take.

Every struct refuses fields that it does not know, so that a misspelt `temprature` is a 400 and not a silent default.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]


class TextPart(Struct, tag="text", forbid_unknown_fields=True):
    text: str


class ImagePart(Struct, tag="image", kw_only=True, forbid_unknown_fields=True):
    """An image by `url`, or by base64 `data` with its `media_type`."""

    url: str | None = None
    data: str | None = None
    media_type: str | None = None


class ThinkingPart(Struct, tag="thinking", kw_only=True, forbid_unknown_fields=True):
    """Reasoning of an earlier turn, sent back as it came: providers check the signature."""

    text: str = ""
    signature: str | None = None
    redacted: str | None = None


class ToolCallPart(Struct, tag="tool_call", kw_only=True, forbid_unknown_fields=True):
    tool_call_id: str
    name: str
    arguments: dict[str, Any] = {}


class ToolResultPart(Struct, tag="tool_result", kw_only=True, forbid_unknown_fields=True):
    tool_call_id: str
    content: str
    ok: bool = True


Part: TypeAlias = TextPart | ImagePart | ThinkingPart | ToolCallPart | ToolResultPart


class Message(Struct, kw_only=True, forbid_unknown_fields=True):
    role: Role
    content: str | list[Part]

    def parts(self) -> list[Part]:
        return [TextPart(self.content)] if isinstance(self.content, str) else self.content


class Tool(Struct, kw_only=True, forbid_unknown_fields=True):
    """`parameters` is a JSON Schema of an object."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    description: str | None = None
    parameters: dict[str, Any] = {}


class ThinkingOptions(Struct, kw_only=True, forbid_unknown_fields=True):
    """How much the model should reason: a token budget or an effort, whichever its provider takes."""

    budget_tokens: Annotated[int, Meta(ge=1)] | None = None
    effort: Literal["none", "minimal", "low", "medium", "high"] | None = None


class ChatRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    messages: Annotated[list[Message], Meta(min_length=1)]
    model: Annotated[str, Meta(min_length=1, max_length=512)] | None = None
    system: str | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    temperature: Annotated[float, Meta(ge=0)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    stop: list[str] | None = None
    tools: list[Tool] | None = None
    tool_choice: str | None = None
    thinking: bool | ThinkingOptions | None = None
    on_disconnect: Literal["cancel", "grace", "continue"] | Annotated[float, Meta(ge=0, le=3600)] | None = None
    slow_reader: Literal["pause", "gap"] | None = None
    metadata: dict[str, Any] | None = None
    stream: Literal[True] | None = None


class UpstreamRequest(Struct, kw_only=True):
    """What a dialect makes of a `ChatRequest`: the path below the provider's base URL, headers without secrets, and the body."""

    path: str
    body: bytes
    headers: dict[str, str] = msgspec.field(default_factory=dict)
