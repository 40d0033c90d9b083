"""Our events as `useChat` reads them.

`Chat` below keeps the rules by which the AI SDK's client puts a message together, and breaks where that one breaks: at a chunk type
that it does not know, at a delta of a part that is not open, at the result of a call that it has not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import BadRequest, HeadraceError, QueueFull, UnknownModel
from headrace.protocol import events as ev
from headrace.protocol.accumulate import Accumulator
from headrace.protocol.dialects.ai_sdk.surface import HEADERS, SURFACE
from headrace.protocol.sse import SSEParser
from headrace.protocol.surface import SurfaceRequest

START = ev.StreamStart(
    stream_id="st_1", message_id="msg_1", model="story", provider="simulator", protocol=1, resumable=True, expires_at=0.0
)
FIELDS = {
    "start": {"messageId", "messageMetadata"},
    "start-step": set(),
    "finish-step": set(),
    "reset-step": set(),
    "text-start": {"id"},
    "text-delta": {"id", "delta"},
    "text-end": {"id"},
    "reasoning-start": {"id"},
    "reasoning-delta": {"id", "delta"},
    "reasoning-end": {"id", "providerMetadata"},
    "tool-input-start": {"toolCallId", "toolName"},
    "tool-input-delta": {"toolCallId", "inputTextDelta"},
    "tool-input-available": {"toolCallId", "toolName", "input"},
    "tool-input-error": {"toolCallId", "toolName", "input", "errorText"},
    "tool-output-available": {"toolCallId", "output"},
    "tool-output-error": {"toolCallId", "errorText"},
    "source-url": {"sourceId", "url", "title", "providerMetadata"},
    "message-metadata": {"messageMetadata"},
    "finish": {"finishReason", "messageMetadata"},
    "abort": {"reason"},
    "error": {"errorText"},
}
OPTIONAL = {"messageId", "messageMetadata", "providerMetadata", "title"}
FINISH_REASONS = {"stop", "length", "content-filter", "tool-calls", "error", "other"}


class Chat:
    """The client's side of one answer."""

    def __init__(self) -> None:
        self.message_id: str | None = None
        self.metadata: dict[str, Any] = {}
        self.parts: list[dict[str, Any]] = []
        self.passing: list[tuple[str, Any]] = []
        self.error: str | None = None
        self.finish_reason: str | None = None
        self.ends: list[str] = []
        self._open: dict[tuple[str, str], dict[str, Any]] = {}
        self._inputs: dict[str, dict[str, Any]] = {}

    def read(self, data: bytes) -> Chat:
        """Take a body up to its end marker."""
        *frames, done = [event.data for event in SSEParser().feed(data)]
        assert done == b"[DONE]"
        for frame in frames:
            self._take(msgspec.json.decode(frame))
        return self

    def _take(self, chunk: dict[str, Any]) -> None:
        kind = chunk.pop("type")
        assert not self.ends, "nothing is read behind the end"
        if kind.startswith("data-"):
            self._data(kind.removeprefix("data-"), **chunk)
            return
        assert FIELDS[kind] - OPTIONAL <= set(chunk) <= FIELDS[kind]
        getattr(self, "_" + kind.replace("-", "_"))(**chunk)

    @property
    def step(self) -> list[dict[str, Any]]:
        """The parts behind the last beginning of a step."""
        starts = [at for at, part in enumerate(self.parts) if part["type"] == "step-start"]
        return self.parts[starts[-1] + 1 :]

    def _start(self, messageId: str | None = None, messageMetadata: dict[str, Any] | None = None) -> None:
        self.message_id = messageId
        self.metadata |= messageMetadata or {}

    def _start_step(self) -> None:
        self.parts.append({"type": "step-start"})

    def _finish_step(self) -> None:
        assert not self._open
        assert not self._inputs

    def _reset_step(self) -> None:
        del self.parts[len(self.parts) - len(self.step) :]
        self._open.clear()
        self._inputs.clear()

    def _begin(self, kind: str, id: str) -> None:
        assert (kind, id) not in self._open
        part = self._open[kind, id] = {"type": kind, "text": ""}
        self.parts.append(part)

    def _text_start(self, id: str) -> None:
        self._begin("text", id)

    def _text_delta(self, id: str, delta: str) -> None:
        self._open["text", id]["text"] += delta

    def _text_end(self, id: str) -> None:
        del self._open["text", id]

    def _reasoning_start(self, id: str) -> None:
        self._begin("reasoning", id)

    def _reasoning_delta(self, id: str, delta: str) -> None:
        self._open["reasoning", id]["text"] += delta

    def _reasoning_end(self, id: str, **metadata: Any) -> None:
        self._open.pop(("reasoning", id)).update(metadata)

    def _tool_input_start(self, toolCallId: str, toolName: str) -> None:
        part = {"type": f"tool-{toolName}", "toolCallId": toolCallId, "state": "input-streaming", "rawInput": ""}
        self._inputs[toolCallId] = part
        self.parts.append(part)

    def _tool_input_delta(self, toolCallId: str, inputTextDelta: str) -> None:
        self._inputs[toolCallId]["rawInput"] += inputTextDelta

    def _tool_input_end(self, call: str, **fields: Any) -> None:
        part = self._inputs.pop(call, None)
        if part is None:
            part = {"type": f"tool-{fields['toolName']}", "toolCallId": call}
            self.parts.append(part)
        part.pop("rawInput", None)
        part.update({name: value for name, value in fields.items() if name != "toolName"})

    def _tool_input_available(self, toolCallId: str, toolName: str, input: Any) -> None:
        self._tool_input_end(toolCallId, toolName=toolName, state="input-available", input=input)

    def _tool_input_error(self, toolCallId: str, toolName: str, input: Any, errorText: str) -> None:
        self._tool_input_end(toolCallId, toolName=toolName, state="output-error", input=input, errorText=errorText)

    def _tool_output(self, call: str, **fields: Any) -> None:
        (part,) = [part for part in self.parts if part.get("toolCallId") == call]
        part.update(fields)

    def _tool_output_available(self, toolCallId: str, output: Any) -> None:
        self._tool_output(toolCallId, state="output-available", output=output)

    def _tool_output_error(self, toolCallId: str, errorText: str) -> None:
        self._tool_output(toolCallId, state="output-error", errorText=errorText)

    def _source_url(self, **fields: Any) -> None:
        self.parts.append({"type": "source-url", **fields})

    def _data(self, name: str, data: Any, transient: bool = False) -> None:
        if transient:
            self.passing.append((name, data))
        else:
            self.parts.append({"type": f"data-{name}", "data": data})

    def _message_metadata(self, messageMetadata: dict[str, Any]) -> None:
        self.metadata |= messageMetadata

    def _finish(self, finishReason: str, messageMetadata: dict[str, Any]) -> None:
        assert finishReason in FINISH_REASONS
        assert not self._open
        self.finish_reason = finishReason
        self.metadata |= messageMetadata
        self.ends.append("finish")

    def _abort(self, reason: str) -> None:
        assert not self._open
        self.ends.append("abort")

    def _error(self, errorText: str) -> None:
        self.error = errorText
        self.ends.append("error")


def numbered(events: Sequence[ev.Event]) -> list[ev.Event]:
    return [msgspec.structs.replace(event, seq=seq) for seq, event in enumerate(events, 1)]


def said(*events: ev.Event, body: dict[str, Any] | None = None) -> bytes:
    """One reader's bytes: events in one batch, numbered unless they are already."""
    encoding = SURFACE.new_stream(SurfaceRequest(SURFACE, body or {}))
    return encoding.encode(events if events[0].seq else numbered(events)) + encoding.end_marker


def chat(*events: ev.Event, body: dict[str, Any] | None = None) -> Chat:
    return Chat().read(said(*events, body=body))


def text(index: int, *deltas: str) -> list[ev.Event]:
    return [*(ev.Text(index=index, text=delta) for delta in deltas), ev.BlockEnd(index=index, kind="text")]


def call(index: int, id: str = "c1", *, valid: bool = True) -> list[ev.Event]:
    raw = '{"q":"mills"}' if valid else '{"q":"mi'
    arguments = {"q": "mills"} if valid else None
    return [
        ev.ToolCallStart(index=index, tool_call_id=id, name="look"),
        ev.ToolCallDelta(tool_call_id=id, arguments_delta=raw[:4]),
        ev.ToolCallDelta(tool_call_id=id, arguments_delta=raw[4:]),
        ev.ToolCallComplete(
            tool_call_id=id, name="look", arguments=arguments, arguments_raw=raw, valid=valid, error=None if valid else "They were cut off."
        ),
        ev.BlockEnd(index=index, kind="tool_call"),
    ]


def end(reason: ev.FinishReason = "stop", **fields: Any) -> ev.StreamEnd:
    return ev.StreamEnd(finish_reason=reason, **fields)


STEP = {"type": "step-start"}
FAILURE = ev.Error(code="upstream_idle", message="The provider fell silent.", retryable=True, partial=True, retry_after_seconds=2.0)


# --- the bytes ---------------------------------------------------------------------------------------------------------


def test_the_bytes_of_an_answer() -> None:
    assert said(START, *text(0, "Hi", ' "you"\n'), end()) == (
        b'data: {"type":"start","messageId":"msg_1","messageMetadata":{"streamId":"st_1","model":"story"}}\n\n'
        b'data: {"type":"start-step"}\n\n'
        b'data: {"type":"text-start","id":"text-0"}\n\n'
        b'data: {"type":"text-delta","id":"text-0","delta":"Hi"}\n\n'
        b'data: {"type":"text-delta","id":"text-0","delta":" \\"you\\"\\n"}\n\n'
        b'data: {"type":"text-end","id":"text-0"}\n\n'
        b'data: {"type":"finish-step"}\n\n'
        b'data: {"type":"finish","finishReason":"stop","messageMetadata":{"finishReason":"stop"}}\n\n'
        b"data: [DONE]\n\n"
    )


def test_a_heartbeat_is_a_comment_of_one_line() -> None:
    encoding = SURFACE.new_stream(SurfaceRequest(SURFACE, {}))
    assert encoding.heartbeat == b": ping\n"
    assert encoding.content_type.startswith("text/event-stream")


def test_the_header_that_names_the_protocol() -> None:
    assert HEADERS == ((b"x-vercel-ai-ui-message-stream", b"v1"),)


# --- parts -------------------------------------------------------------------------------------------------------------


def test_blocks_that_run_side_by_side_are_parts_of_their_own() -> None:
    hm = ev.Thinking(index=1, text="Hm.", kind="raw")
    events = [ev.Text(index=0, text="a"), hm, ev.Text(index=0, text="b"), ev.BlockEnd(index=1, kind="thinking"), *text(0)]
    assert chat(START, *events, end()).parts == [STEP, {"type": "text", "text": "ab"}, {"type": "reasoning", "text": "Hm."}]


def test_reasoning_keeps_what_its_provider_wants_back() -> None:
    events = [
        ev.Thinking(index=0, text="Hm", kind="raw"),
        ev.Thinking(index=0, text="", kind="raw", signature="s1"),
        ev.BlockEnd(index=0, kind="thinking"),
        ev.Thinking(index=1, text="", kind="raw", redacted="r1"),
        ev.BlockEnd(index=1, kind="thinking"),
        ev.Thinking(index=2, text="In short", kind="summary"),
        ev.BlockEnd(index=2, kind="thinking"),
    ]
    assert chat(START, *events, end()).parts == [
        STEP,
        {"type": "reasoning", "text": "Hm", "providerMetadata": {"headrace": {"signature": "s1"}}},
        {"type": "reasoning", "text": "", "providerMetadata": {"headrace": {"redacted": "r1"}}},
        {"type": "reasoning", "text": "In short", "providerMetadata": {"headrace": {"kind": "summary"}}},
    ]


def test_reasoning_that_was_sent_comes_back_as_it_was() -> None:
    events = [ev.Thinking(index=0, text="Hm", kind="raw", signature="s1"), ev.BlockEnd(index=0, kind="thinking"), *text(1, "Yes.")]
    answer = {"role": "assistant", "parts": chat(START, *events, end()).parts}
    (turn,) = msgspec.to_builtins(SURFACE.parse({"messages": [answer]}).messages)
    assert turn["content"] == [
        {"type": "thinking", "text": "Hm", "signature": "s1", "redacted": None},
        {"type": "text", "text": "Yes."},
    ]


def test_a_tool_call() -> None:
    whole = {"type": "tool-look", "toolCallId": "c1", "state": "input-available", "input": {"q": "mills"}}
    done = chat(START, *call(0), end("tool_calls"))
    assert (done.parts, done.finish_reason) == ([STEP, whole], "tool-calls")


def test_a_tool_call_on_its_way() -> None:
    streaming = chat(START, *call(0)[:2], end("cancelled")).parts
    assert streaming == [STEP, {"type": "tool-look", "toolCallId": "c1", "state": "input-streaming", "rawInput": '{"q"'}]


def test_broken_arguments_are_an_error_with_what_came() -> None:
    broken = {"type": "tool-look", "toolCallId": "c1", "state": "output-error", "input": '{"q":"mi', "errorText": "They were cut off."}
    assert chat(START, *call(0, valid=False), end("length")).parts == [STEP, broken]
    assert chat(START, *call(0, valid=False), *text(1, "Sorry."), end()).parts == [STEP, broken, {"type": "text", "text": "Sorry."}]
    assert chat(START, *call(0, valid=False), FAILURE).parts == [STEP, broken]


def test_a_call_that_a_stop_cut_is_no_answered_call() -> None:
    (_, part) = chat(START, *call(0, valid=False), end("cancelled")).parts
    assert part["state"] == "input-streaming"


def test_the_result_of_a_tool_that_ran_here_ends_its_step() -> None:
    ran = {"type": "tool-look", "toolCallId": "c1", "state": "output-available", "input": {"q": "mills"}, "output": [1]}
    result = ev.ToolResult(tool_call_id="c1", ok=True, content=[1])
    assert chat(START, *call(0), result, *text(1, "One."), end()).parts == [STEP, ran, STEP, {"type": "text", "text": "One."}]


@pytest.mark.parametrize(("content", "said"), [("No mill.", "No mill."), ({"code": 1}, '{"code":1}')])
def test_the_failure_of_a_tool_that_ran_here(content: Any, said: str) -> None:
    (_, part) = chat(START, *call(0), ev.ToolResult(tool_call_id="c1", ok=False, content=content), end()).parts
    assert (part["state"], part["errorText"]) == ("output-error", said)


def test_a_source() -> None:
    parts = chat(START, ev.Source(url="https://a.example", title="A", text="mills", index=0), ev.Source(url="https://b.example"), end())
    assert parts.parts[1:] == [
        {
            "type": "source-url",
            "sourceId": "source-2",
            "url": "https://a.example",
            "title": "A",
            "providerMetadata": {"headrace": {"citedText": "mills", "index": 0}},
        },
        {"type": "source-url", "sourceId": "source-3", "url": "https://b.example"},
    ]


def test_what_passes_by_is_no_part_of_the_message() -> None:
    done = chat(
        START,
        ev.Queue(position=1, depth=3, reason="concurrency", eta_seconds=1.5),
        ev.Usage(source="provider", input_tokens=3, cached_tokens=1),
        ev.Notice(code="stalled", message="Nothing for a while."),
        ev.Data(name="progress", data={"n": 1}, transient=True),
        end(),
    )
    assert done.parts == [STEP]
    assert done.passing == [
        ("queue", {"position": 1, "depth": 3, "reason": "concurrency", "etaSeconds": 1.5}),
        ("usage", {"source": "provider", "inputTokens": 3, "cachedTokens": 1}),
        ("notice", {"code": "stalled", "message": "Nothing for a while."}),
        ("progress", {"n": 1}),
    ]


def test_the_words_of_a_refusal_stay_in_the_message() -> None:
    done = chat(START, ev.Notice(code="refusal", message="I will not."), end("refusal"))
    assert done.parts == [STEP, {"type": "data-notice", "data": {"code": "refusal", "message": "I will not."}}]


def test_the_applications_data_are_parts_of_the_message() -> None:
    assert chat(START, ev.Data(name="chart", data=[1, 2]), end()).parts == [STEP, {"type": "data-chart", "data": [1, 2]}]


# --- the message -------------------------------------------------------------------------------------------------------


def test_the_message_names_its_stream_and_its_model() -> None:
    done = chat(START, end())
    assert done.message_id == "msg_1"
    assert done.metadata == {"streamId": "st_1", "model": "story", "finishReason": "stop"}


def test_an_answer_to_a_tools_result_goes_on_under_the_same_id() -> None:
    asked = {"id": "a1", "role": "assistant", "parts": []}
    assert chat(START, end(), body={"messages": [asked]}).message_id == "a1"
    assert chat(START, end(), body={"messages": [asked], "trigger": "regenerate-message"}).message_id == "msg_1"
    assert chat(START, end(), body={"messages": [asked, {"id": "u1", "role": "user"}]}).message_id == "msg_1"


def test_a_message_that_goes_on_has_no_end_until_it_comes() -> None:
    asked = {"id": "a1", "role": "assistant", "parts": []}
    (start, *_) = SSEParser().feed(said(START, end(), body={"messages": [asked]}))
    assert msgspec.json.decode(start.data)["messageMetadata"] == {"streamId": "st_1", "model": "story", "finishReason": None}
    assert chat(START, end(), body={"messages": [asked]}).metadata["finishReason"] == "stop"


def test_a_reader_who_comes_after_the_end_goes_on_under_the_same_id() -> None:
    request = SurfaceRequest(SURFACE, {"messages": [{"id": "a1", "role": "assistant", "parts": []}]})
    events = numbered([START, end()])
    live = SURFACE.new_stream(request).encode(events)
    request.forget()
    assert SURFACE.new_stream(request).encode(events) == live


@pytest.mark.parametrize("body", [{"messages": None}, {"messages": []}, {"messages": [1]}, {"messages": [{"role": "assistant", "id": 7}]}])
def test_a_body_without_an_id_to_go_on_with(body: dict[str, Any]) -> None:
    assert chat(START, end(), body=body).message_id == "msg_1"


@pytest.mark.parametrize(
    ("reason", "finish_reason"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("tool_calls", "tool-calls"),
        ("content_filter", "content-filter"),
        ("refusal", "content-filter"),
        ("pause", "other"),
    ],
)
def test_the_reasons_why_an_answer_ends(reason: ev.FinishReason, finish_reason: str) -> None:
    done = chat(START, *text(0, "Hi"), end(reason))
    assert (done.finish_reason, done.metadata["finishReason"], done.ends) == (finish_reason, reason, ["finish"])


USAGE = ev.UsageTotals(source="provider", input_tokens=3, output_tokens=7, cost_usd=0.5)
METRICS = ev.Metrics(
    ttft_ms=12.5, tokens=7, itl_egress_ms={"p50": 1.0}, arrivals=ev.Arrivals(slice_ms=10, ingress=[1] * 120, egress=[1] * 120)
)


@pytest.mark.parametrize(
    "terminal",
    [end(usage=USAGE, metrics=METRICS), end("cancelled", usage=USAGE, metrics=METRICS), FAILURE],
    ids=lambda event: event.__class__,
)
def test_usage_and_times_are_the_messages_metadata(terminal: ev.StreamEnd | ev.Error) -> None:
    terminal = msgspec.structs.replace(terminal, usage=USAGE, metrics=METRICS)
    metadata = chat(START, *text(0, "Hi"), terminal).metadata
    assert metadata["usage"] == {"source": "provider", "inputTokens": 3, "outputTokens": 7, "costUsd": 0.5}
    assert metadata["metrics"] == {"ttftMs": 12.5, "tokens": 7}


def test_a_stopped_answer_is_aborted_and_never_finished() -> None:
    done = chat(START, *text(0, "Half an ans"), end("cancelled"))
    assert (done.ends, done.finish_reason, done.metadata["finishReason"]) == (["abort"], None, "cancelled")


def test_a_failed_answer_tells_the_program_before_it_tells_the_user() -> None:
    done = chat(START, *text(0, "Half an ans"), FAILURE)
    assert (done.ends, done.error, done.metadata["finishReason"]) == (["error"], "The provider fell silent.", "error")
    assert done.passing == [
        (
            "error",
            {
                "code": "upstream_idle",
                "message": "The provider fell silent.",
                "retryable": True,
                "partial": True,
                "retryAfterSeconds": 2.0,
            },
        )
    ]
    assert done.parts == [STEP, {"type": "text", "text": "Half an ans"}]


def test_a_withdrawn_attempt_leaves_nothing_of_its_step() -> None:
    begun = [ev.Text(index=0, text="Wrong"), *call(1)[:2], ev.Thinking(index=2, text="", kind="raw", redacted="r")]
    done = chat(START, *begun, ev.Reset(from_seq=2, reason="retry"), *text(0, "Right"), *call(1), end())
    assert [part["type"] for part in done.parts] == ["step-start", "text", "tool-look"]
    assert done.parts[1]["text"] == "Right"


def test_a_gap_is_told_where_it_is() -> None:
    gap = ev.Gap(seq=9, from_seq=3, to_seq=9, characters=5, reason="slow_reader", recoverable=False)
    done = chat(START, ev.Text(index=0, text="Before"), gap, *text(0, "behind"), end())
    told = {"fromSeq": 3, "toSeq": 9, "characters": 5, "reason": "slow_reader", "recoverable": False}
    assert done.parts[1:] == [{"type": "text", "text": "Before"}, {"type": "data-gap", "data": told}, {"type": "text", "text": "behind"}]


def test_a_gap_at_the_beginning_hides_ids_and_breaks_nothing() -> None:
    gap = ev.Gap(from_seq=1, to_seq=9, reason="slow_reader", recoverable=False)
    lost = ev.ToolResult(tool_call_id="lost", ok=True, content=1)
    done = chat(gap, *call(3)[2:], lost, ev.BlockEnd(index=2, kind="text"), *text(4, "rest"), end())
    assert done.message_id is None
    assert [part["type"] for part in done.parts] == ["step-start", "data-gap", "tool-look", "text"]
    assert done.parts[2]["input"] == {"q": "mills"}


# --- any answer --------------------------------------------------------------------------------------------------------


@st.composite
def answers(draw: st.DrawFn) -> list[ev.Event]:
    """Legal streams: blocks of every kind, some side by side, with whatever may come between."""
    between = st.sampled_from(
        [
            ev.Notice(code="n", message="m"),
            ev.Usage(source="provider", output_tokens=1),
            ev.Data(name="d", data=None),
            ev.Source(url="https://example.org"),
        ]
    )
    lanes: list[list[ev.Event]] = []
    for index in range(draw(st.integers(0, 4))):
        deltas = draw(st.lists(st.text(max_size=5), min_size=1, max_size=4))
        match draw(st.sampled_from(("text", "thinking", "call", "broken"))):
            case "text":
                lanes.append(text(index, *deltas))
            case "thinking":
                thoughts = [ev.Thinking(index=index, text=delta, kind="raw") for delta in deltas]
                lanes.append([*thoughts, ev.BlockEnd(index=index, kind="thinking")])
            case kind:
                lanes.append(call(index, f"c{index}", valid=kind == "call"))
    events: list[ev.Event] = [START]
    while lanes:
        lane = draw(st.sampled_from(lanes))
        events.append(lane.pop(0))
        lanes = [lane for lane in lanes if lane]
        if draw(st.booleans()):
            events.append(draw(between))
    return numbered([*events, draw(st.sampled_from([end(), end("cancelled"), FAILURE]))])


def compacted(events: Sequence[ev.Event]) -> list[ev.Event]:
    """What a late reader gets: neighbouring deltas of one block as one event."""
    merged: list[ev.Event] = []
    for event in events:
        match (merged[-1] if merged else None, event):
            case (ev.Text(index=one, text=said), ev.Text(index=other, text=more)) if one == other:
                merged[-1] = ev.Text(seq=event.seq, index=one, text=said + more, from_seq=1)
            case (ev.Thinking(index=one, text=said), ev.Thinking(index=other, text=more)) if one == other:
                merged[-1] = ev.Thinking(seq=event.seq, index=one, text=said + more, kind="raw", from_seq=1)
            case (
                ev.ToolCallDelta(tool_call_id=one_call, arguments_delta=said),
                ev.ToolCallDelta(tool_call_id=call, arguments_delta=more),
            ) if one_call == call:
                merged[-1] = ev.ToolCallDelta(seq=event.seq, tool_call_id=call, arguments_delta=said + more, from_seq=1)
            case _:
                merged.append(event)
    return merged


@given(answers())
def test_any_answer_is_put_together_as_the_native_protocol_says_it(events: list[ev.Event]) -> None:
    native = Accumulator()
    for event in events:
        native.feed(event)
    done = chat(*events)
    assert "".join(part["text"] for part in done.parts if part["type"] == "text") == native.text
    assert sorted(part["text"] for part in done.parts if part["type"] == "reasoning") == sorted(
        block.text for block in native.blocks.values() if block.kind == "thinking"
    )
    inputs = {part["toolCallId"]: part.get("input") for part in done.parts if part["type"] == "tool-look"}
    assert set(inputs) == {block.tool_call_id for block in native.tool_calls}
    assert all(inputs[block.tool_call_id or ""] == block.arguments for block in native.tool_calls if block.valid)
    assert len(done.ends) == 1


@given(answers(), st.lists(st.integers(0, 60)))
def test_however_events_are_batched_the_bytes_are_the_same(events: list[ev.Event], cuts: list[int]) -> None:
    encoding = SURFACE.new_stream(SurfaceRequest(SURFACE, {}))
    edges = sorted({0, len(events), *(cut for cut in cuts if cut < len(events))})
    pieces = [encoding.encode(events[start:stop]) for start, stop in pairwise(edges)]
    assert b"".join(pieces) + encoding.end_marker == said(*events)


@given(answers())
def test_a_reader_who_comes_late_puts_the_same_message_together(events: list[ev.Event]) -> None:
    live, late = chat(*events), chat(*compacted(events))
    assert (late.message_id, late.parts, late.metadata, late.ends) == (live.message_id, live.parts, live.metadata, live.ends)


# --- errors before the first byte --------------------------------------------------------------------------------------


def refusal(failure: HeadraceError) -> tuple[int, str]:
    reply = SURFACE.error(failure)
    assert reply.content_type == "text/plain; charset=utf-8"
    return reply.status, reply.body.decode()


def test_an_error_is_the_sentence_that_the_user_reads() -> None:
    assert refusal(QueueFull()) == (503, "The line for this model is full.")
    assert refusal(UnknownModel("There is no “mühle”.")) == (404, "There is no “mühle”.")


def test_an_error_names_the_field_that_it_is_about() -> None:
    assert refusal(BadRequest("A list.", field="messages")) == (400, "messages: A list.")
    assert refusal(BadRequest("messages: a list.", field="messages")) == (400, "messages: a list.")


def test_there_is_no_whole_answer() -> None:
    assert SURFACE.new_reply is None
    assert SURFACE.name == "ai_sdk"
