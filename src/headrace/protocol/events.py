"""The native protocol's vocabulary: one msgspec struct an event, the same on every transport.

Wire form: one JSON object, `{"type": …, "seq": n, …}`. `seq` starts at 1 in a stream and has no hole. Decoders build events
with `seq` 0; the log gives them their number. Readers ignore types and fields that they do not know.

Where an event stands for several (a compacted replay), `from_seq` names the first that it covers and `seq` the last.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import Struct

PROTOCOL_VERSION = 1

BlockKind: TypeAlias = Literal["text", "thinking", "tool_call"]
ThinkingKind: TypeAlias = Literal["raw", "summary"]
FinishReason: TypeAlias = Literal["stop", "length", "tool_calls", "content_filter", "refusal", "pause", "cancelled"]
UsageSource: TypeAlias = Literal["provider", "estimated"]


class Event(Struct, kw_only=True, omit_defaults=True, gc=False, tag_field="type"):
    """Base of every event."""

    seq: int = 0


class StreamStart(Event, tag="stream_start", kw_only=True):
    """First event of every stream. `expires_at` is Unix time in seconds: until then the stream can be resumed."""

    stream_id: str
    message_id: str
    model: str
    provider: str
    protocol: int
    resumable: bool
    expires_at: float


class Queue(Event, tag="queue", kw_only=True):
    """Waiting for a place at the provider. `position` 1 is next, 0 says that the wait is over; no `eta_seconds` where none is known."""

    position: int
    depth: int
    reason: str
    eta_seconds: float | None = None


class Text(Event, tag="text", kw_only=True):
    index: int
    text: str
    from_seq: int | None = None


class Thinking(Event, tag="thinking", kw_only=True):
    """Reasoning. A `signature` comes alone, after the text that it signs; `redacted` is the provider's opaque form."""

    index: int
    text: str
    kind: ThinkingKind
    signature: str | None = None
    redacted: str | None = None
    from_seq: int | None = None


class ToolCallStart(Event, tag="tool_call_start", kw_only=True):
    index: int
    tool_call_id: str
    name: str


class ToolCallDelta(Event, tag="tool_call_delta", kw_only=True):
    """A fragment of a call's arguments: JSON text cut anywhere, parsed by nobody."""

    tool_call_id: str
    arguments_delta: str
    from_seq: int | None = None


class ToolCallComplete(Event, tag="tool_call_complete", kw_only=True):
    """The call's arguments, parsed once when the block stopped. Invalid or cut ones are `null` with `valid` false."""

    tool_call_id: str
    name: str
    arguments: dict[str, Any] | None
    arguments_raw: str
    valid: bool
    error: str | None = None


class ToolResult(Event, tag="tool_result", kw_only=True):
    """The result of a tool that the server ran."""

    tool_call_id: str
    ok: bool
    content: Any
    duration_ms: float | None = None


class BlockEnd(Event, tag="block_end", kw_only=True):
    index: int
    kind: BlockKind


class Source(Event, tag="source", kw_only=True):
    """A citation."""

    url: str
    title: str | None = None
    index: int | None = None
    text: str | None = None


class Usage(Event, tag="usage", kw_only=True):
    """Cumulative token counts; `reasoning_tokens` are part of `output_tokens`, `cached_tokens` of `input_tokens`."""

    source: UsageSource
    input_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    cached_tokens: int | None = None
    cost_usd: float | None = None


class Reset(Event, tag="reset", kw_only=True):
    """What came from `from_seq` on is withdrawn: its attempt failed and another one begins."""

    from_seq: int
    reason: str


class Gap(Event, tag="gap", kw_only=True):
    """For one reader: events `from_seq` to `to_seq` are not sent to it. `seq` equals `to_seq`."""

    from_seq: int
    to_seq: int
    reason: str
    recoverable: bool
    characters: int | None = None


class Snapshot(Event, tag="snapshot", kw_only=True):
    """For one reader: the whole state up to `through_seq`, in place of the events that led to it."""

    through_seq: int
    blocks: list[dict[str, Any]]


class Notice(Event, tag="notice", kw_only=True):
    code: str
    message: str


class Data(Event, tag="data", kw_only=True):
    """The application's own. A `transient` one is not kept for a resumed reader."""

    name: str
    data: Any
    transient: bool = False


class UsageTotals(Struct, kw_only=True, omit_defaults=True):
    """What `usage` counted, as it stands inside a terminal event."""

    source: UsageSource
    input_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    cached_tokens: int | None = None
    cost_usd: float | None = None


class Arrivals(Struct, kw_only=True):
    """Tokens per slice of `slice_ms`, from the request on: as the relay got them and as it sent them. At most 120 slices."""

    slice_ms: int
    ingress: list[int]
    egress: list[int]


class Metrics(Struct, kw_only=True, omit_defaults=True):
    """How the stream went, in milliseconds on a monotonic clock. Absent means that there is nothing to tell."""

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    queue_ms: float | None = None
    upstream_headers_ms: float | None = None
    duration_ms: float | None = None
    itl_ingress_ms: dict[str, float] | None = None
    itl_egress_ms: dict[str, float] | None = None
    max_gap_ms: float | None = None
    cancel_ms: float | None = None
    tokens: int | None = None
    attempts: int | None = None
    arrivals: Arrivals | None = None


class StreamEnd(Event, tag="stream_end", kw_only=True):
    """Terminal: the provider said that its answer is over, or the user stopped it (`cancelled`)."""

    finish_reason: FinishReason
    usage: UsageTotals | None = None
    metrics: Metrics | None = None


class Error(Event, tag="error", kw_only=True):
    """Terminal: the answer is not whole. `partial` says whether any of it was sent."""

    code: str
    message: str
    retryable: bool
    partial: bool
    retry_after_seconds: float | None = None
    usage: UsageTotals | None = None
    metrics: Metrics | None = None


AnyEvent: TypeAlias = (
    StreamStart
    | Queue
    | Text
    | Thinking
    | ToolCallStart
    | ToolCallDelta
    | ToolCallComplete
    | ToolResult
    | BlockEnd
    | Source
    | Usage
    | Reset
    | Gap
    | Snapshot
    | Notice
    | Data
    | StreamEnd
    | Error
)

TERMINAL = (StreamEnd, Error)
TYPES: dict[str, type[Event]] = {cls.__struct_config__.tag: cls for cls in Event.__subclasses__()}  # type: ignore[misc]

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)
_peek: msgspec.json.Decoder[dict[str, Any]] = msgspec.json.Decoder(dict[str, Any])

encode: Callable[[Event], bytes] = _encoder.encode
"""Return the event as one JSON object without a line end."""


def decode(line: bytes | str) -> AnyEvent | None:
    """Return the event, or None for a type that this version does not know.

    Raises:
        msgspec.DecodeError: not JSON, or a known type with a field of the wrong type.
    """
    try:
        return _decoder.decode(line)
    except msgspec.ValidationError:
        kind = _peek.decode(line).get("type")
        if isinstance(kind, str) and kind not in TYPES:
            return None
        raise
