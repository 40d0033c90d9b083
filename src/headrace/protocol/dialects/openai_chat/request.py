"""Our request as the body of `POST /chat/completions`.

https://platform.openai.com/docs/api-reference/chat/create

What vendors want differently is data in their configuration, never a comparison of a name here; `VENDORS` has such data for those that
are known. The quirks:

- `include_usage` (true): ask for the usage chunk. Off for vendors that refuse `stream_options`.
- `max_tokens_field` ("max_tokens"): OpenAI's reasoning models want "max_completion_tokens". A forwarded body is changed where this is set.
- `system_role` ("system"): or "developer".
- `reasoning_effort` (true): whether the vendor knows that field. A token budget is sent as the effort that is nearest to it.
- `efforts` ("none" to "high"): the efforts that it knows. Any other is sent as the nearest; "none" is left out where it is not known.
- `thinking_type` (false): say whether to think at all as `thinking: {"type": "enabled"}` or "disabled", if the request says anything.
- `reasoning_field` (none): the field of an assistant message in which the vendor wants its reasoning back. Without one
  reasoning of earlier turns is left out, because most vendors refuse it.
- `reasoning_details` (false): send it back as OpenRouter wants it, with signatures.
- `top_k` (false): whether the vendor knows that field.
- `json_schema` (true): whether an answer can be held to a schema.
- `tool_call_id_length` (none): how many letters and digits an id must have. Other ids are replaced, calls and results alike.
- `user` (true): send `metadata.user_id` as `user`.
- `send_metadata` (false): send `metadata` along.
- `extra_body`: more fields, which stand above ours.
- `path` ("/chat/completions"), `api_version` (none): where to; the second as Azure's `api-version`.
- `line_bytes_max`: of the decoder.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import msgspec

from headrace.errors import BadRequest
from headrace.protocol.dialects.effort import EFFORTS, nearest, wished
from headrace.protocol.dialects.parts import image_url, metadata_fields, misplaced, text_only
from headrace.protocol.request import (
    AnswerFormat,
    ChatRequest,
    ImagePart,
    Message,
    TextPart,
    ThinkingOptions,
    ThinkingPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
    UpstreamRequest,
)

_encode = msgspec.json.Encoder().encode
_EFFORTS = EFFORTS[: EFFORTS.index("high") + 1]
_LOW_TO_HIGH = ("low", "medium", "high")
_MAX_TOKENS_FIELDS = ("max_tokens", "max_completion_tokens")

QUIRKS = frozenset(
    (
        "include_usage",
        "max_tokens_field",
        "system_role",
        "reasoning_effort",
        "efforts",
        "thinking_type",
        "reasoning_field",
        "reasoning_details",
        "top_k",
        "json_schema",
        "tool_call_id_length",
        "user",
        "send_metadata",
        "extra_body",
        "path",
        "api_version",
        "line_bytes_max",
    )
)
# What is known of vendors, as of 2026; whoever knows better sets the quirk. One without an entry here needs none that is known.
VENDORS: dict[str, dict[str, object]] = {
    "openai": {"max_tokens_field": "max_completion_tokens", "efforts": EFFORTS},
    # Below …/openai/v1. The older addresses need `api_version`, and the deployment in `path`.
    "azure": {"max_tokens_field": "max_completion_tokens", "efforts": EFFORTS},
    "cerebras": {"max_tokens_field": "max_completion_tokens", "efforts": _LOW_TO_HIGH},
    # Where the model called tools, it refuses to go on without its reasoning.
    "deepseek": {
        "max_tokens_field": "max_tokens",
        "reasoning_field": "reasoning_content",
        "thinking_type": True,
        "efforts": ("high", "max"),
        "json_schema": False,
    },
    "fireworks": {"top_k": True, "efforts": ("none", *_LOW_TO_HIGH)},
    "groq": {"max_tokens_field": "max_completion_tokens", "efforts": _LOW_TO_HIGH},
    "llama_cpp": {"top_k": True, "reasoning_field": "reasoning_content"},
    "lm_studio": {"top_k": True, "efforts": _LOW_TO_HIGH},
    # It refuses every field that it does not know, and sends its usage without being asked.
    "mistral": {
        "max_tokens_field": "max_tokens",
        "include_usage": False,
        "efforts": ("none", "high"),
        "tool_call_id_length": 9,
        "user": False,
    },
    "moonshot": {
        "max_tokens_field": "max_tokens",
        "reasoning_field": "reasoning_content",
        "thinking_type": True,
        "reasoning_effort": False,
    },
    "nvidia": {"max_tokens_field": "max_tokens", "reasoning_effort": False},
    "ollama": {"max_tokens_field": "max_tokens", "reasoning_field": "reasoning", "efforts": ("none", *_LOW_TO_HIGH)},
    "openrouter": {"reasoning_details": True, "top_k": True, "efforts": EFFORTS[:-1]},
    "perplexity": {"max_tokens_field": "max_tokens", "top_k": True, "efforts": ("minimal", *_LOW_TO_HIGH)},
    "sglang": {"top_k": True, "reasoning_field": "reasoning_content", "efforts": _LOW_TO_HIGH},
    "together": {"max_tokens_field": "max_tokens", "top_k": True, "reasoning_effort": False},
    "vllm": {"top_k": True, "reasoning_field": "reasoning", "efforts": _LOW_TO_HIGH},
    # Its models differ in whether they know an effort, and those that do not refuse the request.
    "xai": {"max_tokens_field": "max_completion_tokens", "reasoning_effort": False},
    "zai": {
        "max_tokens_field": "max_tokens",
        "reasoning_field": "reasoning_content",
        "thinking_type": True,
        "reasoning_effort": False,
        "json_schema": False,
    },
}


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
    if request.top_k is not None:
        if not quirks.get("top_k"):
            raise BadRequest("This provider does not take top_k. Use top_p instead.", field="top_k")
        body["top_k"] = request.top_k
    if request.stop:
        body["stop"] = request.stop
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
        if request.parallel_tool_calls is not None:
            body["parallel_tool_calls"] = request.parallel_tool_calls
    if (choice := _tool_choice(request)) is not None:
        body["tool_choice"] = choice
    if request.answer_format is not None:
        body["response_format"] = _answer_format(request.answer_format, quirks)
    effort = wished(request) if quirks.get("reasoning_effort", True) else None
    if effort is not None and (known := nearest(effort, quirks.get("efforts"), _EFFORTS)):
        body["reasoning_effort"] = known
    if quirks.get("thinking_type") and request.thinking is not None:
        body["thinking"] = {"type": "enabled" if _thinks(request.thinking) else "disabled"}
    body |= metadata_fields(request, user=bool(quirks.get("user", True)), send=bool(quirks.get("send_metadata", False)))
    return _upstream(body, quirks)


def forward_request(body: dict[str, Any], model: str, quirks: Mapping[str, object]) -> UpstreamRequest:
    """Return a client's own body for `model`: streamed, with the usage chunk asked for, and otherwise as it came.

    Two fields are changed where a quirk says that the vendor refuses them: the limit of tokens gets its other name, and the wish for
    usage is taken out.
    """
    forwarded = {**body, "model": model, "stream": True}
    given = body.get("stream_options")
    options = dict(given) if isinstance(given, dict) else {}
    if quirks.get("include_usage", True):
        options["include_usage"] = True
    else:
        options.pop("include_usage", None)
    if options:
        forwarded["stream_options"] = options
    else:
        forwarded.pop("stream_options", None)
    wanted = quirks.get("max_tokens_field")
    for name in _MAX_TOKENS_FIELDS:
        if wanted in _MAX_TOKENS_FIELDS and name != wanted and name in forwarded and forwarded.get(wanted) is None:
            forwarded[wanted] = forwarded.pop(name)
    return _upstream(forwarded, quirks)


def _upstream(body: dict[str, Any], quirks: Mapping[str, object]) -> UpstreamRequest:
    extra = quirks.get("extra_body")
    if isinstance(extra, Mapping):
        body |= extra
    path = str(quirks.get("path") or "/chat/completions")
    if version := quirks.get("api_version"):
        path += f"{'&' if '?' in path else '?'}api-version={quote(str(version), safe='')}"
    return UpstreamRequest(path=path, body=_encode(body))


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
                messages.append({"role": system_role, "content": text_only(message, where)})
            case "user":
                messages += _user(message, where, quirks)
            case "assistant":
                messages.append(_assistant(message, where, quirks))
            case "tool":
                messages += _tool_results(message, where, quirks)
    return messages


def _user(message: Message, where: str, quirks: Mapping[str, object]) -> list[dict[str, Any]]:
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
                content.append({"type": "image_url", "image_url": {"url": image_url(part, f"{where}[{position}]")}})
            case ToolResultPart():
                results.append(_tool_result(part, f"{where}[{position}]", quirks))
            case _:
                raise misplaced(part, message, f"{where}[{position}]")
    return [*results, {"role": "user", "content": content}] if content else results


def _assistant(message: Message, where: str, quirks: Mapping[str, object]) -> dict[str, Any]:
    texts: list[str] = []
    thinking: list[ThinkingPart] = []
    calls: list[dict[str, Any]] = []
    for position, part in enumerate(message.parts()):
        match part:
            case TextPart(text=text):
                texts.append(text)
            case ThinkingPart():
                thinking.append(part)
            case ToolCallPart():
                function = {"name": part.name, "arguments": _encode(part.arguments).decode()}
                calls.append({"id": _call_id(part.tool_call_id, quirks), "type": "function", "function": function})
            case _:
                raise misplaced(part, message, f"{where}[{position}]")
    shape: dict[str, Any] = {"role": "assistant", "content": "".join(texts) if texts or not calls else None}
    if calls:
        shape["tool_calls"] = calls
    field = quirks.get("reasoning_field")
    if isinstance(field, str) and (told := "".join(part.text for part in thinking)):
        shape[field] = told
    if quirks.get("reasoning_details") and thinking:
        shape["reasoning_details"] = [_reasoning_detail(part, index) for index, part in enumerate(thinking)]
    return shape


def _reasoning_detail(part: ThinkingPart, index: int) -> dict[str, Any]:
    if part.redacted is not None:
        return {"type": "reasoning.encrypted", "data": part.redacted, "index": index}
    detail: dict[str, Any] = {"type": "reasoning.text", "text": part.text, "index": index}
    if part.signature is not None:
        detail["signature"] = part.signature
    return detail


def _tool_results(message: Message, where: str, quirks: Mapping[str, object]) -> list[dict[str, Any]]:
    if isinstance(message.content, str):
        raise BadRequest("A tool message needs tool_result parts, which name the call that they answer.", field=where)
    results: list[dict[str, Any]] = []
    for position, part in enumerate(message.content):
        if not isinstance(part, ToolResultPart):
            raise misplaced(part, message, f"{where}[{position}]")
        results.append(_tool_result(part, f"{where}[{position}]", quirks))
    return results


def _tool_result(part: ToolResultPart, where: str, quirks: Mapping[str, object]) -> dict[str, Any]:
    """The dialect has no place for `ok`: what went wrong is told by the content."""
    texts: list[str] = []
    for position, item in enumerate(part.content if isinstance(part.content, list) else [TextPart(part.content)]):
        if isinstance(item, ImagePart):
            message = "This provider takes only text as a tool's result. Send the image in a user message."
            raise BadRequest(message, field=f"{where}.content[{position}]")
        texts.append(item.text)
    return {"role": "tool", "tool_call_id": _call_id(part.tool_call_id, quirks), "content": "\n\n".join(texts)}


def _call_id(id: str, quirks: Mapping[str, object]) -> str:
    """Return the id, or one of the length that the vendor wants, which is the same whenever it is made of the same id."""
    length = quirks.get("tool_call_id_length")
    if not isinstance(length, int) or re.fullmatch(f"[a-zA-Z0-9]{{{length}}}", id):
        return id
    return hashlib.sha256(id.encode("utf-8", "replace")).hexdigest()[:length]


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


def _answer_format(form: AnswerFormat, quirks: Mapping[str, object]) -> dict[str, Any]:
    if form.type == "json_object":
        return {"type": "json_object"}
    if not quirks.get("json_schema", True):
        message = "This provider cannot hold an answer to a schema. Use json_object, and describe the schema in the prompt."
        raise BadRequest(message, field="answer_format.type")
    schema: dict[str, Any] = {"name": form.name or "answer", "schema": form.json_schema or {"type": "object"}}
    if form.strict is not None:
        schema["strict"] = form.strict
    return {"type": "json_schema", "json_schema": schema}


def _thinks(thinking: bool | ThinkingOptions) -> bool:
    return thinking if isinstance(thinking, bool) else thinking.effort != "none"
