"""A client's Chat Completions body in our words.

https://platform.openai.com/docs/api-reference/chat/create

Dropped, because the answer means the same without it: `seed`, `frequency_penalty`, `presence_penalty`, `logit_bias`, `min_p`, `verbosity`,
`prediction`, `service_tier`, `store`, `prompt_cache_key` and its options, `stream_options`, a message's `name`, an image's `detail`,
`strict` of a tool, the description of a schema, and every field that is not known here.

Refused, because the answer would be another one: `n` above 1, `logprobs`, audio, files, `functions`, tools that are no functions,
`allowed_tools`, `web_search_options`, `moderation`. A provider that speaks this dialect itself gets all of these as they are.

Beside OpenAI's own words there are those that clients of other vendors use: `reasoning_content`, `reasoning` and `reasoning_details` of
an assistant's message, and `reasoning`, `thinking` and `top_k` of the request.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from headrace.errors import BadRequest
from headrace.protocol.lenient import DEPTH_MAX
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

_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_ROLES = "system, developer, user, assistant, tool"
_NAME_CHARACTERS_MAX = 128
_MODEL_CHARACTERS_MAX = 512
_COUNT_MAX = 2**53
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)(?:;[\w.+-]+=[^;,]*)*;base64,(.*)", re.DOTALL)
_Type = TypeVar("_Type")


def parse(body: dict[str, Any]) -> ChatRequest:
    """Return the request.

    Raises:
        BadRequest: something is of the wrong type, or cannot be said to a provider of another dialect; `field` names it.
    """
    _refuse(body)
    return ChatRequest(
        messages=_messages(body.get("messages")),
        model=_name(body.get("model"), "model", _MODEL_CHARACTERS_MAX) if body.get("model") is not None else None,
        max_tokens=_max_tokens(body),
        temperature=_number(body, "temperature"),
        top_p=_number(body, "top_p", most=1),
        top_k=_count(body, "top_k"),
        stop=_stop(body.get("stop")),
        tools=_tools(body.get("tools")),
        tool_choice=_tool_choice(body.get("tool_choice")),
        parallel_tool_calls=_of(body, "parallel_tool_calls", bool, "true or false"),
        answer_format=_answer_format(body.get("response_format")),
        thinking=_thinking(body),
        metadata=_metadata(body),
    )


def _refuse(body: dict[str, Any]) -> None:
    """Refuse what changes the answer and has no word of ours."""
    n = body.get("n")
    if n is not None and (n != 1 or isinstance(n, bool)):
        raise BadRequest("This model's provider gives one answer to a request. Leave n out, or send the request several times.", field="n")
    modalities = body.get("modalities")
    if modalities is not None and modalities != ["text"]:
        raise BadRequest("This model's provider gives text only. Leave modalities out.", field="modalities")
    for name in ("logprobs", "top_logprobs", "audio", "functions", "web_search_options", "moderation"):
        value = body.get(name)
        if value or isinstance(value, dict):
            advice = "Use tools instead." if name == "functions" else f"Leave {name} out, or choose a model of a provider that knows it."
            raise BadRequest(f"{name} cannot be passed on to this model's provider. {advice}", field=name)


# --- messages --------------------------------------------------------------------------------------------------------


def _messages(value: object) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise BadRequest("messages is a list of at least one message.", field="messages")
    messages: list[Message] = []
    # The old form of calls has no ids: a result belongs to the last call.
    last_call_id = ""
    for position, item in enumerate(value):
        where = f"messages[{position}]"
        message = _object(item, where)
        role = message.get("role")
        match role:
            case "system" | "developer":
                messages.append(Message(role="system", content=_content(message.get("content"), f"{where}.content", images=False)))
            case "user":
                messages.append(Message(role="user", content=_content(message.get("content"), f"{where}.content", images=True)))
            case "assistant":
                messages.append(_assistant(message, position))
                last_call_id = _last_call_id(messages[-1]) or last_call_id
            case "tool":
                messages.append(_tool_result(message, _string(message, "tool_call_id", where), where))
            case "function":
                messages.append(_tool_result(message, last_call_id, where))
            case _:
                raise BadRequest(f"A message's role is one of {_ROLES}.", field=f"{where}.role")
    return messages


def _content(value: object, where: str, *, images: bool) -> str | list[Part]:
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise BadRequest("A message's content is a string, or a list of parts.", field=where)
    return [*_parts(value, where, images=images)]


def _parts(value: list[Any], where: str, *, images: bool) -> list[TextPart | ImagePart]:
    parts: list[TextPart | ImagePart] = []
    for position, item in enumerate(value):
        place = f"{where}[{position}]"
        part = _object(item, place)
        match part.get("type"):
            case "text":
                parts.append(TextPart(_string(part, "text", place)))
            case "refusal":
                parts.append(TextPart(_string(part, "refusal", place)))
            case "image_url" if images:
                parts.append(_image(part.get("image_url"), f"{place}.image_url"))
            case kind:
                told = kind if isinstance(kind, str) else "no known type"
                raise BadRequest(
                    f"A part of type {told[:64]} cannot be passed on here; there is text{' and image_url' if images else ''}.", field=place
                )
    return parts


def _image(value: object, where: str) -> ImagePart:
    url = value if isinstance(value, str) else _string(_object(value, where), "url", where)
    if url.startswith("data:"):
        if match := _DATA_URL.fullmatch(url):
            return ImagePart(data=match[2], media_type=match[1])
        raise BadRequest("An image's data: URL is data:<type>;base64,<data>.", field=where)
    if not url:
        raise BadRequest("An image needs a URL.", field=where)
    return ImagePart(url=url)


def _assistant(message: dict[str, Any], position: int) -> Message:
    where = f"messages[{position}]"
    if message.get("audio"):
        raise BadRequest("Audio of an earlier answer cannot be passed on. Send its transcript as content.", field=f"{where}.audio")
    parts: list[Part] = [*_reasoning(message, where)]
    content = message.get("content")
    if isinstance(content, str):
        parts += [TextPart(content)] if content else []
    elif content is not None:
        parts += _parts(_list(content, f"{where}.content"), f"{where}.content", images=False)
    if message.get("refusal") is not None:
        parts.append(TextPart(_string(message, "refusal", where)))
    parts += _calls(message, where)
    if message.get("function_call") is not None and not message.get("tool_calls"):
        parts.append(_call(message["function_call"], f"call_{position}", f"{where}.function_call"))
    if not parts:
        return Message(role="assistant", content="")
    only = parts[0]
    return Message(role="assistant", content=only.text if len(parts) == 1 and isinstance(only, TextPart) else parts)


def _calls(message: dict[str, Any], where: str) -> list[ToolCallPart]:
    calls: list[ToolCallPart] = []
    for position, item in enumerate(_list(message.get("tool_calls"), f"{where}.tool_calls")):
        place = f"{where}.tool_calls[{position}]"
        call = _object(item, place)
        if call.get("type", "function") != "function":
            raise BadRequest("Only calls of functions can be passed on.", field=f"{place}.type")
        calls.append(_call(call.get("function"), _string(call, "id", place), f"{place}.function"))
    return calls


def _call(value: object, id: str, where: str) -> ToolCallPart:
    function = _object(value, where)
    place = f"{where}.arguments"
    text = function.get("arguments")
    if text is None:
        text = ""
    if not isinstance(text, str):
        raise BadRequest("A call's arguments are a string that holds a JSON object.", field=place)
    arguments: object = {}
    if text.strip():
        try:
            arguments = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            raise BadRequest("A call's arguments are not valid JSON.", field=place) from None
    if not isinstance(arguments, dict):
        raise BadRequest("A call's arguments are a string that holds a JSON object.", field=place)
    return ToolCallPart(tool_call_id=id, name=_string(function, "name", where), arguments=_bounded(arguments, place))


def _last_call_id(message: Message) -> str | None:
    return next((part.tool_call_id for part in reversed(message.parts()) if isinstance(part, ToolCallPart)), None)


def _tool_result(message: dict[str, Any], id: str, where: str) -> Message:
    value = message.get("content")
    content: str | list[TextPart | ImagePart] = ""
    if isinstance(value, str):
        content = value
    elif value is not None:
        content = _parts(_list(value, f"{where}.content"), f"{where}.content", images=True) or ""
    return Message(role="tool", content=[ToolResultPart(tool_call_id=id, content=content)])


def _reasoning(message: dict[str, Any], where: str) -> list[ThinkingPart]:
    """Return the reasoning of an earlier turn: from its entries where there are any, because only they have signatures."""
    text = message.get("reasoning_content") or message.get("reasoning") or ""
    if not isinstance(text, str):
        raise BadRequest("The reasoning of a message is a string.", field=f"{where}.reasoning_content")
    parts: list[ThinkingPart] = []
    last: object = None
    for position, item in enumerate(_list(message.get("reasoning_details"), f"{where}.reasoning_details")):
        detail = _object(item, f"{where}.reasoning_details[{position}]")
        index = detail.get("index")
        part = _thinking_part(detail, f"{where}.reasoning_details[{position}]")
        # Some clients keep the fragments of an entry as they came.
        if parts and index is not None and [index, detail.get("type")] == last:
            _extend(parts[-1], part)
        else:
            parts.append(part)
        last = [index, detail.get("type")]
    parts = [part for part in parts if part.text or part.signature or part.redacted]
    if text and not any(part.text for part in parts):
        signed = [part for part in parts if part.signature and not part.redacted]
        if len(signed) == 1:
            signed[0].text = text
        else:
            parts.insert(0, ThinkingPart(text=text))
    return parts


def _thinking_part(detail: dict[str, Any], where: str) -> ThinkingPart:
    found = {name: detail.get(name) for name in ("text", "summary", "signature", "data")}
    for name, value in found.items():
        if not isinstance(value, str | None):
            raise BadRequest(f"{name} is a string.", field=f"{where}.{name}")
    return ThinkingPart(text=found["text"] or found["summary"] or "", signature=found["signature"] or None, redacted=found["data"] or None)


def _extend(part: ThinkingPart, more: ThinkingPart) -> None:
    part.text += more.text
    part.signature = more.signature or part.signature
    part.redacted = (part.redacted or "") + (more.redacted or "") or None


# --- tools and options -----------------------------------------------------------------------------------------------


def _tools(value: object) -> list[Tool] | None:
    if value is None:
        return None
    tools: list[Tool] = []
    for position, item in enumerate(_list(value, "tools")):
        where = f"tools[{position}]"
        tool = _object(item, where)
        if tool.get("type", "function") != "function":
            raise BadRequest("Only tools of the type function can be passed on to this model's provider.", field=f"{where}.type")
        where += ".function"
        function = _object(tool.get("function"), where)
        name = _name(function.get("name"), f"{where}.name", _NAME_CHARACTERS_MAX)
        parameters = function.get("parameters")
        schema = {} if parameters is None else _bounded(_object(parameters, f"{where}.parameters"), f"{where}.parameters")
        tools.append(Tool(name=name, description=_of(function, "description", str, "a string", where), parameters=schema))
    return tools or None


def _tool_choice(value: object) -> str | None:
    if value is None or value in ("auto", "none", "required"):
        return value
    if isinstance(value, dict) and value.get("type") == "function":
        name = _name(_object(value.get("function"), "tool_choice.function").get("name"), "tool_choice.function.name", _NAME_CHARACTERS_MAX)
        if name not in ("auto", "none", "required"):
            return name
    raise BadRequest("tool_choice is auto, none, required, or a function by its name.", field="tool_choice")


def _answer_format(value: object) -> AnswerFormat | None:
    if value is None:
        return None
    where = "response_format"
    form = _object(value, where)
    match form.get("type"):
        case "text":
            return None
        case "json_object":
            return AnswerFormat(type="json_object")
        case "json_schema":
            where += ".json_schema"
            schema = _object(form.get("json_schema"), where)
            given = schema.get("schema")
            return AnswerFormat(
                type="json_schema",
                json_schema=None if given is None else _bounded(_object(given, f"{where}.schema"), f"{where}.schema"),
                name=_of(schema, "name", str, "a string", where),
                strict=_of(schema, "strict", bool, "true or false", where),
            )
        case _:
            raise BadRequest("response_format is of the type text, json_object or json_schema.", field="response_format.type")


def _thinking(body: dict[str, Any]) -> bool | ThinkingOptions | None:
    """Return how much to reason, in OpenAI's word for it or in those of OpenRouter (`reasoning`) and DeepSeek (`thinking`)."""
    if body.get("reasoning_effort") is not None:
        return ThinkingOptions(effort=_effort(body["reasoning_effort"], "reasoning_effort"))
    if body.get("reasoning") is not None:
        reasoning = _object(body["reasoning"], "reasoning")
        if reasoning.get("effort") is not None:
            return ThinkingOptions(effort=_effort(reasoning["effort"], "reasoning.effort"))
        budget = _count(reasoning, "max_tokens", "reasoning")
        if budget is not None:
            return ThinkingOptions(budget_tokens=budget)
        return _of(reasoning, "enabled", bool, "true or false", "reasoning")
    if body.get("thinking") is not None:
        thinking = _object(body["thinking"], "thinking")
        kind = thinking.get("type")
        if kind not in ("enabled", "disabled", "adaptive", "auto"):
            raise BadRequest("thinking is of the type enabled or disabled.", field="thinking.type")
        budget = _count(thinking, "budget_tokens", "thinking")
        return kind != "disabled" if budget is None or kind == "disabled" else ThinkingOptions(budget_tokens=budget)
    return None


def _effort(value: object, where: str) -> Any:
    if isinstance(value, str) and value in _EFFORTS:
        return value
    raise BadRequest(f"The effort is one of {', '.join(_EFFORTS)}.", field=where)


def _metadata(body: dict[str, Any]) -> dict[str, Any] | None:
    given = body.get("metadata")
    metadata = dict(_bounded(_object(given, "metadata"), "metadata")) if given is not None else {}
    user = _of(body, "user", str, "a string") or _of(body, "safety_identifier", str, "a string")
    if user:
        metadata["user_id"] = user
    return metadata or None


def _stop(value: object) -> list[str] | None:
    if value is None:
        return None
    stop = [value] if isinstance(value, str) else value
    if not isinstance(stop, list) or not all(isinstance(item, str) for item in stop):
        raise BadRequest("stop is a string or a list of strings.", field="stop")
    return stop or None


def _max_tokens(body: dict[str, Any]) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        if (found := _count(body, name)) is not None:
            return found
    return None


# --- types -----------------------------------------------------------------------------------------------------------


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadRequest(f"{where} is an object.", field=where)
    return value


def _list(value: object, where: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadRequest(f"{where} is a list.", field=where)
    return value


def _string(holder: Mapping[str, Any], name: str, where: str) -> str:
    value = holder.get(name)
    if not isinstance(value, str):
        raise BadRequest(f"{name} is a string.", field=f"{where}.{name}")
    return value


def _name(value: object, where: str, characters_max: int) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= characters_max:
        raise BadRequest(f"{where} is a string of 1 to {characters_max} characters.", field=where)
    return value


def _of(holder: Mapping[str, Any], name: str, type: type[_Type], words: str, where: str = "") -> _Type | None:
    value = holder.get(name)
    if value is None or isinstance(value, type):
        return value
    raise BadRequest(f"{name} is {words}.", field=f"{where}.{name}" if where else name)


def _count(holder: Mapping[str, Any], name: str, where: str = "") -> int | None:
    value = holder.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value < _COUNT_MAX or value != int(value):
        raise BadRequest(f"{name} is a whole number of at least 1.", field=f"{where}.{name}" if where else name)
    return int(value)


def _number(body: Mapping[str, Any], name: str, *, most: float | None = None) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= (_COUNT_MAX if most is None else most):
        raise BadRequest(f"{name} is a number of at least 0{'' if most is None else f' and at most {most}'}.", field=name)
    return float(value)


def _bounded(value: dict[str, Any], where: str) -> dict[str, Any]:
    """Return `value` if it is no deeper than what can be passed on."""
    layer: list[Any] = [value]
    for _ in range(DEPTH_MAX):
        layer = [child for item in layer for child in (item.values() if isinstance(item, dict) else item) if isinstance(child, dict | list)]
        if not layer:
            return value
    raise BadRequest(f"{where} is nested deeper than {DEPTH_MAX} levels.", field=where)
