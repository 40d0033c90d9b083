"""Our request as the body of `POST /v1/messages`.

https://docs.anthropic.com/en/api/messages

The quirks, data of a provider's configuration:

- `max_tokens_default` (4096): the API needs `max_tokens`. A budget for thinking is added to it.
- `cache_system_characters_min` (0, off): a system prompt of at least that many characters, in a request that sets no `cache_control`
  itself, gets a cache breakpoint at its end. The API's order is tools, system, messages, so it covers the tools as well.
- `cache_ttl` ("5m" where the API decides): or "1h".
- `thinking` ("budget"): "adaptive" for models that decide themselves; an effort then goes into `output_config`.
- `late_system_role` ("user"): the role in which a system message behind other messages is said. "system" for models that take it there,
  which are those since Claude Opus 4.8.
- `version` ("2023-06-01"), `beta` (none): the headers `anthropic-version` and, from a list or a string, `anthropic-beta`.
- `extra_body`: more fields, which stand above ours.
- `path` ("/v1/messages").
- `line_bytes_max`: of a line of the answer; see `event_stream`.

A client's own body goes on as it came, but for what this relay made in it: reasoning and citations that came from a provider of another
dialect carry the mark `FOREIGN`, which the API would refuse, and are left out.

An effort is a wish, so the budget that it stands for shrinks to half of `max_tokens`, and below the API's least there is no thinking.
A budget that was asked for by its number and leaves no room is refused. A JSON object without a schema is more than the API can promise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import msgspec

from headrace.errors import BadRequest
from headrace.protocol.dialects.parts import misplaced, text_only
from headrace.protocol.request import (
    AnswerFormat,
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
# Before a signature, and whatever else only Anthropic could have written, of an answer that came from elsewhere.
FOREIGN = "headrace:"
QUIRKS = frozenset(
    (
        "beta",
        "cache_system_characters_min",
        "cache_ttl",
        "extra_body",
        "late_system_role",
        "line_bytes_max",
        "max_tokens_default",
        "path",
        "thinking",
        "version",
    )
)

_encode = msgspec.json.Encoder().encode
_BUDGETS = {"minimal": 1024, "low": 1024, "medium": 4096, "high": 16384, "xhigh": 32768, "max": 32768}
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,(.*)", re.DOTALL)
_NOT_IN_IDS = re.compile(r"[^a-zA-Z0-9_-]")

_Role: TypeAlias = Literal["user", "assistant", "system"]


def build_request(request: ChatRequest, model: str, quirks: Mapping[str, object]) -> UpstreamRequest:
    """Return the request for `model`.

    Raises:
        BadRequest: something cannot be said in this dialect; `field` names it.
    """
    system, messages = _conversation(request, quirks)
    body: dict[str, Any] = {"model": model, "max_tokens": _max_tokens(request, quirks), "messages": messages, "stream": True}
    if system:
        body["system"] = system
    body |= _thinking(request, quirks)
    if request.answer_format is not None:
        body["output_config"] = {**body.get("output_config", {}), "format": _format(request.answer_format)}
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.top_p is not None:
        body["top_p"] = request.top_p
    if request.top_k is not None:
        body["top_k"] = request.top_k
    if request.stop:
        body["stop_sequences"] = request.stop
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
    if (choice := _tool_choice(request)) is not None:
        body["tool_choice"] = choice
    user_id = (request.metadata or {}).get("user_id")
    if isinstance(user_id, str):
        body["metadata"] = {"user_id": user_id}
    return _upstream(body, quirks)


def forward_request(body: dict[str, Any], model: str, quirks: Mapping[str, object]) -> UpstreamRequest:
    """Return a client's own body for `model`: streamed, without what only other providers can read, and otherwise as it came."""
    forwarded = {**body, "model": model, "stream": True}
    if _is_marked(body):
        forwarded["messages"] = [own for message in body["messages"] if (own := _without_foreign(message)) is not None]
    return _upstream(forwarded, quirks)


def _upstream(body: dict[str, Any], quirks: Mapping[str, object]) -> UpstreamRequest:
    extra = quirks.get("extra_body")
    if isinstance(extra, Mapping):
        body |= extra
    _mark_cache(body, quirks)
    return UpstreamRequest(path=str(quirks.get("path") or "/v1/messages"), body=_encode(body), headers=_headers(quirks))


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


# --- what other providers made ---------------------------------------------------------------------------------------


def _is_marked(body: dict[str, Any]) -> bool:
    return any(
        _is_foreign(block) or _foreign_citations(block) for turn in _dicts(body.get("messages")) for block in _dicts(turn.get("content"))
    )


def _is_foreign(block: dict[str, Any]) -> bool:
    seal = block.get({"thinking": "signature", "redacted_thinking": "data"}.get(str(block.get("type")), ""))
    return isinstance(seal, str) and seal.startswith(FOREIGN)


def _foreign_citations(block: dict[str, Any]) -> bool:
    return any(str(citation.get("encrypted_index")).startswith(FOREIGN) for citation in _dicts(block.get("citations")))


def _without_foreign(message: Any) -> Any:
    """Return a turn without what is marked; None if nothing else was in it."""
    if not isinstance(message, dict) or not isinstance(message.get("content"), list):
        return message
    content: list[Any] = []
    for block in message["content"]:
        if not isinstance(block, dict):
            content.append(block)
        elif _foreign_citations(block):
            content.append({name: value for name, value in block.items() if name != "citations"})
        elif not _is_foreign(block):
            content.append(block)
    return {**message, "content": content} if content or not message["content"] else None


# --- the cache -------------------------------------------------------------------------------------------------------


def _mark_cache(body: dict[str, Any], quirks: Mapping[str, object]) -> None:
    """Put a breakpoint behind a long system prompt, unless the request knows better."""
    least = quirks.get("cache_system_characters_min")
    if not isinstance(least, int) or least <= 0 or _marks_cache(body):
        return
    system = body.get("system")
    blocks = [{"type": "text", "text": system}] if isinstance(system, str) else _dicts(system)
    texts = [text for block in blocks if isinstance(text := block.get("text"), str)]
    malformed = isinstance(system, list) and len(blocks) != len(system)
    if blocks and not malformed and sum(map(len, texts)) >= least:
        ttl = quirks.get("cache_ttl")
        mark = {"type": "ephemeral", "ttl": ttl} if isinstance(ttl, str) else {"type": "ephemeral"}
        body["system"] = [*blocks[:-1], {**blocks[-1], "cache_control": mark}]


def _marks_cache(body: dict[str, Any]) -> bool:
    """Whether the request sets `cache_control` in any of the places where the API looks for it."""
    blocks = _dicts(body.get("system")) + _dicts(body.get("tools"))
    for message in _dicts(body.get("messages")):
        content = _dicts(message.get("content"))
        blocks += content
        for block in content:
            blocks += _dicts(block.get("content"))
    return any(shape.get("cache_control") for shape in (body, *blocks))


def _dicts(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


# --- messages --------------------------------------------------------------------------------------------------------


def _conversation(request: ChatRequest, quirks: Mapping[str, object]) -> tuple[str, list[dict[str, Any]]]:
    """Return the system prompt and the turns, in which neighbours of one role are one message: results of tools that were
    called together have to come together. A system message behind others is said in its place, in the role that the models take it in."""
    system = [request.system] if request.system else []
    messages: list[dict[str, Any]] = []
    for position, message in enumerate(request.messages):
        where = f"messages[{position}].content"
        if message.role == "system" and not messages:
            system.append(text_only(message, where))
            continue
        role: _Role = "assistant" if message.role == "assistant" else "user"
        if message.role == "system":
            role = "system" if quirks.get("late_system_role") == "system" else "user"
            content: list[dict[str, Any]] = [{"type": "text", "text": text_only(message, where)}]
        else:
            content = _content(message, where)
        if not content:
            if role == "assistant":
                continue
            raise BadRequest("A message needs content.", field=where)
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] = _results_first([*messages[-1]["content"], *content])
        else:
            messages.append({"role": role, "content": content})
    if not messages:
        raise BadRequest("This provider needs a message that is not a system message.", field="messages")
    return "\n\n".join(system), messages


def _content(message: Message, where: str) -> list[dict[str, Any]]:
    if message.role == "tool" and isinstance(message.content, str):
        raise BadRequest("A tool message needs tool_result parts, which name the call that they answer.", field=where)
    content: list[dict[str, Any]] = []
    for position, part in enumerate(message.parts()):
        block = _block(part, message, f"{where}[{position}]")
        if block is not None:
            content.append(block)
    return _results_first(content)


def _results_first(content: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the blocks as the API wants them: results of tools stand before everything else in their message."""
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
            return _thinking_block(part)
        case ToolCallPart(), "assistant":
            return {"type": "tool_use", "id": api_id(part.tool_call_id), "name": part.name, "input": part.arguments}
        case ToolResultPart(), "user" | "tool":
            block = {"type": "tool_result", "tool_use_id": api_id(part.tool_call_id), "content": _result(part, where)}
            return block if part.ok else block | {"is_error": True}
        case _:
            raise misplaced(part, message, where)


def _thinking_block(part: ThinkingPart) -> dict[str, Any] | None:
    """Return reasoning that this API signed or sealed itself. What has a colon in it comes from a decoder of another dialect."""
    seal = part.signature if part.redacted is None else part.redacted
    if not seal or ":" in seal:
        return None
    if part.redacted is not None:
        return {"type": "redacted_thinking", "data": seal}
    return {"type": "thinking", "thinking": part.text, "signature": seal}


def _result(part: ToolResultPart, where: str) -> str | list[dict[str, Any]]:
    if isinstance(part.content, str):
        return part.content
    content: list[dict[str, Any]] = []
    for position, item in enumerate(part.content):
        if isinstance(item, ImagePart):
            content.append({"type": "image", "source": _image_source(item, f"{where}.content[{position}]")})
        elif item.text:
            content.append({"type": "text", "text": item.text})
    return content


def _image_source(part: ImagePart, where: str) -> dict[str, Any]:
    if part.url and not part.data:
        if match := _DATA_URL.fullmatch(part.url):
            return {"type": "base64", "media_type": match[1], "data": match[2]}
        return {"type": "url", "url": part.url}
    if part.data and part.media_type and not part.url:
        return {"type": "base64", "media_type": part.media_type, "data": part.data}
    raise BadRequest("An image needs either url, or data and media_type.", field=where)


def api_id(tool_call_id: str) -> str:
    """The API takes fewer characters in an id than others do; calls and their results change alike."""
    return _NOT_IN_IDS.sub("_", tool_call_id) or "_"


# --- options ---------------------------------------------------------------------------------------------------------


def _tool(tool: Tool) -> dict[str, Any]:
    shape: dict[str, Any] = {"name": tool.name, "input_schema": tool.parameters or {"type": "object", "properties": {}}}
    if tool.description is not None:
        shape["description"] = tool.description
    return shape


def _tool_choice(request: ChatRequest) -> dict[str, object] | None:
    choice = request.tool_choice
    if request.tools and request.parallel_tool_calls is False and choice != "none":
        return {**_named_choice(request, choice or "auto"), "disable_parallel_tool_use": True}
    if choice is None or (choice in ("auto", "none") and not request.tools):
        return None
    return _named_choice(request, choice)


def _named_choice(request: ChatRequest, choice: str) -> dict[str, object]:
    if request.tools:
        if choice in ("auto", "none"):
            return {"type": choice}
        if choice == "required":
            return {"type": "any"}
        if any(tool.name == choice for tool in request.tools):
            return {"type": "tool", "name": choice}
    raise BadRequest("tool_choice is auto, none, required, or the name of one of the tools.", field="tool_choice")


def _format(form: AnswerFormat) -> dict[str, Any]:
    """Every schema is strict here, and has no name."""
    if form.json_schema is None:
        field = "answer_format.type" if form.type == "json_object" else "answer_format.json_schema"
        raise BadRequest("This provider gives JSON only by a schema: send json_schema.", field=field)
    return {"type": "json_schema", "schema": form.json_schema}


def _budget_tokens(request: ChatRequest, quirks: Mapping[str, object]) -> int | None:
    """Return the tokens that the model may think for, None where it does not think or decides itself."""
    thinking = request.thinking
    if thinking is None or thinking is False or quirks.get("thinking") == "adaptive":
        return None
    if not isinstance(thinking, bool):
        if thinking.budget_tokens is not None:
            return max(BUDGET_TOKENS_MIN, thinking.budget_tokens)
        if thinking.effort == "none":
            return None
    budget = _BUDGETS["medium" if isinstance(thinking, bool) else thinking.effort or "medium"]
    if request.max_tokens is None:
        return budget
    budget = min(budget, request.max_tokens // 2)
    return budget if budget >= BUDGET_TOKENS_MIN else None


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
    if quirks.get("thinking") != "adaptive":
        return {}
    fields: dict[str, Any] = {"thinking": {"type": "adaptive"}}
    if not isinstance(thinking, bool) and thinking.effort is not None:
        fields["output_config"] = {"effort": "low" if thinking.effort == "minimal" else thinking.effort}
    return fields
