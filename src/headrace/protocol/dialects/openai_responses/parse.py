"""The body of `POST /v1/responses` as a `ChatRequest`.

https://platform.openai.com/docs/api-reference/responses/create

`background` and `stream` are the server's business. What cannot be said to a provider of another dialect and would change the answer is
refused. What changes nothing about its meaning is dropped:

- `store`, `include`, `truncation`, `service_tier`, `safety_identifier`, `prompt_cache_key`, `prompt_cache_options`,
  `prompt_cache_retention`, `access_programs`, `stream_options`, `max_tool_calls` (it counts built-in tools only);
- of `reasoning` all but the effort, of `text` the verbosity, of a tool `strict` and what is not its name, description and parameters;
- ids and statuses of items, the `phase` of messages, and the `detail` of images;
- `tool_choice` `allowed_tools` keeps only those tools; the description of a namespace.

Items in a row that one turn of the assistant is made of (reasoning, text, calls) become one message, and so do the results of calls that
stand together: other providers want them so. Reasoning that carries `encrypted_content` goes back as it was told (see `response`,
note 4); any other reasoning is text without a signature.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from headrace.errors import BadRequest
from headrace.protocol.dialects.openai_responses.namespaces import flat_name, name_for_providers
from headrace.protocol.dialects.openai_responses.response import REDACTED
from headrace.protocol.lenient import encodable
from headrace.protocol.request import (
    AnswerFormat,
    ChatRequest,
    ImagePart,
    Message,
    Part,
    Role,
    TextPart,
    ThinkingOptions,
    ThinkingPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
)

_T = TypeVar("_T")
_N = TypeVar("_N", int, float)

_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_ONLY_OPENAI = "Only a provider that speaks OpenAI Responses can do that."
_ITEM_ID = re.compile(r"(?:msg|rs|fc)_([0-9a-f]{32})_\d+")
_decode = msgspec.json.Decoder().decode


def parse(body: dict[str, Any]) -> ChatRequest:
    """Return the request in our words.

    Raises:
        BadRequest: it is not valid, or cannot be said in our words; `field` names what.
    """
    _refuse(body)
    tools = _tools(body)
    choice, tools = _tool_choice(body, tools)
    request = ChatRequest(
        messages=_messages(body),
        model=_get(body, "model", str),
        system=_get(body, "instructions", str) or None,
        max_tokens=_number(body, "max_output_tokens", int, least=1),
        temperature=_number(body, "temperature", float, least=0, most=2),
        top_p=_number(body, "top_p", float, least=0, most=1),
        tools=tools or None,
        tool_choice=choice,
        parallel_tool_calls=_get(body, "parallel_tool_calls", bool),
        answer_format=_answer_format(body),
        thinking=_thinking(body),
        metadata=_metadata(body),
    )
    if request.model is not None and not 1 <= len(request.model) <= 512:
        raise BadRequest("The model's name must have 1 to 512 characters.", field="model")
    return request


def with_items(body: dict[str, Any], find: Callable[[str, str], dict[str, Any] | None]) -> dict[str, Any]:
    """Return `body` with the items that it only refers to.

    Clients that take it that every response is stored (the AI SDK does unless told otherwise) send back ids of items. Ours tell which
    response they are of: `find` is given that response's id and the item's, and returns the item where it is still known.
    """
    items = body.get("input")
    if not isinstance(items, list):
        return body
    found = [_referred(item, find) or item for item in items]
    return body | {"input": found} if found != items else body


def _referred(item: object, find: Callable[[str, str], dict[str, Any] | None]) -> dict[str, Any] | None:
    if not isinstance(item, dict) or item.get("type") not in (None, "item_reference") or "role" in item:
        return None
    name = item.get("id")
    match = _ITEM_ID.fullmatch(name) if isinstance(name, str) else None
    return find(f"resp_{match[1]}", match[0]) if match else None


def _refuse(body: dict[str, Any]) -> None:
    """Refuse what only the API's own servers could do."""
    for name in ("previous_response_id", "conversation"):
        if body.get(name) is not None:
            raise BadRequest(f"Nothing of an earlier response is kept for {name}. Send the earlier turns in input.", field=name)
    if body.get("prompt") is not None:
        raise BadRequest(f"A stored prompt cannot be used here: send instructions and input. {_ONLY_OPENAI}", field="prompt")
    for name in ("context_management", "moderation"):
        if body.get(name):
            raise BadRequest(f"{name} cannot be passed on: leave it out. {_ONLY_OPENAI}", field=name)
    include = body.get("include")
    if body.get("top_logprobs") or (isinstance(include, list) and "message.output_text.logprobs" in include):
        field = "top_logprobs" if body.get("top_logprobs") else "include"
        raise BadRequest(f"Log probabilities cannot be had here: leave them out. {_ONLY_OPENAI}", field=field)


# --- input -----------------------------------------------------------------------------------------------------------


def _messages(body: dict[str, Any]) -> list[Message]:
    value = body.get("input")
    if isinstance(value, str):
        return [Message(role="user", content=value)]
    if not isinstance(value, list) or not value:
        raise BadRequest("input is text, or a list of items with at least one in it.", field="input")
    turns: list[tuple[Role, list[Part]]] = []
    for position, item in enumerate(value):
        where = f"input[{position}]"
        role, parts = _item(_object(item, where), where)
        # Whoever speaks in several items in a row has one turn, but each message of a user or a system stays one.
        if turns and role in ("assistant", "tool") and turns[-1][0] == role:
            turns[-1][1].extend(parts)
        else:
            turns.append((role, parts))
    messages = [Message(role=role, content=parts) for role, parts in turns if parts or role != "assistant"]
    if not messages:
        raise BadRequest("input holds nothing that could be answered.", field="input")
    return messages


def _item(item: dict[str, Any], where: str) -> tuple[Role, list[Part]]:
    kind = item.get("type")
    if kind is None:
        kind = "message" if "role" in item else "item_reference" if "id" in item else None
    match kind:
        case "message":
            return _message(item, where)
        case "function_call":
            return "assistant", [_call(item, where)]
        case "function_call_output":
            return "tool", [_call_output(item, where)]
        case "reasoning":
            return "assistant", _reasoning(item, where)
        case "item_reference":
            message = "No item is stored here under that id. Send the item itself, as clients do when `store` is false."
            raise BadRequest(message, field=where)
        case str():
            raise BadRequest(f"An item of type {kind[:64]} cannot be translated. {_ONLY_OPENAI}", field=f"{where}.type")
        case _:
            raise BadRequest("An item needs a type, or a role.", field=f"{where}.type")


def _message(item: dict[str, Any], where: str) -> tuple[Role, list[Part]]:
    role, content = item.get("role"), item.get("content")
    texts_only = role != "user"
    match role:
        case "user" | "assistant" | "system":
            known: Role = role
        case "developer":
            known = "system"
        case _:
            raise BadRequest("A message's role is user, assistant, system or developer.", field=f"{where}.role")
    if isinstance(content, str):
        return known, [TextPart(content)] if content or known != "assistant" else []
    return known, [_part(part, where, texts_only=texts_only) for where, part in _list(content, f"{where}.content")]


def _part(part: dict[str, Any], where: str, *, texts_only: bool) -> TextPart | ImagePart:
    match part.get("type"):
        case "input_text" | "output_text" | "text":
            return TextPart(_required(part, "text", where, empty=True))
        case "refusal":
            return TextPart(_required(part, "refusal", where, empty=True))
        case "input_image" if not texts_only:
            return _image(part, where)
        case "input_file" | "input_audio" as kind:
            raise BadRequest(f"A part of type {kind} cannot be translated: send its text instead. {_ONLY_OPENAI}", field=f"{where}.type")
        case _:
            raise BadRequest(f"A part here is {'text' if texts_only else 'input_text or input_image'}.", field=f"{where}.type")


def _image(part: dict[str, Any], where: str) -> ImagePart:
    if part.get("image_url") is None and part.get("file_id") is not None:
        raise BadRequest("Files are not stored here: send the image in image_url, as a data URL.", field=f"{where}.file_id")
    url = _required(part, "image_url", where)
    head, comma, data = url.partition(",")
    if comma and head.startswith("data:") and head.endswith(";base64"):
        return ImagePart(data=data, media_type=head[len("data:") : -len(";base64")])
    return ImagePart(url=url)


def _call(item: dict[str, Any], where: str) -> ToolCallPart:
    text = _required(item, "arguments", where, empty=True)
    try:
        arguments = encodable(_decode(text)) if text.strip() else {}
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise BadRequest("The arguments of a call are a JSON object, as text.", field=f"{where}.arguments")
    name = name_for_providers(item, _required(item, "name", where))
    return ToolCallPart(tool_call_id=_required(item, "call_id", where), name=name, arguments=arguments)


def _call_output(item: dict[str, Any], where: str) -> ToolResultPart:
    call_id, output = _required(item, "call_id", where), item.get("output")
    if isinstance(output, str):
        return ToolResultPart(tool_call_id=call_id, content=output)
    parts = [_part(part, at, texts_only=False) for at, part in _list(output, f"{where}.output")]
    return ToolResultPart(tool_call_id=call_id, content=parts)


def _reasoning(item: dict[str, Any], where: str) -> list[Part]:
    content = [_required(part, "text", at, empty=True) for at, part in _list(item.get("content") or [], f"{where}.content")]
    summary = [_required(part, "text", at, empty=True) for at, part in _list(item.get("summary") or [], f"{where}.summary")]
    text = "".join(content) or "\n\n".join(summary)
    sealed = _get(item, "encrypted_content", str, where=where)
    if sealed and sealed.startswith(REDACTED):
        return [ThinkingPart(redacted=sealed.removeprefix(REDACTED))]
    return [ThinkingPart(text=text, signature=sealed or None)] if text or sealed else []


# --- options ---------------------------------------------------------------------------------------------------------


def _tools(body: dict[str, Any]) -> list[Tool]:
    tools: list[Tool] = []
    for where, tool in _list(body.get("tools") or [], "tools"):
        if tool.get("type") == "namespace":
            namespace = _required(tool, "name", where)
            tools += [_function(one, at, namespace) for at, one in _list(tool.get("tools") or [], f"{where}.tools")]
        else:
            tools.append(_function(tool, where, ""))
    return tools


def _function(tool: dict[str, Any], where: str, namespace: str) -> Tool:
    kind = tool.get("type")
    if kind != "function":
        name = kind[:64] if isinstance(kind, str) else "no type"
        raise BadRequest(f"A tool of type {name} cannot be run here, only functions: leave it out. {_ONLY_OPENAI}", field=f"{where}.type")
    name = _required(tool, "name", where)
    name = flat_name(namespace, name) if namespace else name
    if len(name) > 128:
        raise BadRequest("A tool's name has at most 128 characters, with its namespace.", field=f"{where}.name")
    parameters = _get(tool, "parameters", dict, where=where) or {}
    return Tool(name=name, description=_get(tool, "description", str, where=where), parameters=parameters)


def _tool_choice(body: dict[str, Any], tools: list[Tool]) -> tuple[str | None, list[Tool]]:
    """Return the choice in our words, and the tools that may be chosen."""
    choice = body.get("tool_choice")
    if choice is None or choice in ("auto", "none", "required"):
        return choice, tools
    if isinstance(choice, dict) and choice.get("type") == "function":
        return name_for_providers(choice, _required(choice, "name", "tool_choice")), tools
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools" and choice.get("mode") in ("auto", "required"):
        names = {tool.get("name") for _, tool in _list(choice.get("tools"), "tool_choice.tools") if isinstance(tool.get("name"), str)}
        allowed = [tool for tool in tools if tool.name in names]
        if not allowed:
            raise BadRequest("None of the allowed tools is among the request's functions.", field="tool_choice.tools")
        return choice["mode"], allowed
    raise BadRequest(f"tool_choice is auto, none, required, or names a function. {_ONLY_OPENAI}", field="tool_choice")


def _answer_format(body: dict[str, Any]) -> AnswerFormat | None:
    where = "text.format"
    text = _get(body, "text", dict) or {}
    shape = _get(text, "format", dict, where="text") or {}
    match shape.get("type", "text"):
        case "text":
            return None
        case "json_object":
            return AnswerFormat(type="json_object")
        case "json_schema":
            schema = _get(shape, "schema", dict, where=where)
            if schema is None:
                raise BadRequest("A format of type json_schema needs its schema.", field=f"{where}.schema")
            name, strict = _get(shape, "name", str, where=where), _get(shape, "strict", bool, where=where)
            return AnswerFormat(type="json_schema", json_schema=schema, name=name, strict=strict)
        case _:
            raise BadRequest(f"A format's type is text, json_object or json_schema. {_ONLY_OPENAI}", field=f"{where}.type")


def _thinking(body: dict[str, Any]) -> ThinkingOptions | None:
    effort = (_get(body, "reasoning", dict) or {}).get("effort")
    if effort is None:
        return None
    if effort not in _EFFORTS:
        raise BadRequest(f"reasoning.effort is one of {', '.join(_EFFORTS)}.", field="reasoning.effort")
    return ThinkingOptions(effort=effort)


def _metadata(body: dict[str, Any]) -> dict[str, Any] | None:
    """Return the metadata, in which our words keep the user."""
    metadata, user = _get(body, "metadata", dict), _get(body, "user", str)
    return {**(metadata or {}), "user_id": user} if user else metadata


# --- values ----------------------------------------------------------------------------------------------------------

_NAMES: dict[type, str] = {str: "text", bool: "true or false", dict: "an object"}


def _get(value: dict[str, Any], name: str, kind: type[_T], *, where: str = "") -> _T | None:
    """Return a member that may be absent or null."""
    found = value.get(name)
    if found is None:
        return None
    if not isinstance(found, kind):
        raise BadRequest(f"{name} must be {_NAMES[kind]}.", field=f"{where}.{name}" if where else name)
    return found


def _required(value: dict[str, Any], name: str, where: str, *, empty: bool = False) -> str:
    found = _get(value, name, str, where=where)
    if found is None or not (found or empty):
        raise BadRequest(f"{name} is needed here.", field=f"{where}.{name}")
    return found


def _number(body: dict[str, Any], name: str, kind: type[_N], *, least: float, most: float = 2**53) -> _N | None:
    found = body.get(name)
    if found is None:
        return None
    wanted = int if kind is int else (int, float)
    if not isinstance(found, wanted) or isinstance(found, bool) or not least <= found <= most:
        limit = f"from {least:g} to {most:g}" if most < 2**53 else f"of at least {least:g}"
        raise BadRequest(f"{name} must be a {'whole ' if kind is int else ''}number {limit}.", field=name)
    return kind(found)


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadRequest("This must be an object.", field=where)
    return value


def _list(value: object, where: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the objects of a list, each with its place."""
    if not isinstance(value, list):
        raise BadRequest("This must be a list.", field=where)
    return [(f"{where}[{position}]", _object(part, f"{where}[{position}]")) for position, part in enumerate(value)]
