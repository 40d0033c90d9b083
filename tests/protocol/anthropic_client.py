"""What the official SDK makes of a Messages stream, and a stream as the surface tells it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import anthropic
import httpx2
from anthropic.types import Message, RawMessageStreamEvent
from provider_streams import START
from pydantic import TypeAdapter

from headrace.protocol import events as ev
from headrace.protocol.dialects import load, surface
from headrace.protocol.encoding import Encoding
from headrace.protocol.surface import SurfaceRequest

SURFACE = surface("anthropic")
REQUEST: dict[str, Any] = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]}
FIRST = ev.StreamStart(
    stream_id="st_0123456789abcdef0123456789abcdef",
    message_id="msg",
    model="claude-x",
    provider="p",
    protocol=1,
    resumable=True,
    expires_at=0,
    seq=1,
)
_EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)


def stream() -> Encoding:
    return SURFACE.new_stream(SurfaceRequest(SURFACE, dict(REQUEST)))


def told(*events: ev.Event) -> bytes:
    """Return the stream that tells `events`, behind its start."""
    encoding = stream()
    return encoding.encode([FIRST]) + b"".join(encoding.encode([event]) for event in events)


def frames(body: bytes) -> list[dict[str, Any]]:
    """Return the data of every event, having checked its frame, its name and that the SDK's types know it."""
    found = []
    for block in body.split(b"\n\n")[:-1]:
        name, data = block.split(b"\n")
        value = json.loads(data.removeprefix(b"data: "))
        assert name == b"event: " + value["type"].encode()
        if value["type"] not in ("ping", "error"):
            _EVENT.validate_python(value)
        found.append(value)
    assert body.endswith(b"\n\n") or not body
    return found


def last(body: bytes) -> dict[str, Any]:
    """Return the data of the last event, whatever came before it."""
    value: dict[str, Any] = json.loads(body.removesuffix(b"\n\n").rpartition(b"data: ")[2])
    return value


def client(body: bytes, *, status: int = 200) -> anthropic.Anthropic:
    kind = "text/event-stream" if status == 200 else "application/json"
    transport = httpx2.MockTransport(lambda _: httpx2.Response(status, content=body, headers={"content-type": kind}))
    return anthropic.Anthropic(base_url="http://relay", api_key="k", max_retries=0, http_client=httpx2.Client(transport=transport))


def raw_events(body: bytes) -> tuple[list[Any], str | None]:
    """Return what `create(stream=True)` gives, and the error that ended it."""
    found: list[Any] = []
    try:
        found.extend(event.model_dump(mode="json", warnings=False) for event in client(body).messages.create(**REQUEST, stream=True))
    except anthropic.APIStatusError as error:
        return found, str(error)
    return found, None


def final_message(body: bytes) -> Message:
    """Return what `messages.stream()` has put together in the end."""
    with client(body).messages.stream(**REQUEST) as messages:
        return messages.get_final_message()


def plain(message: Message) -> dict[str, Any]:
    return message.model_dump(mode="json", warnings=False, exclude_none=True)


class Forwarded:
    """A provider's Messages stream, passed on: `body` for a reader of the stream, `reply` for one who wants the whole."""

    def __init__(self, *chunks: bytes, ending: ev.Event | None = None) -> None:
        decoder = load("anthropic").new_decoder({})
        decoder.frames = []
        assert SURFACE.new_reply is not None
        self.reply = SURFACE.new_reply(SurfaceRequest(SURFACE, dict(REQUEST)))
        self._encodings = (stream(), self.reply)
        self.body = self._encode([START])
        self.events: list[ev.Event] = []
        for chunk in chunks:
            self._pass_on(decoder.feed(chunk), decoder.frames)
        if ending is None:
            self._pass_on(decoder.finish(), decoder.frames)
        else:
            self.events.append(ending)
            self.body += self._encode([ending])

    def _pass_on(self, events: list[ev.Event], passed: list[Any]) -> None:
        self.events += events
        if passed:
            self.body += self._encodings[0].forward(list(passed))
            assert self.reply.forward(list(passed)) == b""
            passed.clear()
        self.body += self._encode([event for event in events if isinstance(event, ev.TERMINAL)])

    def _encode(self, events: list[ev.Event]) -> bytes:
        assert self.reply.encode(events) == b""
        return self._encodings[0].encode(events)


def whole_reply(events: Iterable[ev.Event]) -> Message:
    """Return the reply that tells `events`, behind its start; its shape is checked by the SDK's types."""
    assert SURFACE.new_reply is not None
    reply = SURFACE.new_reply(SurfaceRequest(SURFACE, dict(REQUEST)))
    assert reply.encode([FIRST]) == b""
    for event in events:
        assert reply.encode([event]) == b""
    return Message.model_validate_json(reply.body())
