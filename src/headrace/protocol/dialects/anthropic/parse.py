"""A body of `POST /v1/messages` as our request.

https://docs.anthropic.com/en/api/messages

A body for an Anthropic provider is not read here: it goes on as it came. For any other provider:

1. Left out, because the answer means the same without it: `cache_control`, `service_tier`, `inference_geo`, `speed`, `diagnostics`,
   `context_management`, `user_profile_id`, `workspace_id`, `metadata` but its `user_id`, `thinking.display`, and of `output_config` what
   is neither `effort` nor `format`; of a tool `strict`, `input_examples`, `eager_input_streaming`, `allowed_callers` and `defer_loading`;
   of a block `citations`, `caller` and image `transformations`.
2. Documents and search results that are text become text, under their title. PDFs and files are refused.
3. What only an Anthropic provider can do is refused: tools that it runs or defines, their blocks of earlier turns, `container`,
   `mcp_servers`; and so is a field that is not known here, as the API itself does it.
4. A signature, or redacted thinking, with the mark `FOREIGN` came from a provider of another dialect, and goes back without the mark.
   One without it is of Anthropic, and nobody else could read it: the text of the thinking is kept, the rest is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

from headrace.errors import BadRequest
from headrace.protocol.dialects.anthropic.request import FOREIGN
from headrace.protocol.request import (
    AnswerFormat,
    ChatRequest,
    ImagePart,
    Message,
    Part,
    TextPart,
    ThinkingOptions,
    ThinkingPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
)

NAME_CHARACTERS_MAX = 128
MODEL_CHARACTERS_MAX = 512

_EFFORTS = ("low", "medium", "high", "xhigh", "max")
_LEFT_OUT = frozenset(
    (
        "cache_control",
        "context_management",
        "diagnostics",
        "inference_geo",
        "service_tier",
        "speed",
        "stream",
        "user_profile_id",
        "workspace_id",
    )
)
_READ = frozenset(
    (
        "max_tokens",
        "messages",
        "metadata",
        "model",
        "output_config",
        "output_format",
        "stop_sequences",
        "system",
        "temperature",
        "thinking",
        "tool_choice",
        "tools",
        "top_k",
        "top_p",
    )
)


def parse(body: dict[str, Any]) -> ChatRequest:
    """Return the request in our words.

    Raises:
        BadRequest: something is wrong, or cannot be said in our words; `field` names it.
    """
    _refuse_foreign(body)
    choice, parallel = _tool_choice(body.get("tool_choice"))
    return ChatRequest(
        model=_model(body.get("model")),
        messages=_messages(body.get("messages")),
        system=_system(body.get("system")),
        max_tokens=_count(body, "max_tokens", 1),
        temperature=_number(body, "temperature"),
        top_p=_number(body, "top_p", at_most=1),
        top_k=_count(body, "top_k", 0) or None,
        stop=_strings(body.get("stop_sequences"), "stop_sequences") or None,
        tools=_tools(body.get("tools")),
        tool_choice=choice,
        parallel_tool_calls=parallel,
        answer_format=_answer_format(body),
        thinking=_thinking(body),
        metadata=_metadata(body.get("metadata")),
    )


def _refuse_foreign(body: dict[str, Any]) -> None:
    for name, value in body.items():
        if name not in _READ and name not in _LEFT_OUT and value not in (None, [], {}):
            raise BadRequest(
                f"{name[:100]} cannot be told to this model's provider: leave it out, or ask a model of Anthropic.", field=name
            )


# --- messages --------------------------------------------------------------------------------------------------------


_Reader: TypeAlias = Callable[[dict[str, Any], str], Part | None]


def _messages(value: object) -> list[Message]:
    turns = _list(value, "messages")
    if not turns:
        raise BadRequest("messages needs at least one message.", field="messages")
    messages = [_message(_dict(turn, f"messages[{at}]"), f"messages[{at}]") for at, turn in enumerate(turns)]
    # A turn may have held nothing but what only Anthropic can read.
    return [message for message, turn in zip(messages, turns, strict=True) if message.content or not turn["content"]]


def _message(turn: dict[str, Any], where: str) -> Message:
    role, content, place = turn.get("role"), turn.get("content"), f"{where}.content"
    match role:
        case "user" | "assistant":
            readers = _USER if role == "user" else _ASSISTANT
            return Message(role=role, content=content if isinstance(content, str) else _parts(content, place, readers, role))
        case "system":
            return Message(role="system", content=_text_of(content, place))
    raise BadRequest("A message's role is user, assistant or system.", field=f"{where}.role")


def _parts(value: object, where: str, readers: Mapping[str, _Reader], role: str) -> list[Part]:
    parts: list[Part] = []
    for at, item in enumerate(_list(value, where)):
        place = f"{where}[{at}]"
        block = _dict(item, place)
        kind = _string(block, "type", place)
        read = readers.get(kind)
        if read is None:
            raise _foreign_block(kind, role, place)
        if (part := read(block, place)) is not None:
            parts.append(part)
    return parts


def _foreign_block(kind: str, role: str, where: str) -> BadRequest:
    if kind in _USER or kind in _ASSISTANT:
        return BadRequest(f"A block of type {kind} has no place in {role} content.", field=f"{where}.type")
    return BadRequest(
        f"Blocks of type {kind[:NAME_CHARACTERS_MAX]} are only for models of Anthropic: leave it out, or ask one of those.",
        field=f"{where}.type",
    )


def _text(block: dict[str, Any], where: str) -> TextPart:
    return TextPart(_string(block, "text", where))


def _image(block: dict[str, Any], where: str) -> ImagePart:
    place = f"{where}.source"
    source = _dict(block.get("source"), place)
    match source.get("type"):
        case "base64":
            return ImagePart(data=_string(source, "data", place), media_type=_string(source, "media_type", place))
        case "url":
            return ImagePart(url=_string(source, "url", place))
    raise BadRequest("An image for this model comes as base64 or as a url.", field=f"{place}.type")


def _document(block: dict[str, Any], where: str) -> TextPart:
    """A document of text, under what is said about it."""
    place = f"{where}.source"
    source = _dict(block.get("source"), place)
    match source.get("type"):
        case "text":
            text = _string(source, "data", place)
        case "content":
            text = _text_of(source.get("content"), f"{place}.content")
        case _:
            raise BadRequest("A document for this model comes as text: a PDF or a file needs a model of Anthropic.", field=f"{place}.type")
    heading = [found for name in ("title", "context") if isinstance(found := block.get(name), str) and found]
    return TextPart("\n\n".join([*heading, text]))


def _search_result(block: dict[str, Any], where: str) -> TextPart:
    text = _text_of(block.get("content"), f"{where}.content")
    return TextPart("\n\n".join([_string(block, "title", where), _string(block, "source", where), text]))


def _thinking_part(block: dict[str, Any], where: str) -> ThinkingPart | None:
    signature = block.get("signature")
    if signature is not None and not isinstance(signature, str):
        raise BadRequest("signature must be a string.", field=f"{where}.signature")
    text = _string(block, "thinking", where)
    signature = _unmarked(signature or "")
    return ThinkingPart(text=text, signature=signature) if text or signature else None


def _redacted(block: dict[str, Any], where: str) -> ThinkingPart | None:
    data = _unmarked(_string(block, "data", where))
    return ThinkingPart(redacted=data) if data else None


def _unmarked(seal: str) -> str | None:
    """Return what a provider of another dialect wrote, or None (note 4)."""
    return seal.removeprefix(FOREIGN) or None if seal.startswith(FOREIGN) else None


def _tool_use(block: dict[str, Any], where: str) -> ToolCallPart:
    arguments = _dict(block.get("input"), f"{where}.input")
    return ToolCallPart(tool_call_id=_string(block, "id", where), name=_string(block, "name", where), arguments=arguments)


def _tool_result(block: dict[str, Any], where: str) -> ToolResultPart:
    content, place = block.get("content"), f"{where}.content"
    parts: list[Part] = [] if content is None or isinstance(content, str) else _parts(content, place, _RESULT, "tool_result")
    found = [part for part in parts if isinstance(part, TextPart | ImagePart)]
    told: str | list[TextPart | ImagePart] = content if isinstance(content, str) else found
    if len(found) <= 1 and all(isinstance(part, TextPart) for part in found):
        told = content if isinstance(content, str) else "".join(part.text for part in found if isinstance(part, TextPart))
    failed = block.get("is_error")
    if failed is not None and not isinstance(failed, bool):
        raise BadRequest("is_error must be true or false.", field=f"{where}.is_error")
    return ToolResultPart(tool_call_id=_string(block, "tool_use_id", where), content=told, ok=not failed)


_RESULT: dict[str, _Reader] = {
    "text": _text,
    "image": _image,
    "document": _document,
    "search_result": _search_result,
}
_USER: dict[str, _Reader] = {**_RESULT, "tool_result": _tool_result}
_ASSISTANT: dict[str, _Reader] = {
    "text": _text,
    "thinking": _thinking_part,
    "redacted_thinking": _redacted,
    "tool_use": _tool_use,
}


def _text_of(value: object, where: str) -> str:
    """Return what is a string or a list of text blocks as one text."""
    if isinstance(value, str):
        return value
    parts = _parts(value, where, {"text": _text}, "system")
    return "\n\n".join(part.text for part in parts if isinstance(part, TextPart))


def _system(value: object) -> str | None:
    return None if value is None else _text_of(value, "system") or None


# --- tools -----------------------------------------------------------------------------------------------------------


def _tools(value: object) -> list[Tool] | None:
    if value is None:
        return None
    return [_tool(_dict(item, f"tools[{at}]"), f"tools[{at}]") for at, item in enumerate(_list(value, "tools"))] or None


def _tool(tool: dict[str, Any], where: str) -> Tool:
    kind = tool.get("type")
    if kind not in (None, "custom"):
        raise BadRequest(
            f"The tool {str(kind)[:NAME_CHARACTERS_MAX]} exists only at Anthropic: ask a model of Anthropic.", field=f"{where}.type"
        )
    name = _string(tool, "name", where)
    if not 1 <= len(name) <= NAME_CHARACTERS_MAX:
        raise BadRequest(f"A tool's name has 1 to {NAME_CHARACTERS_MAX} characters.", field=f"{where}.name")
    description = tool.get("description")
    if description is not None and not isinstance(description, str):
        raise BadRequest("description must be a string.", field=f"{where}.description")
    return Tool(name=name, description=description, parameters=_dict(tool.get("input_schema"), f"{where}.input_schema"))


def _tool_choice(value: object) -> tuple[str | None, bool | None]:
    """Return the choice, and whether several tools may be called at once."""
    if value is None:
        return None, None
    choice = _dict(value, "tool_choice")
    disabled = choice.get("disable_parallel_tool_use")
    if disabled is not None and not isinstance(disabled, bool):
        raise BadRequest("disable_parallel_tool_use must be true or false.", field="tool_choice.disable_parallel_tool_use")
    parallel = None if disabled is None else not disabled
    match choice.get("type"):
        case "auto" | "none" as kind:
            return kind, parallel
        case "any":
            return "required", parallel
        case "tool":
            return _string(choice, "name", "tool_choice"), parallel
    raise BadRequest("The type of tool_choice is auto, any, tool or none.", field="tool_choice.type")


# --- options ---------------------------------------------------------------------------------------------------------


def _thinking(body: dict[str, Any]) -> bool | ThinkingOptions | None:
    effort = _effort(body.get("output_config"))
    if body.get("thinking") is None:
        return ThinkingOptions(effort=effort) if effort else None
    thinking = _dict(body["thinking"], "thinking")
    match thinking.get("type"):
        case "disabled":
            return False
        case "enabled":
            budget = _count(thinking, "budget_tokens", 1, "thinking.")
            return ThinkingOptions(budget_tokens=budget, effort=effort) if budget or effort else True
        case "adaptive" | "between_tools":
            return ThinkingOptions(effort=effort) if effort else True
    raise BadRequest("The type of thinking is enabled, adaptive, between_tools or disabled.", field="thinking.type")


def _effort(config: object) -> Literal["low", "medium", "high", "xhigh", "max"] | None:
    effort = None if config is None else _dict(config, "output_config").get("effort")
    if effort is not None and effort not in _EFFORTS:
        raise BadRequest(f"effort is one of {', '.join(_EFFORTS)}.", field="output_config.effort")
    return effort


def _answer_format(body: dict[str, Any]) -> AnswerFormat | None:
    """The form of the answer, also where the field stood while it was new."""
    config = body.get("output_config")
    place, value = "output_config.format", None if config is None else _dict(config, "output_config").get("format")
    if value is None:
        place, value = "output_format", body.get("output_format")
    if value is None:
        return None
    shape = _dict(value, place)
    if shape.get("type") != "json_schema":
        raise BadRequest("The type of an answer's format is json_schema.", field=f"{place}.type")
    return AnswerFormat(type="json_schema", json_schema=_dict(shape.get("schema"), f"{place}.schema"))


def _metadata(value: object) -> dict[str, Any] | None:
    user = None if value is None else _dict(value, "metadata").get("user_id")
    if user is not None and not isinstance(user, str):
        raise BadRequest("user_id must be a string.", field="metadata.user_id")
    return {"user_id": user} if user else None


def _model(value: object) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= MODEL_CHARACTERS_MAX:
        raise BadRequest(f"model is a name of 1 to {MODEL_CHARACTERS_MAX} characters.", field="model")
    return value


# --- values ----------------------------------------------------------------------------------------------------------


def _dict(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadRequest(f"{where} must be an object.", field=where)
    return value


def _list(value: object, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise BadRequest(f"{where} must be a list.", field=where)
    return value


def _string(shape: dict[str, Any], name: str, where: str) -> str:
    value = shape.get(name)
    if not isinstance(value, str):
        raise BadRequest(f"{name} must be a string.", field=f"{where}.{name}")
    return value


def _strings(value: object, where: str) -> list[str]:
    items = [] if value is None else _list(value, where)
    for at, item in enumerate(items):
        if not isinstance(item, str):
            raise BadRequest(f"{where} holds strings.", field=f"{where}[{at}]")
    return items


def _count(shape: dict[str, Any], name: str, at_least: int, prefix: str = "") -> int | None:
    value = shape.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
        raise BadRequest(f"{name} must be a whole number, at least {at_least}.", field=f"{prefix}{name}")
    return value


def _number(shape: dict[str, Any], name: str, at_most: float | None = None) -> float | None:
    value = shape.get(name)
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= (at_most or float("inf")):
        raise BadRequest(f"{name} must be a number from 0" + (f" to {at_most}." if at_most else " on."), field=name)
    return value
