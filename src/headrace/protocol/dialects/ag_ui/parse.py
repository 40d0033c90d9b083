"""AG-UI's `RunAgentInput` as our request.

https://docs.ag-ui.com/concepts/messages

The options of our own request, `model` with them, are members of `forwardedProps`, by their names there or by those that JavaScript's SDKs
have for them; what else is in it is left alone.

- Reasoning and assistant messages that follow each other are one turn. The results of its calls stand behind it, wherever they came.
- A call without a result gets an error for one, because providers refuse calls without any. Arguments that are no JSON object are none.
- `context` goes behind the system prompt: the protocol says that the agent should see it.
- Images are taken as data and by http(s) address; files that are at some provider, and other media, are refused.
- Left out: `state` (nothing here reads or writes it), activity messages, names, ids and metadata of messages, `parentRunId`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from headrace.errors import BadRequest
from headrace.protocol.dialects.ag_ui.encode import REDACTED, SIGNATURE
from headrace.protocol.dialects.frontend import dict_at, list_at, named, options, shown, string_at
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
    check_depth,
)

NOT_RUN = "The call was not run."
UNNAMED = "unnamed"

_parse_json = msgspec.json.Decoder().decode


def parse(body: dict[str, Any]) -> ChatRequest:
    """Return the request in our words.

    Raises:
        BadRequest: a member has the wrong type, or something cannot be said in our words; `field` names it.
    """
    for name in ("threadId", "runId"):
        if not isinstance(body.get(name), str):
            raise BadRequest(f"{name}: a string.", field=name)
    if body.get("resume"):
        raise BadRequest("resume: no run here is ever interrupted.", field="resume")
    props = body.get("forwardedProps")
    request = options({} if props is None else dict_at(props, "forwardedProps"), "forwardedProps.")
    if body.get("tools") is not None:
        request.tools = [_tool(tool, where) for tool, where in named(list_at(body["tools"], "tools", "tools"), "tools")] or None
    request.system = "\n\n".join(text for text in (request.system, _context(body)) if text) or None
    request.messages = _Conversation(named(list_at(body.get("messages"), "messages", "messages"), "messages")).turns()
    if not request.messages:
        raise BadRequest("messages: none of them has anything to say.", field="messages")
    return request


def _tool(tool: dict[str, Any], where: str) -> Tool:
    name = string_at(tool, "name", where)
    if not 0 < len(name) <= 128:
        raise BadRequest(f"{where}.name: 1 to 128 characters.", field=f"{where}.name")
    description, parameters = tool.get("description"), tool.get("parameters")
    if not isinstance(description, str | None):
        raise BadRequest(f"{where}.description: a string.", field=f"{where}.description")
    check_depth(parameters, f"{where}.parameters")
    return Tool(
        name=name, description=description or None, parameters={} if parameters is None else dict_at(parameters, f"{where}.parameters")
    )


def _context(body: dict[str, Any]) -> str:
    given = body.get("context")
    entries = [] if given is None else named(list_at(given, "context", "entries"), "context")
    return "\n\n".join(f"{string_at(entry, 'description', where)}:\n{string_at(entry, 'value', where)}" for entry, where in entries)


class _Conversation:
    """The messages in our order: each turn of the assistant with the results of its calls behind it."""

    def __init__(self, messages: list[tuple[dict[str, Any], str]]) -> None:
        self._given = messages
        self._messages: list[Message] = []
        self._turn: list[Part] = []
        # By its call; a call that is repeated has several.
        self._results: dict[str, list[ToolResultPart]] = {}
        self._called: set[str] = set()

    def turns(self) -> list[Message]:
        for message, where in self._given:
            if message.get("role") == "tool":
                result = _result(message, where)
                self._results.setdefault(result.tool_call_id, []).append(result)
        for message, where in self._given:
            self._take(message, where)
        self._end_turn()
        return self._messages

    def _take(self, message: dict[str, Any], where: str) -> None:
        match message.get("role"):
            case "assistant":
                self._turn += _assistant(message, where)
            case "reasoning":
                self._turn += _reasoning(message, where)
            case "activity":
                pass
            case "tool":
                self._end_turn()
                self._check_asked_for(message, where)
            case "user":
                self._end_turn()
                self._messages.append(Message(role="user", content=_content(message.get("content"), f"{where}.content")))
            case "system" | "developer":
                self._end_turn()
                if text := string_at(message, "content", where):
                    self._messages.append(Message(role="system", content=text))
            case role:
                raise BadRequest(f"{where}.role: {shown(role)} is no role that is known here.", field=f"{where}.role")

    def _end_turn(self) -> None:
        if not self._turn:
            return
        self._messages.append(Message(role="assistant", content=self._turn))
        calls = [part.tool_call_id for part in self._turn if isinstance(part, ToolCallPart)]
        if calls:
            self._messages.append(Message(role="tool", content=[self._result_of(call) for call in calls]))
            self._called.update(calls)
        self._turn = []

    def _result_of(self, call: str) -> ToolResultPart:
        waiting = self._results.get(call)
        return waiting.pop(0) if waiting else ToolResultPart(tool_call_id=call, content=NOT_RUN, ok=False)

    def _check_asked_for(self, message: dict[str, Any], where: str) -> None:
        """Refuse the result of a call that did not come before it, as every provider does."""
        if message["toolCallId"] not in self._called:
            raise BadRequest(f"{where}.toolCallId: no call before it has this id.", field=f"{where}.toolCallId")


# --- one message -------------------------------------------------------------------------------------------------------


def _assistant(message: dict[str, Any], where: str) -> list[Part]:
    parts: list[Part] = []
    if message.get("content") is not None and (text := string_at(message, "content", where)):
        parts.append(TextPart(text))
    calls = message.get("toolCalls")
    for call, at in named([] if calls is None else list_at(calls, f"{where}.toolCalls", "calls"), f"{where}.toolCalls"):
        function = dict_at(call.get("function"), f"{at}.function")
        name, arguments = string_at(function, "name", f"{at}.function"), string_at(function, "arguments", f"{at}.function")
        parts.append(
            ToolCallPart(
                tool_call_id=string_at(call, "id", at), name=name or UNNAMED, arguments=_arguments(arguments, f"{at}.function.arguments")
            )
        )
    return parts


def _arguments(text: str, where: str) -> dict[str, Any]:
    """Return the arguments; none where a model wrote something else, whose call has failed and says so in its result."""
    try:
        value = _parse_json(text.encode("utf-8", "replace"))
    except (msgspec.DecodeError, RecursionError):
        return {}
    check_depth(value, where)
    return value if isinstance(value, dict) else {}


def _reasoning(message: dict[str, Any], where: str) -> list[Part]:
    text = string_at(message, "content", where)
    encrypted = message.get("encryptedValue")
    if not isinstance(encrypted, str) or not encrypted:
        return [ThinkingPart(text=text)] if text else []
    if encrypted.startswith(REDACTED):
        return [ThinkingPart(text=text, redacted=encrypted.removeprefix(REDACTED))]
    return [ThinkingPart(text=text, signature=encrypted.removeprefix(SIGNATURE))]


def _result(message: dict[str, Any], where: str) -> ToolResultPart:
    metadata = message.get("metadata")
    ours = metadata.get("headrace") if isinstance(metadata, dict) else None
    failed = isinstance(ours, dict) and ours.get("ok") is False
    error = message.get("error")
    content = _content(message.get("content"), f"{where}.content", empty=True)
    return ToolResultPart(
        tool_call_id=string_at(message, "toolCallId", where),
        content=(error if isinstance(error, str) and not content else content),
        ok=not failed and not error,
    )


def _content(value: Any, where: str, *, empty: bool = False) -> Any:
    """Return text, or parts where there is more than text."""
    if isinstance(value, str):
        if not value and not empty:
            raise BadRequest(f"{where}: a message needs text or an image.", field=where)
        return value
    parts: list[TextPart | ImagePart] = []
    for part, at in named(list_at(value, where, "parts"), where):
        match part.get("type"):
            case "text":
                if text := string_at(part, "text", at):
                    parts.append(TextPart(text))
            case "image":
                parts.append(_image(dict_at(part.get("source"), f"{at}.source"), f"{at}.source"))
            case "binary":
                parts.append(_binary(part, at))
            case kind:
                raise BadRequest(f"{at}.type: only text and images can be passed on, not {shown(kind)}.", field=f"{at}.type")
    if not parts and not empty:
        raise BadRequest(f"{where}: a message needs text or an image.", field=where)
    if len(parts) == 1 and isinstance(parts[0], TextPart):
        return parts[0].text
    return parts or ""


def _image(source: dict[str, Any], where: str) -> ImagePart:
    match source.get("type"):
        case "data":
            return ImagePart(data=string_at(source, "value", where), media_type=_image_type(source, where))
        case "url":
            return _image_at(string_at(source, "value", where), f"{where}.value")
        case kind:
            raise BadRequest(f"{where}.type: data or url, not {shown(kind)}.", field=f"{where}.type")


def _binary(part: dict[str, Any], where: str) -> ImagePart:
    """The form that parts with bytes had before 1.0."""
    media_type = _image_type(part, where)
    if part.get("data") is not None:
        return ImagePart(data=string_at(part, "data", where), media_type=media_type)
    return _image_at(string_at(part, "url", where), f"{where}.url")


def _image_type(of: dict[str, Any], where: str) -> str:
    media_type = string_at(of, "mimeType", where)
    if not media_type.startswith("image/"):
        raise BadRequest(f"{where}.mimeType: only images can be passed on, not {shown(media_type)}.", field=f"{where}.mimeType")
    return media_type


def _image_at(url: str, where: str) -> ImagePart:
    if not url.startswith(("https://", "http://")):
        raise BadRequest(f"{where}: an http(s) address.", field=where)
    return ImagePart(url=url)
