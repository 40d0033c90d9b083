"""Reading what the Responses surface writes: as its events, by the SDK's own types, and through the SDK itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import httpx2
import openai
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from headrace.protocol import events as ev
from headrace.protocol.dialects.openai_responses.surface import SURFACE
from headrace.protocol.sse import SSEParser
from headrace.protocol.surface import SurfaceRequest

STEM = "0123456789abcdef" * 2
START = ev.StreamStart(
    seq=1, stream_id=f"st_{STEM}", message_id="msg_1", model="swift", provider="p", protocol=1, resumable=True, expires_at=1.0
)
USAGE = ev.UsageTotals(source="provider", input_tokens=11, output_tokens=7, reasoning_tokens=2, cached_tokens=3)
STOP = ev.StreamEnd(finish_reason="stop", usage=USAGE)
BROKEN = ev.Error(code="upstream_truncated", message="The provider's answer broke off before its end.", retryable=True, partial=True)
_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def request(**body: Any) -> SurfaceRequest:
    return SurfaceRequest(SURFACE, {"model": "swift", "input": "hi", **body}, created=1_700_000_000)


def text(index: int, *texts: str) -> list[ev.Event]:
    """A whole block of text."""
    return [*(ev.Text(index=index, text=part) for part in texts), ev.BlockEnd(index=index, kind="text")]


def thinking(index: int, *texts: str, kind: ev.ThinkingKind = "raw", **last: str) -> list[ev.Event]:
    """A whole block of reasoning; `last` is a signature or what is redacted."""
    events: list[ev.Event] = [ev.Thinking(index=index, text=part, kind=kind) for part in texts]
    if last:
        events.append(ev.Thinking(index=index, text="", kind=kind, **last))
    return [*events, ev.BlockEnd(index=index, kind="thinking")]


def call(index: int, id: str, name: str, *fragments: str, valid: bool = True) -> list[ev.Event]:
    """A whole call."""
    raw = "".join(fragments)
    return [
        ev.ToolCallStart(index=index, tool_call_id=id, name=name),
        *(ev.ToolCallDelta(tool_call_id=id, arguments_delta=fragment) for fragment in fragments),
        ev.ToolCallComplete(
            tool_call_id=id, name=name, arguments=json.loads(raw or "{}") if valid else None, arguments_raw=raw, valid=valid
        ),
        ev.BlockEnd(index=index, kind="tool_call"),
    ]


def read(body: bytes) -> list[dict[str, Any]]:
    """The data of each event, of which none may lack its name."""
    frames = SSEParser().feed(body)
    events = [json.loads(frame.data) for frame in frames]
    assert [frame.event for frame in frames] == [event["type"] for event in events]
    return events


def check(events: Sequence[dict[str, Any]]) -> None:
    """Every event is what the SDK's types say, to the letter, and no number is missing."""
    for event in events:
        _EVENT.validate_json(json.dumps(event), strict=True)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


def check_response(shape: dict[str, Any]) -> Response:
    return Response.model_validate_json(json.dumps(shape), strict=True)


def kinds(events: Sequence[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def client(body: bytes) -> openai.OpenAI:
    """The SDK, to which every request is answered with `body`."""

    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": SURFACE.new_stream(request()).content_type}, content=body)

    transport = httpx2.MockTransport(answer)
    return openai.OpenAI(api_key="k", base_url="http://relay.test/v1", max_retries=0, http_client=httpx2.Client(transport=transport))
