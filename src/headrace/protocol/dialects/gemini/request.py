"""Our request as the body of Google's `streamGenerateContent`.

https://ai.google.dev/api/generate-content

The model stands in the path, below the base URL (which ends with the API's version, such as `/v1beta`). Signatures go back where they
came from (see `decode`, note 5): a thinking part that holds only a signature belongs to the first call or image after it, and is
otherwise an empty text part with that signature. Reasoning that nobody signed is left out, and so is reasoning that another provider
sealed. `parallel_tool_calls` has no words here and is left out; so is `metadata`.

The quirks, data of a provider's configuration:

- `path` ("/models/{model}:streamGenerateContent?alt=sse"): on Vertex AI, with a base URL that ends with the location,
  "/publishers/google/models/{model}:streamGenerateContent?alt=sse". A model that is configured as `models/…`, `publishers/…`,
  `tunedModels/…` or `projects/…` is the whole resource and replaces everything before its `:`.
- `thinking` ("budget"): "level" for models that take a `thinkingLevel` in place of a token budget.
- `tool_schema` ("json_schema"): "parameters" for servers that know only the older field, a subset of OpenAPI; what that subset cannot
  say is then left out of the schemas.
- `call_ids` (true): send the ids of calls and their results. Off for servers that refuse them; results then go by their order.
- `call_signature` (none): what to send as the signature of the first call of an answer that has none, because its client or another
  provider could not keep it. Models that insist on signatures document a value that they take for that.
- `extra_body`: more fields, which stand above ours; objects in it are merged with ours, however deep.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias
from urllib.parse import quote

import msgspec

from headrace.errors import BadRequest, LocalProtocolError
from headrace.protocol.dialects.gemini.decode import SEAL
from headrace.protocol.dialects.gemini.schema import cleaned
from headrace.protocol.dialects.parts import misplaced, text_only
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

PATH = "/models/{model}:streamGenerateContent?alt=sse"

_encode = msgspec.json.Encoder().encode
_BUDGETS = {"none": 0, "minimal": 512, "low": 1024, "medium": 8192, "high": 24576, "xhigh": 24576, "max": 24576}
_LEVELS = {"minimal": "MINIMAL", "low": "LOW", "medium": "MEDIUM", "high": "HIGH", "xhigh": "HIGH", "max": "HIGH"}
# The least budget of tokens that each level stands for, from the greatest down.
_LEVELS_OF_BUDGETS = ((16384, "HIGH"), (4096, "MEDIUM"), (1024, "LOW"), (0, "MINIMAL"))
_RESOURCES = ("models/", "publishers/", "tunedModels/", "projects/", "endpoints/")
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,(.*)", re.DOTALL)
# The API wants a type for every file; where the name does not tell, it looks at the file itself.
_MEDIA_TYPES = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "gif": "image/gif",
    "heic": "image/heic",
    "heif": "image/heif",
}
_EMPTY_OBJECT = frozenset({"type", "properties", "required", "additionalProperties", "$schema", "title", "description"})

_Role: TypeAlias = Literal["user", "model"]

QUIRKS = frozenset(("path", "thinking", "tool_schema", "call_ids", "call_signature", "extra_body", "line_bytes_max"))


def build_request(request: ChatRequest, model: str, quirks: Mapping[str, object]) -> UpstreamRequest:
    """Return the request for `model`.

    Raises:
        BadRequest: something cannot be said in this dialect; `field` names it.
    """
    system, contents = _Conversation(quirks).of(request)
    body: dict[str, Any] = {"contents": contents}
    if system:
        body["systemInstruction"] = {"parts": [{"text": system}]}
    if request.tools:
        body["tools"] = [{"functionDeclarations": [_tool(tool, quirks) for tool in request.tools]}]
    if (choice := _tool_choice(request)) is not None:
        body["toolConfig"] = {"functionCallingConfig": choice}
    if generation := _generation(request, quirks):
        body["generationConfig"] = generation
    extra = quirks.get("extra_body")
    if isinstance(extra, Mapping):
        body = _merged(body, extra)
    return UpstreamRequest(path=_path(model, quirks), body=_encode(body))


def forward_request(body: dict[str, Any], model: str, quirks: Mapping[str, object]) -> UpstreamRequest:
    """There is no surface of this dialect, so nobody has a body to forward."""
    raise LocalProtocolError(detail="no client speaks the Gemini dialect")


def auth_headers(api_key: str) -> dict[str, str]:
    return {"x-goog-api-key": api_key}


def _path(model: str, quirks: Mapping[str, object]) -> str:
    """Return the path for `model`, which comes from whoever calls us: it must not reach any other place."""
    template = str(quirks.get("path") or PATH)
    steps = model.split("/")
    whole = model.startswith(_RESOURCES)
    if any(step in ("", ".", "..") for step in steps) or (len(steps) > 1 and not whole) or not _visible(model):
        raise BadRequest("This is no name of a model for this provider.", field="model")
    safe = "/".join(quote(step, safe="@") for step in steps)
    return f"/{safe}{template.rpartition('{model}')[2]}" if whole else template.replace("{model}", safe)


def _visible(model: str) -> bool:
    """Whether the name has only characters that stay a name, also for a server that decodes a path twice."""
    return model.isprintable() and not any(character in model for character in "?#%\\: ")


def _merged(ours: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(ours)
    for name, value in extra.items():
        known = merged.get(name)
        merged[name] = _merged(known, value) if isinstance(known, Mapping) and isinstance(value, Mapping) else value
    return merged


# --- messages --------------------------------------------------------------------------------------------------------


class _Conversation:
    """One conversation on its way into turns. Results name their tool here, so the calls before them are remembered."""

    def __init__(self, quirks: Mapping[str, object]) -> None:
        self._sends_ids = bool(quirks.get("call_ids", True))
        signature = quirks.get("call_signature")
        self._call_signature = signature if isinstance(signature, str) else None
        self._names: dict[str, str] = {}

    def of(self, request: ChatRequest) -> tuple[str, list[dict[str, Any]]]:
        """Return the system prompt and the turns, in which neighbours of one role are one: results of tools that were called
        together have to come together."""
        system = [request.system] if request.system else []
        contents: list[dict[str, Any]] = []
        for position, message in enumerate(request.messages):
            where = f"messages[{position}].content"
            if message.role == "system" and not contents:
                system.append(text_only(message, where))
                continue
            role: _Role = "model" if message.role == "assistant" else "user"
            if message.role == "system":  # behind others there is no such role, so it is said in its place by the user
                parts = [{"text": text_only(message, where)}]
            else:
                parts = self._model_parts(message, where) if role == "model" else self._user_parts(message, where)
            if not parts:
                if role == "model":
                    continue
                raise BadRequest("A message needs content.", field=where)
            if contents and contents[-1]["role"] == role:
                contents[-1]["parts"] += parts
            else:
                contents.append({"role": role, "parts": parts})
        if not contents:
            raise BadRequest("This provider needs a message that is not a system message.", field="messages")
        return "\n\n".join(system), contents

    def _user_parts(self, message: Message, where: str) -> list[dict[str, Any]]:
        if message.role == "tool" and isinstance(message.content, str):
            raise BadRequest("A tool message needs tool_result parts, which name the call that they answer.", field=where)
        parts: list[dict[str, Any]] = []
        for position, part in enumerate(message.parts()):
            here = f"{where}[{position}]"
            match part, message.role:
                case TextPart(text=text), "user":
                    if text:
                        parts.append({"text": text})
                case ImagePart(), "user":
                    parts.append(_image(part, here))
                case ToolResultPart(), _:
                    parts.append({"functionResponse": self._result(part, here)})
                case _:
                    raise misplaced(part, message, here)
        # Results stand before everything else: they answer what the model just said.
        return sorted(parts, key=lambda part: "functionResponse" not in part)

    def _model_parts(self, message: Message, where: str) -> list[dict[str, Any]]:
        parts: list[dict[str, Any]] = []
        signatures = _signatures(message.parts())
        for position, part in enumerate(message.parts()):
            signature = signatures.get(position)
            if isinstance(part, ThinkingPart):
                if signature and part.text:
                    parts.append({"text": part.text, "thought": True, "thoughtSignature": signature})
                elif signature:
                    parts.append({"text": "", "thoughtSignature": signature})
            elif (shape := self._model_part(part, message, f"{where}[{position}]")) is not None:
                parts.append(shape | {"thoughtSignature": signature} if signature else shape)
        self._sign_first_call(parts)
        return parts

    def _model_part(self, part: Part, message: Message, where: str) -> dict[str, Any] | None:
        match part:
            case TextPart(text=text):
                return {"text": text} if text else None
            case ImagePart():
                return _image(part, where)
            case ToolCallPart():
                self._names[part.tool_call_id] = part.name
                call: dict[str, Any] = {"name": part.name, "args": part.arguments}
                return {"functionCall": call | {"id": part.tool_call_id} if self._sends_ids else call}
            case _:
                raise misplaced(part, message, where)

    def _sign_first_call(self, parts: list[dict[str, Any]]) -> None:
        """Of calls that are made together only the first is signed."""
        call = next((part for part in parts if "functionCall" in part), None)
        if call is not None and self._call_signature:
            call.setdefault("thoughtSignature", self._call_signature)

    def _result(self, part: ToolResultPart, where: str) -> dict[str, Any]:
        name = self._names.get(part.tool_call_id)
        if name is None:
            raise BadRequest(
                "This provider needs the name of the tool that a result is from, and no tool call before this one has its tool_call_id.",
                field=f"{where}.tool_call_id",
            )
        content = [TextPart(part.content)] if isinstance(part.content, str) else part.content
        text = "\n\n".join(item.text for item in content if isinstance(item, TextPart))
        result: dict[str, Any] = {"name": name, "response": {"output" if part.ok else "error": text}}
        if images := [_image(item, f"{where}.content") for item in content if isinstance(item, ImagePart)]:
            result["parts"] = images
        return result | {"id": part.tool_call_id} if self._sends_ids else result


def _signatures(parts: list[Part]) -> dict[int, str]:
    """Return the position of the part that each signature goes out on.

    A lone signature goes to the first call or image after it that has none. That of a thought is its own; only where a message's first
    call would have none does it get that one, because some clients give back a thought and the signature behind it as one.
    """
    found: dict[int, str] = {}
    lone: list[int] = []
    thought: int | None = None
    first = True
    for position, part in enumerate(parts):
        match part:
            case ThinkingPart(text=text, signature=str(signature), redacted=None) if signature.startswith(SEAL):
                found[position] = signature.removeprefix(SEAL)
                if text:
                    thought = position
                else:
                    lone.append(position)
            case ToolCallPart() | ImagePart():
                called = isinstance(part, ToolCallPart)
                if lone:
                    found[position] = found.pop(lone.pop(0))
                elif called and first and thought is not None:
                    found[position] = found.pop(thought)
                first = first and not called
            case _:
                pass
    return found


def _image(part: ImagePart, where: str) -> dict[str, Any]:
    if part.url and not part.data:
        if match := _DATA_URL.fullmatch(part.url):
            return {"inlineData": {"mimeType": match[1], "data": match[2]}}
        return {"fileData": _file(part.url, part.media_type)}
    if part.data and part.media_type and not part.url:
        return {"inlineData": {"mimeType": part.media_type, "data": part.data}}
    raise BadRequest("An image needs either url, or data and media_type.", field=where)


def _file(url: str, media_type: str | None) -> dict[str, str]:
    ending = re.split(r"[?#]", url, maxsplit=1)[0].rpartition(".")[2].lower()
    media_type = media_type or _MEDIA_TYPES.get(ending)
    return {"fileUri": url, "mimeType": media_type} if media_type else {"fileUri": url}


# --- options ---------------------------------------------------------------------------------------------------------


def _tool(tool: Tool, quirks: Mapping[str, object]) -> dict[str, Any]:
    shape: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        shape["description"] = tool.description
    # A tool that takes nothing says nothing: the older field refuses an object without properties.
    if tool.parameters.get("properties") or tool.parameters.keys() - _EMPTY_OBJECT:
        if quirks.get("tool_schema") == "parameters":
            shape["parameters"] = cleaned(tool.parameters)
        else:
            shape["parametersJsonSchema"] = tool.parameters
    return shape


def _tool_choice(request: ChatRequest) -> dict[str, Any] | None:
    choice = request.tool_choice
    if choice is None or (choice in ("auto", "none") and not request.tools):
        return None
    if request.tools:
        if choice in ("auto", "none"):
            return {"mode": choice.upper()}
        if choice == "required":
            return {"mode": "ANY"}
        if any(tool.name == choice for tool in request.tools):
            return {"mode": "ANY", "allowedFunctionNames": [choice]}
    raise BadRequest("tool_choice is auto, none, required, or the name of one of the tools.", field="tool_choice")


def _generation(request: ChatRequest, quirks: Mapping[str, object]) -> dict[str, Any]:
    named = {
        "maxOutputTokens": request.max_tokens,
        "temperature": request.temperature,
        "topP": request.top_p,
        "topK": request.top_k,
        "stopSequences": request.stop or None,
        "thinkingConfig": _thinking(request, quirks),
    }
    generation: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    if request.answer_format is not None:
        generation["responseMimeType"] = "application/json"
        if request.answer_format.type == "json_schema" and request.answer_format.json_schema is not None:
            generation["responseJsonSchema"] = request.answer_format.json_schema
    return generation


def _thinking(request: ChatRequest, quirks: Mapping[str, object]) -> dict[str, Any] | None:
    """Thoughts are asked for unless thinking is off. `True` leaves the amount to the model."""
    thinking = request.thinking
    if thinking is None:
        return None
    by_level = quirks.get("thinking") == "level"
    if thinking is True:
        return {"includeThoughts": True}
    if thinking is False or thinking.effort == "none":
        return {"thinkingLevel": "MINIMAL"} if by_level else {"thinkingBudget": 0}
    amount: dict[str, Any] = {"includeThoughts": True}
    budget, effort = thinking.budget_tokens, thinking.effort
    if by_level and (effort or budget is not None):
        amount["thinkingLevel"] = _LEVELS[effort] if effort else _level(budget or 0)
    elif not by_level and (effort or budget is not None):
        amount["thinkingBudget"] = budget if budget is not None else _BUDGETS[effort or "medium"]
    return amount


def _level(budget: int) -> str:
    return next(level for least, level in _LEVELS_OF_BUDGETS if budget >= least)
