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
7. A reader who gets the frames as they came reads over some of what is an error here, as he would at the provider itself. Where `frames`
   is a list, such a verdict waits for the provider's own end: frames go on, content is not told any more, and the terminal event is the
   verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, Literal, TypeAlias

import msgspec

from headrace.errors import UpstreamProtocol
from headrace.protocol import events as ev
from headrace.protocol.dialects.anthropic.message import Delta, MessageEvent, decode_event, loose_event
from headrace.protocol.dialects.event_stream import EventStreamDecoder
from headrace.protocol.lenient import NO_RAW, count, dicts, encodable, load_dict, loads, raw, string
from headrace.protocol.provider_error import error_event, plain_error_event, public_text
from headrace.protocol.sse import SSEEvent

_NAME_CHARACTERS_MAX = 64

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

# Tokens read from the cache or written to it are not part of `input_tokens` here; in our `usage` they are.
_INPUTS = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")

_Kind: TypeAlias = Literal["text", "thinking", "tool", "opaque"]


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


class AnthropicDecoder(EventStreamDecoder):
    """Events of one Messages stream."""

    __slots__ = (
        "_any_block",
        "_counts",
        "_empty_calls",
        "_held_sources",
        "_inputs",
        "_kinds",
        "_opaque",
        "_started",
        "_stop_details",
        "_stop_reason",
        "_told_usage",
        "_verdict",
    )

    def __init__(self, quirks: Mapping[str, object] | None = None) -> None:
        super().__init__(quirks)
        self._started = False
        self._any_block = False
        self._kinds: dict[Hashable, _Kind] = {}
        self._opaque: dict[Hashable, _Opaque] = {}
        self._inputs: dict[Hashable, dict[str, Any]] = {}
        self._held_sources: dict[Hashable, list[ev.Source]] = {}
        self._empty_calls: list[Hashable] = []
        self._stop_reason = ""
        self._stop_details: object = None
        self._counts: dict[str, int] = {}
        self._told_usage: ev.Usage | None = None
        self._verdict: ev.Error | None = None

    @property
    def begun(self) -> bool:
        """Whether any block has come, also one that is carried as it is."""
        return self._any_block

    def _take(self, event: SSEEvent) -> bool:
        self._head = None
        if self._verdict is not None:
            return self._take_after_verdict(event, self._verdict)
        try:
            message = decode_event(event.data)
        except (msgspec.DecodeError, RecursionError):
            self._take_odd_event(event)
            return self.finished
        # The branch of nearly every event: text for an open text block.
        delta = message.delta
        if message.type == "content_block_delta" and delta is not None:
            if delta.type == "text_delta" and self._kinds.get(message.index) == "text" and delta.text.__class__ is str:
                self._writer.text(message.index, delta.text)
            else:
                self._take_delta(message.index, delta, event.data)
            return False
        self._take_message(message, event)
        return self.finished

    def _judge(self, message: str | None = None) -> None:
        """Fail, at once or when the provider ends its frames (note 7)."""
        if self.frames is None:
            self._fail(UpstreamProtocol, message)
            return
        self._verdict = plain_error_event(UpstreamProtocol, partial=self._writer.begun, message=message)
        self._close_blocks()

    def _take_after_verdict(self, event: SSEEvent, verdict: ev.Error) -> bool:
        """Only an end counts any more."""
        try:
            value = loads(event.data)
        except ValueError:
            value = None
        kind = value.get("type", event.event) if isinstance(value, dict) else event.event
        if kind in ("message_stop", "error") or event.event == "error":
            self._fail_as(verdict)
        return self.finished

    def _take_end_of_body(self) -> None:
        if self._verdict is not None:
            self._fail_as(self._verdict)
        else:
            super()._take_end_of_body()

    def _take_odd_event(self, event: SSEEvent) -> None:
        """Take what is no event at first sight: one with an odd structure, the end marker of another API, or no JSON."""
        data = event.data.strip()
        if data.startswith(b"[DONE]"):
            if self._stop_reason:
                self._take_end()
            return
        try:
            value = loads(data)
        except ValueError:
            if event.event == "error":
                self._fail_as(error_event(event.text, partial=self._writer.begun))
            elif data and event.event == "message":
                self._judge()
            elif data and (event.event in _TAKERS or event.event == "content_block_delta"):
                self._fail(UpstreamProtocol)
            return
        if isinstance(value, dict):
            self._take_message(loose_event(value), event)

    def _take_message(self, message: MessageEvent, event: SSEEvent) -> None:
        kind = message.type if isinstance(message.type, str) else event.event
        if kind == "error" or event.event == "error" or (message.error and message.type is None):
            self._fail_as(error_event(loads(event.data), partial=self._writer.begun))
        elif kind == "content_block_delta" and message.delta is not None:
            self._take_delta(message.index, message.delta, event.data)
        elif kind in _TAKERS:
            if kind not in ("message_delta", "message_stop"):
                self._settle_empty_calls()
            _TAKERS[kind](self, message)

    # --- the message -----------------------------------------------------------------------------------------------

    def _take_message_start(self, message: MessageEvent) -> None:
        if self._started and (self._any_block or self._stop_reason):
            self._judge("The provider began a second answer inside this one.")
            return
        self._started = True
        whole = load_dict(message.message)
        self._count_usage(whole.get("usage"))
        for position, block in enumerate(dicts(whole.get("content"))):
            key = ("message_start", position)
            self._start_block(key, block)
            self._stop_block(key)
        self._note_stop(whole.get("stop_reason"), whole.get("stop_details"))

    def _take_message_delta(self, message: MessageEvent) -> None:
        if message.delta is not None:
            details = loads(message.delta.stop_details) if message.delta.stop_details is not NO_RAW else None
            self._note_stop(message.delta.stop_reason, details)
        self._settle_empty_calls()
        if message.usage is not NO_RAW:
            self._count_usage(loads(message.usage))

    def _take_message_stop(self, _message: MessageEvent) -> None:
        self._take_end()

    def _note_stop(self, reason: object, details: object) -> None:
        if isinstance(reason, str) and reason:
            self._stop_reason = reason
        if isinstance(details, dict):
            self._stop_details = details

    # --- blocks ----------------------------------------------------------------------------------------------------

    def _take_block_start(self, message: MessageEvent) -> None:
        self._start_block(message.index, load_dict(message.content_block))

    def _take_block_stop(self, message: MessageEvent) -> None:
        self._stop_block(message.index)

    def _start_block(self, key: Hashable, block: dict[str, Any]) -> None:
        if self._is_open_call(key, block):
            return
        self._stop_block(key, truncated=True)
        self._settle_empty_calls()
        self._any_block = True
        match block.get("type"):
            case "text":
                self._kinds[key] = "text"
                self._writer.text(key, string(block.get("text")))
                for citation in dicts(block.get("citations")):
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

    def _is_open_call(self, key: Hashable, block: dict[str, Any]) -> bool:
        """Whether the start of a block only repeats that of a call whose arguments have not begun."""
        call = self._writer.open.get(key)
        return (
            block.get("type") == "tool_use"
            and call is not None
            and call.arguments is not None
            and not call.arguments.raw
            and call.tool_call_id == block.get("id")
        )

    def _stop_block(self, key: Hashable, *, truncated: bool = False) -> None:
        kind = self._kinds.pop(key, None)
        if kind == "opaque":
            self._tell_opaque(self._opaque.pop(key))
        elif kind == "tool" and truncated:
            self._writer.end(key, truncated=True)
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
                self._empty_calls.append(key)
                return
            self._writer.arguments(key, bytes(raw(whole)).decode())
        self._writer.end(key)

    def _settle_empty_calls(self, *, truncated: bool = False) -> None:
        """Complete the call that stopped without arguments (note 5)."""
        while self._empty_calls:
            self._writer.end(self._empty_calls.pop(), truncated=truncated or STOP_REASONS.get(self._stop_reason) == "length")

    def _take_delta(self, key: Hashable, delta: Delta, data: bytes) -> None:
        if self._empty_calls:
            self._settle_empty_calls()
        kind = self._kinds.get(key)
        if kind == "opaque":
            self._take_opaque_delta(self._opaque[key], delta, data)
            return
        match delta.type:
            case "input_json_delta":
                # Arguments without a call to belong to are nobody's.
                if kind == "tool" and isinstance(delta.partial_json, str):
                    self._writer.arguments(key, delta.partial_json)
            case "text_delta" if isinstance(delta.text, str):
                self._expect(key, "text")
                self._writer.text(key, delta.text)
            case "thinking_delta" if isinstance(delta.thinking, str):
                self._expect(key, "thinking")
                self._writer.thinking(key, delta.thinking)
            case "signature_delta" if isinstance(delta.signature, str):
                self._expect(key, "thinking")
                self._writer.thinking(key, "", signature=delta.signature)
            case "citations_delta":
                if citation := load_dict(delta.citation):
                    self._take_citation(key, citation)
            case _:
                unknown = load_dict(data).get("delta")
                if isinstance(unknown, dict) and unknown:
                    self._any_block = True
                    self._writer.events.append(ev.Data(name=_data_name(unknown), data=encodable(unknown)))

    def _expect(self, key: Hashable, kind: _Kind) -> None:
        """Open the block that a delta is for, if its start never came or was of another kind."""
        if self._kinds.get(key) != kind:
            self._stop_block(key)
            self._settle_empty_calls()
            self._kinds[key] = kind
            self._any_block = True

    # --- what is carried as it is ----------------------------------------------------------------------------------

    def _take_opaque_delta(self, opaque: _Opaque, delta: Delta, data: bytes) -> None:
        if delta.type == "input_json_delta" and isinstance(delta.partial_json, str):
            opaque.json += delta.partial_json.encode("utf-8", "replace")
        else:
            opaque.deltas.append(load_dict(data).get("delta"))

    def _tell_opaque(self, opaque: _Opaque) -> None:
        whole = opaque.whole()
        self._writer.events.append(ev.Data(name=_data_name(whole), data=encodable(whole)))
        if string(whole.get("type")).endswith("_tool_result"):
            for result in dicts(whole.get("content")):
                if url := string(result.get("url")):
                    document = result.get("content")
                    title = result.get("title") or (document.get("title") if isinstance(document, dict) else None)
                    self._writer.events.append(ev.Source(url=url, title=string(title) or None))

    def _take_citation(self, key: Hashable, citation: dict[str, Any]) -> None:
        """A citation belongs to its block's text, which may come after it. A document that has no address has an empty one."""
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
        for name in (*_INPUTS, "output_tokens"):
            if (found := count(usage, name)) is not None:
                counts[name] = found
        if (found := count(usage.get("output_tokens_details"), "thinking_tokens")) is not None:
            counts["thinking_tokens"] = found
        if not counts:
            return
        told = ev.Usage(
            source="provider",
            input_tokens=sum(inputs) if (inputs := [counts[name] for name in _INPUTS if name in counts]) else None,
            output_tokens=counts.get("output_tokens"),
            reasoning_tokens=counts.get("thinking_tokens"),
            cached_tokens=counts.get("cache_read_input_tokens"),
        )
        if told != self._told_usage:
            self._told_usage = told
            self._writer.events.append(told)

    def _take_end(self) -> None:
        if not self._started and not self._any_block:
            self._fail(UpstreamProtocol, "The provider ended its answer before it began.")
            return
        vendor_reason = self._stop_reason
        reason = STOP_REASONS.get(vendor_reason, "stop")
        self._stop_blocks(last_truncated=reason == "length")
        if vendor_reason and vendor_reason not in STOP_REASONS:
            message = f"The provider ended with a reason that is not known here: {public_text(vendor_reason)[:100]}"
            self._writer.events.append(ev.Notice(code="unknown_finish_reason", message=message))
        if reason == "refusal":
            self._writer.events.append(ev.Notice(code="refusal", message=_refusal_text(self._stop_details)))
        if reason == "stop" and self._writer.finished_calls:
            reason = "tool_calls"
        self._end(reason)

    def _close_blocks(self) -> None:
        self._stop_blocks(truncated=True)

    def _stop_blocks(self, *, truncated: bool = False, last_truncated: bool = False) -> None:
        self._settle_empty_calls(truncated=truncated)
        for key in list(self._kinds):
            self._stop_block(key, truncated=truncated or (last_truncated and len(self._kinds) == 1))
        self._settle_empty_calls(truncated=truncated)
        self._writer.end_all(truncated=truncated)


_TAKERS: dict[str, Callable[[AnthropicDecoder, MessageEvent], None]] = {
    "message_start": AnthropicDecoder._take_message_start,
    "content_block_start": AnthropicDecoder._take_block_start,
    "content_block_stop": AnthropicDecoder._take_block_stop,
    "message_delta": AnthropicDecoder._take_message_delta,
    "message_stop": AnthropicDecoder._take_message_stop,
}


def _data_name(block: dict[str, Any]) -> str:
    return f"anthropic.{string(block.get('type'))[:_NAME_CHARACTERS_MAX] or 'block'}"


def _refusal_text(details: object) -> str:
    """What the provider says about its refusal, as far as it says anything."""
    if isinstance(details, dict):
        for name in ("explanation", "category"):
            if text := string(details.get(name)):
                return public_text(text)
    return "The model refused to answer."
