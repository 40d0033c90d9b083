"""Our events, and a provider's own frames, as the Chat Completions stream."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import httpx2
import msgspec
import openai
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk

from headrace.protocol import events as ev
from headrace.protocol.dialects import load, surface
from headrace.protocol.encoding import Encoding
from headrace.protocol.sse import DONE, SSEEvent
from headrace.protocol.surface import SurfaceRequest

SURFACE = surface("openai_chat")
START = ev.StreamStart(
    stream_id="st_0123456789abcdef0123456789abcdef",
    message_id="msg_1",
    model="some/model",
    provider="p",
    protocol=1,
    resumable=True,
    expires_at=1.0,
)
USAGE = ev.UsageTotals(source="provider", input_tokens=10, output_tokens=5, reasoning_tokens=2, cached_tokens=4)
END = ev.StreamEnd(finish_reason="stop", usage=USAGE)
WITH_USAGE = {"stream_options": {"include_usage": True}}


def encoding(body: dict[str, Any] | None = None, **options: object) -> Encoding:
    return SURFACE.new_stream(SurfaceRequest(SURFACE, body or {}, created=1_700_000_000, options=options))


def said(*events: ev.Event, body: dict[str, Any] | None = None, **options: object) -> bytes:
    """What is said of `events`; one by one and all at once must be the same."""
    one, all_at_once = encoding(body, **options), encoding(body, **options)
    whole = b"".join(one.encode([event]) for event in (START, *events))
    assert all_at_once.encode([START, *events]) == whole
    return whole


def datas(stream: bytes) -> list[Any]:
    """The parsed data of every frame, which must have one line each and nothing else."""
    found: list[Any] = []
    for block in stream.split(b"\n\n")[:-1]:
        assert block.startswith(b"data: ")
        assert b"\n" not in block
        data = block.removeprefix(b"data: ")
        found.append("[DONE]" if data == b"[DONE]" else json.loads(data))
    assert stream.endswith(b"\n\n") or not stream
    return found


def chunks(stream: bytes) -> list[dict[str, Any]]:
    """The chunks of a stream that ends well, each as the SDK's own types have it."""
    *found, done = datas(stream)
    assert done == "[DONE]"
    for chunk in found:
        ChatCompletionChunk.model_validate(chunk, strict=True)
    return found


def deltas(stream: bytes) -> list[dict[str, Any]]:
    return [choice["delta"] for chunk in chunks(stream) for choice in chunk["choices"]]


def client(stream: bytes) -> openai.OpenAI:
    """The official SDK, to which the bytes are the answer."""
    response = httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=stream)
    transport = httpx2.MockTransport(lambda _request: response)
    return openai.OpenAI(api_key="k", base_url="http://a.example/v1", http_client=httpx2.Client(transport=transport), max_retries=0)


def read(stream: bytes) -> list[ChatCompletionChunk]:
    """What the official SDK makes of the bytes."""
    with client(stream) as sdk:
        return list(sdk.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}], stream=True))


def accumulated(stream: bytes) -> dict[str, Any]:
    state: ChatCompletionStreamState[Any] = ChatCompletionStreamState()
    for chunk in read(stream):
        list(state.handle_chunk(chunk))
    message: dict[str, Any] = state.get_final_completion().choices[0].message.to_dict()
    return message


def text(*pieces: str, index: int = 0) -> list[ev.Event]:
    return [*(ev.Text(index=index, text=piece) for piece in pieces), ev.BlockEnd(index=index, kind="text")]


def tool_call(index: int, id: str, *fragments: str, name: str = "look") -> list[ev.Event]:
    raw = "".join(fragments)
    return [
        ev.ToolCallStart(index=index, tool_call_id=id, name=name),
        *(ev.ToolCallDelta(tool_call_id=id, arguments_delta=fragment) for fragment in fragments),
        ev.ToolCallComplete(tool_call_id=id, name=name, arguments=json.loads(raw or "{}"), arguments_raw=raw, valid=True),
        ev.BlockEnd(index=index, kind="tool_call"),
    ]


# --- translated ------------------------------------------------------------------------------------------------------


def test_a_text() -> None:
    found = chunks(said(*text("Hel", "lo"), END))
    assert [chunk["choices"][0]["delta"] for chunk in found] == [
        {"role": "assistant", "content": ""},
        {"content": "Hel"},
        {"content": "lo"},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in found] == [None, None, None, "stop"]
    for chunk in found:
        assert chunk["id"] == "chatcmpl-0123456789abcdef0123456789abcdef"
        assert chunk["created"] == 1_700_000_000
        assert chunk["model"] == "some/model"
        assert "usage" not in chunk
        assert "system_fingerprint" not in chunk


def test_nothing_is_said_before_the_first_content() -> None:
    queue = ev.Queue(position=1, depth=1, reason="concurrency")
    assert said(queue, ev.Notice(code="stalled", message="…"), ev.Usage(source="provider", input_tokens=1)) == b""


def test_an_empty_answer_is_still_an_answer() -> None:
    assert deltas(said(END)) == [{"role": "assistant", "content": ""}, {}]


def test_usage_comes_only_where_it_was_asked_for_and_is_null_until_then() -> None:
    *rest, last = chunks(said(*text("Hi"), END, body=WITH_USAGE))
    assert [chunk["usage"] for chunk in rest] == [None, None, None]
    assert last["choices"] == []
    assert last["usage"] == {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }


def test_where_nobody_counted_there_is_no_usage_chunk() -> None:
    assert all(chunk["choices"] for chunk in chunks(said(*text("Hi"), ev.StreamEnd(finish_reason="stop"), body=WITH_USAGE)))


@pytest.mark.parametrize("options", [None, 1, {}, {"include_usage": False}, {"include_usage": None}])
def test_odd_stream_options_ask_for_nothing(options: object) -> None:
    assert all("usage" not in chunk for chunk in chunks(said(*text("Hi"), END, body={"stream_options": options})))


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("tool_calls", "tool_calls"),
        ("content_filter", "content_filter"),
        ("refusal", "content_filter"),
        ("pause", "length"),
    ],
)
def test_finish_reasons(reason: ev.FinishReason, told: str) -> None:
    assert chunks(said(*text("Hi"), ev.StreamEnd(finish_reason=reason)))[-1]["choices"][0]["finish_reason"] == told


def test_a_refusal_with_words() -> None:
    stream = said(ev.Notice(code="refusal", message="I cannot."), ev.StreamEnd(finish_reason="refusal"))
    assert accumulated(stream)["refusal"] == "I cannot."
    assert chunks(stream)[-1]["choices"][0]["finish_reason"] == "stop"


def test_calls_that_alternate() -> None:
    first, second = tool_call(0, "c1", '{"a"', ":1}"), tool_call(1, "c2", '{"b":2}', name="stop")
    events = [first[0], first[1], second[0], second[1], *first[2:], *second[2:]]
    stream = said(*events, ev.StreamEnd(finish_reason="tool_calls"))
    assert deltas(stream)[:4] == [
        {"role": "assistant", "content": None},
        {"tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": {"name": "look", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]},
        {"tool_calls": [{"index": 1, "id": "c2", "type": "function", "function": {"name": "stop", "arguments": ""}}]},
    ]
    calls = accumulated(stream)["tool_calls"]
    assert [(call["id"], call["function"]["name"], call["function"]["arguments"]) for call in calls] == [
        ("c1", "look", '{"a":1}'),
        ("c2", "stop", '{"b":2}'),
    ]


def test_the_sdks_own_helper_parses_what_was_asked_for() -> None:
    class Answer(pydantic.BaseModel):
        a: int

    stream = said(ev.Thinking(index=0, text="hm", kind="raw"), *text('{"a"', ": 1}", index=1), END, body=WITH_USAGE)
    with (
        client(stream) as sdk,
        sdk.chat.completions.stream(model="m", messages=[{"role": "user", "content": "x"}], response_format=Answer) as helper,
    ):
        kinds = [event.type for event in helper]
        completion = helper.get_final_completion()
    assert completion.choices[0].message.parsed == Answer(a=1)
    assert completion.usage is not None
    assert completion.usage.total_tokens == 15
    assert kinds.count("content.delta") == 2
    assert kinds.count("content.done") == 1


def test_a_call_without_arguments_has_an_empty_object_that_clients_can_parse() -> None:
    stream = said(*tool_call(0, "c1"), ev.StreamEnd(finish_reason="tool_calls"))
    assert accumulated(stream)["tool_calls"][0]["function"]["arguments"] == "{}"


def test_arguments_that_were_cut_off_stay_as_they_came() -> None:
    events = [
        ev.ToolCallStart(index=0, tool_call_id="c", name="look"),
        ev.ToolCallComplete(tool_call_id="c", name="look", arguments=None, arguments_raw="", valid=False, error="cut off"),
        ev.BlockEnd(index=0, kind="tool_call"),
    ]
    found = deltas(said(*events, ev.StreamEnd(finish_reason="length")))
    assert [call["function"]["arguments"] for delta in found for call in delta.get("tool_calls", ())] == [""]


def test_text_around_a_call() -> None:
    stream = said(*text("One. "), *tool_call(1, "c", "{}"), *text("Two.", index=2), ev.StreamEnd(finish_reason="tool_calls"))
    assert accumulated(stream)["content"] == "One. Two."


def test_sources_are_annotations_in_one_delta_before_the_end() -> None:
    sources = [ev.Source(url="https://a.example/", title="A", text="quote"), ev.Source(url="https://b.example/")]
    stream = said(ev.Text(index=0, text="Hi"), *sources, ev.Text(index=0, text="!"), ev.BlockEnd(index=0, kind="text"), END)
    assert deltas(stream)[-2] == {
        "annotations": [
            {
                "type": "url_citation",
                "url_citation": {"url": "https://a.example/", "title": "A", "start_index": 2, "end_index": 2, "content": "quote"},
            },
            {
                "type": "url_citation",
                "url_citation": {"url": "https://b.example/", "title": "https://b.example/", "start_index": 2, "end_index": 2},
            },
        ]
    }
    assert len(accumulated(stream)["annotations"]) == 2


def test_what_the_dialect_has_no_word_for_is_not_told() -> None:
    extra = [
        ev.Data(name="x", data=1),
        ev.Notice(code="fallback", message="Another model answers."),
        ev.ToolResult(tool_call_id="c", ok=True, content="42"),
        ev.Usage(source="provider", input_tokens=1),
    ]
    assert said(*text("Hi"), *extra, END) == said(*text("Hi"), END)


# --- reasoning -------------------------------------------------------------------------------------------------------

THOUGHT: list[ev.Event] = [
    ev.Thinking(index=0, text="Let me ", kind="raw"),
    ev.Thinking(index=0, text="see.", kind="raw"),
    ev.Thinking(index=0, text="", kind="raw", signature="sig"),
    ev.BlockEnd(index=0, kind="thinking"),
    ev.Thinking(index=1, text="", kind="raw", redacted="sealed"),
    ev.BlockEnd(index=1, kind="thinking"),
    ev.Thinking(index=2, text="unsigned", kind="raw"),
    ev.BlockEnd(index=2, kind="thinking"),
    ev.Thinking(index=3, text="Again.", kind="raw"),
    ev.Thinking(index=3, text="", kind="raw", signature="sig2"),
    ev.BlockEnd(index=3, kind="thinking"),
    *text("Yes", index=4),
    END,
]


def test_reasoning_has_the_field_that_most_clients_read() -> None:
    found = deltas(said(*THOUGHT))
    assert found[:3] == [{"role": "assistant", "content": None}, {"reasoning_content": "Let me "}, {"reasoning_content": "see."}]


def test_what_was_signed_is_a_whole_entry_that_the_sdk_keeps() -> None:
    message = accumulated(said(*THOUGHT))
    assert message["reasoning_content"] == "Let me see.unsignedAgain."
    assert message["content"] == "Yes"
    assert message["reasoning_details"] == [
        {"type": "reasoning.text", "index": 0, "text": "Let me see.", "signature": "sig"},
        {"type": "reasoning.encrypted", "index": 1, "data": "sealed"},
        {"type": "reasoning.text", "index": 2, "text": "Again.", "signature": "sig2"},
    ]


def test_with_the_field_reasoning_entries_are_streamed_too() -> None:
    message = accumulated(said(*THOUGHT, reasoning_field="reasoning"))
    assert message["reasoning"] == "Let me see.unsignedAgain."
    assert "reasoning_content" not in message
    assert message["reasoning_details"] == [
        {"type": "reasoning.text", "index": 0, "text": "Let me see.", "signature": "sig"},
        {"type": "reasoning.encrypted", "index": 1, "data": "sealed"},
        {"type": "reasoning.text", "index": 2, "text": "unsigned"},
        {"type": "reasoning.text", "index": 3, "text": "Again.", "signature": "sig2"},
    ]


def test_reasoning_can_be_left_out() -> None:
    assert said(*THOUGHT, reasoning_field="none") == said(*text("Yes"), END)


def test_an_unknown_field_is_the_default() -> None:
    assert said(*THOUGHT, reasoning_field="thoughts") == said(*THOUGHT)


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_what_a_client_got_comes_back_as_the_same_thinking(field: str) -> None:
    message = accumulated(said(*THOUGHT, reasoning_field=field))
    del message["parsed"]
    parts = SURFACE.parse({"messages": [message]}).messages[0].parts()
    signed = [msgspec.to_builtins(part) for part in parts if getattr(part, "signature", None) or getattr(part, "redacted", None)]
    assert signed == [
        {"type": "thinking", "text": "Let me see.", "signature": "sig", "redacted": None},
        {"type": "thinking", "text": "", "signature": None, "redacted": "sealed"},
        {"type": "thinking", "text": "Again.", "signature": "sig2", "redacted": None},
    ]


# --- the end that is none --------------------------------------------------------------------------------------------

FAILED = ev.Error(code="upstream_rate_limited", message="Slow down.", retryable=True, partial=True, retry_after_seconds=3.0)


def test_an_error_is_an_error_for_the_sdk_and_then_the_end() -> None:
    stream = said(*text("Hi"), FAILED)
    assert datas(stream)[-2:] == [
        {
            "error": {
                "message": "Slow down.",
                "type": "rate_limit_error",
                "param": None,
                "code": "rate_limit_exceeded",
                "retry_after": 3.0,
            }
        },
        "[DONE]",
    ]
    with pytest.raises(openai.APIError, match=r"Slow down\."):
        read(stream)


def test_an_error_before_any_content() -> None:
    assert [datas(said(FAILED))[0]["error"]["code"], datas(said(FAILED))[1]] == ["rate_limit_exceeded", "[DONE]"]


def test_a_stopped_answer_is_never_a_success() -> None:
    stream = said(*text("Hi"), ev.StreamEnd(finish_reason="cancelled"))
    assert datas(stream)[-2]["error"] == {"message": "The answer was stopped.", "type": "cancelled", "param": None, "code": "cancelled"}
    assert b'finish_reason":"' not in stream


@pytest.mark.parametrize(
    "loss",
    [
        ev.Reset(from_seq=2, reason="failed"),
        ev.Gap(from_seq=2, to_seq=3, reason="slow", recoverable=False),
        ev.Snapshot(through_seq=3, blocks=[]),
    ],
)
def test_what_cannot_be_taken_back_or_left_out_is_an_error(loss: ev.Event) -> None:
    found = datas(said(ev.Text(index=0, text="Hi"), loss, ev.Text(index=0, text="!"), END))
    assert found[-2]["error"]["code"] == "upstream_error"
    assert found[-1] == "[DONE]"
    assert len(found) == 4


def test_a_reset_before_any_content_is_no_matter() -> None:
    withdrawn = [ev.Source(url="https://a.example/"), ev.Reset(from_seq=2, reason="failed")]
    assert said(*withdrawn, *text("Hi"), END) == said(*text("Hi"), END)


def test_nothing_follows_the_end() -> None:
    one = encoding()
    one.encode([START, *text("Hi"), END])
    assert one.encode([ev.Text(index=1, text="x")]) == b""
    assert one.encode([FAILED]) == b""
    assert one.end_marker == b""


# --- heartbeats ------------------------------------------------------------------------------------------------------


def test_a_heartbeat_between_frames_is_nothing_to_the_sdk() -> None:
    one = encoding()
    pieces = [one.encode([event]) for event in (START, *text("a", "b"), END)]
    assert one.heartbeat == b": ping\n"
    stream = one.heartbeat + one.heartbeat.join(pieces)
    assert [chunk.model_dump() for chunk in read(stream)] == [chunk.model_dump() for chunk in read(b"".join(pieces))]


def test_heartbeats_can_be_left_out() -> None:
    assert encoding(heartbeat=False).heartbeat == b""
    assert encoding(heartbeat=True).heartbeat == b": ping\n"


# --- a provider's own frames -----------------------------------------------------------------------------------------

CHUNK = b'{"id":"x","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"%b"}}],"odd":[1]}'
STOP = b'{"id":"x","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}'
USAGE_CHUNK = (
    b'{"id":"x","object":"chat.completion.chunk","created":1,"model":"m","choices":[],'
    b'"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2},"service_tier":"default","obfuscation":"xy"}'
)
OVER = SSEEvent(b"[DONE]")


def frames(*datas: bytes) -> list[SSEEvent]:
    return [SSEEvent(data) for data in datas]


def forwarded(found: Sequence[SSEEvent], end: ev.Event, body: dict[str, Any] | None = None) -> bytes:
    one, all_at_once = encoding(body), encoding(body)
    stream = one.encode([START]) + b"".join(one.forward([event]) for event in found) + one.encode([end])
    assert all_at_once.encode([START]) + all_at_once.forward(found) + all_at_once.encode([end]) == stream
    return stream


def test_frames_go_on_as_they_came() -> None:
    found = [*frames(CHUNK % b"a", CHUNK % b'\\"error\\"', STOP, USAGE_CHUNK), OVER]
    assert forwarded(found, END, WITH_USAGE) == b"".join(b"data: %b\n\n" % event.data for event in found)


def test_the_id_of_a_frame_is_not_forwarded_and_its_lines_stay_lines() -> None:
    split = SSEEvent((CHUNK % b"a").replace(b',"model"', b',\n"model"'), id="7")
    stream = forwarded([split, *frames(STOP), OVER], END)
    assert b"id:" not in stream.replace(b'"id":', b"")
    assert len(read(stream)) == 2


@pytest.mark.parametrize(
    "chunk",
    [
        USAGE_CHUNK,
        USAGE_CHUNK.replace(b'"choices":[]', b'"choices" : [ ]'),
        USAGE_CHUNK.replace(b'"choices":[]', b'"choices":null'),
        USAGE_CHUNK.replace(b'"choices":[],', b""),
        USAGE_CHUNK.replace(b'"choices":[]', b'"choices":[],"odd":NaN'),
    ],
)
def test_the_usage_chunk_is_taken_from_clients_that_did_not_ask(chunk: bytes) -> None:
    assert forwarded([*frames(CHUNK % b"a", STOP, chunk), OVER], END) == forwarded([*frames(CHUNK % b"a", STOP), OVER], END)
    assert chunk in forwarded([*frames(CHUNK % b"a", STOP, chunk), OVER], END, WITH_USAGE)


@pytest.mark.parametrize(
    "chunk",
    [
        b'{"choices":[],"prompt_filter_results":[{"prompt_index":0}]}',
        b'{"choices":[],"usage":null,"prompt_filter_results":[{"prompt_index":0}]}',
        b'{"choices":[],"usage":{"total_tokens":2},"prompt_filter_results":[{"prompt_index":0}]}',
        b'{"choices":[],"usage":{"total_tokens":2},"moderation":{"input":1}}',
        b'{"choices":[{"index":0,"delta":{"content":"\\"choices\\":[]"}}],"usage":{"total_tokens":2}}',
        b'{"choices":[{"index":0,"delta":{"tool_calls":[]},"finish_reason":"stop"}],"usage":{"total_tokens":2}}',
        b'{"choices":[],"usage":null}',
    ],
)
def test_chunks_with_more_than_usage_stay(chunk: bytes) -> None:
    assert chunk in forwarded([*frames(chunk, STOP), OVER], END)


def test_a_missing_done_is_added_where_the_answer_is_whole() -> None:
    assert forwarded(frames(CHUNK % b"a", STOP), END).endswith(STOP + b"\n\n" + DONE)


@pytest.mark.parametrize(
    "end",
    [
        ev.Error(code="upstream_truncated", message="It broke off.", retryable=True, partial=True),
        ev.StreamEnd(finish_reason="cancelled"),
    ],
)
def test_a_cut_stream_is_an_error_and_never_a_success(end: ev.Event) -> None:
    stream = forwarded(frames(CHUNK % b"a"), end)
    assert stream.endswith(DONE)
    with pytest.raises(openai.APIError):
        read(stream)


def test_a_providers_own_error_is_told_in_its_own_words_once() -> None:
    told = b'{"error":{"message":"Tool choice is required","type":"invalid_request_error","code":"tool_use_failed","failed_generation":""}}'
    end = ev.Error(code="upstream_rejected", message="Tool choice is required", retryable=False, partial=True)
    stream = forwarded([*frames(CHUNK % b"a"), SSEEvent(told, "error")], end)
    assert stream.endswith(b"event: error\ndata: " + told + b"\n\n" + DONE)
    with pytest.raises(openai.APIError, match="Tool choice is required") as caught:
        read(stream)
    assert caught.value.code == "tool_use_failed"


def test_an_error_inside_of_a_chunk_counts_as_told() -> None:
    told = b'{"id":"x","choices":[{"index":0,"delta":{"content":""}}],"error":{"code":502,"message":"Provider returned error"}}'
    end = ev.Error(code="upstream_error", message="Provider returned error", retryable=True, partial=True)
    assert forwarded(frames(CHUNK % b"a", told), end).endswith(told + b"\n\n" + DONE)


@pytest.mark.parametrize(
    "odd",
    [
        SSEEvent(b'{"code":500,"message":"boom"}', "error"),
        SSEEvent(b"boom", "error"),
        SSEEvent(b'{"object":"error","message":"boom"}'),
        SSEEvent(b'{"error":{"message":"Incorrect API key provided: sk-1","type":"invalid_request_error","code":"invalid_api_key"}}'),
        SSEEvent(b"<html>boom</html>"),
        SSEEvent(b'["boom"]'),
        SSEEvent(b'{"id":"x","choices":[{"delta":{"content":"boom'),
        SSEEvent(b""),
    ],
)
def test_what_sdks_cannot_read_and_what_is_the_operators_business_is_told_as_our_error(odd: SSEEvent) -> None:
    end = ev.Error(code="upstream_error", message="The provider reported an error.", retryable=True, partial=True)
    stream = forwarded([*frames(CHUNK % b"a"), odd], end)
    assert b"boom" not in stream
    assert b"sk-1" not in stream
    with pytest.raises(openai.APIError, match="The provider reported an error"):
        read(stream)


def test_an_error_that_is_null_is_no_error() -> None:
    chunk = (CHUNK % b"a").replace(b'"odd":[1]', b'"error":null')
    assert forwarded([*frames(chunk, STOP), OVER], END).startswith(b"data: " + chunk)


def test_an_end_before_the_beginning_is_an_error() -> None:
    end = ev.Error(code="upstream_protocol", message="The provider ended its answer before it began.", retryable=True, partial=False)
    with pytest.raises(openai.APIError, match="before it began"):
        read(forwarded([OVER], end))


def test_nothing_is_added_to_a_stream_that_its_provider_ended() -> None:
    late = ev.Error(code="upstream_error", message="late", retryable=True, partial=True)
    whole = [*frames(CHUNK % b"a", STOP), OVER]
    assert forwarded(whole, late) == forwarded(whole, END)


def test_a_notice_before_the_first_frame_says_nothing() -> None:
    one = encoding()
    assert one.encode([START, ev.Notice(code="queued", message="…"), ev.Queue(position=0, depth=0, reason="concurrency")]) == b""
    assert one.forward(frames(CHUNK % b"a")) == b"data: " + CHUNK % b"a" + b"\n\n"


_CUT = [CHUNK % b"a", STOP, USAGE_CHUNK, b"[DONE]", b'{"error":{"message":"boom"}}', b'{"choices":null}', b'{"choices":[{"delta":null}]}']


@given(st.lists(st.sampled_from(_CUT), max_size=6), st.integers(0, 30), st.booleans())
def test_a_stream_is_a_success_for_the_sdk_exactly_if_it_is_one_for_us(datas: list[bytes], cut: int, wants_usage: bool) -> None:
    raw = b"".join(b"data: %b\n\n" % data for data in datas)
    decoder = load("openai_chat").new_decoder({})
    decoder.frames = []
    events = [*decoder.feed(raw[: len(raw) - cut]), *decoder.finish()]
    stream = forwarded(decoder.frames, events[-1], WITH_USAGE if wants_usage else None)
    assert stream.endswith(DONE)
    assert stream.count(b"[DONE]") == 1
    if isinstance(events[-1], ev.StreamEnd):
        read(stream)
    else:
        with pytest.raises(openai.APIError):
            read(stream)


# --- properties ------------------------------------------------------------------------------------------------------


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1, max_size=5))
def test_every_text_arrives_as_it_was(pieces: list[str]) -> None:
    assert "".join(delta.get("content") or "" for delta in deltas(said(*text(*pieces), END))) == "".join(pieces)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1, max_size=5))
def test_what_is_said_is_decoded_to_the_same_events(pieces: list[str]) -> None:
    events = [*(ev.Thinking(index=0, text=piece, kind="raw") for piece in pieces), ev.BlockEnd(index=0, kind="thinking")]
    events += [*text(*pieces, index=1), *tool_call(2, "c", '{"a":', "1}"), ev.StreamEnd(finish_reason="tool_calls")]
    decoder = load("openai_chat").new_decoder({})
    assert [*decoder.feed(said(*events)), *decoder.finish()] == events
