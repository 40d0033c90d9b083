"""Our events as an AG-UI client reads them.

`Agent` below keeps the rules by which AG-UI's own client checks a run and puts its messages together, and breaks where that one breaks.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import BadRequest, QueueFull
from headrace.protocol import events as ev
from headrace.protocol.accumulate import Accumulator
from headrace.protocol.dialects.ag_ui.surface import SURFACE
from headrace.protocol.sse import SSEParser
from headrace.protocol.surface import SurfaceRequest

START = ev.StreamStart(stream_id="st_1", message_id="m", model="story", provider="simulator", protocol=1, resumable=True, expires_at=0.0)
HI = {"id": "u1", "role": "user", "content": "Hi"}
BODY = {"threadId": "t1", "runId": "r1", "messages": [HI]}
FIELDS = {
    "RUN_STARTED": ({"threadId", "runId", "protocolVersion"}, {"metadata"}),
    "RUN_FINISHED": ({"threadId", "runId", "outcome"}, {"usage", "metadata"}),
    "RUN_ERROR": ({"message", "code"}, {"usage", "metadata"}),
    "TEXT_MESSAGE_START": ({"messageId", "role"}, set()),
    "TEXT_MESSAGE_CONTENT": ({"messageId", "delta"}, set()),
    "TEXT_MESSAGE_END": ({"messageId"}, set()),
    "REASONING_START": ({"messageId"}, set()),
    "REASONING_MESSAGE_START": ({"messageId", "role"}, set()),
    "REASONING_MESSAGE_CONTENT": ({"messageId", "delta"}, set()),
    "REASONING_MESSAGE_END": ({"messageId"}, set()),
    "REASONING_ENCRYPTED_VALUE": ({"subtype", "entityId", "encryptedValue"}, set()),
    "REASONING_END": ({"messageId"}, set()),
    "TOOL_CALL_START": ({"toolCallId", "toolCallName", "parentMessageId"}, set()),
    "TOOL_CALL_ARGS": ({"toolCallId", "delta"}, set()),
    "TOOL_CALL_END": ({"toolCallId"}, set()),
    "TOOL_CALL_RESULT": ({"messageId", "toolCallId", "content", "role"}, {"metadata"}),
    "MESSAGES_SNAPSHOT": ({"messages"}, set()),
    "CUSTOM": ({"name", "value"}, set()),
}  # type: dict[str, tuple[set[str], set[str]]]


class Agent:
    """The client's side of one run."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = [dict(HI)]
        self.customs: list[tuple[str, Any]] = []
        self.ends: list[tuple[str, dict[str, Any]]] = []
        self.started: dict[str, Any] | None = None
        self._open: set[tuple[str, str]] = set()

    def read(self, data: bytes) -> Agent:
        for event in SSEParser().feed(data):
            self._take(msgspec.json.decode(event.data))
        return self

    def _take(self, event: dict[str, Any]) -> None:
        kind = event.pop("type")
        needed, optional = FIELDS[kind]
        assert needed <= set(event) <= needed | optional
        assert not self.ends, "nothing is read behind the end"
        if kind == "RUN_STARTED":
            assert self.started is None
            self.started = event
        assert self.started is not None
        family, _, act = kind.rpartition("_")
        match kind:
            case "RUN_FINISHED" | "RUN_ERROR":
                assert not self._open
                self.ends.append((kind, event))
            case "CUSTOM":
                self.customs.append((event["name"], event["value"]))
            case "MESSAGES_SNAPSHOT":
                assert not self._open
                self.messages = event["messages"]
            case "TOOL_CALL_RESULT":
                self._result(**event)
            case "REASONING_ENCRYPTED_VALUE":
                self._message(event["entityId"])["encryptedValue"] = event["encryptedValue"]
            case _ if act in ("START", "END", "CONTENT", "ARGS"):
                self._step(family, act, event)

    def _step(self, family: str, act: str, event: dict[str, Any]) -> None:
        entity = (family, event.get("messageId") or event["toolCallId"])
        assert (entity in self._open) is (act != "START")
        if act == "START":
            self._open.add(entity)
            self._begin(family, event)
        elif act == "END":
            self._open.remove(entity)
        elif family == "TOOL_CALL":
            self._call(entity[1])["arguments"] += event["delta"]
        else:
            message = self._message(entity[1])
            message["content"] = message.get("content", "") + event["delta"]

    def _begin(self, family: str, event: dict[str, Any]) -> None:
        match family:
            case "TEXT_MESSAGE" | "REASONING_MESSAGE":
                if not self._has(event["messageId"]):
                    self.messages.append({"id": event["messageId"], "role": event["role"], "content": ""})
            case "TOOL_CALL":
                if not self._has(event["parentMessageId"]):
                    self.messages.append({"id": event["parentMessageId"], "role": "assistant"})
                parent = self._message(event["parentMessageId"])
                assert parent["role"] == "assistant"
                function = {"name": event["toolCallName"], "arguments": ""}
                parent.setdefault("toolCalls", []).append({"id": event["toolCallId"], "type": "function", "function": function})

    def _result(self, messageId: str, **fields: Any) -> None:
        assert not self._has(messageId)
        at = next(
            at
            for at, message in enumerate(self.messages)
            if any(call["id"] == fields["toolCallId"] for call in message.get("toolCalls", []))
        )
        at += 1
        while at < len(self.messages) and self.messages[at]["role"] == "tool":
            at += 1
        self.messages.insert(at, {"id": messageId, **fields})

    def _has(self, id: str) -> bool:
        return any(message["id"] == id for message in self.messages)

    def _message(self, id: str) -> dict[str, Any]:
        (message,) = [message for message in self.messages if message["id"] == id]
        return message

    def _call(self, id: str) -> dict[str, Any]:
        (function,) = [call["function"] for message in self.messages for call in message.get("toolCalls", []) if call["id"] == id]
        return function  # type: ignore[no-any-return]

    @property
    def answer(self) -> list[dict[str, Any]]:
        return self.messages[1:]


def numbered(events: Sequence[ev.Event]) -> list[ev.Event]:
    return [msgspec.structs.replace(event, seq=seq) for seq, event in enumerate(events, 1)]


def said(*events: ev.Event) -> bytes:
    encoding = SURFACE.new_stream(SurfaceRequest(SURFACE, dict(BODY)))
    return encoding.encode(events if events[0].seq else numbered(events)) + encoding.end_marker


def run(*events: ev.Event) -> Agent:
    return Agent().read(said(*events))


def text(index: int, *deltas: str) -> list[ev.Event]:
    return [*(ev.Text(index=index, text=delta) for delta in deltas), ev.BlockEnd(index=index, kind="text")]


def thinking(index: int, *deltas: str) -> list[ev.Event]:
    return [*(ev.Thinking(index=index, text=delta, kind="raw") for delta in deltas), ev.BlockEnd(index=index, kind="thinking")]


def call(index: int, id: str = "c1", *, valid: bool = True) -> list[ev.Event]:
    raw = '{"q":"mills"}' if valid else '{"q":"mi'
    arguments, error = ({"q": "mills"}, None) if valid else (None, "They were cut off.")
    return [
        ev.ToolCallStart(index=index, tool_call_id=id, name="look"),
        ev.ToolCallDelta(tool_call_id=id, arguments_delta=raw[:4]),
        ev.ToolCallDelta(tool_call_id=id, arguments_delta=raw[4:]),
        ev.ToolCallComplete(tool_call_id=id, name="look", arguments=arguments, arguments_raw=raw, valid=valid, error=error),
        ev.BlockEnd(index=index, kind="tool_call"),
    ]


def end(reason: ev.FinishReason = "stop", **fields: Any) -> ev.StreamEnd:
    return ev.StreamEnd(finish_reason=reason, **fields)


def function(id: str = "c1", arguments: str = '{"q":"mills"}') -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": "look", "arguments": arguments}}


USAGE = ev.UsageTotals(source="provider", input_tokens=3, output_tokens=7, reasoning_tokens=2, cached_tokens=1)
METRICS = ev.Metrics(ttft_ms=12.5, itl_egress_ms={"p50": 1.0}, arrivals=ev.Arrivals(slice_ms=10, ingress=[1], egress=[1]))
FAILURE = ev.Error(code="upstream_idle", message="The provider fell silent.", retryable=True, partial=True, retry_after_seconds=2.0)


# --- the bytes ---------------------------------------------------------------------------------------------------------


def test_the_bytes_of_a_run() -> None:
    assert said(START, *text(0, "Hi", ' "you"\n'), end()) == (
        b'data: {"type":"RUN_STARTED","threadId":"t1","runId":"r1","protocolVersion":"1.0",'
        b'"metadata":{"headrace":{"streamId":"st_1","model":"story"}}}\n\n'
        b'data: {"type":"TEXT_MESSAGE_START","messageId":"m","role":"assistant"}\n\n'
        b'data: {"type":"TEXT_MESSAGE_CONTENT","messageId":"m","delta":"Hi"}\n\n'
        b'data: {"type":"TEXT_MESSAGE_CONTENT","messageId":"m","delta":" \\"you\\"\\n"}\n\n'
        b'data: {"type":"TEXT_MESSAGE_END","messageId":"m"}\n\n'
        b'data: {"type":"RUN_FINISHED","threadId":"t1","runId":"r1","outcome":{"type":"success"},'
        b'"metadata":{"headrace":{"finishReason":"stop"}}}\n\n'
    )


def test_there_is_no_end_marker_because_clients_would_parse_it() -> None:
    encoding = SURFACE.new_stream(SurfaceRequest(SURFACE, dict(BODY)))
    assert encoding.end_marker == b""
    assert encoding.heartbeat == b": ping\n"


# --- messages ----------------------------------------------------------------------------------------------------------


def test_blocks_of_text_that_follow_each_other_are_one_message() -> None:
    assert run(START, *text(0, "a"), ev.Notice(code="n", message="m"), *text(1, "b"), end()).answer == [
        {"id": "m", "role": "assistant", "content": "ab"}
    ]


def test_blocks_of_text_side_by_side_are_two_messages() -> None:
    events = [ev.Text(index=0, text="a"), ev.Text(index=1, text="b"), ev.Text(index=0, text="A"), ev.Text(index=1, text="B")]
    ends = [ev.BlockEnd(index=1, kind="text"), ev.BlockEnd(index=0, kind="text")]
    assert [message["content"] for message in run(START, *events, *ends, end()).answer] == ["aA", "bB"]


def test_reasoning_keeps_what_its_provider_wants_back() -> None:
    signed = [ev.Thinking(index=0, text="Hm", kind="raw"), ev.Thinking(index=0, text="", kind="raw", signature="s1")]
    hidden = [ev.Thinking(index=1, text="", kind="raw", redacted="r1")]
    ends = [ev.BlockEnd(index=0, kind="thinking"), ev.BlockEnd(index=1, kind="thinking")]
    done = run(START, *signed, ends[0], *hidden, ends[1], *text(2, "Yes."), end())
    assert done.answer == [
        {"id": "m-0", "role": "reasoning", "content": "Hm", "encryptedValue": "signature:s1"},
        {"id": "m-1", "role": "reasoning", "content": "", "encryptedValue": "redacted:r1"},
        {"id": "m", "role": "assistant", "content": "Yes."},
    ]
    (turn,) = msgspec.to_builtins(SURFACE.parse({**BODY, "messages": done.messages}).messages)[1:]
    assert turn["content"] == [
        {"type": "thinking", "text": "Hm", "signature": "s1", "redacted": None},
        {"type": "thinking", "text": "", "signature": None, "redacted": "r1"},
        {"type": "text", "text": "Yes."},
    ]


def test_calls_belong_to_the_message_before_them() -> None:
    done = run(START, *text(0, "Let me look."), *call(1, "c1"), *call(2, "c2"), end("tool_calls"))
    assert done.answer == [{"id": "m", "role": "assistant", "content": "Let me look.", "toolCalls": [function("c1"), function("c2")]}]
    assert done.ends[0][1]["outcome"] == {"type": "success", "pendingToolCallIds": ["c1", "c2"]}


def test_calls_without_text_are_a_message_of_their_own() -> None:
    done = run(START, *call(0), *text(1, "Wait."), end("tool_calls"))
    assert done.answer == [
        {"id": "m", "role": "assistant", "toolCalls": [function()]},
        {"id": "m-1", "role": "assistant", "content": "Wait."},
    ]


def test_a_call_with_broken_arguments_is_answered_so_that_nobody_runs_it() -> None:
    done = run(START, *call(0, valid=False), end("length"))
    assert done.answer[1] == {
        "id": "m-result-c1",
        "role": "tool",
        "toolCallId": "c1",
        "content": "They were cut off.",
        "metadata": {"headrace": {"ok": False}},
    }
    assert done.ends[0][1]["outcome"] == {"type": "success"}


@pytest.mark.parametrize(("content", "said"), [("One mill.", "One mill."), ([1], "[1]")])
def test_what_comes_behind_the_result_of_a_tool_that_ran_here_is_another_message(content: Any, said: str) -> None:
    result = ev.ToolResult(tool_call_id="c1", ok=True, content=content)
    done = run(START, *text(0, "Let me look."), *call(1), result, *text(2, "One."), *call(3, "c2"), end())
    assert [(message["id"], message.get("content")) for message in done.answer] == [
        ("m", "Let me look."),
        ("m-result-c1", said),
        ("m-2", "One."),
    ]
    assert done.answer[2]["toolCalls"] == [function("c2")]


def test_what_the_protocol_has_no_event_for() -> None:
    done = run(
        START,
        ev.Queue(position=1, depth=3, reason="concurrency", eta_seconds=1.5),
        ev.Usage(source="provider", input_tokens=3),
        ev.Source(url="https://example.org", title="T", index=0),
        ev.Data(name="chart", data=[1]),
        end(),
    )
    assert done.customs == [
        ("headrace.queue", {"position": 1, "depth": 3, "reason": "concurrency", "etaSeconds": 1.5}),
        ("headrace.usage", {"source": "provider", "inputTokens": 3}),
        ("headrace.source", {"url": "https://example.org", "title": "T", "index": 0}),
        ("chart", [1]),
    ]


# --- the end -----------------------------------------------------------------------------------------------------------


def test_usage_counts_as_the_protocol_does() -> None:
    ((kind, ended),) = run(START, end(usage=USAGE, metrics=METRICS)).ends
    assert kind == "RUN_FINISHED"
    assert ended["usage"] == [
        {
            "provider": "simulator",
            "model": "story",
            "inputTokens": 3,
            "outputTokens": 7,
            "totalTokens": 10,
            "reasoningTokens": 2,
            "cachedInputTokens": 1,
        }
    ]
    assert ended["metadata"] == {"headrace": {"finishReason": "stop", "metrics": {"ttftMs": 12.5}}}


def test_a_stopped_run_is_cancelled() -> None:
    ((kind, ended),) = run(START, *text(0, "Half an ans"), *call(1), end("cancelled")).ends
    assert (kind, ended["outcome"]) == ("RUN_FINISHED", {"type": "cancelled"})


def test_a_failed_run_is_an_error_and_keeps_what_came() -> None:
    done = run(START, *text(0, "Half an ans"), FAILURE)
    ((kind, ended),) = done.ends
    assert kind == "RUN_ERROR"
    assert ended == {
        "message": "The provider fell silent.",
        "code": "upstream_idle",
        "metadata": {"headrace": {"retryable": True, "partial": True, "retryAfterSeconds": 2.0}},
    }
    assert done.answer == [{"id": "m", "role": "assistant", "content": "Half an ans"}]


def test_a_withdrawn_attempt_is_taken_back() -> None:
    begun = [ev.Text(index=0, text="Wrong"), *call(1)[:2], ev.Thinking(index=2, text="Hm", kind="raw", signature="s")]
    done = run(START, *begun, ev.Reset(from_seq=2, reason="retry"), *text(0, "Right"), *call(1), end("tool_calls"))
    assert done.answer == [{"id": "m", "role": "assistant", "content": "Right", "toolCalls": [function()]}]


def test_a_gap_is_told_and_a_call_that_it_cut_is_never_run() -> None:
    gap = ev.Gap(seq=9, from_seq=4, to_seq=9, reason="slow_reader", recoverable=False)
    done = run(START, ev.Text(index=0, text="Before"), *call(1)[:2], gap, *call(1)[2:], *text(2, "behind"), end())
    assert done.customs == [("headrace.gap", {"fromSeq": 4, "toSeq": 9, "reason": "slow_reader", "recoverable": False})]
    assert [message.get("content") for message in done.answer] == ["Before", "Part of the arguments was lost on the way.", "behind"]
    assert done.ends[0][1]["outcome"] == {"type": "success"}


def test_a_gap_at_the_beginning_breaks_nothing() -> None:
    gap = ev.Gap(from_seq=1, to_seq=9, reason="slow_reader", recoverable=False)
    lost = ev.ToolResult(tool_call_id="lost", ok=True, content=1)
    done = run(gap, *call(3)[2:], lost, ev.BlockEnd(index=2, kind="text"), *text(4, "rest"), end())
    assert done.answer[0]["toolCalls"] == [function()]
    assert done.answer[1]["content"] == "rest"


# --- any answer --------------------------------------------------------------------------------------------------------


@st.composite
def answers(draw: st.DrawFn) -> list[ev.Event]:
    """Legal streams: blocks of every kind, some side by side."""
    lanes: list[list[ev.Event]] = []
    for index in range(draw(st.integers(0, 5))):
        deltas = draw(st.lists(st.text(max_size=5), min_size=1, max_size=4))
        match draw(st.sampled_from(("text", "thinking", "call", "broken"))):
            case "text":
                lanes.append(text(index, *deltas))
            case "thinking":
                lanes.append(thinking(index, *deltas))
            case kind:
                lanes.append(call(index, f"c{index}", valid=kind == "call"))
    events: list[ev.Event] = [START]
    while lanes:
        at = draw(st.integers(0, len(lanes) - 1))
        events.append(lanes[at].pop(0))
        lanes = [lane for lane in lanes if lane]
        if draw(st.booleans()):
            events.append(ev.Notice(code="n", message="m"))
    return numbered([*events, draw(st.sampled_from([end(), end("cancelled"), FAILURE]))])


@given(answers())
def test_any_answer_is_put_together_as_the_native_protocol_says_it(events: list[ev.Event]) -> None:
    native = Accumulator()
    for event in events:
        native.feed(event)
    done = run(*events)
    written = "".join(message.get("content", "") for message in done.answer if message["role"] == "assistant")
    assert sorted(written) == sorted(native.text)
    reasoning = [message["content"] for message in done.answer if message["role"] == "reasoning"]
    assert sorted(reasoning) == sorted(block.text for block in native.blocks.values() if block.kind == "thinking")
    calls = {call["id"]: call["function"]["arguments"] for message in done.answer for call in message.get("toolCalls", [])}
    assert calls == {block.tool_call_id: block.text for block in native.tool_calls}
    assert {message["toolCallId"] for message in done.answer if message["role"] == "tool"} == {
        block.tool_call_id for block in native.tool_calls if not block.valid
    }
    assert len(done.ends) == 1


@given(answers())
def test_any_answer_can_be_sent_back(events: list[ev.Event]) -> None:
    assert SURFACE.parse({**BODY, "messages": run(*events).messages}).messages


@given(answers(), st.lists(st.integers(0, 60)))
def test_however_events_are_batched_the_bytes_are_the_same(events: list[ev.Event], cuts: list[int]) -> None:
    encoding = SURFACE.new_stream(SurfaceRequest(SURFACE, dict(BODY)))
    edges = sorted({0, len(events), *(cut for cut in cuts if cut < len(events))})
    assert b"".join(encoding.encode(events[start:stop]) for start, stop in pairwise(edges)) == said(*events)


# --- errors before the first byte --------------------------------------------------------------------------------------


def test_an_error_is_json_that_the_client_hands_on() -> None:
    status, body, content_type = SURFACE.error(QueueFull(retry_after_s=2.0))
    assert (status, content_type) == (503, "application/json")
    assert msgspec.json.decode(body) == {
        "error": {"code": "queue_full", "message": "The line for this model is full.", "retryable": True, "retryAfterSeconds": 2.0}
    }


def test_an_error_names_the_field_that_it_is_about() -> None:
    error = msgspec.json.decode(SURFACE.error(BadRequest("messages: a list.", field="messages")).body)["error"]
    assert error == {"code": "invalid_request", "message": "messages: a list.", "retryable": False, "field": "messages"}
