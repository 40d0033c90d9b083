"""The requests that a client sends: as values, before anything is sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, TypedDict
from urllib.parse import quote

import msgspec

from headrace.client.frames import CONTENT_TYPES, Transport
from headrace.errors import BadRequest
from headrace.protocol.request import Message, ThinkingOptions, Tool

Messages: TypeAlias = str | Sequence[Message | dict[str, Any]]


class RequestFields(TypedDict, total=False):
    """What may stand beside `messages` and `model`. What is None is left out."""

    system: str | None
    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    stop: list[str] | None
    tools: Sequence[Tool | dict[str, Any]] | None
    tool_choice: str | None
    thinking: bool | ThinkingOptions | dict[str, Any] | None
    on_disconnect: Literal["cancel", "grace", "continue"] | float | None
    slow_reader: Literal["pause", "gap"] | None
    metadata: dict[str, Any] | None


class Ask(NamedTuple):
    """One HTTP request to the relay."""

    method: Literal["GET", "POST"]
    path: str
    headers: dict[str, str]
    body: bytes | None = None


def chat_body(messages: Messages, model: str | None, fields: RequestFields) -> bytes:
    """Return the body of `POST /v1/chat/stream`. A retry must send the same bytes, so it is made once.

    Raises:
        BadRequest: the messages or fields cannot be written as JSON.
    """
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    shape = {"messages": messages, "model": model, **fields}
    try:
        return msgspec.json.encode({name: value for name, value in shape.items() if value is not None})
    except (TypeError, ValueError) as error:
        raise BadRequest(f"The request cannot be written as JSON: {error}.") from None


def chat(body: bytes, key: str, transport: Transport) -> Ask:
    headers = {"accept": CONTENT_TYPES[transport], "content-type": "application/json", "idempotency-key": key}
    return Ask("POST", "/v1/chat/stream", headers, body)


def events(stream_id: str, after: int, transport: Transport) -> Ask:
    return Ask("GET", f"{_stream(stream_id)}/events?after={after}", {"accept": CONTENT_TYPES[transport]})


def state(stream_id: str) -> Ask:
    return Ask("GET", _stream(stream_id), {"accept": "application/json"})


def cancel(stream_id: str) -> Ask:
    return Ask("POST", f"{_stream(stream_id)}/cancel", {"accept": "application/json"}, b"")


def cancel_by_key(key: str) -> Ask:
    headers = {"accept": "application/json", "content-type": "application/json"}
    return Ask("POST", "/v1/streams/cancel", headers, msgspec.json.encode({"idempotency_key": key}))


def _stream(stream_id: str) -> str:
    return f"/v1/streams/{quote(stream_id, safe='')}"
