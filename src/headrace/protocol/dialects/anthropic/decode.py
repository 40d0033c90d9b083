"""The Messages stream of Anthropic, and of those who copy it, to events.

https://docs.anthropic.com/en/docs/build-with-claude/streaming

1. The end is `message_stop`. Without it the answer was cut off, also after a stop reason: the API always sends it.
2. The type inside the data decides; the SSE event's name is only asked where there is none.
3. A tool that the provider runs itself is no call for the reader to answer. Its blocks, their results and blocks of types that
   are not known here are `data` events named `anthropic.<type>`, one for each whole block. URLs in results are `source` events.
4. A second `message_start` before any content is a duplicate. Later it is another answer spliced into this one, and an error:
   merged, the two would be something that no model ever said.
5. A call whose arguments are empty when its block stops is not complete before the next event: if the answer ended for its
   length, the arguments never came.
6. A message that starts with content (a container that was resumed) has that content first.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import Raw, Struct

from headrace.errors import RemoteProtocolError, UpstreamProtocol, UpstreamTruncated
from headrace.protocol import events as ev
from headrace.protocol.blocks import BlockWriter, ToolArguments
from headrace.protocol.lenient import NO_RAW, count, encodable, is_json, load_dict, loads, raw, string
from headrace.protocol.provider_error import error_event, plain_error_event, public_text
from headrace.protocol.sse import EVENT_BYTES_MAX, SSEEvent, SSEParser

_HEAD_BYTES_MAX = 64 * 1024

STOP_REASONS: dict[str, ev.FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "pause_turn": "pause",
    "compaction": "pause",
    "refusal": "refusal",
}

_Kind: TypeAlias = Literal["text", "thinking", "tool", "opaque"]


class _Delta(Struct, gc=False):
    type: Any = None
    text: Any = None
    partial_json: Any = None
    thinking: Any = None
    signature: Any = None
    stop_reason: Any = None
    citation: Raw = NO_RAW
    stop_details: Raw = NO_RAW


class _Event(Struct, gc=False):
    type: Any = None
    index: int | str | float | None = None
    delta: _Delta | None = None
    content_block: Raw = NO_RAW
    message: Raw = NO_RAW
    usage: Raw = NO_RAW
    error: Any = None


_decode_event: Callable[[bytes], _Event] = msgspec.json.Decoder(_Event).decode


class _Opaque:
    """A block that is carried as it is: what it started with, and the deltas that came."""

    __slots__ = ("block", "deltas", "json")

    def __init__(self, block: dict[str, Any]) -> None:
        self.block = block
        self.json = bytearray()
        self.deltas: list[Any] = []

    def whole(self) -> dict[str, Any]:
        whole = dict(self.block)
        if self.json:
            try:
                whole["input"] = loads(bytes(self.json))
            except ValueError:
                whole["partial_json"] = self.json.decode()
        if self.deltas:
            whole["deltas"] = self.deltas
        return whole


class AnthropicDecoder:
    """Events of one Messages stream. `quirks` may bound a line: `line_bytes_max`."""

    __slots__ = (
        "_any_block",
        "_counts",
        "_empty_call",
        "_head",
        "_held_sources",
        "_inputs",
        "_kinds",
        "_opaque",
        "_sse",
        "_started",
        "_stop_details",
        "_stop_reason",
        "_told_usage",
        "_writer",
        "finished",
    )

    def __init__(self, quirks: Mapping[str, object] | None = None) -> None:
        line_bytes_max = (quirks or {}).get("line_bytes_max")
        self._sse = SSEParser(line_bytes_max if isinstance(line_bytes_max, int) else EVENT_BYTES_MAX, EVENT_BYTES_MAX)
        self._writer = BlockWriter()
        self.finished = False
        # The body's beginning, until the first event: a body without one may still be a JSON error.
        self._head: bytearray | None = bytearray()
        self._started = False
        self._any_block = False
        self._kinds: dict[Hashable, _Kind] = {}
        self._opaque: dict[Hashable, _Opaque] = {}
        self._inputs: dict[Hashable, dict[str, Any]] = {}
        self._held_sources: dict[Hashable, list[ev.Source]] = {}
        self._empty_call: Hashable = None
        self._stop_reason = ""
        self._stop_details: object = None
        self._counts: dict[str, int] = {}
        self._told_usage: ev.Usage | None = None

    @property
    def finished_calls(self) -> list[tuple[str, ToolArguments]]:
        return self._writer.finished_calls

    def feed(self, chunk: bytes) -> list[ev.Event]:
        """Return the events that `chunk` completes."""
        if self.finished:
            return []
        try:
            for sse in self._sse.feed(chunk):
                self._take_event(sse)
        except RemoteProtocolError:
            self._fail(plain_error_event(UpstreamProtocol, partial=self._writer.begun))
        if self._head is not None:
            self._head += chunk[: _HEAD_BYTES_MAX - len(self._head)]
        return self._writer.take()

    def finish(self) -> list[ev.Event]:
        """Return what the end of the body means.

        An event that lacks only its blank line is taken: its JSON tells whether it is whole.
        """
        if self.finished:
            return []
        try:
            for sse in self._sse.feed(b"\n\n"):
                if is_json(sse.data):
                    self._take_event(sse)
            self._sse.finish()
        except RemoteProtocolError:
            self._fail(plain_error_event(UpstreamProtocol, partial=self._writer.begun))
        if not self.finished:
            self._fail(self._error_of_body())
        return self._writer.take()

    def _take_event(self, sse: SSEEvent) -> None:
        if self.finished:
            return
        self._head = None
        try:
            event = _decode_event(sse.data)
        except (msgspec.DecodeError, RecursionError):
            self._take_odd_event(sse)
            return
        # The branch of nearly every event: text for an open text block.
        if event.type == "content_block_delta" and event.delta is not None:
            delta = event.delta
            if delta.type == "text_delta" and self._kinds.get(event.index) == "text" and delta.text.__class__ is str:
                self._writer.text(event.index, delta.text)
            else:
                self._take_delta(event.index, delta, sse.data)
            return
        self._take(event, sse)

    def _take_odd_event(self, sse: SSEEvent) -> None:
        """Take what does not look like an event: one with a field of an odd type, the end marker of another API, or no JSON."""
        data = sse.data.strip()
        if data.startswith(b"[DONE]"):
            if self._stop_reason:
                self._end()
            return
        try:
            value = loads(data)
        except ValueError:
            if sse.event == "error":
                self._fail(error_event(data.decode(), partial=self._writer.begun))
            elif data and (sse.event in _TAKERS or sse.event in ("message", "content_block_delta")):
                self._fail(plain_error_event(UpstreamProtocol, partial=self._writer.begun))
            return
        if isinstance(value, dict):
            event = _loose_event(value)
            if event.type == "content_block_delta" and event.delta is not None:
                self._take_delta(event.index, event.delta, data)
            else:
                self._take(event, sse)

    def _take(self, event: _Event, sse: SSEEvent) -> None:
        kind = event.type if isinstance(event.type, str) else sse.event
        if kind == "error" or sse.event == "error" or (event.error and event.type is None):
            self._fail(error_event(loads(sse.data), partial=self._writer.begun))
            return
        if kind == "content_block_delta" and event.delta is not None:
            self._take_delta(event.index, event.delta, sse.data)
            return
        taker = _TAKERS.get(kind)
        if taker is not None:
            if kind not in ("message_delta", "message_stop"):
                self._settle_empty_call()
            taker(self, event)

    # --- the message -----------------------------------------------------------------------------------------------

    def _take_message_start(self, event: _Event) -> None:
        if self._started and (self._any_block or self._stop_reason):
            self._fail(
                plain_error_event(
                    UpstreamProtocol, partial=self._writer.begun, message="The provider began a second answer inside this one."
                )
            )
            return
        self._started = True
        message = load_dict(event.message)
        self._count_usage(message.get("usage"))
        content = message.get("content")
        for position, block in enumerate(content if isinstance(content, list) else ()):
            if isinstance(block, dict):
                key = ("message_start", position)
                self._start_block(key, block)
                self._stop_block(key)
        self._note_stop(message.get("stop_reason"), message.get("stop_details"))

    def _take_message_delta(self, event: _Event) -> None:
        if event.delta is not None:
            details = loads(event.delta.stop_details) if event.delta.stop_details is not NO_RAW else None
            self._note_stop(event.delta.stop_reason, details)
        self._settle_empty_call()
        if event.usage is not NO_RAW:
            self._count_usage(loads(event.usage))

    def _take_message_stop(self, _event: _Event) -> None:
        self._end()

    def _note_stop(self, reason: object, details: object) -> None:
        if isinstance(reason, str) and reason:
            self._stop_reason = reason
        if isinstance(details, dict):
            self._stop_details = details

    # --- blocks ----------------------------------------------------------------------------------------------------

    def _take_block_start(self, event: _Event) -> None:
        self._start_block(event.index, load_dict(event.content_block))

    def _take_block_stop(self, event: _Event) -> None:
        self._stop_block(event.index)

    def _start_block(self, key: Hashable, block: dict[str, Any]) -> None:
        self._stop_block(key)
        self._settle_empty_call()
        self._any_block = True
        match block.get("type"):
            case "text":
                self._kinds[key] = "text"
                self._writer.text(key, string(block.get("text")))
                citations = block.get("citations")
                for citation in citations if isinstance(citations, list) else ():
                    self._take_citation(key, citation)
            case "thinking":
                self._kinds[key] = "thinking"
                self._writer.thinking(key, string(block.get("thinking")), signature=string(block.get("signature")) or None)
            case "redacted_thinking":
                self._kinds[key] = "thinking"
                self._writer.thinking(key, "", redacted=string(block.get("data")))
            case "tool_use":
                self._kinds[key] = "tool"
                self._writer.tool_call(key, string(block.get("id")), string(block.get("name")))
                if isinstance(block.get("input"), dict) and block["input"]:
                    self._inputs[key] = block["input"]
            case _:
                self._kinds[key] = "opaque"
                self._opaque[key] = _Opaque(block)

    def _stop_block(self, key: Hashable) -> None:
        kind = self._kinds.pop(key, None)
        if kind == "opaque":
            self._tell_opaque(self._opaque.pop(key))
        elif kind == "tool":
            self._stop_call(key)
        elif kind is not None:
            self._release_sources(key)
            self._writer.end(key)

    def _stop_call(self, key: Hashable) -> None:
        block = self._writer.open.get(key)
        if block is None or block.arguments is None:
            return
        whole = self._inputs.pop(key, None)
        if not block.arguments.raw and not block.pending:
            if whole is None:
                self._empty_call = key
                return
            self._writer.arguments(key, msgspec.json.encode(whole).decode())
        self._writer.end(key)

    def _settle_empty_call(self, *, truncated: bool = False) -> None:
        """Complete the call that stopped without arguments (note 5)."""
        if self._empty_call is not None:
            key, self._empty_call = self._empty_call, None
            self._writer.end(key, truncated=truncated or STOP_REASONS.get(self._stop_reason) == "length")

    def _take_delta(self, key: Hashable, delta: _Delta, data: bytes) -> None:
        if self._empty_call is not None:
            self._settle_empty_call()
        kind = self._kinds.get(key)
        if kind == "opaque":
            self._take_opaque_delta(self._opaque[key], delta, data)
            return
        match delta.type:
            case "text_delta" if isinstance(delta.text, str):
                self._expect(key, "text")
                self._writer.text(key, delta.text)
            case "thinking_delta" if isinstance(delta.thinking, str):
                self._expect(key, "thinking")
                self._writer.thinking(key, delta.thinking)
            case "signature_delta" if isinstance(delta.signature, str):
                self._expect(key, "thinking")
                self._writer.thinking(key, "", signature=delta.signature)
            case "input_json_delta":
                # Arguments without a call to belong to are nobody's.
                if kind == "tool" and isinstance(delta.partial_json, str):
                    self._writer.arguments(key, delta.partial_json)
            case "citations_delta":
                if delta.citation is not NO_RAW:
                    self._take_citation(key, loads(delta.citation))
            case _:
                unknown = load_dict(data).get("delta")
                if isinstance(unknown, dict) and unknown:
                    self._writer.events.append(ev.Data(name=_data_name(unknown), data=encodable(unknown)))

    def _expect(self, key: Hashable, kind: _Kind) -> None:
        """Open the block that a delta is for, if its start never came or was of another kind."""
        if self._kinds.get(key) != kind:
            self._stop_block(key)
            self._settle_empty_call()
            self._kinds[key] = kind
            self._any_block = True

    # --- what is carried as it is ----------------------------------------------------------------------------------

    def _take_opaque_delta(self, opaque: _Opaque, delta: _Delta, data: bytes) -> None:
        if delta.type == "input_json_delta" and isinstance(delta.partial_json, str):
            opaque.json += delta.partial_json.encode("utf-8", "replace")
        else:
            opaque.deltas.append(load_dict(data).get("delta"))

    def _tell_opaque(self, opaque: _Opaque) -> None:
        whole = opaque.whole()
        self._writer.events.append(ev.Data(name=_data_name(whole), data=encodable(whole)))
        if string(whole.get("type")).endswith("_tool_result"):
            content = whole.get("content")
            for result in content if isinstance(content, list) else (content,):
                if isinstance(result, dict) and string(result.get("url")):
                    document = result.get("content")
                    title = result.get("title") or (document.get("title") if isinstance(document, dict) else None)
                    self._writer.events.append(ev.Source(url=result["url"], title=string(title) or None))

    def _take_citation(self, key: Hashable, citation: object) -> None:
        """A citation belongs to its block's text, which may come after it. A document that has no address has an empty one."""
        if not isinstance(citation, dict):
            return
        source = ev.Source(
            url=string(citation.get("url")) or string(citation.get("source")),
            title=string(citation.get("title")) or string(citation.get("document_title")) or None,
            text=string(citation.get("cited_text")) or None,
        )
        block = self._writer.open.get(key)
        if block is None:
            self._held_sources.setdefault(key, []).append(source)
        else:
            source.index = block.index
            self._writer.events.append(source)

    def _release_sources(self, key: Hashable) -> None:
        block = self._writer.open.get(key)
        for source in self._held_sources.pop(key, ()):
            source.index = block.index if block is not None else None
            self._writer.events.append(source)

    # --- usage and the end -----------------------------------------------------------------------------------------

    def _count_usage(self, usage: object) -> None:
        """Take cumulative counts, of which any may be left out, and tell them if they changed."""
        if not isinstance(usage, dict):
            return
        counts = self._counts
        for name in ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens"):
            if (found := count(usage, name)) is not None:
                counts[name] = found
        if (found := count(usage.get("output_tokens_details"), "thinking_tokens")) is not None:
            counts["thinking_tokens"] = found
        if not counts:
            return
        cached = counts.get("cache_read_input_tokens")
        told = ev.Usage(
            source="provider",
            input_tokens=counts.get("input_tokens", 0) + counts.get("cache_creation_input_tokens", 0) + (cached or 0),
            output_tokens=counts.get("output_tokens"),
            reasoning_tokens=counts.get("thinking_tokens"),
            cached_tokens=cached,
        )
        if told != self._told_usage:
            self._told_usage = told
            self._writer.events.append(told)

    def _end(self) -> None:
        reason = STOP_REASONS.get(self._stop_reason, "stop")
        self._close_blocks(truncated=False, last_truncated=reason == "length")
        if self._stop_reason and self._stop_reason not in STOP_REASONS:
            message = f"The provider ended with a reason that is not known here: {public_text(self._stop_reason)[:100]}"
            self._writer.events.append(ev.Notice(code="unknown_finish_reason", message=message))
        if reason == "refusal":
            self._writer.events.append(ev.Notice(code="refusal", message=_refusal_text(self._stop_details)))
        self._writer.events.append(ev.StreamEnd(finish_reason=reason))
        self.finished = True

    def _fail(self, error: ev.Error) -> None:
        self._close_blocks(truncated=True)
        self._writer.events.append(error)
        self.finished = True

    def _close_blocks(self, *, truncated: bool, last_truncated: bool = False) -> None:
        self._settle_empty_call(truncated=truncated)
        for key in list(self._kinds):
            last = last_truncated and len(self._kinds) == 1
            if self._kinds[key] == "tool":
                del self._kinds[key]
                self._writer.end(key, truncated=truncated or last)
            else:
                self._stop_block(key)
        self._writer.end_all(truncated=truncated)

    def _error_of_body(self) -> ev.Error:
        """The body ended and nothing said that this was meant: an error that came without a stream, or a cut."""
        head = bytes(self._head or b"").strip()
        if head.startswith((b"{", b"[")) and is_json(head):
            return error_event(loads(head), partial=False)
        if head.startswith(b"<"):
            return plain_error_event(UpstreamProtocol, partial=False)
        return plain_error_event(UpstreamTruncated, partial=self._writer.begun)


_TAKERS: dict[str, Callable[[AnthropicDecoder, _Event], None]] = {
    "message_start": AnthropicDecoder._take_message_start,
    "content_block_start": AnthropicDecoder._take_block_start,
    "content_block_stop": AnthropicDecoder._take_block_stop,
    "message_delta": AnthropicDecoder._take_message_delta,
    "message_stop": AnthropicDecoder._take_message_stop,
}


def _loose_event(value: dict[str, Any]) -> _Event:
    """Build an event from JSON in which something has an unexpected type; what cannot be read is left out."""
    event = _Event(type=value.get("type"), error=value.get("error"))
    index = value.get("index")
    event.index = index if isinstance(index, int | float | str) else None
    for name in ("content_block", "message", "usage"):
        if value.get(name) is not None:
            setattr(event, name, raw(value[name]))
    if isinstance(delta := value.get("delta"), dict):
        event.delta = _Delta()
        for name in ("type", "text", "partial_json", "thinking", "signature", "stop_reason"):
            setattr(event.delta, name, delta.get(name))
        for name in ("citation", "stop_details"):
            if delta.get(name) is not None:
                setattr(event.delta, name, raw(delta[name]))
    return event


def _data_name(block: dict[str, Any]) -> str:
    return f"anthropic.{string(block.get('type')) or 'block'}"


def _refusal_text(details: object) -> str:
    """What the provider says about its refusal, as far as it says anything."""
    if isinstance(details, dict):
        for name in ("explanation", "category"):
            if text := string(details.get(name)):
                return public_text(text)
    return "The model refused to answer."
