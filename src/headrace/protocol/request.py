"""What a caller asks for, in no provider's dialect: the body of `POST /v1/chat/stream`, and what request builders take.

Every struct refuses fields that it does not know, so that a misspelt `temprature` is a 400 and not a silent default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, TypeAlias

import msgspec
from msgspec import Meta, Struct

from headrace.errors import BadRequest
from headrace.protocol.lenient import DEPTH_MAX

if TYPE_CHECKING:
    from headrace.protocol.dialects import Dialect

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
    """What a tool gave. Where a provider's results are text only, images in one are a `BadRequest`."""

    tool_call_id: str
    content: str | list[TextPart | ImagePart]
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
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None


class AnswerFormat(Struct, kw_only=True, forbid_unknown_fields=True):
    """The form that the text of the answer must have: any JSON object, or one of the JSON Schema `json_schema`."""

    type: Literal["json_object", "json_schema"]
    json_schema: dict[str, Any] | None = None
    name: str | None = None
    strict: bool | None = None


class ChatRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    messages: Annotated[list[Message], Meta(min_length=1)]
    model: Annotated[str, Meta(min_length=1, max_length=512)] | None = None
    system: str | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    temperature: Annotated[float, Meta(ge=0)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=1)] | None = None
    stop: list[str] | None = None
    tools: list[Tool] | None = None
    tool_choice: str | None = None
    parallel_tool_calls: bool | None = None
    answer_format: AnswerFormat | None = None
    thinking: bool | ThinkingOptions | None = None
    on_disconnect: Literal["cancel", "grace", "continue"] | Annotated[float, Meta(ge=0, le=3600)] | None = None
    slow_reader: Literal["pause", "gap"] | None = None
    metadata: dict[str, Any] | None = None
    stream: Literal[True] | None = None

    dialect: ClassVar[None] = None
    keep_frames: ClassVar[bool] = False

    def upstream(self, dialect: Dialect, model: str, quirks: Mapping[str, object]) -> UpstreamRequest:
        """Return what goes to a provider.

        Raises:
            BadRequest: this provider's dialect cannot say it; `field` names what.
        """
        return dialect.build_request(self, model, quirks)

    def forget(self) -> None:
        """Let go of what is not needed once the answer is over: what is kept for late readers is the answer."""
        self.messages, self.tools = [], None


class Request(Protocol):
    """What a stream needs of a request, in whatever words it came: a `ChatRequest`, or a `SurfaceRequest` around a client's own body."""

    on_disconnect: Literal["cancel", "grace", "continue"] | float | None
    slow_reader: Literal["pause", "gap"] | None

    @property
    def dialect(self) -> str | None:
        """The provider dialect whose frames its reader wants as they are, or None."""
        ...

    @property
    def keep_frames(self) -> bool:
        """Whether those frames are kept for a reader who comes back."""
        ...

    def upstream(self, dialect: Dialect, model: str, quirks: Mapping[str, object]) -> UpstreamRequest: ...

    def forget(self) -> None: ...


class UpstreamRequest(Struct, kw_only=True):
    """What a dialect makes of a `ChatRequest`: the path below the provider's base URL, headers without secrets, and the body."""

    path: str
    body: bytes
    headers: dict[str, str] = msgspec.field(default_factory=dict)


def check_depth(value: Any, field: str) -> None:
    """Refuse what is nested deeper than anybody means: to write it out again takes the stack of whoever does so.

    Raises:
        BadRequest: it is.
    """
    level = [value]
    for _ in range(DEPTH_MAX):
        level = [inner for item in level if isinstance(item, dict | list) for inner in (item.values() if isinstance(item, dict) else item)]
        if not level:
            return
    raise BadRequest(f"{field}: nested deeper than {DEPTH_MAX} levels.", field=field)
