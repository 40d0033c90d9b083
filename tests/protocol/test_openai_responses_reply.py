"""The whole `response` object, at the end and before it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from responses_reader import BROKEN, START, STEM, STOP, USAGE, call, check_response, client, read, request, text, thinking
from test_openai_responses_encode import FRAMES, MESSAGE, PROVIDERS_OWN, frame

from headrace.protocol import events as ev
from headrace.protocol.dialects.openai_responses.encode import ResponsesEncoding
from headrace.protocol.dialects.openai_responses.reply import ResponsesReply, response_id_of
from headrace.protocol.sse import SSEEvent

CANCELLED = ev.StreamEnd(finish_reason="cancelled", usage=USAGE)


def reply(*events: ev.Event, frames: list[SSEEvent] | None = None, end: ev.Event | None = None) -> ResponsesReply:
    found = ResponsesReply(request())
    assert found.encode([START, *events]) == b""
    if frames is not None:
        assert found.forward(frames) == b""
    if end is not None:
        assert found.encode([end]) == b""
    return found


# --- from events -----------------------------------------------------------------------------------------------------


def test_the_reply_is_what_the_streams_last_event_says() -> None:
    events = [*thinking(0, "hm", signature="s"), *text(1, "Bon", "jour"), *call(2, "call_1", "weather", '{"a":1}'), STOP]
    body = reply(*events).body()
    assert json.loads(body) == read(ResponsesEncoding(request()).encode([START, *events]))[-1]["response"]
    assert client(body).responses.create(model="swift", input="hi").output_text == "Bonjour"


def test_a_response_can_be_looked_at_while_it_grows() -> None:
    found = ResponsesReply(request())
    seen: list[tuple[Any, Any]] = []

    def look(*events: ev.Event) -> dict[str, Any]:
        found.encode(events)
        shape = found.snapshot()
        check_response(shape)
        seen.append((shape["status"], [item["status"] for item in shape["output"]]))
        return shape

    look(START)
    look(ev.Queue(position=3, depth=4, reason="busy"))
    look(ev.Queue(position=0, depth=0, reason="busy"))
    shape = look(ev.Text(index=0, text="Bon"))
    assert shape["output"][0]["content"][0]["text"] == "Bon"
    look(ev.Text(index=0, text="jour"), ev.BlockEnd(index=0, kind="text"))
    shape = look(STOP)
    assert shape["id"] == f"resp_{STEM}"
    assert seen == [
        ("in_progress", []),
        ("queued", []),
        ("in_progress", []),
        ("in_progress", ["in_progress"]),
        ("in_progress", ["in_progress"]),
        ("completed", ["completed"]),
    ]


def test_a_stopped_response_is_cancelled_with_what_had_come() -> None:
    before_its_end = reply(ev.Text(index=0, text="Once")).snapshot("cancelled")
    after_its_end = reply(*text(0, "Once"), CANCELLED).snapshot()
    for shape in (before_its_end, after_its_end):
        check_response(shape)
        assert (shape["status"], shape["error"], shape["output"][0]["status"]) == ("cancelled", None, "incomplete")
        assert shape["output"][0]["content"][0]["text"] == "Once"


def test_a_call_in_progress_shows_the_arguments_so_far() -> None:
    first, second, *_ = call(0, "call_1", "weather", '{"a"', ":1}")
    item = reply(first, second).snapshot()["output"][0]
    assert (item["status"], item["arguments"]) == ("in_progress", '{"a"')


def test_a_failed_response_says_why() -> None:
    shape = reply(*text(0, "a"), BROKEN).snapshot()
    assert (shape["status"], shape["error"]["type"]) == ("failed", "upstream_truncated")
    check_response(shape)


# --- from a provider's own frames ------------------------------------------------------------------------------------


def test_the_providers_own_object_is_the_reply() -> None:
    assert json.loads(reply(frames=FRAMES, end=STOP).body()) == PROVIDERS_OWN | {"status": "completed", "output": [MESSAGE]}


def test_an_output_that_the_provider_leaves_out_is_filled_from_its_items() -> None:
    empty = frame("response.completed", 5, response=PROVIDERS_OWN | {"status": "completed", "output": []})
    assert json.loads(reply(frames=[*FRAMES[:5], empty], end=STOP).body())["output"] == [MESSAGE]


def test_half_of_a_providers_response_has_its_finished_and_its_begun_items() -> None:
    reasoning = {"id": "rs_1", "type": "reasoning", "summary": []}
    call_item = {"id": "fc_1", "type": "function_call", "call_id": "c", "name": "f", "arguments": "", "status": "in_progress"}
    custom = {"id": "ct_1", "type": "custom_tool_call", "call_id": "d", "name": "g", "input": ""}
    begun = MESSAGE | {"id": "msg_2", "status": "in_progress", "content": []}
    frames = [
        *FRAMES[:5],
        frame("response.output_item.added", 5, output_index=1, item=reasoning),
        frame("response.reasoning_summary_text.delta", 6, output_index=1, summary_index=0, delta="a", item_id="rs_1"),
        frame("response.reasoning_summary_text.delta", 7, output_index=1, summary_index=1, delta="b", item_id="rs_1"),
        frame("response.output_item.added", 8, output_index=2, item=call_item),
        frame("response.function_call_arguments.delta", 9, output_index=2, delta='{"x"', item_id="fc_1"),
        frame("response.output_item.added", 10, output_index=3, item=custom),
        frame("response.custom_tool_call_input.delta", 11, output_index=3, delta="ls", item_id="ct_1"),
        frame("response.output_item.added", 12, output_index=4, item=begun),
        frame("response.output_text.delta", 13, output_index=4, content_index=0, delta="Au re", item_id="msg_2", logprobs=[]),
        frame("response.output_text.delta", 14, output_index=4, content_index=0, delta="voir", item_id="msg_2", logprobs=[]),
    ]
    shape = reply(frames=frames).snapshot()
    check_response(shape)
    assert (shape["id"], shape["status"], shape["novelty"]) == ("resp_theirs", "in_progress", {"unknown": True})
    done, thought, called, tooled, message = shape["output"]
    assert done == MESSAGE
    assert [part["text"] for part in thought["summary"]] == ["a", "b"]
    assert (called["arguments"], called["status"], tooled["input"]) == ('{"x"', "in_progress", "ls")
    assert message["content"] == [{"type": "output_text", "text": "Au revoir", "annotations": []}]


@pytest.mark.parametrize("cut", range(len(FRAMES)))
def test_a_stop_keeps_what_the_provider_had_sent(cut: int) -> None:
    asked = reply(frames=FRAMES[:cut]).snapshot("cancelled")
    ended = reply(frames=FRAMES[:cut], end=CANCELLED).snapshot()
    for shape in (asked, ended):
        check_response(shape)
        assert (shape["status"], shape["error"]) == ("cancelled", None)
        assert shape["id"] == ("resp_theirs" if cut else f"resp_{STEM}")
        assert len(shape["output"]) == (cut > 2)
        assert all(item["status"] != "in_progress" for item in shape["output"])
    assert ended["usage"]["total_tokens"] == 18


def test_a_stop_that_came_too_late_changes_nothing() -> None:
    assert reply(frames=FRAMES, end=CANCELLED).snapshot()["status"] == "completed"


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{", b'{"output_index":"x"}', b'{"output_index":0,"delta":5}', b'{"output_index":0,"item":5}']
)
@pytest.mark.parametrize(
    "kind", ["response.created", "response.output_item.added", "response.output_item.done", "response.output_text.delta"]
)
def test_frames_that_tell_nothing_are_passed_over(kind: str, data: bytes) -> None:
    check_response(reply(frames=[SSEEvent(data=data, event=kind)], end=BROKEN).snapshot())


# --- ids -------------------------------------------------------------------------------------------------------------


def test_a_lifecycle_frame_tells_the_providers_own_id() -> None:
    assert [response_id_of(frame) for frame in FRAMES] == ["resp_theirs", "resp_theirs", None, None, None, "resp_theirs"]
    assert response_id_of(SSEEvent(data=FRAMES[0].data)) == "resp_theirs"
    for data in (b"", b"{", b"[]", b'{"response":5}', b'{"response":{"id":5}}', b'{"response":{"id":""}}'):
        assert response_id_of(SSEEvent(data=data, event="response.created")) is None
