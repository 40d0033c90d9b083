"""Messages streams, shape by shape."""

from __future__ import annotations

from typing import Any

import pytest
from provider_streams import (
    ANTHROPIC,
    block_delta,
    block_start,
    block_stop,
    calls,
    check,
    data,
    decode,
    end,
    message,
    message_end,
    message_start,
    of,
    text,
    text_block,
    thinking,
    tool_block,
)

from headrace.protocol import events as ev
from headrace.protocol.dialects import load


def run(*chunks: bytes) -> list[ev.Event]:
    return decode("anthropic", b"".join(chunks))


# --- text and the end ------------------------------------------------------------------------------------------------


def test_text_becomes_one_block_and_the_end_comes_last() -> None:
    assert run(ANTHROPIC["text"]) == [
        ev.Usage(source="provider", input_tokens=5, output_tokens=1),
        ev.Text(index=0, text="Hel"),
        ev.Text(index=0, text="lo 👋"),
        ev.Text(index=0, text="\n"),
        ev.BlockEnd(index=0, kind="text"),
        ev.Usage(source="provider", input_tokens=5, output_tokens=9),
        ev.StreamEnd(finish_reason="stop"),
    ]


def test_text_is_told_at_once() -> None:
    decoder = load("anthropic").new_decoder({})
    decoder.feed(message_start() + block_start(0, type="text", text=""))
    assert decoder.feed(block_delta(0, type="text_delta", text="a")) == [ev.Text(index=0, text="a")]


def test_an_answer_without_its_last_event_was_cut_off_also_after_a_stop_reason() -> None:
    events = run(ANTHROPIC["cut"])
    assert (text(events), end(events)) == ("Hel", "error/upstream_truncated")
    assert events[-1].partial  # type: ignore[attr-defined]


@pytest.mark.parametrize("missing", [b"\n", b"\n\n"])
def test_the_last_event_may_lack_its_blank_line(missing: bytes) -> None:
    assert end(run(ANTHROPIC["text"].removesuffix(missing))) == "stop"


def test_nothing_after_the_last_event_counts() -> None:
    late = text_block(1, "late") + message("error", error={"type": "api_error", "message": "late"})
    events = run(ANTHROPIC["text"], late)
    assert (text(events), end(events)) == ("Hello 👋\n", "stop")


@pytest.mark.parametrize(
    ("vendors", "ours"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("pause_turn", "pause"),
        ("refusal", "refusal"),
        (None, "stop"),
    ],
)
def test_stop_reasons_become_ours(vendors: str | None, ours: str) -> None:
    assert end(run(message_start(), text_block(0, "a"), message_end(vendors))) == ours


def test_an_unknown_stop_reason_is_a_stop_with_a_notice() -> None:
    events = run(message_start(), text_block(0, "a"), message_end("tired"))
    assert end(events) == "stop"
    assert [notice.code for notice in of(events, ev.Notice)] == ["unknown_finish_reason"]


@pytest.mark.parametrize(
    ("details", "told"),
    [
        ({"type": "refusal", "category": "cyber", "explanation": "Against policy."}, "Against policy."),
        ({"type": "refusal", "category": "cyber", "explanation": None}, "cyber"),
        (None, "The model refused to answer."),
    ],
)
def test_a_refusal_says_why_in_a_notice(details: Any, told: str) -> None:
    events = run(message_start(), message_end("refusal", stop_details=details))
    assert of(events, ev.Notice) == [ev.Notice(code="refusal", message=told)]
    assert end(events) == "refusal"


def test_an_end_without_any_answer_is_no_success() -> None:
    assert end(run(message("message_stop"))) == "error/upstream_protocol"


def test_pings_and_unknown_events_mean_nothing() -> None:
    events = run(message_start(), message("ping"), message("weather", sky="blue"), text_block(0, "a"), message("ping"), message_end())
    assert (text(events), end(events)) == ("a", "stop")


def test_an_unknown_event_may_hold_anything() -> None:
    assert text(run(message_start(), b"event: keepalive\ndata: still here\n\n", text_block(0, "a"), message_end())) == "a"


def test_the_name_of_the_sse_event_is_not_needed() -> None:
    unnamed = b"".join(line + b"\n" for line in ANTHROPIC["thinking and a call"].split(b"\n") if not line.startswith(b"event:"))
    assert run(unnamed) == run(ANTHROPIC["thinking and a call"])


def test_the_name_of_the_sse_event_stands_in_for_a_type() -> None:
    events = run(
        message_start(), text_block(0, "a"), data({"delta": {"stop_reason": "max_tokens"}}, event="message_delta"), message_end(None)
    )
    assert end(events) == "length"


def test_the_end_marker_of_another_api_ends_only_what_has_a_stop_reason() -> None:
    done = b"data: [DONE]\n\n"
    delta = message("message_delta", delta={"stop_reason": "end_turn"})
    assert end(run(message_start(), text_block(0, "a"), delta, done)) == "stop"
    assert end(run(message_start(), text_block(0, "a"), done)) == "error/upstream_truncated"


def test_json_that_is_broken_in_the_middle_ends_the_stream() -> None:
    events = run(message_start(), text_block(0, "a"), b'event: content_block_start\ndata: {"type": \n\n', message_end())
    assert (text(events), end(events)) == ("a", "error/upstream_protocol")


# --- blocks ----------------------------------------------------------------------------------------------------------


def test_text_in_the_start_of_a_block_counts() -> None:
    assert (
        text(run(message_start(), block_start(0, type="text", text="a"), block_delta(0, type="text_delta", text="b"), message_end()))
        == "ab"
    )


def test_a_block_that_is_never_stopped_is_closed_at_the_end() -> None:
    events = run(message_start(), block_start(0, type="text", text="a"), message_end())
    assert of(events, ev.BlockEnd) == [ev.BlockEnd(index=0, kind="text")]


def test_an_empty_block_is_not_told() -> None:
    assert of(run(message_start(), text_block(0), text_block(1, "a"), message_end()), ev.BlockEnd) == [ev.BlockEnd(index=0, kind="text")]


def test_a_delta_whose_block_never_started_opens_it() -> None:
    events = run(
        message_start(), block_delta(3, type="thinking_delta", thinking="t"), block_delta(4, type="text_delta", text="a"), message_end()
    )
    assert (thinking(events), text(events)) == ("t", "a")


def test_a_delta_of_another_kind_ends_the_block_and_opens_another() -> None:
    events = run(
        message_start(),
        block_start(0, type="thinking", thinking="t"),
        block_delta(0, type="text_delta", text="a"),
        block_stop(0),
        message_end(),
    )
    assert [block.kind for block in of(events, ev.BlockEnd)] == ["thinking", "text"]


def test_thinking_and_its_signature() -> None:
    events = run(ANTHROPIC["thinking and a call"])
    assert of(events, ev.Thinking) == [
        ev.Thinking(index=0, text="Need the weather.", kind="raw"),
        ev.Thinking(index=0, text="", kind="raw", signature="c2ln"),
    ]


def test_a_signature_may_come_without_any_thinking() -> None:
    events = run(
        message_start(),
        block_start(0, type="thinking", thinking="", signature=""),
        block_delta(0, type="signature_delta", signature="c2ln"),
        block_stop(0),
        text_block(1, "a"),
        message_end(),
    )
    assert of(events, ev.Thinking) == [ev.Thinking(index=0, text="", kind="raw", signature="c2ln")]


def test_redacted_thinking_is_kept_sealed() -> None:
    assert of(run(ANTHROPIC["redacted thinking"]), ev.Thinking) == [ev.Thinking(index=0, text="", kind="raw", redacted="b64")]


def test_an_unknown_delta_is_carried_as_data() -> None:
    events = run(message_start(), block_start(0, type="text", text="a"), block_delta(0, type="colour_delta", colour="red"), message_end())
    assert of(events, ev.Data) == [ev.Data(name="anthropic.colour_delta", data={"type": "colour_delta", "colour": "red"})]


def test_an_unknown_block_is_carried_as_data_when_it_is_whole() -> None:
    events = run(ANTHROPIC["unknown things"])
    whole = {"type": "hologram", "size": 3, "deltas": [{"type": "hologram_delta", "pixel": 1}]}
    assert of(events, ev.Data) == [ev.Data(name="anthropic.hologram", data=whole)]
    assert text(events) == "still here"


# --- tools -----------------------------------------------------------------------------------------------------------


def test_a_tool_call() -> None:
    events = run(ANTHROPIC["thinking and a call"])
    assert calls(events) == [("toolu_1", "weather", '{"city": "Zürich"}', True)]
    assert of(events, ev.ToolCallComplete)[0].arguments == {"city": "Zürich"}
    assert end(events) == "tool_calls"


def test_a_call_is_complete_when_its_block_stops() -> None:
    decoder = load("anthropic").new_decoder({})
    decoder.feed(message_start())
    events = decoder.feed(tool_block(0, "toolu_1", "f", '{"a"', ":1}"))
    assert [type(event) for event in events] == [ev.ToolCallStart, ev.ToolCallDelta, ev.ToolCallDelta, ev.ToolCallComplete, ev.BlockEnd]
    assert [(name, arguments.fragments, arguments.parses) for name, arguments in decoder.finished_calls] == [("f", 2, 1)]


def test_a_call_without_arguments_is_valid() -> None:
    events = run(message_start(), tool_block(0, "a", "f", ""), tool_block(1, "b", "g"), message_end("tool_use"))
    assert calls(events) == [("a", "f", "", True), ("b", "g", "", True)]
    assert [complete.arguments for complete in of(events, ev.ToolCallComplete)] == [{}, {}]


def test_a_call_that_stopped_without_arguments_for_its_length_is_not_valid() -> None:
    events = run(message_start(), tool_block(0, "a", "f", "{}"), tool_block(1, "b", "g", ""), message_end("max_tokens"))
    assert calls(events) == [("a", "f", "{}", True), ("b", "g", "", False)]
    assert end(events) == "length"


def test_a_limit_in_the_middle_of_arguments_keeps_them_raw_and_says_length() -> None:
    events = run(ANTHROPIC["length in arguments"])
    assert calls(events) == [("toolu_1", "make", '{"lines": ["a', False)]
    assert end(events) == "length"


def test_input_in_the_start_of_a_block_counts_if_no_fragment_comes() -> None:
    start = block_start(0, type="tool_use", id="a", name="f", input={"x": 1})
    assert calls(run(message_start(), start, block_stop(0), message_end("tool_use"))) == [("a", "f", '{"x":1}', True)]
    fragment = block_delta(0, type="input_json_delta", partial_json='{"x":2}')
    assert calls(run(message_start(), start, fragment, block_stop(0), message_end("tool_use"))) == [("a", "f", '{"x":2}', True)]


def test_content_in_the_start_of_the_message_comes_first() -> None:
    content = [{"type": "text", "text": "before"}, {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}}]
    events = run(message_start(content=content, stop_reason="tool_use"), message("message_stop"))
    assert text(events) == "before"
    assert calls(events) == [("a", "f", '{"x":1}', True)]
    assert end(events) == "tool_calls"


def test_calls_that_end_the_turn_are_tool_calls() -> None:
    assert end(run(message_start(), tool_block(0, "a", "f", "{}"), message_end("end_turn"))) == "tool_calls"


def test_the_repeated_start_of_a_call_is_no_second_call() -> None:
    start = block_start(0, type="tool_use", id="a", name="f", input={})
    rest = block_delta(0, type="input_json_delta", partial_json='{"x":1}') + block_stop(0)
    assert calls(run(message_start(), start, start, rest, message_end("tool_use"))) == [("a", "f", '{"x":1}', True)]


def test_another_block_at_the_place_of_an_open_call_leaves_that_call_cut_off() -> None:
    events = run(
        message_start(),
        block_start(0, type="tool_use", id="a", name="f", input={}),
        block_delta(0, type="input_json_delta", partial_json='{"x":'),
        tool_block(0, "b", "g", "{}"),
        message_end("tool_use"),
    )
    assert calls(events) == [("a", "f", '{"x":', False), ("b", "g", "{}", True)]


def test_fragments_that_belong_to_no_call_are_dropped() -> None:
    stray = block_delta(0, type="input_json_delta", partial_json='{"x":1}')
    assert calls(run(message_start(), stray, text_block(0, "a"), stray, message_end())) == []


# --- what the provider runs itself -----------------------------------------------------------------------------------


def test_tools_of_the_provider_are_no_calls_but_data() -> None:
    events = run(ANTHROPIC["server tools"])
    assert of(events, ev.ToolCallStart, ev.ToolCallDelta, ev.ToolCallComplete) == []
    assert [event.name for event in of(events, ev.Data)] == ["anthropic.server_tool_use", "anthropic.web_search_tool_result"]
    assert of(events, ev.Data)[0].data == {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}}
    assert end(events) == "stop"


def test_results_and_citations_are_sources() -> None:
    assert of(run(ANTHROPIC["server tools"]), ev.Source) == [
        ev.Source(url="https://a.example/", title="A"),
        ev.Source(url="https://a.example/", title="A", text="t", index=0),
    ]


def test_a_fetched_page_is_a_source() -> None:
    result = {"type": "web_fetch_result", "url": "https://a.example/", "content": {"type": "document", "title": "A"}}
    events = run(
        message_start(),
        block_start(0, type="web_fetch_tool_result", tool_use_id="s", content=result),
        block_stop(0),
        text_block(1, "a"),
        message_end(),
    )
    assert of(events, ev.Source) == [ev.Source(url="https://a.example/", title="A")]


def test_a_citation_of_a_document_has_its_title_and_no_address() -> None:
    citation = {"type": "char_location", "cited_text": "t", "document_index": 0, "document_title": "Doc"}
    block = block_start(0, type="text", text="a") + block_delta(0, type="citations_delta", citation=citation) + block_stop(0)
    assert of(run(message_start(), block, message_end()), ev.Source) == [ev.Source(url="", title="Doc", text="t", index=0)]


def test_the_arguments_of_the_providers_tool_that_were_cut_are_kept_as_they_came() -> None:
    events = run(
        message_start(),
        block_start(0, type="mcp_tool_use", id="m", name="ask", input={}, server_name="s"),
        block_delta(0, type="input_json_delta", partial_json='{"q": "x'),
    )
    assert of(events, ev.Data)[0].data["partial_json"] == '{"q": "x'


# --- usage -----------------------------------------------------------------------------------------------------------


def usages(events: list[ev.Event]) -> list[tuple[int | None, ...]]:
    return [(u.input_tokens, u.output_tokens, u.reasoning_tokens, u.cached_tokens) for u in of(events, ev.Usage)]


def test_tokens_of_the_cache_are_input_tokens() -> None:
    usage = {"input_tokens": 3, "cache_creation_input_tokens": 10, "cache_read_input_tokens": 100, "output_tokens": 1}
    assert usages(run(message_start(usage=usage), text_block(0, "a"), message_end()))[0] == (113, 1, None, 100)


def test_usage_is_cumulative_and_told_when_it_changes() -> None:
    def delta(**usage: object) -> bytes:
        return message("message_delta", delta={}, usage=usage)

    events = run(
        message_start(),
        text_block(0, "a"),
        delta(output_tokens=4),
        delta(output_tokens=4),
        delta(input_tokens=6, output_tokens=5, output_tokens_details={"thinking_tokens": 2}),
        message("message_delta", delta={"stop_reason": "end_turn"}, usage=None),
        message("message_stop"),
    )
    assert usages(events) == [(5, 1, None, None), (5, 4, None, None), (6, 5, 2, None)]


# --- a second message ------------------------------------------------------------------------------------------------


def test_a_message_start_that_comes_twice_is_tolerated() -> None:
    events = run(message_start(), message_start(usage={"input_tokens": 6, "output_tokens": 1}), text_block(0, "a"), message_end())
    assert (text(events), end(events)) == ("a", "stop")


def test_a_message_that_is_spliced_into_another_is_an_error_and_never_merged() -> None:
    events = run(ANTHROPIC["spliced"])
    assert calls(events) == [("toolu_1", "look", '{"v": "Spa', False)]
    assert end(events) == "error/upstream_protocol"
    assert events[-1].partial  # type: ignore[attr-defined]


def test_a_message_after_a_whole_one_is_not_read() -> None:
    assert text(run(ANTHROPIC["text"], ANTHROPIC["text"])) == "Hello 👋\n"


# --- errors inside a 200 ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "code", "retryable"),
    [
        ("overloaded_error", "upstream_overloaded", True),
        ("rate_limit_error", "upstream_rate_limited", True),
        ("api_error", "upstream_error", True),
        ("timeout_error", "upstream_error", True),
        ("invalid_request_error", "upstream_rejected", False),
        ("request_too_large", "upstream_rejected", False),
        ("not_found_error", "upstream_rejected", False),
        ("authentication_error", "upstream_auth", False),
        ("permission_error", "upstream_auth", False),
        ("billing_error", "upstream_auth", False),
    ],
)
def test_an_error_event_ends_the_stream_with_its_code(kind: str, code: str, retryable: bool) -> None:
    error = message("error", error={"type": kind, "message": "Something"}, request_id="req_1")
    events = run(message_start(), text_block(0, "half"), error, message_end())
    last = events[-1]
    assert isinstance(last, ev.Error)
    assert (last.code, last.retryable, last.partial) == (code, retryable, True)
    assert last.message == ("The provider refused this relay's credentials." if code == "upstream_auth" else "Something")


@pytest.mark.parametrize(
    "error",
    [
        b'data: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n',
        b'event: error\ndata: {"error":{"type":"overloaded_error","message":"Overloaded"}}\n\n',
        b'data: {"error":{"type":"overloaded_error","message":"Overloaded"}}\n\n',
        b"event: error\ndata: Overloaded\n\n",
    ],
)
def test_an_error_is_known_with_and_without_its_name(error: bytes) -> None:
    events = run(message_start(), text_block(0, "half"), error)
    assert end(events) in ("error/upstream_overloaded", "error/upstream_error")
    assert events[-1].message == "Overloaded"  # type: ignore[attr-defined]


def test_a_body_that_is_a_plain_error_says_what_it_is() -> None:
    last = run(ANTHROPIC["json body"])[-1]
    assert isinstance(last, ev.Error)
    assert (last.code, last.partial) == ("upstream_auth", False)


# --- frames, for a reader who gets them as they came -----------------------------------------------------------------


def with_frames(*chunks: bytes) -> tuple[list[ev.Event], list[bytes]]:
    decoder = load("anthropic").new_decoder({})
    decoder.frames = []
    events = [event for part in chunks for event in decoder.feed(part)] + decoder.finish()
    return check(events, decoder), [frame.data for frame in decoder.frames]


@pytest.mark.parametrize("name", ANTHROPIC)
def test_every_event_of_a_stream_is_a_frame(name: str) -> None:
    blocks = [block.partition(b"data: ")[2] for block in ANTHROPIC[name].split(b"\n\n") if b"data: " in block]
    assert with_frames(ANTHROPIC[name])[1] == blocks


def test_a_splice_is_only_judged_when_the_frames_are_over() -> None:
    decoder = load("anthropic").new_decoder({})
    decoder.frames = []
    events = decoder.feed(ANTHROPIC["spliced"].removesuffix(message("message_stop")))
    assert not decoder.finished
    assert [call[:3] for call in calls(events)] == [("toolu_1", "look", '{"v": "Spa')]
    events += decoder.feed(message("message_stop"))
    assert end(events) == "error/upstream_protocol"
    assert [event.tool_call_id for event in of(events, ev.ToolCallStart)] == ["toolu_1"]


@pytest.mark.parametrize("last", [b"", message("error", error={"type": "overloaded_error", "message": "Busy"}), b"data: [DONE]\n\n"])
def test_a_splice_that_breaks_off_is_still_a_splice(last: bytes) -> None:
    events, _ = with_frames(ANTHROPIC["spliced"].removesuffix(message("message_stop")) + last)
    assert events[-1] == run(ANTHROPIC["spliced"])[-1]


def test_an_event_without_name_that_is_no_json_is_read_over_until_the_end() -> None:
    body = message_start() + text_block(0, "a") + b"data: {oops\n\n" + text_block(1, "b") + message_end()
    events, frames = with_frames(body)
    assert (text(events), end(events)) == ("a", "error/upstream_protocol")
    assert frames[-1] == b'{"type": "message_stop"}'
    assert end(run(body)) == "error/upstream_protocol"


def test_a_delta_of_a_block_that_never_began_is_part_of_the_answer() -> None:
    decoder = load("anthropic").new_decoder({})
    decoder.feed(message_start())
    assert not decoder.begun
    assert decoder.feed(block_delta(0, type="hologram_delta", pixel=1))
    assert decoder.begun
