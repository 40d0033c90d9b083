"""Our request as the body of `POST /v1/messages`.

https://docs.anthropic.com/en/api/messages

The quirks, data of a provider's configuration:

- `max_tokens_default` (4096): the API needs `max_tokens`. A budget for thinking is added to it.
- `thinking` ("budget"): "adaptive" for models that decide themselves; an effort then goes into `output_config`.
- `version` ("2023-06-01"), `beta` (none): the headers `anthropic-version` and, from a list or a string, `anthropic-beta`.
- `extra_body`: more fields, which stand above ours.
- `path` ("/v1/messages").
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import msgspec

from headrace.errors import BadRequest
from headrace.protocol.request import (
    ChatRequest,
    ImagePart,
    Message,
    Part,
    TextPart,
    ThinkingPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
    UpstreamRequest,
)

API_VERSION = "2023-06-01"
MAX_TOKENS_DEFAULT = 4096
BUDGET_TOKENS_MIN = 1024

_encode = msgspec.json.Encoder().encode
_BUDGETS = {"minimal": 1024, "low": 1024, "medium": 4096, "high": 16384, "xhigh": 32768, "max": 32768}
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,(.*)", re.DOTALL)
_NOT_IN_IDS = re.compile(r"[^a-zA-Z0-9_-]")

_Role: TypeAlias = Literal["user", "assistant"]


def build_request(request: ChatRequest, model: str, quirks: Mapping[str, object]) -> UpstreamRequest:
    """Return the request for `model`.

    Raises:
        BadRequest: something cannot be said in this dialect; `field` names it.
    """
    system, messages = _conversation(request)
    body: dict[str, Any] = {"model": model, "max_tokens": _max_tokens(request, quirks), "messages": messages, "stream": True}
    if system:
        body["system"] = system
    body |= _thinking(request, quirks)
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.top_p is not None:
        body["top_p"] = request.top_p
    if request.stop:
        body["stop_sequences"] = request.stop
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
    if (choice := _tool_choice(request)) is not None:
        body["tool_choice"] = choice
    user_id = (request.metadata or {}).get("user_id")
    if isinstance(user_id, str):
        body["metadata"] = {"user_id": user_id}
    extra = quirks.get("extra_body")
    if isinstance(extra, Mapping):
        body |= extra
    return UpstreamRequest(path=str(quirks.get("path") or "/v1/messages"), body=_encode(body), headers=_headers(quirks))


def forward_request(body: dict[str, Any], model: str, quirks: Mapping[str, object]) -> UpstreamRequest:
    """Return a client's own body for `model`: streamed, and otherwise as it came."""
    forwarded = {**body, "model": model, "stream": True}
    extra = quirks.get("extra_body")
    if isinstance(extra, Mapping):
        forwarded |= extra
    return UpstreamRequest(path=str(quirks.get("path") or "/v1/messages"), body=_encode(forwarded), headers=_headers(quirks))


def auth_headers(api_key: str) -> dict[str, str]:
    return {"x-api-key": api_key}


def _headers(quirks: Mapping[str, object]) -> dict[str, str]:
    headers = {"anthropic-version": str(quirks.get("version") or API_VERSION)}
    beta = quirks.get("beta")
    if beta:
        headers["anthropic-beta"] = (
            beta if isinstance(beta, str) else ",".join(map(str, beta if isinstance(beta, list | tuple) else (beta,)))
        )
    return headers


# --- messages --------------------------------------------------------------------------------------------------------


def _conversation(request: ChatRequest) -> tuple[str, list[dict[str, Any]]]:
    """Return the system prompt and the turns, in which neighbours of one role are one message: results of tools that were
    called together have to come together."""
    system = [request.system] if request.system else []
    messages: list[dict[str, Any]] = []
    for position, message in enumerate(request.messages):
        where = f"messages[{position}].content"
        if message.role == "system":
            if messages:
                raise BadRequest("This provider takes system messages only before all others.", field=f"messages[{position}].role")
            system.append(_text_only(message, where))
            continue
        role: _Role = "assistant" if message.role == "assistant" else "user"
        content = _content(message, where)
        if not content:
            if role == "assistant":
                continue
            raise BadRequest("A message needs content.", field=where)
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += content
        else:
            messages.append({"role": role, "content": content})
    if not messages:
        raise BadRequest("This provider needs a message that is not a system message.", field="messages")
    return "\n\n".join(system), messages


def _text_only(message: Message, where: str) -> str:
    texts: list[str] = []
    for position, part in enumerate(message.parts()):
        if not isinstance(part, TextPart):
            raise _misplaced(part, message, f"{where}[{position}]")
        texts.append(part.text)
    return "\n\n".join(texts)


def _content(message: Message, where: str) -> list[dict[str, Any]]:
    if message.role == "tool" and isinstance(message.content, str):
        raise BadRequest("A tool message needs tool_result parts, which name the call that they answer.", field=where)
    content: list[dict[str, Any]] = []
    for position, part in enumerate(message.parts()):
        block = _block(part, message, f"{where}[{position}]")
        if block is not None:
            content.append(block)
    # Results of tools stand before everything else in their message; the API refuses any other order.
    return sorted(content, key=lambda block: block["type"] != "tool_result")


def _block(part: Part, message: Message, where: str) -> dict[str, Any] | None:
    """Return the part as a block; None for what the API refuses and nobody misses: empty text, reasoning that another model
    signed or that nobody did."""
    match part, message.role:
        case TextPart(text=text), "user" | "assistant":
            return {"type": "text", "text": text} if text else None
        case ImagePart(), "user":
            return {"type": "image", "source": _image_source(part, where)}
        case ThinkingPart(), "assistant":
            if part.redacted is not None:
                return {"type": "redacted_thinking", "data": part.redacted}
            return {"type": "thinking", "thinking": part.text, "signature": part.signature} if part.signature else None
        case ToolCallPart(), "assistant":
            return {"type": "tool_use", "id": _id(part.tool_call_id), "name": part.name, "input": part.arguments}
        case ToolResultPart(), "user" | "tool":
            block = {"type": "tool_result", "tool_use_id": _id(part.tool_call_id), "content": part.content}
            return block if part.ok else block | {"is_error": True}
        case _:
            raise _misplaced(part, message, where)


def _image_source(part: ImagePart, where: str) -> dict[str, Any]:
    if part.url and not part.data:
        if match := _DATA_URL.fullmatch(part.url):
            return {"type": "base64", "media_type": match[1], "data": match[2]}
        return {"type": "url", "url": part.url}
    if part.data and part.media_type and not part.url:
        return {"type": "base64", "media_type": part.media_type, "data": part.data}
    raise BadRequest("An image needs either url, or data and media_type.", field=where)


def _misplaced(part: Part, message: Message, where: str) -> BadRequest:
    kind = part.__struct_config__.tag
    return BadRequest(f"A {message.role} message cannot hold a part of type {kind} for this provider.", field=where)


def _id(tool_call_id: str) -> str:
    """The API takes fewer characters in an id than others do; calls and their results change alike."""
    return _NOT_IN_IDS.sub("_", tool_call_id) or "_"


# --- options ---------------------------------------------------------------------------------------------------------


def _tool(tool: Tool) -> dict[str, Any]:
    shape: dict[str, Any] = {"name": tool.name, "input_schema": tool.parameters or {"type": "object", "properties": {}}}
    if tool.description is not None:
        shape["description"] = tool.description
    return shape


def _tool_choice(request: ChatRequest) -> dict[str, str] | None:
    choice = request.tool_choice
    if choice is None or (choice in ("auto", "none") and not request.tools):
        return None
    if request.tools:
        if choice in ("auto", "none"):
            return {"type": choice}
        if choice == "required":
            return {"type": "any"}
        if any(tool.name == choice for tool in request.tools):
            return {"type": "tool", "name": choice}
    raise BadRequest("tool_choice is auto, none, required, or the name of one of the tools.", field="tool_choice")


def _budget_tokens(request: ChatRequest, quirks: Mapping[str, object]) -> int | None:
    """Return the tokens that the model may think for, None where it does not think or decides itself."""
    thinking = request.thinking
    if thinking is None or thinking is False or quirks.get("thinking") == "adaptive":
        return None
    if thinking is True:
        return _BUDGETS["medium"]
    if thinking.budget_tokens is not None:
        return max(BUDGET_TOKENS_MIN, thinking.budget_tokens)
    return None if thinking.effort == "none" else _BUDGETS[thinking.effort or "medium"]


def _max_tokens(request: ChatRequest, quirks: Mapping[str, object]) -> int:
    budget = _budget_tokens(request, quirks)
    if request.max_tokens is None:
        default = quirks.get("max_tokens_default")
        return (default if isinstance(default, int) else MAX_TOKENS_DEFAULT) + (budget or 0)
    if budget is not None and budget >= request.max_tokens:
        raise BadRequest(f"max_tokens must be more than the {budget} tokens for thinking, which are part of it.", field="max_tokens")
    return request.max_tokens


def _thinking(request: ChatRequest, quirks: Mapping[str, object]) -> dict[str, Any]:
    budget = _budget_tokens(request, quirks)
    if budget is not None:
        return {"thinking": {"type": "enabled", "budget_tokens": budget}}
    thinking = request.thinking
    if thinking is None or thinking is False or (not isinstance(thinking, bool) and thinking.effort == "none"):
        return {}
    fields: dict[str, Any] = {"thinking": {"type": "adaptive"}}
    if not isinstance(thinking, bool) and thinking.effort is not None:
        fields["output_config"] = {"effort": "low" if thinking.effort == "minimal" else thinking.effort}
    return fields
