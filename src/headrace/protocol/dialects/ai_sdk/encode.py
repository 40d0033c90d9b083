"""Our events as a UI message stream, version 1: what `useChat` of the AI SDK reads.

https://ai-sdk.dev/docs/ai-sdk-ui/stream-protocol#data-stream-protocol

`useChat` gives up on a chunk whose type it does not know, so only types of the protocol are ever sent. What it has none for goes out as
`data-` chunks: `data-queue`, `data-notice`, `data-usage` and `data-error`, which are transient (they reach `onData` and are no part
of the message), `data-gap`, which stays in the message where something is missing, and the notice with a refusal's words, which stays too.

A reader that resumes reads everything again from the start and puts it together anew. So ids come from nothing but the events: two
readers get the same ones, whatever was merged for the one that came late.

- Text and reasoning are named by the index of their block. What a provider wants back of its reasoning (a signature, a redacted form)
  stands in the `providerMetadata` of the part, under `headrace`.
- The result of a tool that ran here ends its step, as it does where the AI SDK runs tools itself: what comes next is the next one.
- A call whose arguments are no whole JSON object is `tool-input-error`, with what came as its input. Where the user's Stop cut it, it
  stays as it is instead, because a chat that sends again once its calls are answered would take that error for an answer.
- A stopped answer ends with `abort`, one that failed with `error`; neither has a `finish`. What `finish` would have said of usage and
  times is in a `message-metadata` before that.
- A withdrawn attempt is `reset-step`, which the AI SDK knows from version 7 on.
- The times of every token (`arrivals`) and the distributions of gaps are left out: a message's metadata go back with each request.
"""

from __future__ import annotations

from typing import Any

import msgspec

from headrace.protocol import events as ev
from headrace.protocol.dialects.frontend import camel, metrics
from headrace.protocol.dialects.page_stream import PageStream
from headrace.protocol.sse import DONE
from headrace.protocol.surface import SurfaceRequest

STOPPED = "The answer was stopped."
_CONTINUED = "continuedMessageId"

_encode = msgspec.json.Encoder().encode
_FINISH_REASONS: dict[ev.FinishReason, str] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool-calls",
    "content_filter": "content-filter",
    "refusal": "content-filter",
    "pause": "other",
}


class UIMessageStream(PageStream):
    """One reader's chunks. Parts open with the first event of their block, and a call's part with its start."""

    end_marker = DONE

    def __init__(self, request: SurfaceRequest) -> None:
        super().__init__()
        self._message_id = _continued_message(request.body)
        self._started = False
        # The next part belongs to the next step.
        self._step_over = False
        # What each delta of a call's input begins with.
        self._inputs: dict[str, bytes] = {}
        self._calls: set[str] = set()
        self._reasoning: dict[int, dict[str, str]] = {}
        # Calls with broken arguments, until it is known that nobody stopped them.
        self._broken: list[ev.ToolCallComplete] = []

    # --- the message -----------------------------------------------------------------------------------------------

    def _start(self, event: ev.StreamStart) -> None:
        """A message that goes on has an end already, that of its part before: it is taken back, so that none means none."""
        self._started = True
        metadata: dict[str, Any] = {"streamId": event.stream_id, "model": event.model}
        if self._message_id:
            metadata["finishReason"] = None
        self._send({"type": "start", "messageId": self._message_id or event.message_id, "messageMetadata": metadata})
        self._send({"type": "start-step"})

    def _gap(self, event: ev.Gap) -> None:
        """Something is missing, maybe the very start: then the id of the message is missing too."""
        if not self._started:
            self._started = True
            self._send({"type": "start"} | ({"messageId": self._message_id} if self._message_id else {}))
            self._send({"type": "start-step"})
        for index in list(self._deltas):
            self._close(index)
        self._send({"type": "data-gap", "data": camel(event, "seq")})

    def _reset(self, event: ev.Reset) -> None:
        self._send({"type": "reset-step"})
        for state in (self._deltas, self._inputs, self._calls, self._reasoning, self._broken):
            state.clear()

    def _stream_end(self, event: ev.StreamEnd) -> None:
        metadata = {"finishReason": event.finish_reason} | _totals(event)
        if event.finish_reason == "cancelled":
            self._broken.clear()
            self._send({"type": "message-metadata", "messageMetadata": metadata})
            self._send({"type": "abort", "reason": STOPPED})
            return
        self._send_broken()
        self._send({"type": "finish-step"})
        self._send({"type": "finish", "finishReason": _FINISH_REASONS[event.finish_reason], "messageMetadata": metadata})

    def _error(self, event: ev.Error) -> None:
        """The last chunk ends the reader's stream with an exception, so everything else stands before it."""
        self._send_broken()
        self._send_transient("error", camel(event, "seq", "usage", "metrics"))
        self._send({"type": "message-metadata", "messageMetadata": {"finishReason": "error"} | _totals(event)})
        self._send({"type": "error", "errorText": event.message})

    # --- text and reasoning ----------------------------------------------------------------------------------------

    def _text(self, event: ev.Text) -> None:
        prefix = self._open(event.index, "text")
        self._out.append(b"%b%b}\n\n" % (prefix, _encode(event.text)))

    def _thinking(self, event: ev.Thinking) -> None:
        prefix = self._deltas.get(event.index)
        if prefix is None:
            prefix = self._open(event.index, "reasoning")
            if event.kind == "summary":
                self._reasoning[event.index] = {"kind": "summary"}
        if event.text:
            self._out.append(b"%b%b}\n\n" % (prefix, _encode(event.text)))
        for name, value in (("signature", event.signature), ("redacted", event.redacted)):
            if value:
                self._reasoning.setdefault(event.index, {})[name] = value

    def _block_end(self, event: ev.BlockEnd) -> None:
        if event.index in self._deltas:
            self._close(event.index)

    def _open(self, index: int, kind: str) -> bytes:
        self._begin_part()
        self._send({"type": f"{kind}-start", "id": f"{kind}-{index}"})
        prefix = self._deltas[index] = b'data: {"type":"%b-delta","id":"%b-%d","delta":' % (kind.encode(), kind.encode(), index)
        return prefix

    def _close(self, index: int) -> None:
        kind = "text" if self._deltas.pop(index).startswith(b'data: {"type":"text') else "reasoning"
        chunk: dict[str, Any] = {"type": f"{kind}-end", "id": f"{kind}-{index}"}
        if metadata := self._reasoning.pop(index, None):
            chunk["providerMetadata"] = {"headrace": metadata}
        self._send(chunk)

    def _begin_part(self) -> None:
        if self._broken:
            self._send_broken()
        if self._step_over:
            self._step_over = False
            self._send({"type": "finish-step"})
            self._send({"type": "start-step"})

    # --- tools -----------------------------------------------------------------------------------------------------

    def _tool_call_start(self, event: ev.ToolCallStart) -> None:
        self._begin_part()
        call = event.tool_call_id
        self._calls.add(call)
        self._inputs[call] = b'data: {"type":"tool-input-delta","toolCallId":%b,"inputTextDelta":' % _encode(call)
        self._send({"type": "tool-input-start", "toolCallId": call, "toolName": event.name})

    def _tool_call_delta(self, event: ev.ToolCallDelta) -> None:
        """A fragment of a call whose start is in a gap has no part to go to; the call comes whole at its end."""
        prefix = self._inputs.get(event.tool_call_id)
        if prefix is not None:
            self._out.append(b"%b%b}\n\n" % (prefix, _encode(event.arguments_delta)))

    def _tool_call_complete(self, event: ev.ToolCallComplete) -> None:
        self._inputs.pop(event.tool_call_id, None)
        if not event.valid:
            self._broken.append(event)
            return
        self._calls.add(event.tool_call_id)
        chunk = {"type": "tool-input-available", "toolCallId": event.tool_call_id, "toolName": event.name, "input": event.arguments}
        self._send(chunk)

    def _send_broken(self) -> None:
        for event in self._broken:
            self._calls.add(event.tool_call_id)
            chunk = {"type": "tool-input-error", "toolCallId": event.tool_call_id, "toolName": event.name, "input": event.arguments_raw}
            self._send(chunk | {"errorText": event.error or "The arguments are not valid."})
        self._broken.clear()

    def _tool_result(self, event: ev.ToolResult) -> None:
        """The result of a call in a gap is left out: a result without its call ends the reader's stream."""
        self._send_broken()
        if event.tool_call_id not in self._calls:
            return
        self._step_over = True
        if event.ok:
            self._send({"type": "tool-output-available", "toolCallId": event.tool_call_id, "output": event.content})
            return
        text = event.content if isinstance(event.content, str) else _encode(event.content).decode()
        self._send({"type": "tool-output-error", "toolCallId": event.tool_call_id, "errorText": text})

    # --- the rest --------------------------------------------------------------------------------------------------

    def _source(self, event: ev.Source) -> None:
        chunk: dict[str, Any] = {"type": "source-url", "sourceId": f"source-{event.seq}", "url": event.url}
        if event.title is not None:
            chunk["title"] = event.title
        cited = {name: value for name, value in (("citedText", event.text), ("index", event.index)) if value is not None}
        if cited:
            chunk["providerMetadata"] = {"headrace": cited}
        self._send(chunk)

    def _data(self, event: ev.Data) -> None:
        chunk: dict[str, Any] = {"type": f"data-{event.name}", "data": event.data}
        self._send(chunk | {"transient": True} if event.transient else chunk)

    def _queue(self, event: ev.Queue) -> None:
        self._send_transient("queue", camel(event, "seq"))

    def _notice(self, event: ev.Notice) -> None:
        """A refusal's words are all that there is of such an answer, so they stay."""
        if event.code == "refusal":
            self._send({"type": "data-notice", "data": camel(event, "seq")})
        else:
            self._send_transient("notice", camel(event, "seq"))

    def _usage(self, event: ev.Usage) -> None:
        self._send_transient("usage", camel(event, "seq"))

    def _send_transient(self, name: str, data: dict[str, Any]) -> None:
        self._send({"type": f"data-{name}", "data": data, "transient": True})

    def _send(self, chunk: dict[str, Any]) -> None:
        self._out.append(b"data: %b\n\n" % _encode(chunk))


def _continued_message(body: dict[str, Any]) -> str | None:
    """Return the id of the message that this answer goes on with: the last one, if it is the assistant's own.

    A chat that answers a tool call sends its message back and expects the rest under the same id; under another it would be told twice.
    The id is noted in the body, because the messages are let go when the answer is over, and a late reader needs the same one.
    """
    messages = body.get("messages")
    if messages is not None:
        last = messages[-1] if isinstance(messages, list) and messages else None
        last = last if isinstance(last, dict) and body.get("trigger") != "regenerate-message" else {}
        body[_CONTINUED] = last.get("id") if last.get("role") == "assistant" else None
    message_id = body.get(_CONTINUED)
    return message_id if isinstance(message_id, str) and message_id else None


def _totals(event: ev.StreamEnd | ev.Error) -> dict[str, Any]:
    return ({} if event.usage is None else {"usage": camel(event.usage)}) | metrics(event)


# One table for all readers: bound methods in each would keep it alive until the collector comes.
UIMessageStream.sayers = {
    ev.StreamStart: UIMessageStream._start,
    ev.Text: UIMessageStream._text,
    ev.Thinking: UIMessageStream._thinking,
    ev.ToolCallStart: UIMessageStream._tool_call_start,
    ev.ToolCallDelta: UIMessageStream._tool_call_delta,
    ev.ToolCallComplete: UIMessageStream._tool_call_complete,
    ev.ToolResult: UIMessageStream._tool_result,
    ev.BlockEnd: UIMessageStream._block_end,
    ev.Source: UIMessageStream._source,
    ev.Data: UIMessageStream._data,
    ev.Queue: UIMessageStream._queue,
    ev.Notice: UIMessageStream._notice,
    ev.Usage: UIMessageStream._usage,
    ev.Reset: UIMessageStream._reset,
    ev.Gap: UIMessageStream._gap,
    ev.StreamEnd: UIMessageStream._stream_end,
    ev.Error: UIMessageStream._error,
}
