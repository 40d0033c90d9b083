"""Our request as the body of `POST /responses`.

https://platform.openai.com/docs/api-reference/responses/create

The conversation is a flat list of items: messages, calls, results and reasoning. What has no place there:

- `stop` and `top_k` do not exist, and are refused. `ok` of a tool's result is told by its content.
- Reasoning goes back as it came, by its `encrypted_content`, which is the `signature` (or `redacted`) of our thinking parts; the
  thinking parts before it that have neither are its other summaries. Reasoning that was not encrypted, or signed by a provider of
  another dialect, is left out, unless the vendor wants it back as text; and so is reasoning that no text and no call follows: the API
  refuses it.

A client's own body goes on as it came, but for reasoning that this relay told in the place of a provider of another dialect: nobody
here could read what is sealed in it.

What vendors want differently is data in their configuration, never a comparison of a name here; `VENDORS` has such data for those that
are known. The quirks:

- `store` (false): let the provider keep the answer. Without it, the reasoning is asked for in encrypted form.
- `encrypted_reasoning` (true): whether the vendor knows `include: ["reasoning.encrypted_content"]`.
- `reasoning_ids` (true): send the ids of reasoning back. A vendor may look them up, and then miss those that it did not store.
- `reasoning_text` (false): whether the vendor takes reasoning back as text, where it was not encrypted.
- `reasoning_effort` (true): whether the vendor knows that field. A token budget is sent as the effort that is nearest to it.
- `efforts` (all): the efforts that it knows. Any other is sent as the nearest; "none" is left out where it is not known.
- `reasoning_summary` ("auto"): which summary of its reasoning to ask for; false for none.
- `system_role` ("system"): of system messages inside the conversation; or "developer".
- `user` (true): send `metadata.user_id` as `user`.
- `send_metadata` (false): send `metadata` along.
- `extra_body`: more fields, which stand above ours.
- `path` ("/responses"), `api_version` (none): where to; the second as Azure's `api-version`.
- `line_bytes_max`: of the decoder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import msgspec

from headrace.errors import BadRequest
from headrace.protocol.dialects.effort import EFFORTS, nearest, wished
from headrace.protocol.dialects.openai_responses.item import unseal
from headrace.protocol.dialects.parts import image_url, metadata_fields, misplaced, text_only
from headrace.protocol.request import (
    AnswerFormat,
    ChatRequest,
    ImagePart,
    Message,
    TextPart,
    ThinkingPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
    UpstreamRequest,
)

_encode = msgspec.json.Encoder().encode
# The id of an item of reasoning that the relay's own surface told, and the mark of what is sealed in one by another vendor.
_OWN_ID = re.compile(r"rs_[0-9a-f]{32}_\d+")
_FOREIGN = "redacted:"

QUIRKS = frozenset(
    (
        "store",
        "encrypted_reasoning",
        "reasoning_effort",
        "reasoning_summary",
        "reasoning_ids",
        "reasoning_text",
        "efforts",
        "user",
        "api_version",
        "system_role",
        "send_metadata",
        "extra_body",
        "path",
        "line_bytes_max",
    )
)
# What is known of vendors, as of 2026; whoever knows better sets the quirk. One without an entry here needs none that is known.
VENDORS: dict[str, dict[str, object]] = {
    "openai": {},
    "azure": {},  # below …/openai/v1
    # Where the model called tools, it needs its reasoning to go on.
    "deepseek": {"reasoning_text": True, "efforts": ("high", "max")},
    "openrouter": {"efforts": EFFORTS[:-1]},
    # Its models differ in whether they know an effort, and those that do not refuse the request.
    "xai": {"reasoning_effort": False},
}


def build_request(request: ChatRequest, model: str, quirks: Mapping[str, object]) -> UpstreamRequest:
    """Return the request for `model`.

    Raises:
        BadRequest: something cannot be said in this dialect; `field` names it.
    """
    if request.stop:
        raise BadRequest("This provider knows no stop sequences. Leave `stop` out.", field="stop")
    if request.top_k is not None:
        raise BadRequest("This provider knows no top_k. Leave it out, or use top_p.", field="top_k")
    store = bool(quirks.get("store", False))
    body: dict[str, Any] = {"model": model, "input": _input(request, quirks), "stream": True, "store": store}
    if request.system:
        body["instructions"] = request.system
    if request.max_tokens is not None:
        body["max_output_tokens"] = request.max_tokens
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.top_p is not None:
        body["top_p"] = request.top_p
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
    if (choice := _tool_choice(request)) is not None:
        body["tool_choice"] = choice
    if request.parallel_tool_calls is not None and request.tools:
        body["parallel_tool_calls"] = request.parallel_tool_calls
    if request.answer_format is not None:
        body["text"] = {"format": _format(request.answer_format)}
    body |= _reasoning(request, quirks, store=store) | metadata_fields(
        request, user=bool(quirks.get("user", True)), send=bool(quirks.get("send_metadata", False))
    )
    return _upstream(body, quirks)


def forward_request(body: dict[str, Any], model: str, quirks: Mapping[str, object]) -> UpstreamRequest:
    """Return a client's own body for `model`: streamed, and otherwise as it came.

    `background` is not the provider's business: an answer goes on without its reader here, and can be read again from here.
    """
    forwarded = {**body, "model": model, "stream": True}
    forwarded.pop("background", None)
    items = body.get("input")
    if isinstance(items, list) and any(_is_foreign(item) for item in items):
        forwarded["input"] = [item for item in items if not _is_foreign(item)]
    return _upstream(forwarded, quirks)


def _is_foreign(item: object) -> bool:
    if not isinstance(item, dict) or item.get("type") != "reasoning":
        return False
    id, sealed = item.get("id"), item.get("encrypted_content")
    return (isinstance(id, str) and _OWN_ID.fullmatch(id) is not None) or (isinstance(sealed, str) and sealed.startswith(_FOREIGN))


def _upstream(body: dict[str, Any], quirks: Mapping[str, object]) -> UpstreamRequest:
    extra = quirks.get("extra_body")
    if isinstance(extra, Mapping):
        body |= extra
    path = str(quirks.get("path") or "/responses")
    if version := quirks.get("api_version"):
        path += f"{'&' if '?' in path else '?'}api-version={quote(str(version), safe='')}"
    return UpstreamRequest(path=path, body=_encode(body))


def auth_headers(api_key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {api_key}"}


# --- the conversation ------------------------------------------------------------------------------------------------


def _input(request: ChatRequest, quirks: Mapping[str, object]) -> list[dict[str, Any]]:
    system_role = str(quirks.get("system_role") or "system")
    items: list[dict[str, Any]] = []
    for position, message in enumerate(request.messages):
        where = f"messages[{position}].content"
        if not message.parts():
            raise BadRequest("A message needs content.", field=where)
        match message.role:
            case "system":
                items.append({"role": system_role, "content": text_only(message, where)})
            case "user":
                items += _user(message, where)
            case "assistant":
                items += _assistant(message, where, quirks)
            case "tool":
                items += _tool_results(message, where)
    return _without_loose_reasoning(items)


def _user(message: Message, where: str) -> list[dict[str, Any]]:
    """Results of tools are items of their own, and stand before the rest: they answer what the assistant just said."""
    if isinstance(message.content, str):
        return [{"role": "user", "content": message.content}]
    results: list[dict[str, Any]] = []
    content: list[dict[str, Any]] = []
    for position, part in enumerate(message.content):
        at = f"{where}[{position}]"
        match part:
            case TextPart() | ImagePart():
                content.append(_content(part, at))
            case ToolResultPart():
                results.append(_tool_result(part, at))
            case _:
                raise misplaced(part, message, at)
    return [*results, {"role": "user", "content": content}] if content else results


def _assistant(message: Message, where: str, quirks: Mapping[str, object]) -> list[dict[str, Any]]:
    """Return text, calls and reasoning in their order; neighbouring texts are one message."""
    items: list[dict[str, Any]] = []
    summaries: list[str] = []
    for position, part in enumerate(message.parts()):
        if any(summaries) and quirks.get("reasoning_text") and not isinstance(part, ThinkingPart):
            items.append({"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "".join(summaries)}]})
        match part:
            case TextPart(text=text):
                if items and items[-1].get("role") == "assistant":
                    items[-1]["content"] += text
                else:
                    items.append({"role": "assistant", "content": text})
            case ToolCallPart():
                arguments = _encode(part.arguments).decode()
                items.append({"type": "function_call", "call_id": part.tool_call_id, "name": part.name, "arguments": arguments})
            case ThinkingPart():
                told = part.signature or part.redacted
                sealed = unseal(told)
                # What another dialect signed is no summary of ours, but still text.
                summaries = [*summaries, part.text] if sealed or not told or quirks.get("reasoning_text") else []
                if sealed:
                    items.append(_reasoning_item(summaries, *sealed, quirks))
                    summaries = []
                continue
            case _:
                raise misplaced(part, message, f"{where}[{position}]")
        summaries = []
    return [item for item in items if item.get("content") != ""]


def _reasoning_item(summaries: list[str], id: str, sealed: str, quirks: Mapping[str, object]) -> dict[str, Any]:
    summary = [{"type": "summary_text", "text": text} for text in summaries if text]
    item: dict[str, Any] = {"type": "reasoning", "summary": summary, "encrypted_content": sealed}
    return item | {"id": id} if id and quirks.get("reasoning_ids", True) else item


def _without_loose_reasoning(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kept: list[dict[str, Any]] = []
    follows = False
    for item in reversed(items):
        if item.get("type") != "reasoning":
            follows = item.get("role") == "assistant" or item.get("type") == "function_call"
        elif not follows:
            continue
        kept.append(item)
    return kept[::-1]


def _tool_results(message: Message, where: str) -> list[dict[str, Any]]:
    if isinstance(message.content, str):
        raise BadRequest("A tool message needs tool_result parts, which name the call that they answer.", field=where)
    results: list[dict[str, Any]] = []
    for position, part in enumerate(message.content):
        if not isinstance(part, ToolResultPart):
            raise misplaced(part, message, f"{where}[{position}]")
        results.append(_tool_result(part, f"{where}[{position}]"))
    return results


def _tool_result(part: ToolResultPart, where: str) -> dict[str, Any]:
    output: object = part.content
    if not isinstance(part.content, str):
        output = [_content(inner, f"{where}.content[{position}]") for position, inner in enumerate(part.content)]
    return {"type": "function_call_output", "call_id": part.tool_call_id, "output": output}


def _content(part: TextPart | ImagePart, where: str) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "input_text", "text": part.text}
    return {"type": "input_image", "image_url": image_url(part, where), "detail": "auto"}


# --- options ---------------------------------------------------------------------------------------------------------


def _tool(tool: Tool) -> dict[str, Any]:
    """`strict` is said, because this API takes its absence for true and then refuses most schemas."""
    parameters = tool.parameters or {"type": "object", "properties": {}}
    shape: dict[str, Any] = {"type": "function", "name": tool.name, "parameters": parameters, "strict": False}
    if tool.description is not None:
        shape["description"] = tool.description
    return shape


def _tool_choice(request: ChatRequest) -> object:
    choice = request.tool_choice
    if choice is None or (choice in ("auto", "none") and not request.tools):
        return None
    if request.tools and choice in ("auto", "none", "required"):
        return choice
    if request.tools and any(tool.name == choice for tool in request.tools):
        return {"type": "function", "name": choice}
    raise BadRequest("tool_choice is auto, none, required, or the name of one of the tools.", field="tool_choice")


def _format(answer: AnswerFormat) -> dict[str, Any]:
    if answer.type == "json_object":
        return {"type": "json_object"}
    if answer.json_schema is None:
        raise BadRequest("The answer format json_schema needs a json_schema.", field="answer_format.json_schema")
    shape: dict[str, Any] = {"type": "json_schema", "name": answer.name or "answer", "schema": answer.json_schema}
    if answer.strict is not None:
        shape["strict"] = answer.strict
    return shape


def _reasoning(request: ChatRequest, quirks: Mapping[str, object], *, store: bool) -> dict[str, Any]:
    """Models that do not reason refuse these fields, so they are only sent when somebody wants reasoning."""
    effort = wished(request)
    if effort is None:
        return {}
    reasoning: dict[str, Any] = {}
    if quirks.get("reasoning_effort", True) and (known := nearest(effort, quirks.get("efforts"), EFFORTS)):
        reasoning["effort"] = known
    if effort == "none":
        return {"reasoning": reasoning} if reasoning else {}
    if summary := quirks.get("reasoning_summary", "auto"):
        reasoning["summary"] = summary
    fields: dict[str, Any] = {"reasoning": reasoning} if reasoning else {}
    if not store and quirks.get("encrypted_reasoning", True):
        fields["include"] = ["reasoning.encrypted_content"]
    return fields
