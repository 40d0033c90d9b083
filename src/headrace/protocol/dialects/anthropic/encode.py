"""Our events as the Messages stream of Anthropic.

https://docs.anthropic.com/en/docs/build-with-claude/streaming

1. A block is over before the next one begins, with indexes that have no hole. Ours may be open side by side, as parallel calls are
   whose fragments alternate: the first that began is told as it comes, what belongs to others waits until it has ended. What waits is
   bounded by `WAITING_CHARACTERS_MAX`; beyond that the stream ends with an error.
2. `message_start` comes with the first block, because until then the provider's own may still come in its place. What is not known of
   its usage is 0; the cumulative figures of `message_delta` stand above it.
3. A redacted part of a thinking block is a `redacted_thinking` block of its own. Signatures, redacted data and `encrypted_index` begin
   with the mark `FOREIGN`: when the client sends them back, and Anthropic itself is asked this time, they can be told from its own.
4. A `source` is a citation of the text block that is open, or of the next one. Sources without an address, and those that no text
   follows, are left out.
5. An error is an `error` event, also after content, and then nothing follows it. The dialect has no word for an answer that its user
   stopped, so that one is an error of the type `cancelled`.
6. A reader cannot be told that something is withdrawn or missing: `reset`, `gap` and `snapshot` are errors once content was sent.
7. Of a provider's own frames only the one that ends them with an error is held back until our verdict is there, because a refused
   key is the operator's business. Nothing is added to a stream that ended well, also where its vendor leaves `message_stop` out: a
   client sees what it would see without us.
8. The id of a call has only characters that the API takes back.

Not told: `queue`, `notice` (but the words of a refusal become `stop_details`), `data`, `tool_result`, and which stop sequence was met.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import msgspec

from headrace.errors import Cancelled
from headrace.protocol import events as ev
from headrace.protocol.dialects.anthropic.request import FOREIGN, api_id
from headrace.protocol.encoding import Encoding, frame
from headrace.protocol.lenient import loads
from headrace.protocol.sse import SSEEvent
from headrace.protocol.surface import SurfaceRequest

WAITING_CHARACTERS_MAX = 16 * 1024 * 1024

STOP_WORDS: dict[ev.FinishReason, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
    "refusal": "refusal",
    "pause": "pause_turn",
}
# Codes of our tree that the dialect has a type for; the rest are `api_error`.
ERROR_TYPES: dict[str, str] = {
    **dict.fromkeys(("upstream_overloaded", "queue_full", "queue_timeout", "server_shutdown"), "overloaded_error"),
    **dict.fromkeys(("upstream_rate_limited", "too_many_streams"), "rate_limit_error"),
    **dict.fromkeys(("upstream_first_token_timeout", "upstream_idle", "stream_too_long", "body_timeout", "slow_consumer"), "timeout_error"),
    **dict.fromkeys(("invalid_request", "upstream_rejected", "unsupported_media_type", "idempotency_conflict"), "invalid_request_error"),
    **dict.fromkeys(("unknown_model", "unknown_stream", "expired_stream"), "not_found_error"),
    "unauthorized": "authentication_error",
    "body_too_large": "request_too_large",
    "cancelled": "cancelled",
}
STOPPED = ev.Error(code=Cancelled.code, message=Cancelled.default_message, retryable=False, partial=True)

_encode = msgspec.json.Encoder().encode
_DELTA = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":'
_DELTA_END = b"}}\n\n"
_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
_BROKEN = ev.Error(
    code="upstream_error", message="Part of this answer cannot be told in this protocol. Ask again.", retryable=True, partial=True
)

_Kind: TypeAlias = Literal["none", "text", "thinking", "tool"]
_BlockEvent: TypeAlias = ev.Text | ev.Thinking | ev.ToolCallStart | ev.ToolCallDelta | ev.BlockEnd


def error_shape(code: str, message: str) -> dict[str, Any]:
    """Return an error as the dialect says it, in a stream and outside of one."""
    return {"type": "error", "error": {"type": ERROR_TYPES.get(code, "api_error"), "message": message}}


def message_shape(start: ev.StreamStart | None, usage: dict[str, Any]) -> dict[str, Any]:
    """Return a message that is still empty."""
    return {
        "id": "msg_" + (start.stream_id.removeprefix("st_") if start else ""),
        "type": "message",
        "role": "assistant",
        "model": start.model if start else "",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 0, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 0, **usage},
    }


def usage_shape(usage: ev.Usage | ev.UsageTotals | None) -> dict[str, Any]:
    """Return what is known of the usage. The dialect counts tokens that came from a cache beside `input_tokens`, not in them."""
    shape: dict[str, Any] = {}
    if usage is None:
        return shape
    cached = usage.cached_tokens or 0
    if usage.input_tokens is not None:
        shape["input_tokens"] = max(0, usage.input_tokens - cached)
    if usage.cached_tokens is not None:
        shape["cache_read_input_tokens"] = cached
    if usage.output_tokens is not None:
        shape["output_tokens"] = usage.output_tokens
    if usage.reasoning_tokens is not None:
        shape["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
    return shape


def stop_shape(reason: ev.FinishReason, refusal: str | None) -> dict[str, Any]:
    shape: dict[str, Any] = {"stop_reason": STOP_WORDS.get(reason, "end_turn"), "stop_sequence": None}
    if shape["stop_reason"] == "refusal":
        shape["stop_details"] = {"type": "refusal", "category": None, "explanation": refusal}
    return shape


def citation_shape(source: ev.Source) -> dict[str, Any]:
    return {
        "type": "web_search_result_location",
        "url": source.url,
        "title": source.title,
        "cited_text": source.text or "",
        "encrypted_index": FOREIGN,
    }


class AnthropicStream(Encoding):
    """One reader's Messages stream."""

    dialect = "anthropic"
    heartbeat = b'event: ping\ndata: {"type": "ping"}\n\n'

    def __init__(self, _request: SurfaceRequest | None = None) -> None:
        self._out: list[bytes] = []
        self._start: ev.StreamStart | None = None
        self._usage: ev.Usage | None = None
        self._refusal: str | None = None
        self._begun = False
        self._over = False
        # The block in the dialect that is open, its number, and what stands before the text of its deltas.
        self._kind: _Kind = "none"
        self._index = -1
        self._prefix = b""
        # Our block that is being told, and what its next fragment is known by: its number for text and thinking, its id for a call.
        self._told = -1
        self._told_text = -1
        self._told_thinking = -1
        self._told_call: str | None = None
        self._calls: dict[str, int] = {}
        self._ids: set[str] = set()
        self._waiting: dict[int, list[_BlockEvent]] = {}
        self._waiting_characters = 0
        self._sources: list[ev.Source] = []
        self._last_frame: SSEEvent | None = None

    def encode(self, events: Sequence[ev.Event]) -> bytes:
        """Return the bytes for `events`."""
        if len(events) == 1 and (fragment := self._fragment(events[0])):
            return self._prefix + _encode(fragment) + _DELTA_END
        for event in events:
            take = _TAKERS.get(event.__class__)
            if take is not None and not self._over:
                take(self, event)
        out, self._out = self._out, []
        return b"".join(out)

    def _fragment(self, event: ev.Event) -> str:
        """Return the text of an event that only continues what is being told: the branch of nearly every event."""
        if event.__class__ is ev.Text:
            return event.text if event.index == self._told_text else ""
        if event.__class__ is ev.ToolCallDelta:
            return event.arguments_delta if event.tool_call_id == self._told_call else ""
        if event.__class__ is ev.Thinking and event.signature is None and event.redacted is None:
            return event.text if event.index == self._told_thinking else ""
        return ""

    def forward(self, frames: Sequence[SSEEvent]) -> bytes:
        """Return the bytes for frames of a Messages stream."""
        if not frames:
            return b""
        last = self._last_frame = frames[-1]
        if last.event == "error":
            frames = frames[:-1]
        return frame(frames[0]) if len(frames) == 1 else b"".join([frame(event) for event in frames])

    # --- blocks ----------------------------------------------------------------------------------------------------

    def _take_block_event(self, event: _BlockEvent) -> None:
        """Tell what belongs to the block that is being told, and let the rest wait (note 1)."""
        if isinstance(event, ev.ToolCallStart):
            self._calls[event.tool_call_id] = event.index
        index = self._calls[event.tool_call_id] if isinstance(event, ev.ToolCallDelta) else event.index
        if self._told not in (-1, index):
            self._wait(index, event)
            return
        self._told = index
        self._tell(event)
        while self._told < 0 and self._waiting:
            self._told = next(iter(self._waiting))
            for waiting in self._waiting.pop(self._told):
                self._waiting_characters -= _size(waiting)
                self._tell(waiting)

    def _wait(self, index: int, event: _BlockEvent) -> None:
        self._waiting.setdefault(index, []).append(event)
        self._waiting_characters += _size(event)
        if self._waiting_characters > WAITING_CHARACTERS_MAX:
            self._fail(_BROKEN)

    def _tell(self, event: _BlockEvent) -> None:
        match event:
            case ev.Text(text=text):
                if self._kind != "text":
                    self._open_text()
                self._out += self._prefix, _encode(text), _DELTA_END
            case ev.ToolCallDelta(arguments_delta=fragment):
                self._out += self._prefix, _encode(fragment), _DELTA_END
            case ev.Thinking():
                self._tell_thinking(event)
            case ev.ToolCallStart(tool_call_id=id, name=name):
                block = {"type": "tool_use", "id": self._api_id(id), "name": name, "input": {}}
                self._open("tool", block, b"input_json_delta", b"partial_json")
                self._told_call = id
            case ev.BlockEnd():
                self._close()
                self._told = -1

    def _tell_thinking(self, event: ev.Thinking) -> None:
        if (event.text or event.signature) and self._kind != "thinking":
            self._open("thinking", {"type": "thinking", "thinking": "", "signature": FOREIGN}, b"thinking_delta", b"thinking")
            self._told_thinking = self._told
        if event.text:
            self._out += self._prefix, _encode(event.text), _DELTA_END
        if event.signature:
            self._out += _DELTA % (self._index, b"signature_delta", b"signature"), _encode(FOREIGN + event.signature), _DELTA_END
        if event.redacted is not None:
            self._open("none", {"type": "redacted_thinking", "data": FOREIGN + event.redacted})
            self._say("content_block_stop", {"index": self._index})

    def _api_id(self, tool_call_id: str) -> str:
        """Return the id as the API would take it back, still that of one call only."""
        id, n = api_id(tool_call_id), 1
        while id in self._ids:
            n += 1
            id = f"{api_id(tool_call_id)}-{n}"
        self._ids.add(id)
        return id

    def _open_text(self) -> None:
        self._open("text", {"type": "text", "text": ""}, b"text_delta", b"text")
        self._told_text = self._told
        sources, self._sources = self._sources, []
        for source in sources:
            self._tell_citation(source)

    def _open(self, kind: _Kind, block: dict[str, Any], delta_type: bytes = b"", delta_field: bytes = b"") -> None:
        self._begin()
        self._close()
        self._kind = kind
        self._index += 1
        self._prefix = _DELTA % (self._index, delta_type, delta_field)
        self._say("content_block_start", {"index": self._index, "content_block": block})

    def _close(self) -> None:
        self._told_text = self._told_thinking = -1
        self._told_call = None
        if self._kind != "none":
            self._kind = "none"
            self._say("content_block_stop", {"index": self._index})

    # --- beside the blocks -----------------------------------------------------------------------------------------

    def _take_start(self, event: ev.StreamStart) -> None:
        self._start = event

    def _take_usage(self, event: ev.Usage) -> None:
        self._usage = event

    def _take_notice(self, event: ev.Notice) -> None:
        if event.code == "refusal":
            self._refusal = event.message

    def _take_source(self, event: ev.Source) -> None:
        if not event.url:
            return
        if self._kind == "text":
            self._tell_citation(event)
        else:
            self._sources.append(event)

    def _tell_citation(self, source: ev.Source) -> None:
        self._out += _DELTA % (self._index, b"citations_delta", b"citation"), _encode(citation_shape(source)), _DELTA_END

    def _take_loss(self, _event: ev.Event) -> None:
        if self._begun:
            self._fail(_BROKEN)

    # --- the message -----------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            self._say("message_start", {"message": message_shape(self._start, usage_shape(self._usage))})

    def _take_end(self, event: ev.StreamEnd) -> None:
        if self._last_frame is not None:
            self._end_frames(STOPPED if event.finish_reason == "cancelled" else None)
        elif event.finish_reason == "cancelled":
            self._fail(STOPPED)
        else:
            self._begin()
            usage = {"output_tokens": 0, **usage_shape(self._usage), **usage_shape(event.usage)}
            self._say("message_delta", {"delta": stop_shape(event.finish_reason, self._refusal), "usage": usage})
            self._out.append(_STOP)
            self._over = True

    def _take_error(self, event: ev.Error) -> None:
        if self._last_frame is not None:
            self._end_frames(event)
        else:
            self._fail(event)

    def _end_frames(self, error: ev.Error | None) -> None:
        """Add what the provider's frames lack (note 7)."""
        last = self._last_frame
        assert last is not None
        if last.event == "error" and (error is None or error.code != "upstream_auth"):
            self._out.append(frame(last))
        elif error is not None and not _is_stop(last):
            self._fail(error)
        self._over = True

    def _fail(self, error: ev.Error) -> None:
        self._out.append(b"event: error\ndata: %b\n\n" % _encode(error_shape(error.code, error.message)))
        self._over = True
        self._told_text = self._told_thinking = -1
        self._told_call = None
        self._waiting.clear()

    def _say(self, type: str, fields: dict[str, Any]) -> None:
        self._out.append(b"event: %b\ndata: %b\n\n" % (type.encode(), _encode({"type": type, **fields})))


_TAKERS: dict[type[ev.Event], Callable[[AnthropicStream, Any], None]] = {
    **dict.fromkeys((ev.Text, ev.Thinking, ev.ToolCallStart, ev.ToolCallDelta, ev.BlockEnd), AnthropicStream._take_block_event),
    **dict.fromkeys((ev.Reset, ev.Gap, ev.Snapshot), AnthropicStream._take_loss),
    ev.StreamStart: AnthropicStream._take_start,
    ev.Usage: AnthropicStream._take_usage,
    ev.Notice: AnthropicStream._take_notice,
    ev.Source: AnthropicStream._take_source,
    ev.StreamEnd: AnthropicStream._take_end,
    ev.Error: AnthropicStream._take_error,
}


def _size(event: _BlockEvent) -> int:
    match event:
        case ev.Text(text=text) | ev.ToolCallDelta(arguments_delta=text):
            return len(text)
        case ev.Thinking(text=text, signature=signature, redacted=redacted):
            return len(text) + len(signature or "") + len(redacted or "")
        case _:
            return 0


def _is_stop(last: SSEEvent) -> bool:
    """Whether the frame is the provider's own end: its type decides, as it does for the decoder."""
    if last.event == "message_stop":
        return True
    try:
        value = loads(last.data)
    except ValueError:
        return False
    return isinstance(value, dict) and value.get("type") == "message_stop"
