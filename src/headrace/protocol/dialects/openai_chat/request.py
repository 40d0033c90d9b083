"""Our request as the body of `POST /chat/completions`.

https://platform.openai.com/docs/api-reference/chat/create

What vendors want differently is data in their configuration, never a comparison of a name here. The quirks:

- `include_usage` (true): ask for the usage chunk. Off for vendors that refuse `stream_options`.
- `max_tokens_field` ("max_tokens"): OpenAI's reasoning models want "max_completion_tokens".
- `system_role` ("system"): or "developer".
- `reasoning_effort` (true): whether the vendor knows that field. A token budget is sent as the effort that is nearest to it.
- `reasoning_field` (none): the field of an assistant message in which the vendor wants its reasoning back. Without one
  reasoning of earlier turns is left out, because most vendors refuse it.
- `send_metadata` (false): send `metadata` along. Its `user_id` goes into `user` in any case.
- `extra_body`: more fields, which stand above ours.
- `path` ("/chat/completions").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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

_encode = msgspec.json.Encoder().encode
# The least budget of tokens that each effort stands for, from the greatest down.
_EFFORTS = ((8192, "high"), (2048, "medium"), (0, "low"))


def build_request(request: ChatRequest, model: str, quirks: Mapping[str, object]) -> UpstreamRequest:
    """Return the request for `model`.

    Raises:
        BadRequest: something cannot be said in this dialect; `field` names it.
    """
    body: dict[str, Any] = {"model": model, "messages": _messages(request, quirks), "stream": True}
    if quirks.get("include_usage", True):
        body["stream_options"] = {"include_usage": True}
    if request.max_tokens is not None:
        body[str(quirks.get("max_tokens_field") or "max_tokens")] = request.max_tokens
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.top_p is not None:
        body["top_p"] = request.top_p
    if request.stop:
        body["stop"] = request.stop
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
    if (choice := _tool_choice(request)) is not None:
        body["tool_choice"] = choice
    if quirks.get("reasoning_effort", True) and (effort := _effort(request)):
        body["reasoning_effort"] = effort
    body |= _metadata(request, quirks)
    extra = quirks.get("extra_body")
    if isinstance(extra, Mapping):
        body |= extra
    return UpstreamRequest(path=str(quirks.get("path") or "/chat/completions"), body=_encode(body))


def forward_request(body: dict[str, Any], model: str, quirks: Mapping[str, object]) -> UpstreamRequest:
    """Return a client's own body for `model`: streamed, with the usage chunk asked for, and otherwise as it came."""
    forwarded = {**body, "model": model, "stream": True}
    if quirks.get("include_usage", True):
        options = body.get("stream_options")
        forwarded["stream_options"] = {**(options if isinstance(options, dict) else {}), "include_usage": True}
    extra = quirks.get("extra_body")
    if isinstance(extra, Mapping):
        forwarded |= extra
    return UpstreamRequest(path=str(quirks.get("path") or "/chat/completions"), body=_encode(forwarded))


def auth_headers(api_key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {api_key}"}


def _messages(request: ChatRequest, quirks: Mapping[str, object]) -> list[dict[str, Any]]:
    system_role = str(quirks.get("system_role") or "system")
    messages: list[dict[str, Any]] = []
    if request.system:
        messages.append({"role": system_role, "content": request.system})
    for position, message in enumerate(request.messages):
        where = f"messages[{position}].content"
        if not message.parts():
            raise BadRequest("A message needs content.", field=where)
        match message.role:
            case "system":
                messages.append({"role": system_role, "content": _text_only(message, where)})
            case "user":
                messages += _user(message, where)
            case "assistant":
                messages.append(_assistant(message, where, quirks))
            case "tool":
                messages += _tool_results(message, where)
    return messages


def _text_only(message: Message, where: str) -> str:
    texts: list[str] = []
    for position, part in enumerate(message.parts()):
        if not isinstance(part, TextPart):
            raise _misplaced(part, message, f"{where}[{position}]")
        texts.append(part.text)
    return "\n\n".join(texts)


def _user(message: Message, where: str) -> list[dict[str, Any]]:
    """Results of tools are messages of their own, and stand before the rest: they answer what the assistant just said."""
    if isinstance(message.content, str):
        return [{"role": "user", "content": message.content}]
    results: list[dict[str, Any]] = []
    content: list[dict[str, Any]] = []
    for position, part in enumerate(message.content):
        match part:
            case TextPart(text=text):
                content.append({"type": "text", "text": text})
            case ImagePart():
                content.append({"type": "image_url", "image_url": {"url": _image_url(part, f"{where}[{position}]")}})
            case ToolResultPart():
                results.append(_tool_result(part))
            case _:
                raise _misplaced(part, message, f"{where}[{position}]")
    return [*results, {"role": "user", "content": content}] if content else results


def _assistant(message: Message, where: str, quirks: Mapping[str, object]) -> dict[str, Any]:
    texts: list[str] = []
    thinking: list[str] = []
    calls: list[dict[str, Any]] = []
    for position, part in enumerate(message.parts()):
        match part:
            case TextPart(text=text):
                texts.append(text)
            case ThinkingPart(text=text):
                thinking.append(text)
            case ToolCallPart():
                function = {"name": part.name, "arguments": _encode(part.arguments).decode()}
                calls.append({"id": part.tool_call_id, "type": "function", "function": function})
            case _:
                raise _misplaced(part, message, f"{where}[{position}]")
    shape: dict[str, Any] = {"role": "assistant", "content": "".join(texts) if texts or not calls else None}
    if calls:
        shape["tool_calls"] = calls
    field = quirks.get("reasoning_field")
    if isinstance(field, str) and any(thinking):
        shape[field] = "".join(thinking)
    return shape


def _tool_results(message: Message, where: str) -> list[dict[str, Any]]:
    if isinstance(message.content, str):
        raise BadRequest("A tool message needs tool_result parts, which name the call that they answer.", field=where)
    results: list[dict[str, Any]] = []
    for position, part in enumerate(message.content):
        if not isinstance(part, ToolResultPart):
            raise _misplaced(part, message, f"{where}[{position}]")
        results.append(_tool_result(part))
    return results


def _tool_result(part: ToolResultPart) -> dict[str, Any]:
    """The dialect has no place for `ok`: what went wrong is told by the content."""
    return {"role": "tool", "tool_call_id": part.tool_call_id, "content": part.content}


def _image_url(part: ImagePart, where: str) -> str:
    if part.url and not part.data:
        return part.url
    if part.data and part.media_type and not part.url:
        return f"data:{part.media_type};base64,{part.data}"
    raise BadRequest("An image needs either url, or data and media_type.", field=where)


def _misplaced(part: Part, message: Message, where: str) -> BadRequest:
    kind = part.__struct_config__.tag
    return BadRequest(f"A {message.role} message cannot hold a part of type {kind} for this provider.", field=where)


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name, "parameters": tool.parameters or {"type": "object", "properties": {}}}
    if tool.description is not None:
        function["description"] = tool.description
    return {"type": "function", "function": function}


def _tool_choice(request: ChatRequest) -> object:
    choice = request.tool_choice
    if choice is None or (choice in ("auto", "none") and not request.tools):
        return None
    if request.tools and choice in ("auto", "none", "required"):
        return choice
    if request.tools and any(tool.name == choice for tool in request.tools):
        return {"type": "function", "function": {"name": choice}}
    raise BadRequest("tool_choice is auto, none, required, or the name of one of the tools.", field="tool_choice")


def _effort(request: ChatRequest) -> str | None:
    thinking = request.thinking
    if thinking is None or thinking is False:
        return None
    if thinking is True:
        return "medium"
    if thinking.effort is not None:
        return thinking.effort
    budget = thinking.budget_tokens
    return "medium" if budget is None else next(effort for least, effort in _EFFORTS if budget >= least)


def _metadata(request: ChatRequest, quirks: Mapping[str, object]) -> dict[str, Any]:
    metadata = request.metadata or {}
    fields: dict[str, Any] = {}
    if isinstance(metadata.get("user_id"), str):
        fields["user"] = metadata["user_id"]
    if metadata and quirks.get("send_metadata", False):
        for name, value in metadata.items():
            if not isinstance(value, str):
                raise BadRequest("This provider takes only strings as metadata.", field=f"metadata.{name}")
        fields["metadata"] = metadata
    return fields
