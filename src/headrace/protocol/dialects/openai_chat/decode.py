"""The Chat Completions stream of OpenAI, and of the many who speak it with an accent, to events.

https://platform.openai.com/docs/api-reference/chat-streaming

What a stream means where its providers differ:

1. The end is `[DONE]`. Where it never comes, a finish reason is the end; without either the answer was cut off.
2. Blocks stay open until then, because fragments of parallel calls may alternate and some vendors repeat the finish reason.
3. Only the choice with index 0 counts. `n` is not part of our request; a client that asks for it gets the provider's own bytes.
4. Which call a fragment belongs to is decided in `calls`; a call without an id gets one.
5. Calls and the finish reason `stop` are `tool_calls`: whoever runs the tools must not have to know the vendor. `tool_calls` without
   any call is `stop`, because there is nothing to run.
6. A refusal is not the answer's text: it ends the stream as `refusal`, and its words are a `notice`.
7. Usage is cumulative. Some send it with every chunk, so it is kept and told when a block begins and at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import msgspec
from msgspec import Raw

from headrace.errors import UpstreamError, UpstreamOverloaded, UpstreamProtocol, UpstreamTruncated
from headrace.protocol import events as ev
from headrace.protocol.dialects.event_stream import EventStreamDecoder
from headrace.protocol.dialects.openai_chat.calls import Calls
from headrace.protocol.dialects.openai_chat.chunk import Chunk, Delta, Function, ToolCall, decode_chunk, loose_chunk
from headrace.protocol.lenient import NO_RAW, NULL, count, dicts, encodable, load_dict, load_list, loads, raw, string, whole
from headrace.protocol.provider_error import error_event, public_text
from headrace.protocol.sse import SSEEvent

_SOURCES_MAX = 1000
_REFUSAL_CHARACTERS_MAX = 16 * 1024
_NAME_CHARACTERS_MAX = 64

TEXT = "text"
THINKING = "thinking"

FINISH_REASONS: dict[str, ev.FinishReason] = {
    "stop": "stop",
    "stop_sequence": "stop",
    "end_turn": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "complete": "stop",
    "completed": "stop",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "model_context_window_exceeded": "length",
    "tool_calls": "tool_calls",
    "tool_call": "tool_calls",
    "tool_use": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "content-filter": "content_filter",
    "safety": "content_filter",
    "sensitive": "content_filter",
    "refusal": "refusal",
    "pause": "pause",
    "pause_turn": "pause",
}
# These say that the answer broke, inside a stream that otherwise looks whole.
FAILED: dict[str, type[UpstreamError]] = {
    "error": UpstreamError,
    "network_error": UpstreamError,
    "abort": UpstreamTruncated,
    "insufficient_system_resource": UpstreamOverloaded,
}
_Part: TypeAlias = Literal["none", "text", "thinking", "tools"]


class OpenAIChatDecoder(EventStreamDecoder):
    """Events of one Chat Completions stream."""

    __slots__ = (
        "_calls",
        "_citations",
        "_finish_reason",
        "_part",
        "_reasoning_seen",
        "_refusal",
        "_search_results",
        "_told_usage",
        "_urls",
        "_usage",
    )

    def __init__(self, quirks: Mapping[str, object] | None = None) -> None:
        # The server of llama.cpp, and what is built on it, wrote `error: {…}` in place of an event.
        super().__init__(quirks, event_fields=("error",))
        self._part: _Part = "none"
        self._calls = Calls()
        self._reasoning_seen = False
        self._refusal = ""
        self._finish_reason = ""
        self._usage: Raw = NO_RAW
        self._told_usage: ev.Usage | None = None
        self._citations: Raw = NO_RAW
        self._search_results: Raw = NO_RAW
        self._urls: set[str] = set()

    def _take(self, event: SSEEvent) -> bool:
        try:
            chunk = decode_chunk(event.data)
        except (msgspec.DecodeError, RecursionError):
            self._take_odd_event(event)
            return self.finished
        if chunk.error or event.event == "error":
            self._take_error(event)
        else:
            self._take_chunk(chunk, event.data)
        return self.finished

    def _take_odd_event(self, event: SSEEvent) -> None:
        """Take what is no chunk at first sight: the end, a chunk with an odd structure, or no JSON."""
        data = event.data.strip()
        if data.startswith(b"[DONE]"):
            self._take_end()
            return
        try:
            value = loads(data)
        except ValueError:
            if event.event == "error":
                self._take_error(event)
            elif data:
                self._fail(UpstreamProtocol)
            return
        if event.event == "error" or (isinstance(value, dict) and value.get("error")):
            self._take_error(event)
        elif isinstance(value, dict):
            self._take_chunk(loose_chunk(value), data)

    def _take_error(self, event: SSEEvent) -> None:
        try:
            value = loads(event.data)
        except ValueError:
            value = event.text
        self._fail_as(error_event(value, partial=self._writer.begun))

    def _take_chunk(self, chunk: Chunk, data: bytes) -> None:
        self._head = None
        if chunk.usage is not NO_RAW and chunk.usage != NULL:
            self._usage = chunk.usage
        if chunk.choices:
            for choice in chunk.choices:
                if choice.index:
                    continue
                if choice.delta is not None:
                    self._take_delta(choice.delta, data)
                if choice.finish_reason:
                    self._finish_reason = str(choice.finish_reason)
                if choice.usage is not NO_RAW and choice.usage != NULL:
                    self._usage = choice.usage
        else:
            self._take_chunk_without_choices(chunk, data)
        if chunk.x_groq is not NO_RAW and (usage := load_dict(chunk.x_groq).get("usage")):
            self._usage = raw(usage)
        if chunk.citations is not NO_RAW or chunk.search_results is not NO_RAW:
            self._take_search(chunk)

    def _take_chunk_without_choices(self, chunk: Chunk, data: bytes) -> None:
        if chunk.usage is not NO_RAW:
            self._tell_usage()
        elif chunk.choices is None:
            value = load_dict(data)
            if value.get("object") == "error" or value.get("type") == "error":
                self._fail_as(error_event(value, partial=self._writer.begun))

    # --- content ---------------------------------------------------------------------------------------------------

    def _take_delta(self, delta: Delta, data: bytes) -> None:
        thinking = delta.reasoning_content or delta.reasoning
        if thinking:
            self._take_reasoning(thinking)
        if delta.reasoning_details:
            self._take_reasoning_details(delta.reasoning_details)
        content = delta.content
        if content:
            if content.__class__ is str:
                if self._part != "text":
                    self._switch("text")
                self._writer.text(TEXT, content)
            else:
                self._take_parts(content)
        if delta.tool_calls:
            for fragment in delta.tool_calls:
                self._take_tool_call(fragment, data)
        elif delta.function_call is not None:
            self._take_tool_call(ToolCall("function_call", None, delta.function_call), data)
        if delta.refusal and isinstance(delta.refusal, str) and len(self._refusal) < _REFUSAL_CHARACTERS_MAX:
            self._refusal += delta.refusal
        if delta.annotations:
            self._take_annotations(delta.annotations)
        if delta.audio:
            self._tell_data("audio", delta.audio)
        if delta.images:
            self._tell_data("images", delta.images)

    def _take_reasoning(self, thinking: object) -> None:
        if thinking and isinstance(thinking, str):
            self._reasoning_seen = True
            if self._part != "thinking":
                self._switch("thinking")
            self._writer.thinking(THINKING, thinking)

    def _take_reasoning_details(self, details: object) -> None:
        """OpenRouter's structured form, for what is only there: signatures, sealed reasoning, and text if no other field has it.

        https://openrouter.ai/docs/use-cases/reasoning-tokens
        """
        for detail in dicts(details):
            kind: ev.ThinkingKind = "summary" if detail.get("type") == "reasoning.summary" else "raw"
            text = "" if self._reasoning_seen else string(detail.get("text")) or string(detail.get("summary"))
            signature = string(detail.get("signature")) or None
            redacted = string(detail.get("data")) or None
            if text or signature or redacted:
                if self._part != "thinking":
                    self._switch("thinking")
                self._writer.thinking(THINKING, text, kind, signature=signature, redacted=redacted)

    def _take_parts(self, content: object) -> None:
        """Mistral's form: content as a list of parts, of which a thinking part holds parts again."""
        for part in dicts(content):
            kind = part.get("type")
            if kind == "text":
                if text := string(part.get("text")):
                    self._switch("text")
                    self._writer.text(TEXT, text)
            elif kind == "thinking":
                inner = part.get("thinking")
                self._take_reasoning(inner if isinstance(inner, str) else "".join(string(x.get("text")) for x in dicts(inner)))
            else:
                self._tell_data(string(kind) or "part", part)

    def _switch(self, part: _Part) -> None:
        """Go on with another part of the answer: text and thinking end where the other begins, calls stay open (note 2)."""
        if self._part == part:
            return
        if self._part != "none":
            self._writer.end(TEXT)
            self._writer.end(THINKING)
        self._part = part
        self._tell_usage()

    # --- tool calls ------------------------------------------------------------------------------------------------

    def _take_tool_call(self, fragment: ToolCall, data: bytes) -> None:
        function = fragment.function
        if function is None:
            custom = fragment.custom if isinstance(fragment.custom, dict) else {}
            function = Function(custom.get("name"), custom.get("input"))
        name = string(function.name) if function.name else ""
        arguments = function.arguments
        if not isinstance(arguments, str):
            # A few vendors send the arguments as the object itself.
            arguments = bytes(raw(arguments)).decode() if isinstance(arguments, dict) else ""
        if self._part != "tools":
            self._switch("tools")
        id = string(fragment.id) if fragment.id else ""
        call, replaced = self._calls.find(fragment.index, id, name, arguments)
        if replaced is not None:
            self._writer.end(replaced.number)
        if not call.name:
            call.name = name
            self._writer.tool_call(call.number, call.id or (_made_up_id(call.number, data) if name else None), name)
        if arguments:
            call.last = arguments
            self._writer.arguments(call.number, arguments)

    # --- beside the content ----------------------------------------------------------------------------------------

    def _take_annotations(self, annotations: object) -> None:
        for annotation in dicts(annotations):
            citation = annotation.get("url_citation")
            if isinstance(citation, dict):
                self._add_source(citation.get("url"), citation.get("title"), citation.get("content"))

    def _take_search(self, chunk: Chunk) -> None:
        """Perplexity repeats all results with every chunk."""
        if chunk.search_results is not NO_RAW and chunk.search_results != self._search_results:
            self._search_results = chunk.search_results
            for result in dicts(load_list(chunk.search_results)):
                self._add_source(result.get("url"), result.get("title"), result.get("snippet"))
        if chunk.citations is not NO_RAW and chunk.citations != self._citations:
            self._citations = chunk.citations
            for url in load_list(chunk.citations):
                self._add_source(url, None, None)

    def _add_source(self, url: object, title: object, text: object) -> None:
        address = string(url)
        if address and address not in self._urls and len(self._urls) < _SOURCES_MAX:
            self._urls.add(address)
            self._writer.events.append(ev.Source(url=address, title=string(title) or None, text=string(text) or None))

    def _tell_data(self, kind: str, value: object) -> None:
        """Carry what has no event of its own."""
        self._writer.events.append(ev.Data(name=f"openai_chat.{kind[:_NAME_CHARACTERS_MAX]}", data=encodable(value)))

    def _tell_usage(self) -> None:
        """Append a `usage` event if there are figures that were not told yet."""
        latest, self._usage = self._usage, NO_RAW
        if latest is NO_RAW:
            return
        usage = _usage(loads(latest))
        if usage is not None and usage != self._told_usage:
            self._told_usage = usage
            self._writer.events.append(usage)

    # --- the end ---------------------------------------------------------------------------------------------------

    def _take_end(self) -> None:
        """The provider said that this is all."""
        if self._head is not None:
            self._fail(UpstreamProtocol, "The provider ended its answer before it began.")
            return
        vendor_reason = self._finish_reason
        known = vendor_reason.lower()
        if known in FAILED:
            self._fail(FAILED[known])
            return
        reason = FINISH_REASONS.get(known, "stop")
        self._writer.end_all(last_truncated=reason in ("length", "content_filter"))
        if vendor_reason and known not in FINISH_REASONS:
            message = f"The provider ended with a reason that is not known here: {public_text(vendor_reason)[:100]}"
            self._writer.events.append(ev.Notice(code="unknown_finish_reason", message=message))
        if reason == "stop" and self._calls.count:
            reason = "tool_calls"
        elif reason == "tool_calls" and not self._calls.count:
            reason = "stop"
        if self._refusal:
            self._writer.events.append(ev.Notice(code="refusal", message=whole(self._refusal)))
            reason = "refusal" if reason == "stop" else reason
        self._tell_usage()
        self._end(reason)

    def _take_end_of_body(self) -> None:
        if self._finish_reason:
            self._take_end()
        else:
            super()._take_end_of_body()

    def _close_blocks(self) -> None:
        super()._close_blocks()
        self._tell_usage()


def _made_up_id(number: int, data: bytes) -> str:
    """An id for a call that has none: from the response's own id, so that it is the same for every reader and new in every turn."""
    response = string(load_dict(data).get("id"))
    suffix = "".join(character for character in response if character.isascii() and character.isalnum())[-16:]
    return f"call_{suffix}_{number}" if suffix else f"call_{number}"


def _usage(value: object) -> ev.Usage | None:
    if not isinstance(value, dict):
        return None
    inputs = value.get("prompt_tokens_details") or value.get("input_tokens_details")
    outputs = value.get("completion_tokens_details") or value.get("output_tokens_details")
    cached = count(inputs, "cached_tokens")
    usage = ev.Usage(
        source="provider",
        input_tokens=count(value, "prompt_tokens", "input_tokens"),
        output_tokens=count(value, "completion_tokens", "output_tokens"),
        reasoning_tokens=count(outputs, "reasoning_tokens"),
        cached_tokens=cached if cached is not None else count(value, "prompt_cache_hit_tokens", "cached_tokens"),
    )
    return usage if usage != ev.Usage(source="provider") else None
