"""The stream of Google's `streamGenerateContent`, from the developer API or from Vertex AI, to events.

https://ai.google.dev/api/generate-content#method:-models.streamgeneratecontent

1. There is no end marker. A finish reason and then the end of the body is the end; some models repeat the reason with every chunk, so
   it alone ends nothing. The end of the body without a reason says that the answer was cut off.
2. A prompt that is blocked has no candidates, only `promptFeedback.blockReason`: that is an answer that a filter stopped before it began.
3. Only the candidate with index 0 counts.
4. Neighbouring parts of one kind are one block. Thoughts are summaries. A thought's signature comes after it, in its block.
5. Any other signature is a thinking block of its own that holds nothing else: before the call (or image) that it was on, after the
   text that it was on. `request` puts it back onto the call, or into an empty text part, which is how the API itself sends it.
6. A call mostly comes whole. One that comes value by value (see `arguments`) has its arguments when it is over; one that is not over
   when the answer is has none, and is not valid.
7. A call without an id gets one.
8. Parts that have no event of their own (`executableCode`, `codeExecutionResult`, `inlineData`, …) are `data` events named
   `gemini.<part>`; so is `groundingMetadata`, each time it says something new. Its pages, and citations, are `source` events.
9. A reason that says that the model's call was malformed, or that the answer went wrong in another way, is an error: what came is not
   what the model meant to say. A reason that is not known is a stop with a notice.
10. Usage is cumulative and comes with every chunk, so it is kept and told when a block begins and at the end.

Not passed on: `safetyRatings`, `logprobsResult`, `avgLogprobs`, `urlContextMetadata`, other candidates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from headrace.errors import UpstreamError, UpstreamProtocol
from headrace.protocol import events as ev
from headrace.protocol.dialects.event_stream import EventStreamDecoder
from headrace.protocol.dialects.gemini.arguments import PartialCall
from headrace.protocol.lenient import count, dicts, encodable, loads, raw, string
from headrace.protocol.provider_error import error_event, public_text
from headrace.protocol.sse import SSEEvent

_SOURCES_MAX = 1000
_NAME_CHARACTERS_MAX = 64

TEXT = "text"
THINKING = "thinking"
SIGNATURE = "signature"
# Stands before every signature: when it comes back, each dialect's builder knows whether it is its own. No signature has a colon in it.
SEAL = "gemini:"

FINISH_REASONS: dict[str, ev.FinishReason] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "CONTINUATION": "length",
    **dict.fromkeys(
        (
            "SAFETY",
            "RECITATION",
            "LANGUAGE",
            "BLOCKLIST",
            "PROHIBITED_CONTENT",
            "SPII",
            "IMAGE_SAFETY",
            "IMAGE_PROHIBITED_CONTENT",
            "IMAGE_RECITATION",
            "MODEL_ARMOR",
            "ESCALATION",
            "PUP_LIMITED_DISABLED",
        ),
        "content_filter",
    ),
}
# These say that the answer broke, inside a stream that otherwise looks whole.
FAILED: dict[str, str] = {
    "MALFORMED_FUNCTION_CALL": "The model wrote a tool call that cannot be read.",
    "UNEXPECTED_TOOL_CALL": "The model called a tool that it was not given.",
    "TOO_MANY_TOOL_CALLS": "The model called too many tools, and the provider stopped it.",
    "MALFORMED_RESPONSE": "The model wrote an answer that cannot be read.",
    "MISSING_THOUGHT_SIGNATURE": "The provider misses a thought signature in the conversation that it was sent.",
    "NO_IMAGE": "The model was to make an image and made none.",
    "IMAGE_OTHER": "The provider stopped making the image without saying why.",
    "OTHER": "The provider stopped the answer without saying why.",
}
_UNSPECIFIED = frozenset({"FINISH_REASON_UNSPECIFIED", "BLOCKED_REASON_UNSPECIFIED", "BLOCK_REASON_UNSPECIFIED"})
_COUNTS = ("promptTokenCount", "toolUsePromptTokenCount", "candidatesTokenCount", "thoughtsTokenCount", "cachedContentTokenCount")
_ABOUT_PARTS = ("Metadata", "mediaResolution", "mediaProcessing")  # fields that only describe the part that they are in
_Part: TypeAlias = Literal["none", "text", "thinking"]


class GeminiDecoder(EventStreamDecoder):
    """Events of one answer."""

    __slots__ = (
        "_any_data",
        "_block_reason",
        "_call_count",
        "_counts",
        "_finish_reason",
        "_grounding",
        "_part",
        "_partial",
        "_response_id",
        "_said_why",
        "_sources",
        "_told_usage",
        "_usage",
    )

    def __init__(self, quirks: Mapping[str, object] | None = None) -> None:
        super().__init__(quirks)
        self._part: _Part = "none"
        self._any_data = False
        self._response_id = ""
        self._call_count = 0
        self._partial: PartialCall | None = None
        self._finish_reason = ""
        self._block_reason = ""
        self._said_why = ""
        self._counts: dict[str, int] = {}
        self._usage: dict[str, Any] = {}
        self._told_usage: ev.Usage | None = None
        self._grounding: object = None
        self._sources: set[tuple[str, str, str]] = set()

    @property
    def begun(self) -> bool:
        """Whether anything has come, also a part that is carried as it is."""
        return self._any_data or self._writer.begun

    def _take(self, event: SSEEvent) -> bool:
        try:
            value = loads(event.data)
        except ValueError:
            self._take_odd_event(event)
            return self.finished
        if event.event == "error":
            self._fail_as(error_event(value, partial=self._writer.begun))
        for response in (value,) if value.__class__ is dict else dicts(value):
            if self.finished:
                break
            self._take_response(response)
        return self.finished

    def _take_odd_event(self, event: SSEEvent) -> None:
        """Take what is no JSON: the end marker that gateways add, or garbage."""
        data = event.data.strip()
        if data.startswith(b"[DONE]"):
            if self._finish_reason or self._block_reason:
                self._take_end()
        elif event.event == "error":
            self._fail_as(error_event(event.text, partial=self._writer.begun))
        elif data:
            self._fail(UpstreamProtocol)

    def _take_response(self, response: dict[str, Any]) -> None:
        self._head = None
        if response.get("error"):
            self._fail_as(error_event(response, partial=self._writer.begun))
            return
        if not self._response_id:
            self._response_id = string(response.get("responseId"))
        if isinstance(usage := response.get("usageMetadata"), dict):
            self._note_usage(usage)
        if isinstance(feedback := response.get("promptFeedback"), dict):
            self._note_block(feedback)
        for candidate in dicts(response.get("candidates")):
            if not candidate.get("index"):
                self._take_candidate(candidate)

    def _take_candidate(self, candidate: dict[str, Any]) -> None:
        content = candidate.get("content")
        if isinstance(content, dict):
            for part in dicts(content.get("parts")):
                self._take_part(part)
        if metadata := candidate.get("groundingMetadata"):
            self._take_grounding(metadata)
        if metadata := candidate.get("citationMetadata"):
            self._take_citations(metadata)
        reason = candidate.get("finishReason")
        if isinstance(reason, str) and reason and reason not in _UNSPECIFIED:
            self._finish_reason = reason
            self._said_why = string(candidate.get("finishMessage")) or self._said_why

    def _note_block(self, feedback: dict[str, Any]) -> None:
        reason = feedback.get("blockReason")
        if isinstance(reason, str) and reason and reason not in _UNSPECIFIED:
            self._block_reason = reason
            self._said_why = string(feedback.get("blockReasonMessage")) or self._said_why

    # --- content ---------------------------------------------------------------------------------------------------

    def _take_part(self, part: dict[str, Any]) -> None:
        text = part.get("text")
        signature = SEAL + string(signature) if (signature := part.get("thoughtSignature")) else ""
        if isinstance(call := part.get("functionCall"), dict):
            self._take_call(call, signature)
        elif part.get("thought") is True and not any(isinstance(value, dict) for value in part.values()):
            self._take_thought(text if isinstance(text, str) else "", signature)
        elif isinstance(text, str):
            if text:
                self._switch("text")
                self._writer.text(TEXT, text)
            if signature:
                self._tell_signature(signature)
        else:
            self._take_other(part, signature)

    def _take_thought(self, text: str, signature: str) -> None:
        if text:
            self._switch("thinking")
            self._writer.thinking(THINKING, text, "summary")
        if signature:
            self._switch("thinking")
            self._writer.thinking(THINKING, "", "summary", signature=signature)
            self._switch("none")

    def _tell_signature(self, signature: str) -> None:
        """A signature that is no thought's (note 5)."""
        self._switch("none")
        self._writer.thinking(SIGNATURE, "", "summary", signature=signature)
        self._writer.end(SIGNATURE)

    def _take_other(self, part: dict[str, Any], signature: str) -> None:
        if signature:
            self._tell_signature(signature)
        for kind, value in part.items():
            if isinstance(value, dict) and value and not kind.endswith(_ABOUT_PARTS):
                self._switch("none")
                self._any_data = True
                self._tell_data(kind, {**value, "thought": True} if part.get("thought") is True else value)

    def _tell_data(self, kind: str, value: object) -> None:
        self._writer.events.append(ev.Data(name=f"gemini.{string(kind)[:_NAME_CHARACTERS_MAX]}", data=encodable(value)))

    def _switch(self, part: _Part) -> None:
        """Go on with another part of the answer, if it is another one."""
        if self._part == part != "none":
            return
        if self._part != "none":
            self._writer.end(TEXT)
            self._writer.end(THINKING)
        self._part = part
        self._tell_usage()

    # --- calls -----------------------------------------------------------------------------------------------------

    def _take_call(self, call: dict[str, Any], signature: str) -> None:
        id, name = string(call.get("id")), string(call.get("name"))
        partial = self._partial
        if partial is not None and not partial.continues(id, name):
            self._end_partial(truncated=True)
            partial = None
        if signature:
            self._tell_signature(signature)
        if partial is None:
            if not call:
                return
            partial = self._partial = self._begin_call(id, name)
        args = call.get("args")
        if args and not isinstance(args, dict):
            # Not what the schema says; whether it is usable is for the call's reader.
            self._writer.arguments(partial.key, string(args) or bytes(raw(args)).decode())
            self._partial = None
            self._writer.end(partial.key)
            return
        partial.feed(call)
        if call.get("willContinue") is not True:
            self._end_partial()

    def _begin_call(self, id: str, name: str) -> PartialCall:
        self._switch("none")
        number = self._call_count
        self._call_count += 1
        call = PartialCall(("call", number), id, name)
        self._writer.tool_call(call.key, id or self._made_up_id(number), name)
        return call

    def _end_partial(self, *, truncated: bool = False) -> None:
        partial, self._partial = self._partial, None
        if partial is None:
            return
        arguments = None if truncated else partial.finish()
        if arguments is not None:
            self._writer.arguments(partial.key, arguments)
        self._writer.end(partial.key, truncated=arguments is None)

    def _made_up_id(self, number: int) -> str:
        """An id for a call that has none: from the response's own id, so that it is the same for every reader and new in every turn."""
        suffix = "".join(character for character in self._response_id if character.isascii() and character.isalnum())[-16:]
        return f"call_{suffix}_{number}" if suffix else f"call_{number}"

    # --- beside the content ----------------------------------------------------------------------------------------

    def _take_grounding(self, metadata: object) -> None:
        """Chunks repeat what chunks before them said."""
        if not isinstance(metadata, dict) or metadata == self._grounding:
            return
        self._grounding = metadata
        self._any_data = True
        self._tell_data("groundingMetadata", metadata)
        for chunk in dicts(metadata.get("groundingChunks")):
            for found in chunk.values():
                if isinstance(found, dict):
                    self._add_source(found.get("uri") or found.get("sourceUri"), found.get("title"), found.get("text"))

    def _take_citations(self, metadata: object) -> None:
        if isinstance(metadata, dict):
            for citation in dicts(metadata.get("citationSources")) + dicts(metadata.get("citations")):
                self._add_source(citation.get("uri"), citation.get("title"), None)

    def _add_source(self, url: object, title: object, text: object) -> None:
        """A document that has no address has an empty one, and is known by its words."""
        address, name, words = string(url), string(title), string(text)
        known = (address, "", "") if address else ("", name, words)
        if any(known) and known not in self._sources and len(self._sources) < _SOURCES_MAX:
            self._sources.add(known)
            block = self._writer.open.get(TEXT)
            index = block.index if block is not None else None
            self._writer.events.append(ev.Source(url=address, title=name or None, index=index, text=words or None))

    def _note_usage(self, usage: dict[str, Any]) -> None:
        """Keep the latest figures; where they say less than those before them, those count too."""
        if len(usage) < len(self._usage):
            self._count_usage()
        self._usage = usage

    def _count_usage(self) -> None:
        usage, self._usage = self._usage, {}
        for name in _COUNTS:
            if (found := count(usage, name)) is not None:
                self._counts[name] = found

    def _tell_usage(self) -> None:
        """Append a `usage` event if there are figures that were not told yet."""
        self._count_usage()
        counts = self._counts
        if not counts:
            return
        usage = ev.Usage(
            source="provider",
            input_tokens=_sum(counts, "promptTokenCount", "toolUsePromptTokenCount"),
            output_tokens=_sum(counts, "candidatesTokenCount", "thoughtsTokenCount"),
            reasoning_tokens=counts.get("thoughtsTokenCount"),
            cached_tokens=counts.get("cachedContentTokenCount"),
        )
        if usage != self._told_usage:
            self._told_usage = usage
            self._writer.events.append(usage)

    # --- the end ---------------------------------------------------------------------------------------------------

    def _take_end(self) -> None:
        """The provider said that this is all."""
        vendor_reason = self._finish_reason or self._block_reason
        known = vendor_reason.upper()
        reason = FINISH_REASONS.get(known, "stop")
        if self._block_reason and reason == "stop":
            vendor_reason, reason = self._block_reason, "content_filter"
        elif known in FAILED:
            self._fail(UpstreamError, public_text(self._said_why) or FAILED[known])
            return
        self._end_partial(truncated=True)
        self._writer.end_all()
        if reason == "content_filter":
            self._tell_notice("content_filter", f"The provider's filter stopped the answer: {self._why(vendor_reason)}")
        elif known not in FINISH_REASONS:
            self._tell_notice(
                "unknown_finish_reason", f"The provider ended with a reason that is not known here: {self._why(vendor_reason)}"
            )
        if reason == "stop" and self._call_count:
            reason = "tool_calls"
        self._tell_usage()
        self._end(reason)

    def _why(self, vendor_reason: str) -> str:
        said = public_text(self._said_why)
        name = public_text(vendor_reason)[:100]
        return f"{said} ({name})" if said else name

    def _tell_notice(self, code: str, message: str) -> None:
        self._writer.events.append(ev.Notice(code=code, message=message))

    def _take_end_of_body(self) -> None:
        if self._finish_reason or self._block_reason:
            self._take_end()
        else:
            super()._take_end_of_body()

    def _close_blocks(self) -> None:
        self._end_partial(truncated=True)
        super()._close_blocks()
        self._tell_usage()


def _sum(counts: dict[str, int], *names: str) -> int | None:
    found = [counts[name] for name in names if name in counts]
    return sum(found) if found else None
