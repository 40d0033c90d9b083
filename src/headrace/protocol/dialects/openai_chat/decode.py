"""The Chat Completions stream of OpenAI, and of the many who speak it with an accent, to events.

https://platform.openai.com/docs/api-reference/chat-streaming

What a stream means where its providers differ:

1. The end is `[DONE]`. Where it never comes, a finish reason is the end; without either the answer was cut off.
2. Blocks stay open until then, because fragments of parallel calls may alternate and some vendors repeat the finish reason.
3. Only the choice with index 0 counts. `n` is not part of our request; a client that asks for it gets the provider's own bytes.
4. A call is known by its `index`, without one by its `id`, without both it is the last one. A different id together with a name
   on an index that is taken is another call; a different id alone is not, because some vendors make up a new one per fragment.
5. Calls and the finish reason `stop` are `tool_calls`: whoever runs the tools must not have to know the vendor. `tool_calls` without
   any call is `stop`, because there is nothing to run.
6. A refusal is not the answer's text: it ends the stream as `refusal`, and its words are a `notice`.
7. Usage is cumulative. Some send it with every chunk, so it is kept and told when a block begins and at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Raw, Struct

from headrace.errors import RemoteProtocolError, UpstreamError, UpstreamOverloaded, UpstreamProtocol, UpstreamTruncated
from headrace.protocol import events as ev
from headrace.protocol.blocks import BlockWriter, ToolArguments
from headrace.protocol.lenient import NO_RAW, count, dicts, encodable, is_json, load_dict, load_list, loads, raw, string, whole
from headrace.protocol.provider_error import error_event, plain_error_event, public_text
from headrace.protocol.sse import EVENT_BYTES_MAX, SSEEvent, SSEParser

_NULL = b"null"
_HEAD_BYTES_MAX = 64 * 1024
_SOURCES_MAX = 1000
_REFUSAL_CHARACTERS_MAX = 16 * 1024

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
# Not an id, whatever the vendor means by it.
_NO_ID = frozenset(("", "null", "none", "undefined", "None"))

_Picked = TypeVar("_Picked", bound=Struct)
_Part: TypeAlias = Literal["none", "text", "thinking", "tools"]


class _Function(Struct, gc=False):
    name: Any = None
    arguments: Any = None


class _ToolCall(Struct, gc=False):
    index: Any = None
    id: Any = None
    function: _Function | None = None
    custom: Any = None


class _Delta(Struct, gc=False):
    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    tool_calls: list[_ToolCall] | None = None
    reasoning_details: Any = None
    refusal: Any = None
    function_call: _Function | None = None
    annotations: Any = None
    audio: Any = None
    images: Any = None


class _Choice(Struct, gc=False):
    index: Any = None
    delta: _Delta | None = None
    finish_reason: Any = None
    usage: Raw = NO_RAW


class _Chunk(Struct, gc=False):
    choices: list[_Choice] | None = None
    usage: Raw = NO_RAW
    error: Any = None
    x_groq: Raw = NO_RAW
    citations: Raw = NO_RAW
    search_results: Raw = NO_RAW


_decode_chunk: Callable[[bytes], _Chunk] = msgspec.json.Decoder(_Chunk).decode


class _Call:
    """One call under way: the writer's key, what the vendor said about it, and the last fragment of its arguments."""

    __slots__ = ("id", "key", "last", "name")

    def __init__(self, key: int, id: str) -> None:
        self.key = key
        self.id = id
        self.name = ""
        self.last = ""


class OpenAIChatDecoder:
    """Events of one Chat Completions stream. `quirks` may bound a line: `line_bytes_max`."""

    __slots__ = (
        "_call_count",
        "_calls",
        "_citations",
        "_finish_reason",
        "_head",
        "_last_call",
        "_part",
        "_reasoning_seen",
        "_refusal",
        "_search_results",
        "_sse",
        "_told_usage",
        "_urls",
        "_usage",
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
        self._part: _Part = "none"
        self._finish_reason = ""
        self._refusal = ""
        self._reasoning_seen = False
        self._calls: dict[int | str, _Call] = {}
        self._last_call: _Call | None = None
        self._call_count = 0
        self._usage: Raw = NO_RAW
        self._told_usage: ev.Usage | None = None
        self._citations: Raw = NO_RAW
        self._search_results: Raw = NO_RAW
        self._urls: set[str] = set()

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
            self._keep_head(chunk)
        return self._writer.take()

    def finish(self) -> list[ev.Event]:
        """Return what the end of the body means.

        An event that lacks only its blank line is taken: its JSON tells whether it is whole.
        """
        if self.finished:
            return []
        try:
            for sse in self._sse.feed(b"\n\n"):
                if sse.data.startswith(b"[DONE]") or is_json(sse.data):
                    self._take_event(sse)
            self._sse.finish()
        except RemoteProtocolError:
            self._fail(plain_error_event(UpstreamProtocol, partial=self._writer.begun))
        if not self.finished:
            if self._finish_reason:
                self._end()
            else:
                self._fail(self._error_of_body())
        return self._writer.take()

    def _take_event(self, sse: SSEEvent) -> None:
        if self.finished:
            return
        self._head = None
        data = sse.data
        try:
            chunk = _decode_chunk(data)
        except (msgspec.DecodeError, RecursionError):
            self._take_odd_event(sse)
            return
        if chunk.error or sse.event == "error":
            self._take_error(sse)
            return
        self._take_chunk(chunk, data)

    def _take_odd_event(self, sse: SSEEvent) -> None:
        """Take what is no chunk at first sight: the end, a chunk in an odd type, or no JSON."""
        data = sse.data.strip()
        if data.startswith(b"[DONE]"):
            self._end()
        elif data:
            try:
                value = loads(data)
            except ValueError:
                value = None
                if sse.event != "error":
                    self._fail(plain_error_event(UpstreamProtocol, partial=self._writer.begun))
                    return
            if sse.event == "error" or (isinstance(value, dict) and value.get("error")):
                self._take_error(sse)
            elif isinstance(value, dict):
                self._take_chunk(_loose_chunk(value), data)

    def _take_error(self, sse: SSEEvent) -> None:
        try:
            value = loads(sse.data)
        except ValueError:
            value = sse.data.decode()
        self._fail(error_event(value, partial=self._writer.begun))

    def _take_chunk(self, chunk: _Chunk, data: bytes) -> None:
        if chunk.usage is not NO_RAW and chunk.usage != _NULL:
            self._usage = chunk.usage
        if chunk.choices:
            for choice in chunk.choices:
                if choice.index:
                    continue
                if choice.delta is not None:
                    self._take_delta(choice.delta, data)
                if choice.finish_reason:
                    self._finish_reason = str(choice.finish_reason)
                if choice.usage is not NO_RAW and choice.usage != _NULL:
                    self._usage = choice.usage
        else:
            self._take_chunk_without_choices(chunk, data)
        if chunk.x_groq is not NO_RAW:
            self._take_x_groq(chunk.x_groq)
        if chunk.citations is not NO_RAW or chunk.search_results is not NO_RAW:
            self._take_search(chunk)

    def _take_chunk_without_choices(self, chunk: _Chunk, data: bytes) -> None:
        if chunk.usage is not NO_RAW:
            self._tell_usage()
        elif chunk.choices is None:
            value = load_dict(data)
            if value.get("object") == "error" or value.get("type") == "error":
                self._fail(error_event(value, partial=self._writer.begun))

    # --- content ---------------------------------------------------------------------------------------------------

    def _take_delta(self, delta: _Delta, data: bytes) -> None:
        thinking = delta.reasoning_content or delta.reasoning
        if thinking:
            self._take_reasoning(thinking)
        elif delta.reasoning_details and not self._reasoning_seen:
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
            self._take_tool_call(_ToolCall("function_call", None, delta.function_call), data)
        if delta.refusal and isinstance(delta.refusal, str) and len(self._refusal) < _REFUSAL_CHARACTERS_MAX:
            self._refusal += delta.refusal
        if delta.annotations:
            self._take_annotations(delta.annotations)
        if delta.audio or delta.images:
            self._take_media(delta)

    def _take_reasoning(self, thinking: object) -> None:
        self._reasoning_seen = True
        if isinstance(thinking, str):
            if self._part != "thinking":
                self._switch("thinking")
            self._writer.thinking(THINKING, thinking)

    def _take_reasoning_details(self, details: object) -> None:
        """OpenRouter's structured form: https://openrouter.ai/docs/use-cases/reasoning-tokens"""
        for detail in details if isinstance(details, list) else ():
            if not isinstance(detail, dict):
                continue
            if self._part != "thinking":
                self._switch("thinking")
            kind: ev.ThinkingKind = "summary" if detail.get("type") == "reasoning.summary" else "raw"
            self._writer.thinking(
                THINKING,
                string(detail.get("text")) or string(detail.get("summary")),
                kind,
                signature=string(detail.get("signature")) or None,
                redacted=string(detail.get("data")) or None,
            )

    def _take_parts(self, content: object) -> None:
        """Mistral's form: content as a list of parts, of which a thinking part holds parts again."""
        for part in content if isinstance(content, list) else ():
            if not isinstance(part, dict):
                continue
            kind = part.get("type")
            if kind == "text":
                if text := string(part.get("text")):
                    self._switch("text")
                    self._writer.text(TEXT, text)
            elif kind == "thinking":
                inner = part.get("thinking")
                texts = [inner] if isinstance(inner, str) else [string(x.get("text")) for x in inner or () if isinstance(x, dict)]
                if text := "".join(texts):
                    self._take_reasoning(text)
            else:
                self._writer.events.append(ev.Data(name=f"openai_chat.{string(kind) or 'part'}", data=encodable(part)))

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

    def _take_tool_call(self, fragment: _ToolCall, data: bytes) -> None:
        function = fragment.function
        if function is None:
            custom = fragment.custom if isinstance(fragment.custom, dict) else {}
            function = _Function(custom.get("name"), custom.get("input"))
        name = string(function.name)
        arguments = function.arguments
        if not isinstance(arguments, str):
            # A few vendors send the arguments as the object itself.
            arguments = msgspec.json.encode(arguments).decode() if isinstance(arguments, dict) else ""
        if self._part != "tools":
            self._switch("tools")
        call = self._call_of(fragment, name, arguments, data)
        if not call.name:
            call.name = name
            self._writer.tool_call(call.key, call.id, name)
        if arguments:
            call.last = arguments
            self._writer.arguments(call.key, arguments)

    def _call_of(self, fragment: _ToolCall, name: str, arguments: str, data: bytes) -> _Call:
        """Return the call that the fragment belongs to, which may be a new one (note 4)."""
        id = fragment.id if isinstance(fragment.id, str) and fragment.id not in _NO_ID else ""
        index = _call_index(fragment.index)
        where = index if index is not None else id
        call = self._calls.get(where) if where != "" else self._last_call
        if call is not None:
            if not name or (not call.name and not call.last):
                call.id = call.id or id
                return call
            if id and call.id:
                another = id != call.id
            elif index is None and not id:
                another = True
            else:
                another = name != call.name or (call.last.rstrip().endswith("}") and arguments.lstrip().startswith("{"))
            if not another:
                return call
            self._writer.end(call.key)
        call = _Call(self._call_count, id or _made_up_id(self._call_count, data))
        self._call_count += 1
        if where != "":
            self._calls[where] = call
        if id:
            self._calls.setdefault(id, call)
        self._last_call = call
        return call

    # --- beside the content ----------------------------------------------------------------------------------------

    def _take_annotations(self, annotations: object) -> None:
        for annotation in annotations if isinstance(annotations, list) else ():
            if isinstance(annotation, dict) and isinstance(annotation.get("url_citation"), dict):
                citation = annotation["url_citation"]
                self._add_source(citation.get("url"), citation.get("title"), citation.get("content"))

    def _take_search(self, chunk: _Chunk) -> None:
        """Perplexity repeats all results with every chunk."""
        if chunk.search_results is not NO_RAW and chunk.search_results != self._search_results:
            self._search_results = chunk.search_results
            for result in load_list(chunk.search_results):
                if isinstance(result, dict):
                    self._add_source(result.get("url"), result.get("title"), result.get("snippet"))
        if chunk.citations is not NO_RAW and chunk.citations != self._citations:
            self._citations = chunk.citations
            for url in load_list(chunk.citations):
                self._add_source(url, None, None)

    def _add_source(self, url: object, title: object, text: object) -> None:
        if isinstance(url, str) and url and url not in self._urls and len(self._urls) < _SOURCES_MAX:
            self._urls.add(url)
            self._writer.events.append(ev.Source(url=url, title=string(title) or None, text=string(text) or None))

    def _take_media(self, delta: _Delta) -> None:
        for name, value in (("audio", delta.audio), ("images", delta.images)):
            if value:
                self._writer.events.append(ev.Data(name=f"openai_chat.{name}", data=encodable(value)))

    def _take_x_groq(self, x_groq: Raw) -> None:
        value = load_dict(x_groq)
        if value.get("usage"):
            self._usage = raw(value["usage"])

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

    def _end(self) -> None:
        """The provider said that this is all."""
        vendor_reason = self._finish_reason
        known = vendor_reason.lower()
        if known in FAILED:
            self._fail(plain_error_event(FAILED[known], partial=self._writer.begun))
            return
        reason = FINISH_REASONS.get(known, "stop")
        self._writer.end_all(last_truncated=reason in ("length", "content_filter"))
        if vendor_reason and known not in FINISH_REASONS:
            message = f"The provider ended with a reason that is not known here: {public_text(vendor_reason)[:100]}"
            self._writer.events.append(ev.Notice(code="unknown_finish_reason", message=message))
        if reason == "stop" and self._call_count:
            reason = "tool_calls"
        elif reason == "tool_calls" and not self._call_count:
            reason = "stop"
        if self._refusal:
            self._writer.events.append(ev.Notice(code="refusal", message=whole(self._refusal)))
            reason = "refusal" if reason == "stop" else reason
        self._tell_usage()
        self._writer.events.append(ev.StreamEnd(finish_reason=reason))
        self.finished = True

    def _fail(self, error: ev.Error) -> None:
        self._writer.end_all(truncated=True)
        self._tell_usage()
        self._writer.events.append(error)
        self.finished = True

    def _keep_head(self, chunk: bytes) -> None:
        assert self._head is not None
        self._head += chunk[: _HEAD_BYTES_MAX - len(self._head)]

    def _error_of_body(self) -> ev.Error:
        """The body ended and nothing said that this was meant: an error that came without a stream, or a cut."""
        head = bytes(self._head or b"").strip()
        if head.startswith((b"{", b"[")) and is_json(head):
            return error_event(loads(head), partial=False)
        if head.startswith(b"<"):
            return plain_error_event(UpstreamProtocol, partial=False)
        return plain_error_event(UpstreamTruncated, partial=self._writer.begun)


def _loose_chunk(value: dict[str, Any]) -> _Chunk:
    """Build a chunk from JSON in which something has an unexpected type; what cannot be read is left out."""
    chunk = _pick(_Chunk, value)
    chunk.choices = [_loose_choice(choice) for choice in dicts(value.get("choices"))]
    return chunk


def _loose_choice(value: dict[str, Any]) -> _Choice:
    choice = _pick(_Choice, value)
    delta = value.get("delta")
    if isinstance(delta, dict):
        choice.delta = _pick(_Delta, delta)
        choice.delta.function_call = _loose_function(delta.get("function_call"))
        choice.delta.tool_calls = [
            _ToolCall(call.get("index"), call.get("id"), _loose_function(call.get("function"))) for call in dicts(delta.get("tool_calls"))
        ]
    return choice


def _loose_function(value: object) -> _Function | None:
    return _pick(_Function, value) if isinstance(value, dict) else None


def _pick(cls: type[_Picked], value: dict[str, Any]) -> _Picked:
    """Return a `cls` with those of its loosely typed fields that `value` has."""
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(cls):
        item = value.get(field.name)
        if field.type is Any:
            found[field.name] = item
        elif field.type is Raw and item is not None:
            found[field.name] = raw(item)
    return cls(**found)


def _call_index(index: object) -> int | str | None:
    """An index is a number, or a number in quotes; anything else that can be told apart will do as well."""
    if isinstance(index, str):
        return int(index) if index.isdecimal() and len(index) < 10 else index or None
    return int(index) if isinstance(index, int | float) and index == index and abs(index) < 2**31 else None


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
