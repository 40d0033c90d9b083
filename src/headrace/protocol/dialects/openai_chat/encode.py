"""Our events as the Chat Completions stream.

https://platform.openai.com/docs/api-reference/chat-streaming

1. Every frame is one `data:` line: no `id`, `event` or `retry`, because the official Python SDK takes the blank line after such a frame
   for an event without data and fails. For the same reason a heartbeat is a comment with one line end.
2. The role comes with the first content, because until then the provider's own chunks may still come in place of ours.
3. Reasoning has no official field. The option `reasoning_field` chooses `reasoning_content` (the default), `reasoning` or `none`.
   What must come back in the next request is in `reasoning_details`, as OpenRouter has it: with `reasoning_content` one whole entry for
   a block that was signed or sealed, with `reasoning` each piece of text as well, because its readers expect it there.
4. A call without arguments has the arguments `{}`.
5. Sources are `url_citation` annotations in one delta before the end: SDKs cannot join two lists without an index. Where in the text
   they belong is known only as the place at which they came, so that is their beginning and their end.
6. A refusal with words is the finish reason `stop` with a `refusal`; without words it is `content_filter`. A `pause` is `length`: the
   answer can go on.
7. An error is `{"error": …}` and then `[DONE]`, also after content. The dialect has no word for an answer that its user stopped, so
   that one is an error of the code `cancelled`.
8. A reader cannot be told that something is withdrawn or missing: `reset`, `gap` and `snapshot` are errors once content was sent.
9. Of a provider's own frames these are left out: the extra usage chunk, if the client did not ask for it; what is no JSON object,
   because SDKs fail on it; a refused key, which is the operator's business; and an error in a shape that SDKs take for a chunk. The last
   three are told as our own verdict.

Not told: `queue`, `notice` (but the words of a refusal), `data`, `tool_result`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec import Raw, Struct

from headrace.errors import UpstreamAuth
from headrace.protocol import events as ev
from headrace.protocol.encoding import Encoding, frame
from headrace.protocol.lenient import NO_RAW, NULL, loads
from headrace.protocol.provider_error import read_error
from headrace.protocol.sse import DONE, SSEEvent
from headrace.protocol.surface import SurfaceRequest

FINISH_REASONS: dict[ev.FinishReason, str] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "refusal": "content_filter",
    "pause": "length",
}
# Type and code of OpenAI's for codes of our tree. Any other is a `server_error` with our code.
ERROR_WORDS: dict[str, tuple[str, str | None]] = {
    **dict.fromkeys(("invalid_request", "body_timeout", "idempotency_conflict"), ("invalid_request_error", None)),
    **dict.fromkeys(("unknown_stream", "expired_stream"), ("not_found_error", None)),
    **dict.fromkeys(("upstream_rejected", "body_too_large", "unsupported_media_type"), ("invalid_request_error", None)),
    **dict.fromkeys(("upstream_rate_limited", "too_many_streams"), ("rate_limit_error", "rate_limit_exceeded")),
    "unknown_model": ("invalid_request_error", "model_not_found"),
    "unauthorized": ("authentication_error", "invalid_api_key"),
    "cancelled": ("cancelled", "cancelled"),
}
STOPPED = ev.Error(code="cancelled", message="The answer was stopped.", retryable=False, partial=True)

_LOST = ev.Error(
    code="upstream_error", message="Part of this answer cannot be told in this protocol. Ask again.", retryable=True, partial=True
)
_CONTEXT_LENGTH = re.compile(r"(?i)context.?length|context.?window|prompt is too long|maximum context")
# What a chunk without choices may hold beside its usage that its client would miss.
_SUBSTANCE = ("error", "prompt_filter_results", "moderation", "citations", "search_results")
_REASONING_FIELDS = ("reasoning_content", "reasoning", "none")

_NOTHING = (NO_RAW, NULL)

_encode = msgspec.json.Encoder().encode


class _Envelope(Struct, gc=False):
    """What decides about a provider's chunk. To decode it is to know that the rest is JSON as well."""

    choices: Raw = NO_RAW
    usage: Raw = NO_RAW
    error: Raw = NO_RAW


_decode_envelope = msgspec.json.Decoder(_Envelope).decode


def error_shape(code: str, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> dict[str, Any]:
    """Return an error as the dialect says it, in a stream and outside of one."""
    type, word = ERROR_WORDS.get(code, ("server_error", None))
    if code == "upstream_rejected" and _CONTEXT_LENGTH.search(message):
        word = "context_length_exceeded"
    error: dict[str, Any] = {"message": message, "type": type, "param": param, "code": word or code}
    if retry_after_s is not None:
        error["retry_after"] = retry_after_s
    return {"error": error}


def completion_id(start: ev.StreamStart | None) -> str:
    return "chatcmpl-" + (start.stream_id.removeprefix("st_") if start else "")


def usage_shape(usage: ev.Usage | ev.UsageTotals) -> dict[str, Any]:
    """Return the usage; the dialect wants all three numbers, so what is not known is 0."""
    inputs, outputs = usage.input_tokens or 0, usage.output_tokens or 0
    shape: dict[str, Any] = {"prompt_tokens": inputs, "completion_tokens": outputs, "total_tokens": inputs + outputs}
    if usage.cached_tokens is not None:
        shape["prompt_tokens_details"] = {"cached_tokens": usage.cached_tokens}
    if usage.reasoning_tokens is not None:
        shape["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning_tokens}
    if usage.cost_usd is not None:
        shape["cost"] = usage.cost_usd
    return shape


def annotation_shape(source: ev.Source, position: int) -> dict[str, Any]:
    citation: dict[str, Any] = {"url": source.url, "title": source.title or source.url, "start_index": position, "end_index": position}
    if source.text is not None:
        citation["content"] = source.text
    return {"type": "url_citation", "url_citation": citation}


def reasoning_field(request: SurfaceRequest) -> str:
    field = request.options.get("reasoning_field")
    return field if isinstance(field, str) and field in _REASONING_FIELDS else "reasoning_content"


class ReasoningDetails:
    """The entries of `reasoning_details`, numbered as they begin.

    With `streamed`, the entry of a block begins with its first text and a signature is added to it; otherwise an entry is made at the
    signature, of all the text until then.
    """

    __slots__ = ("_count", "_numbers", "_streamed", "_texts")

    def __init__(self, *, streamed: bool = False) -> None:
        self._streamed = streamed
        self._count = 0
        self._numbers: dict[int, int] = {}
        self._texts: dict[int, list[str]] = {}

    def add(self, block: int, text: str) -> int | None:
        """Take a text of that block; return the number of its entry where entries are streamed."""
        if not self._streamed:
            self._texts.setdefault(block, []).append(text)
            return None
        number = self._numbers.get(block)
        if number is None:
            number = self._numbers[block] = self._next()
        return number

    def end(self, block: int) -> dict[str, Any] | None:
        """The block is over; return the entry of its text that nobody signed."""
        self._numbers.pop(block, None)
        texts = self._texts.pop(block, None)
        return {"type": "reasoning.text", "index": self._count, "text": "".join(texts)} if texts else None

    def take(self, event: ev.Thinking) -> dict[str, Any] | None:
        """Return the entry, or the rest of one, that `event` makes with its signature or with what is sealed in it."""
        if event.redacted is not None:
            detail: dict[str, Any] = {"type": "reasoning.encrypted", "index": self._next(), "data": event.redacted}
        elif event.signature is not None:
            number = self._numbers.pop(event.index, None)
            detail = {"type": "reasoning.text", "index": self._next() if number is None else number}
            if number is None:
                detail["text"] = "".join(self._texts.pop(event.index, ()))
        else:
            return None
        if event.signature is not None:
            detail["signature"] = event.signature
        return detail

    def _next(self) -> int:
        self._count += 1
        return self._count - 1


class OpenAIChatStream(Encoding):
    """One reader's Chat Completions stream."""

    dialect = "openai_chat"

    def __init__(self, request: SurfaceRequest) -> None:
        if request.options.get("heartbeat") is False:
            self.heartbeat = b""
        options = request.body.get("stream_options")
        self._wants_usage = isinstance(options, dict) and bool(options.get("include_usage"))
        self._reasoning_field = reasoning_field(request)
        self._created = request.created
        self._out: list[bytes] = []
        self._begun = False
        self._over = False
        # Before and behind the value of a delta.
        self._head = b""
        self._text = b""
        self._reasoning = b""
        self._tail = b',"finish_reason":null}]%b}\n\n' % (b',"usage":null' if self._wants_usage else b"")
        self._delta_end = b"}" + self._tail
        self._calls: dict[str, bytes] = {}
        self._empty_calls: set[str] = set()
        self._details = ReasoningDetails(streamed=self._reasoning_field == "reasoning")
        self._characters = 0
        self._annotations: list[dict[str, Any]] = []
        self._refusal = False
        # Of the provider's own frames.
        self._forwarding = False
        self._done = False
        self._failed = False

    def encode(self, events: Sequence[ev.Event]) -> bytes:
        """Return the bytes for `events`."""
        if len(events) == 1 and self._begun and not self._over:
            event = events[0]
            if event.__class__ is ev.Text:
                text = event.text
                self._characters += len(text)
                return self._text + _encode(text) + self._delta_end
        for event in events:
            take = _TAKERS.get(event.__class__)
            if take is not None and not self._over:
                take(self, event)
        out, self._out = self._out, []
        return b"".join(out)

    # --- a provider's own frames -----------------------------------------------------------------------------------

    def forward(self, frames: Sequence[SSEEvent]) -> bytes:
        """Return the bytes for frames of a Chat Completions stream."""
        self._forwarding = True
        out = self._out
        for event in frames:
            try:
                chunk = _decode_envelope(event.data)
            except (msgspec.DecodeError, RecursionError):
                self._forward_odd(event)
                continue
            if chunk.choices is NO_RAW or chunk.error not in _NOTHING or event.event == "error":
                self._forward_odd(event)
            elif self._wants_usage or chunk.usage in _NOTHING or not _is_usage_only(loads(event.data)):
                self._begun = True
                out.append(frame(event))
        if len(out) == 1:
            return out.pop()
        self._out = []
        return b"".join(out)

    def _forward_odd(self, event: SSEEvent) -> None:
        """Forward what is not a chunk at first sight, or leave it out (note 9)."""
        data = event.data.strip()
        if data.startswith(b"[DONE]"):
            if self._begun and not self._done:
                self._done = True
                self._out.append(DONE)
            return
        try:
            value = loads(data)
        except ValueError:
            return
        if not isinstance(value, dict):
            return
        if not self._wants_usage and _is_usage_only(value):
            return
        if value.get("error"):
            if read_error(value).error_class() is not UpstreamAuth:
                self._failed = True
                self._out.append(frame(event))
        elif event.event != "error" and ("choices" in value or "error" not in (value.get("object"), value.get("type"))):
            self._begun = True
            self._out.append(frame(event))

    def _end_frames(self, error: ev.Error | None) -> None:
        """Add what the provider's frames lack."""
        self._over = True
        if self._done:
            return
        if error is not None and not self._failed:
            self._say_error(error)
        self._out.append(DONE)

    # --- content ---------------------------------------------------------------------------------------------------

    def _take_start(self, event: ev.StreamStart) -> None:
        self._head = b'data: {"id":%b,"object":"chat.completion.chunk","created":%d,"model":%b,"choices":[' % (
            _encode(completion_id(event)),
            self._created,
            _encode(event.model),
        )
        delta = self._head + b'{"index":0,"delta":{'
        self._text = delta + b'"content":'
        self._reasoning = delta + b'"%b":' % self._reasoning_field.encode()

    def _begin(self, *, content: str | None) -> None:
        """Say whose words follow, once. The content is null where something else comes first."""
        if not self._begun:
            self._begun = True
            self._say({"role": "assistant", "content": content})

    def _take_text(self, event: ev.Text) -> None:
        self._begin(content="")
        self._characters += len(event.text)
        self._out += self._text, _encode(event.text), self._delta_end

    def _take_thinking(self, event: ev.Thinking) -> None:
        if self._reasoning_field == "none":
            return
        self._begin(content=None)
        if event.text:
            text = _encode(event.text)
            number = self._details.add(event.index, event.text)
            if number is not None:
                text = b'%b,"reasoning_details":[{"type":"reasoning.text","index":%d,"text":%b}]' % (text, number, text)
            self._out += self._reasoning, text, self._delta_end
        if (detail := self._details.take(event)) is not None:
            self._say({"reasoning_details": [detail]})

    def _take_call(self, event: ev.ToolCallStart) -> None:
        self._begin(content=None)
        index = len(self._calls)
        function = {"name": event.name, "arguments": ""}
        self._say({"tool_calls": [{"index": index, "id": event.tool_call_id, "type": "function", "function": function}]})
        self._calls[event.tool_call_id] = self._head + b'{"index":0,"delta":{"tool_calls":[{"index":%d,"function":{"arguments":' % index
        self._empty_calls.add(event.tool_call_id)

    def _take_arguments(self, event: ev.ToolCallDelta) -> None:
        self._empty_calls.discard(event.tool_call_id)
        self._out += self._calls[event.tool_call_id], _encode(event.arguments_delta), b"}}]}", self._tail

    def _take_call_end(self, event: ev.ToolCallComplete) -> None:
        if event.tool_call_id in self._empty_calls and event.valid:
            self._out += self._calls[event.tool_call_id], b'"{}"', b"}}]}", self._tail

    def _take_block_end(self, event: ev.BlockEnd) -> None:
        if event.kind == "thinking":
            self._details.end(event.index)

    def _take_source(self, event: ev.Source) -> None:
        self._annotations.append(annotation_shape(event, self._characters))

    def _take_notice(self, event: ev.Notice) -> None:
        if event.code == "refusal" and event.message:
            self._refusal = True
            self._begin(content=None)
            self._say({"refusal": event.message})

    def _take_loss(self, event: ev.Event) -> None:
        if self._begun or event.__class__ is not ev.Reset:
            self._fail(_LOST)
        self._annotations.clear()

    # --- the end ---------------------------------------------------------------------------------------------------

    def _take_end(self, event: ev.StreamEnd) -> None:
        stopped = STOPPED if event.finish_reason == "cancelled" else None
        if self._forwarding:
            self._end_frames(stopped)
        elif stopped is not None:
            self._fail(stopped)
        else:
            self._finish(event)

    def _finish(self, event: ev.StreamEnd) -> None:
        self._over = True
        self._begin(content="")
        if self._annotations:
            self._say({"annotations": self._annotations})
        reason = "stop" if self._refusal and event.finish_reason == "refusal" else FINISH_REASONS.get(event.finish_reason, "stop")
        usage = b',"usage":null' if self._wants_usage else b""
        self._out.append(self._head + b'{"index":0,"delta":{},"finish_reason":"%b"}]%b}\n\n' % (reason.encode(), usage))
        if self._wants_usage and event.usage is not None:
            self._out.append(self._head + b'],"usage":%b}\n\n' % _encode(usage_shape(event.usage)))
        self._out.append(DONE)

    def _take_error(self, event: ev.Error) -> None:
        if self._forwarding:
            self._end_frames(event)
        else:
            self._fail(event)

    def _fail(self, error: ev.Error) -> None:
        self._over = True
        self._say_error(error)
        self._out.append(DONE)

    def _say_error(self, error: ev.Error) -> None:
        shape = error_shape(error.code, error.message, retry_after_s=error.retry_after_seconds)
        self._out.append(b"data: %b\n\n" % _encode(shape))

    def _say(self, delta: dict[str, Any]) -> None:
        self._out += self._head, b'{"index":0,"delta":', _encode(delta), self._tail


_TAKERS: dict[type[ev.Event], Callable[[OpenAIChatStream, Any], None]] = {
    **dict.fromkeys((ev.Reset, ev.Gap, ev.Snapshot), OpenAIChatStream._take_loss),
    ev.StreamStart: OpenAIChatStream._take_start,
    ev.Text: OpenAIChatStream._take_text,
    ev.Thinking: OpenAIChatStream._take_thinking,
    ev.ToolCallStart: OpenAIChatStream._take_call,
    ev.ToolCallDelta: OpenAIChatStream._take_arguments,
    ev.ToolCallComplete: OpenAIChatStream._take_call_end,
    ev.BlockEnd: OpenAIChatStream._take_block_end,
    ev.Source: OpenAIChatStream._take_source,
    ev.Notice: OpenAIChatStream._take_notice,
    ev.StreamEnd: OpenAIChatStream._take_end,
    ev.Error: OpenAIChatStream._take_error,
}


def _is_usage_only(chunk: dict[str, Any]) -> bool:
    """Whether a chunk has no choices and is there for its usage alone."""
    return not chunk.get("choices") and bool(chunk.get("usage")) and not any(chunk.get(name) for name in _SUBSTANCE)
