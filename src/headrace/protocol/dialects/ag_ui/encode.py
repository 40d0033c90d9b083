"""Our events as the events of an AG-UI run, version 1.0.

https://docs.ag-ui.com/concepts/events

- An answer is one assistant message as long as it can be: blocks of text that follow each other continue it, and tool calls belong to it.
  Text behind a call is a message of its own, and so is every block of reasoning.
- The protocol has no word for arguments that are no JSON object. Such a call is answered at once with an error as its result, so that no
  client runs it.
- What a provider wants back of its reasoning is an encrypted value: `signature:` or `redacted:` and then what it gave.
- A withdrawn attempt is taken back with a `MESSAGES_SNAPSHOT` of the conversation as it was sent.
- What the protocol has no event for is `CUSTOM`: `headrace.queue`, `headrace.notice`, `headrace.usage`, `headrace.source`,
  `headrace.gap`, and the application's data under its own name. Why an answer ended, and its times, are metadata of `RUN_FINISHED` and
  `RUN_ERROR`.
- There is no end marker: clients read every `data:` as JSON, and would fail at a `[DONE]`.
- The times of every token and the distributions of gaps are left out.
"""

from __future__ import annotations

from typing import Any

import msgspec

from headrace.protocol import events as ev
from headrace.protocol.dialects.frontend import camel, metrics
from headrace.protocol.dialects.page_stream import PageStream
from headrace.protocol.surface import SurfaceRequest

PROTOCOL = "1.0"
SIGNATURE = "signature:"
REDACTED = "redacted:"
LOST = "Part of the arguments was lost on the way."

_encode = msgspec.json.Encoder().encode


class RunEvents(PageStream):
    """One reader's run."""

    def __init__(self, request: SurfaceRequest) -> None:
        super().__init__()
        self._body = request.body
        self._run = {"threadId": _string(request.body.get("threadId")), "runId": _string(request.body.get("runId"))}
        self._started = False
        self._labels: dict[str, str] = {}
        self._message_id = f"msg-{self._run['runId']}"
        self._named = False
        # The assistant message that the calls of this step belong to.
        self._parent: str | None = None
        # The text message that the next block of text continues, and whether a block is writing into it.
        self._text_id: str | None = None
        self._text_busy = False
        # What each delta of an open call begins with.
        self._arguments: dict[str, bytes] = {}
        self._texts: dict[int, str] = {}
        self._encrypted: dict[int, str] = {}
        self._pending: dict[str, None] = {}
        self._calls: set[str] = set()
        self._lost: set[str] = set()

    # --- the run ---------------------------------------------------------------------------------------------------

    def _start(self, event: ev.StreamStart) -> None:
        self._message_id = event.message_id
        self._labels = {"provider": event.provider, "model": event.model}
        self._begin_run({"streamId": event.stream_id, "model": event.model})

    def _begin_run(self, metadata: dict[str, Any]) -> None:
        self._started = True
        self._send("RUN_STARTED", **self._run, protocolVersion=PROTOCOL, metadata={"headrace": metadata})

    def _gap(self, event: ev.Gap) -> None:
        """Something is missing, maybe the very start. Calls that are open cannot be made whole again."""
        if not self._started:
            self._begin_run({})
        self._close_blocks()
        for call in list(self._arguments):
            self._end_call(call)
            self._result(call, LOST, ok=False)
            self._lost.add(call)
        self._custom("headrace.gap", camel(event, "seq"))

    def _reset(self, event: ev.Reset) -> None:
        self._close_blocks()
        for call in list(self._arguments):
            self._end_call(call)
        for state in (self._pending, self._encrypted, self._calls, self._lost):
            state.clear()
        self._parent, self._named = None, False
        messages = self._body.get("messages")
        self._send("MESSAGES_SNAPSHOT", messages=messages if isinstance(messages, list) else [])

    def _stream_end(self, event: ev.StreamEnd) -> None:
        self._end_text()
        outcome: dict[str, Any] = {"type": "cancelled" if event.finish_reason == "cancelled" else "success"}
        if self._pending and outcome["type"] == "success":
            outcome["pendingToolCallIds"] = list(self._pending)
        metadata = {"finishReason": event.finish_reason} | metrics(event)
        self._send("RUN_FINISHED", **self._run, outcome=outcome, **self._usage(event), metadata={"headrace": metadata})

    def _error(self, event: ev.Error) -> None:
        self._end_text()
        metadata = camel(event, "seq", "code", "message", "usage", "metrics") | metrics(event)
        self._send("RUN_ERROR", message=event.message, code=event.code, **self._usage(event), metadata={"headrace": metadata})

    def _usage(self, event: ev.StreamEnd | ev.Error) -> dict[str, Any]:
        """Our totals count as the protocol's do: cached tokens are part of the input, reasoning of the output."""
        usage = event.usage
        if usage is None:
            return {}
        counts = {
            "inputTokens": usage.input_tokens,
            "outputTokens": usage.output_tokens,
            "reasoningTokens": usage.reasoning_tokens,
            "cachedInputTokens": usage.cached_tokens,
        }
        if usage.input_tokens is not None and usage.output_tokens is not None:
            counts["totalTokens"] = usage.input_tokens + usage.output_tokens
        return {"usage": [self._labels | {name: count for name, count in counts.items() if count is not None}]}

    # --- text and reasoning ----------------------------------------------------------------------------------------

    def _text(self, event: ev.Text) -> None:
        if self._text_id is not None and not self._text_busy:
            message_id = self._text_id
        else:
            message_id = self._next_message(event.index)
            self._send("TEXT_MESSAGE_START", messageId=message_id, role="assistant")
        if self._text_id in (None, message_id):
            self._text_id, self._text_busy = message_id, True
            self._parent = self._parent or message_id
        self._texts[event.index] = message_id
        prefix = self._deltas[event.index] = b'data: {"type":"TEXT_MESSAGE_CONTENT","messageId":%b,"delta":' % _encode(message_id)
        self._out.append(b"%b%b}\n\n" % (prefix, _encode(event.text)))

    def _thinking(self, event: ev.Thinking) -> None:
        message_id = f"{self._message_id}-{event.index}"
        prefix = self._deltas.get(event.index)
        if prefix is None:
            self._end_text()
            self._send("REASONING_START", messageId=message_id)
            self._send("REASONING_MESSAGE_START", messageId=message_id, role="reasoning")
            prefix = b'data: {"type":"REASONING_MESSAGE_CONTENT","messageId":%b,"delta":' % _encode(message_id)
            self._deltas[event.index] = prefix
        if event.text:
            self._out.append(b"%b%b}\n\n" % (prefix, _encode(event.text)))
        if event.signature:
            self._encrypted[event.index] = SIGNATURE + event.signature
        if event.redacted:
            self._encrypted[event.index] = REDACTED + event.redacted

    def _block_end(self, event: ev.BlockEnd) -> None:
        if event.index in self._deltas:
            self._close(event.index)

    def _close(self, index: int) -> None:
        del self._deltas[index]
        message_id = self._texts.pop(index, None)
        if message_id is None:
            self._end_reasoning(index)
        elif message_id == self._text_id:
            self._text_busy = False  # the next block may go on with it
        else:
            self._send("TEXT_MESSAGE_END", messageId=message_id)

    def _end_reasoning(self, index: int) -> None:
        message_id = f"{self._message_id}-{index}"
        self._send("REASONING_MESSAGE_END", messageId=message_id)
        if encrypted := self._encrypted.pop(index, None):
            self._send("REASONING_ENCRYPTED_VALUE", subtype="message", entityId=message_id, encryptedValue=encrypted)
        self._send("REASONING_END", messageId=message_id)

    def _end_text(self) -> None:
        """End the text message if no block is writing into it: something else comes between."""
        if self._text_id is not None and not self._text_busy:
            self._send("TEXT_MESSAGE_END", messageId=self._text_id)
            self._text_id = None

    def _close_blocks(self) -> None:
        for index in list(self._deltas):
            self._close(index)
        self._end_text()

    def _next_message(self, index: int) -> str:
        """The answer's first message has its id; others are told apart by their block."""
        if self._named:
            return f"{self._message_id}-{index}"
        self._named = True
        return self._message_id

    # --- tools -----------------------------------------------------------------------------------------------------

    def _tool_call_start(self, event: ev.ToolCallStart) -> None:
        self._end_text()
        call = event.tool_call_id
        self._parent = self._parent or self._next_message(event.index)
        self._pending[call] = None
        self._calls.add(call)
        self._arguments[call] = b'data: {"type":"TOOL_CALL_ARGS","toolCallId":%b,"delta":' % _encode(call)
        self._send("TOOL_CALL_START", toolCallId=call, toolCallName=event.name, parentMessageId=self._parent)

    def _tool_call_delta(self, event: ev.ToolCallDelta) -> None:
        """A fragment of a call whose start is in a gap has no call to go to; it comes whole at its end."""
        prefix = self._arguments.get(event.tool_call_id)
        if prefix is not None:
            self._out.append(b"%b%b}\n\n" % (prefix, _encode(event.arguments_delta)))

    def _tool_call_complete(self, event: ev.ToolCallComplete) -> None:
        call = event.tool_call_id
        if call in self._lost:
            return
        if call not in self._arguments:
            self._tool_call_start(ev.ToolCallStart(index=0, tool_call_id=call, name=event.name))
            self._tool_call_delta(ev.ToolCallDelta(tool_call_id=call, arguments_delta=event.arguments_raw))
        self._end_call(call)
        if not event.valid:
            self._result(call, event.error or "The arguments are not valid.", ok=False)

    def _end_call(self, call: str) -> None:
        del self._arguments[call]
        self._send("TOOL_CALL_END", toolCallId=call)

    def _tool_result(self, event: ev.ToolResult) -> None:
        """What comes behind the result of a tool that ran here is another turn of the assistant. One whose call is in a gap is left out."""
        if event.tool_call_id not in self._calls:
            return
        content = event.content if isinstance(event.content, str) else _encode(event.content).decode()
        self._end_text()
        self._result(event.tool_call_id, content, ok=event.ok)
        self._parent, self._named = None, True

    def _result(self, call: str, content: str, *, ok: bool) -> None:
        self._pending.pop(call, None)
        failed: dict[str, Any] = {} if ok else {"metadata": {"headrace": {"ok": False}}}
        message_id = f"{self._message_id}-result-{call}"
        self._send("TOOL_CALL_RESULT", messageId=message_id, toolCallId=call, content=content, role="tool", **failed)

    # --- the rest --------------------------------------------------------------------------------------------------

    def _aside(self, event: ev.Source | ev.Queue | ev.Notice | ev.Usage) -> None:
        self._custom(f"headrace.{event.__struct_config__.tag}", camel(event, "seq"))

    def _data(self, event: ev.Data) -> None:
        self._custom(event.name, event.data)

    def _custom(self, name: str, value: Any) -> None:
        self._send("CUSTOM", name=name, value=value)

    def _send(self, kind: str, **fields: Any) -> None:
        self._out.append(b"data: %b\n\n" % _encode({"type": kind, **fields}))


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""


# One table for all readers: bound methods in each would keep it alive until the collector comes.
RunEvents.sayers = {
    ev.StreamStart: RunEvents._start,
    ev.Text: RunEvents._text,
    ev.Thinking: RunEvents._thinking,
    ev.ToolCallStart: RunEvents._tool_call_start,
    ev.ToolCallDelta: RunEvents._tool_call_delta,
    ev.ToolCallComplete: RunEvents._tool_call_complete,
    ev.ToolResult: RunEvents._tool_result,
    ev.BlockEnd: RunEvents._block_end,
    ev.Source: RunEvents._aside,
    ev.Queue: RunEvents._aside,
    ev.Notice: RunEvents._aside,
    ev.Usage: RunEvents._aside,
    ev.Data: RunEvents._data,
    ev.Reset: RunEvents._reset,
    ev.Gap: RunEvents._gap,
    ev.StreamEnd: RunEvents._stream_end,
    ev.Error: RunEvents._error,
}
