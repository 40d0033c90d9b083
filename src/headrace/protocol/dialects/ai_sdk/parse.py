"""The body that `useChat` of the AI SDK posts, as our request.

https://ai-sdk.dev/docs/ai-sdk-ui/transport

`{id, messages, trigger, messageId}` and whatever the application puts beside it. `id` is the chat's, which is the route's business;
`trigger` changes nothing, because `messages` is always what the model should see. Of the rest the options of our own request are
taken, by their names there or by those that the AI SDK has for them (`maxOutputTokens`, `topP`, …); `tools` have the native shape.
Members that are neither are the application's own and are left alone.

How a UI message becomes ours:

- An assistant message with steps is one turn a step, and the results of its calls stand behind each, as the AI SDK does it.
- Reasoning keeps the signature that `providerMetadata` has under `headrace`, or under `anthropic` in chats that began elsewhere.
- A call that nobody answered gets an error for its result, because providers refuse calls without one; so does one that the user
  did not allow. A call that broke off in the middle of its input is dropped.
- The input of a call that failed may be no object; it is then called without arguments, and its error tells the rest.
- Images are taken as data URLs and as http(s) URLs. Other files are refused.
- Left out: `step-start` (but for the above), sources, `data-` parts, `custom` parts and reasoning files, which are for people's eyes or
  for another provider's; ids and metadata of messages; an assistant message of which nothing is left.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from headrace.errors import BadRequest
from headrace.protocol.dialects.frontend import dict_at, list_at, named, options, shown, string_at
from headrace.protocol.lenient import encodable
from headrace.protocol.request import (
    ChatRequest,
    ImagePart,
    Message,
    Part,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolResultPart,
    check_depth,
)

NOT_RUN = "The call was not run."
NOT_ALLOWED = "The user did not allow this call."

_encode = msgspec.json.Encoder().encode
_DATA_URL = re.compile(r"data:(image/[\w.+-]+);base64,([A-Za-z0-9+/=_-]*)")
_LEFT_OUT = frozenset({"source-url", "source-document", "custom", "reasoning-file"})
_UNANSWERED = frozenset({"input-available", "approval-requested", "approval-responded", "output-denied"})


class _Turns:
    """The messages so far. An assistant message is collected step by step, the results of a step behind its calls."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._parts: list[Part] = []
        self._results: list[Part] = []

    def add(self, part: Part, result: ToolResultPart | None = None) -> None:
        self._parts.append(part)
        if result is not None:
            self._results.append(result)

    def end_step(self) -> None:
        if self._parts:
            self.messages.append(Message(role="assistant", content=self._parts))
        if self._results:
            self.messages.append(Message(role="tool", content=self._results))
        self._parts, self._results = [], []


def parse(body: dict[str, Any]) -> ChatRequest:
    """Return the request in our words.

    Raises:
        BadRequest: a member has the wrong type, or something cannot be said in our words; `field` names it.
    """
    given = body.get("messages")
    if not isinstance(given, list) or not given:
        raise BadRequest("messages: a list of at least one UI message.", field="messages")
    turns = _Turns()
    for at, message in enumerate(given):
        _message(message, f"messages[{at}]", turns)
    if not turns.messages:
        raise BadRequest("messages: none of them has anything to say.", field="messages")
    request = options(body)
    request.messages = turns.messages
    return request


# --- messages ----------------------------------------------------------------------------------------------------------


def _message(given: Any, where: str, turns: _Turns) -> None:
    message = dict_at(given, where)
    parts = message.get("parts")
    if parts is None and isinstance(message.get("content"), str):
        parts = [{"type": "text", "text": message["content"]}]
    placed = named(list_at(parts, f"{where}.parts", "parts"), f"{where}.parts")
    match message.get("role"):
        case "user":
            turns.messages.append(_user(placed, f"{where}.parts"))
        case "assistant":
            for part, place in placed:
                _assistant_part(part, place, turns)
            turns.end_step()
        case "system":
            if text := "".join(string_at(part, "text", place) for part, place in placed if part.get("type") == "text"):
                turns.messages.append(Message(role="system", content=text))
        case role:
            raise BadRequest(f"{where}.role: system, user or assistant, not {shown(role)}.", field=f"{where}.role")


def _user(placed: list[tuple[dict[str, Any], str]], where: str) -> Message:
    content: list[Part] = []
    for part, place in placed:
        match _type(part, place):
            case "text":
                if text := string_at(part, "text", place):
                    content.append(TextPart(text))
            case "file":
                content.append(_image(part, place))
            case kind if not _left_out(kind):
                raise BadRequest(f"{place}.type: a user's message cannot hold a part of type {shown(kind)}.", field=f"{place}.type")
    if not content:
        raise BadRequest(f"{where}: a message needs text or an image.", field=where)
    # Some vendors take only a string where there is nothing but text.
    return Message(role="user", content=content[0].text if len(content) == 1 and isinstance(content[0], TextPart) else content)


def _assistant_part(part: dict[str, Any], where: str, turns: _Turns) -> None:
    match _type(part, where):
        case "text":
            if text := string_at(part, "text", where):
                turns.add(TextPart(text))
        case "reasoning":
            _reasoning(part, where, turns)
        case "step-start":
            turns.end_step()
        case "steering-message":
            _steering(part, where, turns)
        case "dynamic-tool":
            _tool(part, string_at(part, "toolName", where), where, turns)
        case kind if kind.startswith("tool-"):
            _tool(part, kind.removeprefix("tool-"), where, turns)
        case "file":
            raise BadRequest(f"{where}: files in an assistant's message cannot be passed on. Leave them out.", field=where)
        case kind if not _left_out(kind):
            raise BadRequest(f"{where}.type: {shown(kind)} is no part that is known here.", field=f"{where}.type")


def _steering(part: dict[str, Any], where: str, turns: _Turns) -> None:
    """What the user said while the answer came stands between two of its steps."""
    turns.end_step()
    placed = named(list_at(part.get("parts"), f"{where}.parts", "parts"), f"{where}.parts")
    turns.messages.append(_user(placed, f"{where}.parts"))


def _reasoning(part: dict[str, Any], where: str, turns: _Turns) -> None:
    text = string_at(part, "text", where)
    metadata = part.get("providerMetadata")
    of = metadata if isinstance(metadata, dict) else {}
    ours, theirs = of.get("headrace"), of.get("anthropic")
    ours, theirs = ours if isinstance(ours, dict) else {}, theirs if isinstance(theirs, dict) else {}
    signature = _text(ours.get("signature")) or _text(theirs.get("signature"))
    redacted = _text(ours.get("redacted")) or _text(theirs.get("redactedData"))
    if text or signature or redacted:
        turns.add(ThinkingPart(text=text, signature=signature, redacted=redacted))


def _image(part: dict[str, Any], where: str) -> ImagePart:
    media_type, url = string_at(part, "mediaType", where), string_at(part, "url", where)
    if not media_type.startswith("image"):
        raise BadRequest(f"{where}.mediaType: only images can be passed on, not {shown(media_type)}.", field=f"{where}.mediaType")
    if found := _DATA_URL.fullmatch(url):
        return ImagePart(data=found[2], media_type=found[1])
    if url.startswith(("https://", "http://")):
        return ImagePart(url=url)
    raise BadRequest(f"{where}.url: an http(s) address, or a data URL in base64.", field=f"{where}.url")


# --- tools -------------------------------------------------------------------------------------------------------------


def _tool(part: dict[str, Any], name: str, where: str, turns: _Turns) -> None:
    """Add a call and its result. A call that broke off has no input to repeat, and one without a name was never one."""
    state = part.get("state")
    if state == "input-streaming" or not name:
        return
    call = string_at(part, "toolCallId", where)
    if not call:
        raise BadRequest(f"{where}.toolCallId: the call's id.", field=f"{where}.toolCallId")
    if state == "output-available":
        result = ToolResultPart(tool_call_id=call, content=_output(part.get("output"), f"{where}.output"))
    elif state == "output-error":
        result = ToolResultPart(tool_call_id=call, content=string_at(part, "errorText", where), ok=False)
    elif isinstance(state, str) and state in _UNANSWERED:
        result = ToolResultPart(tool_call_id=call, content=_why_unanswered(part), ok=False)
    else:
        raise BadRequest(f"{where}.state: {shown(state)} is no state of a tool part.", field=f"{where}.state")
    arguments = _input(part, where, lenient=state == "output-error")
    turns.add(ToolCallPart(tool_call_id=call, name=name, arguments=arguments), result)


def _input(part: dict[str, Any], where: str, *, lenient: bool) -> dict[str, Any]:
    value = part.get("input")
    if value is None or (lenient and not isinstance(value, dict)):
        return {}
    if not isinstance(value, dict):
        raise BadRequest(f"{where}.input: an object.", field=f"{where}.input")
    check_depth(value, f"{where}.input")
    return value


def _output(value: Any, where: str) -> str:
    if isinstance(value, str):
        return value
    check_depth(value, where)
    return _encode(encodable(value)).decode()


def _why_unanswered(part: dict[str, Any]) -> str:
    approval = part.get("approval")
    approval = approval if isinstance(approval, dict) else {}
    if part.get("state") == "output-denied" or approval.get("approved") is False:
        return _text(approval.get("reason")) or NOT_ALLOWED
    return NOT_RUN


# --- values ------------------------------------------------------------------------------------------------------------


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _type(part: dict[str, Any], where: str) -> str:
    return string_at(part, "type", where)


def _left_out(kind: str) -> bool:
    return kind.startswith("data-") or kind in _LEFT_OUT or kind == "step-start"
