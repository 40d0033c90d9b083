"""Our events as a Responses stream, and a provider's own stream with what it lacks."""

from __future__ import annotations

import gc
import json
import re
import weakref
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from provider_streams import ANTHROPIC, OPENAI_CHAT, decode
from pydantic import BaseModel
from responses_reader import BROKEN, START, STEM, STOP, USAGE, call, check, check_response, client, kinds, read, request, text, thinking

from headrace.protocol import events as ev
from headrace.protocol.dialects.openai_responses.encode import ResponsesEncoding
from headrace.protocol.dialects.openai_responses.reply import ResponsesReply
from headrace.protocol.sse import SSEEvent

CANCELLED = ev.StreamEnd(finish_reason="cancelled", usage=USAGE)


def told(*events: ev.Event, **body: Any) -> list[dict[str, Any]]:
    """What a reader gets for a stream of these events, checked."""
    found = read(ResponsesEncoding(request(**body)).encode([START, *events]))
    check(found)
    return found


# --- the order of events ---------------------------------------------------------------------------------------------


def test_text_is_told_in_the_order_that_the_protocol_has() -> None:
    events = told(*text(0, "Bon", 'jour "👋"\n'), STOP)
    assert kinds(events) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert events[4] == {
        "type": "response.output_text.delta",
        "item_id": f"msg_{STEM}_0",
        "output_index": 0,
        "content_index": 0,
        "delta": "Bon",
        "logprobs": [],
        "sequence_number": 4,
    }
    assert events[6]["text"] == events[7]["part"]["text"] == 'Bonjour "👋"\n'
    assert events[-1]["response"]["output"] == [events[-2]["item"]]
    assert events[-1]["response"]["id"] == f"resp_{STEM}"


def test_a_response_that_waited_was_queued() -> None:
    waiting = ev.Queue(position=2, depth=5, reason="busy")
    place = ev.Queue(position=0, depth=0, reason="busy")
    events = told(waiting, ev.Queue(position=1, depth=5, reason="busy"), place, *text(0, "a"), STOP)
    assert kinds(events)[:4] == ["created", "queued", "in_progress", "output_item.added"]
    assert [event["response"]["status"] for event in events[:3]] == ["in_progress", "queued", "in_progress"]


def test_nothing_is_said_before_it_is_known_whose_frames_come() -> None:
    encoding = ResponsesEncoding(request())
    assert encoding.encode([START, ev.Queue(position=1, depth=1, reason="busy"), ev.Notice(code="retrying", message="x")]) == b""
    assert kinds(read(encoding.encode([ev.Usage(source="provider", input_tokens=1)]))) == ["created", "queued", "in_progress"]


def test_a_translated_response_is_created_at_once_with_the_same_numbers() -> None:
    events = [START, ev.Queue(position=1, depth=1, reason="busy"), ev.Queue(position=0, depth=0, reason="busy"), *text(0, "a"), STOP]
    at_once = ResponsesEncoding(request(), translated=True)
    first, second, third = (at_once.encode([event]) for event in events[:3])
    assert [kinds(read(body)) for body in (first, second, third)] == [["created"], ["queued"], ["in_progress"]]
    assert first + second + third + at_once.encode(events[3:]) == ResponsesEncoding(request()).encode(events)


def test_blocks_of_text_in_a_row_are_one_message() -> None:
    events = told(*text(0, "It is "), *text(1, "22"), *text(2, "."), STOP)
    assert kinds(events).count("output_item.added") == kinds(events).count("output_item.done") == 1
    message = events[-1]["response"]["output"][0]
    assert [part["text"] for part in message["content"]] == ["It is ", "22", "."]
    assert [event["content_index"] for event in events if event["type"].endswith("text.done")] == [0, 1, 2]


def test_a_message_ends_where_something_else_begins() -> None:
    events = told(*text(0, "Let me look."), *call(1, "call_1", "weather", '{"city":', '"Paris"}'), STOP)
    assert kinds(events)[7:] == [
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    item = events[-1]["response"]["output"][1]
    assert item == {
        "id": f"fc_{STEM}_1",
        "type": "function_call",
        "status": "completed",
        "call_id": "call_1",
        "name": "weather",
        "arguments": '{"city":"Paris"}',
    }


def test_text_beside_an_open_call_keeps_its_own_item() -> None:
    opened = ev.Text(index=0, text="a")
    first, *rest = call(1, "call_1", "weather", "{}")
    events = told(opened, first, ev.Text(index=0, text="b"), ev.BlockEnd(index=0, kind="text"), *rest, *text(2, "c"), STOP)
    output = events[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["message", "function_call", "message"]
    assert output[0]["content"][0]["text"] == "ab"


def test_parallel_calls_are_told_apart_by_their_output_index() -> None:
    (a1, a2, *a), (b1, b2, *b) = call(0, "call_a", "one", '{"x":1}'), call(1, "call_b", "two", '{"y":2}')
    events = told(a1, b1, a2, b2, *a, *b, STOP)
    deltas = [(event["output_index"], event["delta"]) for event in events if event["type"].endswith(".delta")]
    assert deltas == [(0, '{"x":1}'), (1, '{"y":2}')]
    assert [item["name"] for item in events[-1]["response"]["output"]] == ["one", "two"]


def test_a_call_without_arguments_gets_an_empty_object() -> None:
    events = told(*call(0, "call_1", "now"), STOP)
    assert [event["delta"] for event in events if event["type"].endswith("arguments.delta")] == ["{}"]
    assert events[-1]["response"]["output"][0]["arguments"] == "{}"


def test_a_call_that_was_cut_is_incomplete_and_keeps_what_came() -> None:
    events = told(*call(0, "call_1", "weather", '{"city":', valid=False), ev.StreamEnd(finish_reason="length"))
    item = events[-1]["response"]["output"][0]
    assert (item["status"], item["arguments"]) == ("incomplete", '{"city":')


# --- reasoning, refusals, sources ------------------------------------------------------------------------------------


def test_summaries_and_raw_reasoning_have_events_of_their_own() -> None:
    events = told(*thinking(0, "Let ", "me see.", kind="summary"), *thinking(1, "hm"), *text(2, "a"), STOP)
    assert kinds(events)[2:9] == [
        "output_item.added",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done",
    ]
    assert kinds(events)[9:15] == [
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
    ]
    summary, raw, _ = events[-1]["response"]["output"]
    assert summary["summary"] == [{"type": "summary_text", "text": "Let me see."}]
    assert raw["content"] == [{"type": "reasoning_text", "text": "hm"}]


def test_a_signature_and_sealed_reasoning_are_encrypted_content() -> None:
    signed, sealed, silent = thinking(0, "hm", signature="sig=="), thinking(1, redacted="blob"), thinking(2, signature="sig2")
    output = told(*signed, *sealed, *silent, *text(3, "a"), STOP)[-1]["response"]["output"]
    assert [item.get("encrypted_content") for item in output] == ["sig==", "redacted:blob", "sig2", None]
    assert [item.get("content") for item in output[:3]] == [[{"type": "reasoning_text", "text": "hm"}], None, None]


def test_all_reasoning_is_a_summary_where_the_surface_is_told_so() -> None:
    asked = request()
    asked.options["reasoning"] = "summary"
    events = read(ResponsesEncoding(asked).encode([START, *thinking(0, "a ", "b", signature="s"), STOP]))
    check(events)
    item = events[-1]["response"]["output"][0]
    assert (item["summary"], item["encrypted_content"]) == ([{"type": "summary_text", "text": "a b"}], "s")
    assert "content" not in item


def test_reasoning_that_changes_its_kind_goes_on_in_another_part() -> None:
    mixed = [ev.Thinking(index=0, text="a", kind="summary"), ev.Thinking(index=0, text="b", kind="raw")]
    item = told(*mixed, ev.BlockEnd(index=0, kind="thinking"), STOP)[-1]["response"]["output"][0]
    assert (item["summary"][0]["text"], item["content"][0]["text"]) == ("a", "b")


def test_a_refusal_in_words_is_a_part_of_a_completed_response() -> None:
    notice = ev.Notice(code="refusal", message="I can't help with that.")
    events = told(*text(0, "Hm. "), notice, ev.StreamEnd(finish_reason="refusal"))
    assert kinds(events)[-6:-2] == ["content_part.added", "refusal.delta", "refusal.done", "content_part.done"]
    assert events[-1]["type"] == "response.completed"
    assert events[-1]["response"]["output"][0]["content"][1] == {"type": "refusal", "refusal": "I can't help with that."}


def test_a_refusal_without_words_is_incomplete() -> None:
    response = told(ev.StreamEnd(finish_reason="refusal"))[-1]["response"]
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "content_filter"})


def test_sources_are_annotations_where_the_text_had_come_to() -> None:
    events = told(
        ev.Source(url="https://a.test/", title="A"),
        ev.Text(index=0, text="It’s 22 👋"),
        ev.Source(url="https://b.test/"),
        ev.BlockEnd(index=0, kind="text"),
        STOP,
    )
    added = [event for event in events if event["type"] == "response.output_text.annotation.added"]
    assert [(event["annotation_index"], event["annotation"]["start_index"]) for event in added] == [(0, 0), (1, 9)]
    assert [event["annotation"]["title"] for event in added] == ["A", "https://b.test/"]
    assert events[-1]["response"]["output"][0]["content"][0]["annotations"] == [event["annotation"] for event in added]


def test_what_the_protocol_has_no_word_for_is_not_said() -> None:
    extra = [
        ev.Notice(code="stalled", message="x"),
        ev.Data(name="x", data=1),
        ev.ToolResult(tool_call_id="call_9", ok=True, content="x"),
        ev.Source(url="https://never.test/"),
        ev.Source(url="", title="report.pdf"),
    ]
    assert told(*text(0, "a"), *extra, STOP) == told(*text(0, "a"), STOP)


# --- the end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "kind", "status", "details"),
    [
        ("stop", "response.completed", "completed", None),
        ("tool_calls", "response.completed", "completed", None),
        ("length", "response.incomplete", "incomplete", {"reason": "max_output_tokens"}),
        ("content_filter", "response.incomplete", "incomplete", {"reason": "content_filter"}),
        ("pause", "response.incomplete", "incomplete", None),
    ],
)
def test_each_finish_reason_has_its_end(reason: ev.FinishReason, kind: str, status: str, details: object) -> None:
    event = told(*text(0, "a"), ev.StreamEnd(finish_reason=reason, usage=USAGE))[-1]
    response = event["response"]
    assert (event["type"], response["status"], response["incomplete_details"], response["error"]) == (kind, status, details, None)
    assert response["output"][0]["status"] == ("completed" if status == "completed" else "incomplete")
    assert response["usage"] == {
        "input_tokens": 11,
        "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
        "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 18,
    }


def test_a_stop_is_a_failure_whose_response_is_cancelled() -> None:
    event = told(*text(0, "Once upon"), CANCELLED)[-1]
    response = event["response"]
    assert (event["type"], response["status"]) == ("response.failed", "cancelled")
    assert (response["error"]["message"], response["error"]["type"]) == ("The answer was stopped.", "cancelled")
    assert response["output"][0]["content"][0]["text"] == "Once upon"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("upstream_truncated", "server_error"),
        ("upstream_rate_limited", "rate_limit_exceeded"),
        ("too_many_streams", "rate_limit_exceeded"),
        ("upstream_rejected", "invalid_prompt"),
    ],
)
def test_an_error_is_a_failed_response_with_our_code_as_its_type(code: str, said: str) -> None:
    event = told(*text(0, "a"), ev.Error(code=code, message="No.", retryable=True, partial=True))[-1]
    assert event["type"] == "response.failed"
    assert event["response"]["status"] == "failed"
    assert event["response"]["error"] == {"code": said, "message": "No.", "type": code, "param": None}
    assert event["response"]["output"][0]["status"] == "incomplete"


def test_an_error_before_anything_came_is_a_whole_stream_of_its_own() -> None:
    assert kinds(told(BROKEN)) == ["created", "in_progress", "failed"]


def test_when_it_ended_comes_from_the_measures() -> None:
    end = ev.StreamEnd(finish_reason="stop", metrics=ev.Metrics(duration_ms=2600.0))
    assert told(*text(0, "a"), end)[-1]["response"]["completed_at"] == 1_700_000_003


def test_the_response_repeats_its_request() -> None:
    tools = [{"type": "function", "name": "weather", "parameters": {"type": "object"}}]
    body = {
        "instructions": "Be brief.",
        "max_output_tokens": 100,
        "metadata": {"a": "b", "n": 1},
        "parallel_tool_calls": False,
        "reasoning": {"effort": "low"},
        "temperature": 0.5,
        "text": {"format": {"type": "json_object"}, "verbosity": "low"},
        "tool_choice": "required",
        "tools": tools,
        "top_p": 1,
        "store": False,
    }
    response = told(*text(0, "a"), STOP, **body)[0]["response"]
    expected = body | {
        "metadata": {"a": "b"},
        "reasoning": {"effort": "low", "summary": None},
        "tools": [{"strict": None, **tools[0]}],
        "model": "swift",
        "created_at": 1_700_000_000,
        "background": False,
        "previous_response_id": None,
    }
    assert {name: response[name] for name in expected} == expected


@pytest.mark.parametrize(
    "loss",
    [
        ev.Reset(from_seq=2, reason="retry"),
        ev.Gap(from_seq=2, to_seq=3, reason="slow", recoverable=False),
        ev.Snapshot(through_seq=3, blocks=[]),
    ],
)
def test_what_cannot_be_taken_back_ends_the_stream_as_failed(loss: ev.Event) -> None:
    events = told(ev.Text(index=0, text="Once"), loss, ev.Text(index=0, text="Twice"), ev.BlockEnd(index=0, kind="text"), STOP)
    assert kinds(events).count("failed") == 1
    assert kinds(events)[-2:] == ["output_item.done", "failed"]
    assert b"Twice" not in json.dumps(events).encode()


def test_an_attempt_of_which_nothing_was_told_may_be_withdrawn() -> None:
    assert told(ev.Reset(from_seq=2, reason="retry"), *text(0, "a"), STOP) == told(*text(0, "a"), STOP)


# --- numbers and resuming --------------------------------------------------------------------------------------------

STREAM: list[ev.Event] = [
    START,
    *thinking(0, "hm", signature="s"),
    *text(1, "Bon", "jour"),
    *call(2, "call_1", "weather", '{"a"', ":1}"),
    STOP,
]


def test_how_events_are_cut_into_batches_changes_nothing() -> None:
    one_by_one = ResponsesEncoding(request())
    assert b"".join(one_by_one.encode([event]) for event in STREAM) == ResponsesEncoding(request()).encode(STREAM)


def test_a_reader_who_resumes_gets_exactly_what_comes_after() -> None:
    whole = ResponsesEncoding(request()).encode(STREAM)
    count = len(read(whole))
    for after in range(-1, count + 1):
        rest = ResponsesEncoding(request(), after=after).encode(STREAM)
        assert whole.endswith(rest)
        assert [event["sequence_number"] for event in read(rest)] == list(range(after + 1, count))


def test_nothing_is_ever_merged_and_a_heartbeat_has_one_line_feed() -> None:
    assert ResponsesEncoding.compact is False
    assert ResponsesEncoding.heartbeat == b": ping\n"
    assert ResponsesEncoding.end_marker == b""


# --- the SDK ---------------------------------------------------------------------------------------------------------


def body_of(dialect: str, provider: bytes) -> bytes:
    """The stream of a provider of another dialect, with a heartbeat before each event."""
    encoding = ResponsesEncoding(request(), translated=True)
    return b"".join(encoding.heartbeat + encoding.encode([event]) for event in [START, *decode(dialect, provider)])


@pytest.mark.parametrize(
    ("dialect", "name"), [*(("openai_chat", name) for name in OPENAI_CHAT), *(("anthropic", name) for name in ANTHROPIC)]
)
def test_the_sdk_reads_every_event_of_a_translated_stream(dialect: str, name: str) -> None:
    body = body_of(dialect, (OPENAI_CHAT if dialect == "openai_chat" else ANTHROPIC)[name])
    check(events := read(body))
    found = list(client(body).responses.create(model="swift", input="hi", stream=True))
    assert [event.model_dump(mode="json", by_alias=True, exclude_unset=True) for event in found] == events


def test_the_sdk_puts_the_final_response_together() -> None:
    body = ResponsesEncoding(request()).encode(STREAM)
    with client(body).responses.stream(model="swift", input="hi") as stream:
        response = stream.get_final_response()
    assert response.output_text == "Bonjour"
    assert [(item.name, item.arguments) for item in response.output if item.type == "function_call"] == [("weather", '{"a":1}')]


def test_the_sdk_resumes_after_a_number() -> None:
    whole = ResponsesEncoding(request()).encode(STREAM)
    rest = ResponsesEncoding(request(), after=4).encode(STREAM)
    found = client(rest).responses.retrieve(f"resp_{STEM}", stream=True, starting_after=4)
    assert [event.sequence_number for event in found] == list(range(5, len(read(whole))))


def test_the_sdk_parses_an_answer_of_a_schema() -> None:
    class Weather(BaseModel):
        degrees: int

    shape = {"type": "json_schema", "name": "Weather", "schema": Weather.model_json_schema(), "strict": True}
    asked = request(text={"format": shape})
    body = ResponsesEncoding(asked).encode([START, *text(0, '{"degrees"', ":22}"), STOP])
    check(read(body))
    with client(body).responses.stream(model="swift", input="hi", text_format=Weather) as stream:
        assert stream.get_final_response().output_parsed == Weather(degrees=22)


@pytest.mark.parametrize("end", [BROKEN, CANCELLED])
def test_the_sdk_never_takes_a_broken_or_stopped_answer_for_a_whole_one(end: ev.Event) -> None:
    body = ResponsesEncoding(request()).encode([START, *text(0, "a"), end])
    with client(body).responses.stream(model="swift", input="hi") as stream, pytest.raises(RuntimeError, match=r"response\.completed"):
        stream.get_final_response()


_TEXTS = st.text(min_size=1, max_size=8)


@given(st.lists(st.one_of(_TEXTS.map(lambda t: ("text", t)), _TEXTS.map(lambda t: ("thinking", t)), _TEXTS.map(lambda t: ("call", t)))))
def test_whatever_comes_in_whatever_order_is_a_legal_stream(blocks: list[tuple[str, str]]) -> None:
    events: list[ev.Event] = []
    for index, (kind, content) in enumerate(blocks):
        if kind == "text":
            events += text(index, content, content)
        elif kind == "thinking":
            events += thinking(index, content)
        else:
            events += call(index, f"call_{index}", "f", json.dumps({"x": content}))
    response = told(*events, STOP)[-1]["response"]
    assert check_response(response).output_text == "".join(content * 2 for kind, content in blocks if kind == "text")


# --- a provider's own frames -----------------------------------------------------------------------------------------


def frame(kind: str, number: int | None, *, named: bool = True, **fields: Any) -> SSEEvent:
    shape = {"type": kind, **fields} | ({} if number is None else {"sequence_number": number})
    return SSEEvent(data=json.dumps(shape).encode(), event=kind if named else "message")


PROVIDERS_OWN = {
    "id": "resp_theirs",
    "object": "response",
    "created_at": 1,
    "status": "in_progress",
    "model": "gpt",
    "output": [],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "error": None,
    "incomplete_details": None,
    "novelty": {"unknown": True},
}
MESSAGE = {
    "id": "msg_theirs",
    "type": "message",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": "Bonjour", "annotations": []}],
}
FRAMES = [
    frame("response.created", 0, response=PROVIDERS_OWN),
    frame("response.in_progress", 1, response=PROVIDERS_OWN),
    frame("response.output_item.added", 2, output_index=0, item=MESSAGE | {"status": "in_progress", "content": []}),
    frame("response.output_text.delta", 3, item_id="msg_theirs", output_index=0, content_index=0, delta="Bonjour", logprobs=[]),
    frame("response.output_item.done", 4, output_index=0, item=MESSAGE),
    frame("response.completed", 5, response=PROVIDERS_OWN | {"status": "completed", "output": [MESSAGE]}),
]


def forwarded(frames: list[SSEEvent], end: ev.Event, *, after: int | None = None) -> bytes:
    encoding = ResponsesEncoding(request(), after=after)
    assert encoding.encode([START, ev.Queue(position=1, depth=1, reason="busy")]) == b""
    body = b"".join(encoding.forward([frame]) for frame in frames)
    return body + encoding.encode([end])


def test_a_providers_frames_go_on_as_they_are_and_nothing_is_added() -> None:
    body = forwarded(FRAMES, STOP)
    assert [event.encode() for event in body.decode().split("\n\n")[:-1]] == [
        b"event: %b\ndata: %b" % (frame.event.encode(), frame.data) for frame in FRAMES
    ]


@pytest.mark.parametrize("end", [BROKEN, CANCELLED])
def test_a_provider_that_broke_off_gets_a_failure_with_the_next_number(end: ev.Event) -> None:
    last = next(event for event in read(forwarded(FRAMES[:5], end)) if event["type"] == "response.failed")
    assert last["sequence_number"] == 5
    response = last["response"]
    assert (response["id"], response["novelty"], response["output"]) == ("resp_theirs", {"unknown": True}, [MESSAGE])
    assert response["status"] == ("failed" if end is BROKEN else "cancelled")
    assert response["error"]["type"] == ("upstream_truncated" if end is BROKEN else "cancelled")
    check_response(response)


def test_a_provider_that_broke_off_makes_the_sdk_raise() -> None:
    stream = iter(client(forwarded(FRAMES[:5], BROKEN)).responses.create(model="m", input="Hi", stream=True))
    assert [next(stream).type for _ in range(6)][5] == "response.failed"
    with pytest.raises(openai.APIError, match=re.escape(BROKEN.message)):
        next(stream)


def test_an_error_that_the_provider_told_itself_is_told_once() -> None:
    data = b'{"type":"error","code":"server_error","message":"Busy.","param":null,"sequence_number":5}'
    error = SSEEvent(data, "error")
    body = forwarded([*FRAMES[:5], error], BROKEN)
    assert body.endswith(b"event: error\ndata: %b\n\n" % data)
    assert b"response.failed" not in body


def test_a_stop_after_the_providers_own_end_adds_nothing() -> None:
    assert forwarded(FRAMES, CANCELLED) == forwarded(FRAMES, STOP)


def test_a_failure_is_valid_whatever_the_provider_sent_before_it() -> None:
    for frames in ([], [frame("response.output_text.delta", 7, delta="a")], [SSEEvent(data=b"[1]")], [SSEEvent(data=b"{", event="x")]):
        encoding = ResponsesEncoding(request())
        encoding.encode([START])
        encoding.forward(frames)
        failed, error = read(encoding.encode([BROKEN]))
        assert failed["response"]["id"] == f"resp_{STEM}"
        assert error["error"]["message"] == BROKEN.message
        check_response(failed["response"])


def test_frames_without_a_name_tell_the_same() -> None:
    unnamed = [SSEEvent(data=frame.data) for frame in FRAMES]
    assert forwarded(unnamed, STOP) == b"".join(b"data: %b\n\n" % frame.data for frame in unnamed)
    assert read(forwarded(FRAMES[:4], BROKEN))[-1] == json.loads(forwarded(unnamed[:4], BROKEN).split(b"data: ")[-1])


def test_frames_without_a_number_are_counted() -> None:
    frames = [frame("response.created", None, response=PROVIDERS_OWN), frame("response.output_text.delta", None, delta="a")]
    assert [event["sequence_number"] for event in read(forwarded(frames, BROKEN))[2:]] == [2, 3]


def test_a_reader_who_resumes_skips_the_frames_that_it_has() -> None:
    for after in range(-1, 6):
        numbers = [event["sequence_number"] for event in read(forwarded(FRAMES, STOP, after=after))]
        assert numbers == list(range(after + 1, 6))
    assert [event["sequence_number"] for event in read(forwarded(FRAMES[:5], BROKEN, after=3))] == [4, 5, 6]
    assert read(forwarded(FRAMES[:5], BROKEN, after=6)) == []


def test_a_frame_without_a_number_is_never_skipped() -> None:
    keepalive = frame("keepalive", None)
    found = read(forwarded([FRAMES[0], keepalive, *FRAMES[1:]], STOP, after=3))
    assert kinds(found) == ["keepalive", "output_item.done", "completed"]


def test_a_provider_without_an_end_of_its_own_gets_the_one_that_was_meant() -> None:
    last = read(forwarded(FRAMES[:5], STOP))[-1]
    assert (last["type"], last["response"]["status"], last["response"]["output"]) == ("response.completed", "completed", [MESSAGE])


_FRAME = st.builds(
    SSEEvent,
    data=st.binary(max_size=20)
    | st.dictionaries(
        st.sampled_from(["type", "sequence_number", "response", "item", "output_index", "delta"]),
        st.none() | st.integers(-(2**70), 2**70) | st.text(max_size=4) | st.just({"id": 5, "output": 5}) | st.just([{}]),
    ).map(lambda shape: json.dumps(shape).encode()),
    event=st.sampled_from(["message", "error", "response.created", "response.output_item.done", "response.output_text.delta"]),
)


@given(st.lists(_FRAME, max_size=6), st.none() | st.integers(-1, 5), st.sampled_from([BROKEN, CANCELLED, STOP]))
def test_whatever_a_provider_sends_the_stream_goes_on_to_one_end(frames: list[SSEEvent], after: int | None, end: ev.Event) -> None:
    body = forwarded(frames, end, after=after)
    if after is None:
        assert body.count(b"event: response.completed\n") + body.count(b"event: response.failed\n") == 1


@pytest.mark.parametrize("make", [ResponsesEncoding, ResponsesReply])
def test_what_is_let_go_is_freed_at_once(make: type[ResponsesEncoding] | type[ResponsesReply]) -> None:
    gc.disable()
    try:
        encoding = make(request())
        encoding.encode([START, ev.Text(index=0, text="a"), ev.Source(url="https://a.test/"), *thinking(1, "hm")])
        gone = weakref.ref(encoding)
        del encoding
        assert gone() is None
    finally:
        gc.enable()
