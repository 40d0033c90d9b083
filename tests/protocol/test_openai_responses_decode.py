"""Streams of the Responses API, shape by shape."""

from __future__ import annotations

from typing import Any

import pytest
from provider_streams import (
    DONE,
    OPENAI_RESPONSES,
    call_item,
    calls,
    check,
    created,
    data,
    decode,
    end,
    ended,
    item_added,
    item_done,
    of,
    said,
    summary_item,
    text,
    text_item,
    thinking,
)

from headrace.protocol import events as ev
from headrace.protocol.dialects import load
from headrace.protocol.dialects.openai_responses.decode import INCOMPLETE_REASONS

USAGE = ev.Usage(source="provider", input_tokens=11, output_tokens=7, reasoning_tokens=3)


def run(*chunks: bytes) -> list[ev.Event]:
    return decode("openai_responses", b"".join(chunks))


def named(name: str) -> list[ev.Event]:
    return run(OPENAI_RESPONSES[name])


def last(events: list[ev.Event]) -> Any:
    return events[-1]


def read_by_an_sdk(*chunks: bytes) -> tuple[list[ev.Event], list[str]]:
    """Return the events, and the types of the frames that a reader of the provider's own got."""
    decoder = load("openai_responses").new_decoder({})
    decoder.frames = []
    events = check([event for part in chunks for event in decoder.feed(part)] + decoder.finish(), decoder)
    return events, [frame.event for frame in decoder.frames]


def blocks(events: list[ev.Event]) -> list[str]:
    """Return the kinds of the blocks by their index."""
    return [block.kind for block in sorted(of(events, ev.BlockEnd), key=lambda block: block.index)]


# --- text and the end ------------------------------------------------------------------------------------------------


def test_text_is_told_once_however_often_it_comes() -> None:
    assert named("text") == [
        ev.Text(index=0, text="Hel"),
        ev.Text(index=0, text="lo 👋"),
        ev.Text(index=0, text="\n"),
        ev.BlockEnd(index=0, kind="text"),
        USAGE,
        ev.StreamEnd(finish_reason="stop"),
    ]


def test_text_is_told_at_once() -> None:
    decoder = load("openai_responses").new_decoder({})
    assert decoder.feed(said("response.output_text.delta", output_index=0, content_index=0, delta="a")) == [ev.Text(index=0, text="a")]


def test_it_has_begun_with_its_first_item() -> None:
    decoder = load("openai_responses").new_decoder({})
    decoder.feed(created() + said("response.in_progress", response={}))
    assert not decoder.begun
    assert decoder.feed(item_added(0, type="web_search_call", id="ws_1")) == []
    assert decoder.begun


@pytest.mark.parametrize("tail", [b"", DONE, said("response.in_progress", response={})])
def test_a_body_that_ends_without_a_status_was_cut_off(tail: bytes) -> None:
    events = run(created(), text_item(0, "Hel"), tail)
    assert (text(events), end(events), last(events).partial) == ("Hel", "error/upstream_truncated", True)


def test_a_done_marker_behind_the_end_is_nothing() -> None:
    assert end(run(OPENAI_RESPONSES["text"], DONE)) == "stop"


def test_the_last_event_may_lack_its_blank_line() -> None:
    assert end(run(OPENAI_RESPONSES["text"].removesuffix(b"\n\n"))) == "stop"


def test_the_type_in_the_data_decides_and_the_events_name_only_without_one() -> None:
    named_wrong = data({"type": "response.output_text.delta", "output_index": 0, "delta": "a"}, event="response.failed")
    unnamed = data({"output_index": 0, "delta": "b"}, event="response.output_text.delta")
    assert text(run(named_wrong, unnamed, ended())) == "ab"


def test_messages_and_their_parts_are_blocks_of_their_own() -> None:
    second = said("response.output_text.delta", output_index=1, content_index=1, delta="c")
    events = run(text_item(0, "a", phase="commentary"), item_added(1, type="message", content=[]), second, text_item(2, "d"), ended())
    assert [(piece.index, piece.text) for piece in of(events, ev.Text)] == [(0, "a"), (1, "c"), (2, "d")]


@pytest.mark.parametrize(("reason", "told"), INCOMPLETE_REASONS.items())
def test_why_a_response_is_incomplete(reason: str, told: str) -> None:
    events = run(text_item(0, "a"), ended("incomplete", incomplete_details={"reason": reason}))
    assert end(events) == told
    assert of(events, ev.Notice) == []


@pytest.mark.parametrize("details", [None, {}, {"reason": "solar_flare"}])
def test_a_response_that_is_incomplete_for_an_unknown_reason_never_looks_whole(details: object) -> None:
    events = run(text_item(0, "a"), ended("incomplete", incomplete_details=details))
    assert end(events) == "length"
    assert of(events, ev.Notice)[0].code == "unknown_finish_reason"


@pytest.mark.parametrize(
    ("status", "told"), [("incomplete", "length"), ("failed", "error/upstream_error"), ("cancelled", "error/upstream_truncated")]
)
def test_the_status_counts_for_more_than_the_events_name(status: str, told: str) -> None:
    whole = {"status": status, "incomplete_details": {"reason": "max_output_tokens"}}
    assert end(run(text_item(0, "a"), said("response.completed", response=whole))) == told


def test_a_refusal_is_a_notice_and_no_text() -> None:
    events = named("refusal")
    assert (text(events), end(events)) == ("", "refusal")
    assert [notice.message for notice in of(events, ev.Notice)] == ["I cannot."]


def test_usage_with_what_was_cached_and_reasoned() -> None:
    usage = {
        "input_tokens": 366,
        "input_tokens_details": {"cached_tokens": 256},
        "output_tokens": 59,
        "output_tokens_details": {"reasoning_tokens": 14},
    }
    assert of(run(text_item(0, "a"), ended(usage=usage)), ev.Usage) == [
        ev.Usage(source="provider", input_tokens=366, output_tokens=59, reasoning_tokens=14, cached_tokens=256)
    ]
    assert of(run(text_item(0, "a"), ended(usage=None)), ev.Usage) == []


# --- reasoning -------------------------------------------------------------------------------------------------------


def test_each_summary_is_a_block_and_the_seal_signs_the_last() -> None:
    events = run(summary_item(0, "**Plan**", "**Do**"), text_item(1, "ok"), ended())
    assert of(events, ev.Thinking) == [
        ev.Thinking(index=0, text="**Plan**", kind="summary"),
        ev.Thinking(index=1, text="**Do**", kind="summary"),
        ev.Thinking(index=1, text="", kind="summary", signature="rs_0:c2VhbGVk"),
    ]
    assert blocks(events) == ["thinking", "thinking", "text"]


def test_reasoning_of_which_nothing_is_shown_is_redacted() -> None:
    assert of(named("sealed reasoning"), ev.Thinking) == [ev.Thinking(index=0, text="", kind="summary", redacted="rs_0:c2VhbGVk")]


def test_reasoning_without_a_seal_or_text_is_nothing() -> None:
    events = run(summary_item(0, sealed=None), text_item(1, "4"), ended())
    assert blocks(events) == ["text"]


def test_the_seal_of_an_unfinished_item_is_not_taken() -> None:
    added = item_added(0, type="reasoning", id="rs_0", summary=[], encrypted_content="half")
    assert of(run(added, text_item(1, "4"), ended()), ev.Thinking) == []


def test_raw_reasoning_may_end_after_the_text() -> None:
    events = named("reasoning that ends after the text")
    assert of(events, ev.Thinking) == [ev.Thinking(index=0, text="Hm.", kind="raw")]
    assert (text(events), blocks(events), end(events)) == ("Yes", ["thinking", "text"], "stop")


def test_reasoning_in_both_forms_is_told_once() -> None:
    raw = [{"type": "reasoning_text", "text": "Hm"}]
    summary = [{"type": "summary_text", "text": "Hm"}]
    assert thinking(run(item_done(0, type="reasoning", summary=summary, content=raw), ended())) == "Hm"
    streamed = said("response.reasoning_text.delta", output_index=0, content_index=0, delta="Hm")
    again = said("response.reasoning_summary_text.done", output_index=0, summary_index=0, text="Hm")
    assert thinking(run(streamed, again, item_done(0, type="reasoning", summary=summary), ended())) == "Hm"


# --- calls -----------------------------------------------------------------------------------------------------------


def test_a_call_is_parsed_once_and_ends_as_tool_calls() -> None:
    events = run(created(), call_item(0, "call_1", "look", '{"q": "Z', 'ürich"}'), ended())
    assert events[:-2] == [
        ev.ToolCallStart(index=0, tool_call_id="call_1", name="look"),
        ev.ToolCallDelta(tool_call_id="call_1", arguments_delta='{"q": "Z'),
        ev.ToolCallDelta(tool_call_id="call_1", arguments_delta='ürich"}'),
        ev.ToolCallComplete(tool_call_id="call_1", name="look", arguments={"q": "Zürich"}, arguments_raw='{"q": "Zürich"}', valid=True),
        ev.BlockEnd(index=0, kind="tool_call"),
    ]
    assert end(events) == "tool_calls"


@pytest.mark.parametrize(
    "body",
    [
        item_added(0, type="function_call", call_id="c", name="look", arguments="")
        + said("response.function_call_arguments.done", output_index=0, arguments='{"a":1}'),
        item_added(0, type="function_call", call_id="c", name="look", arguments='{"a":1}'),
        item_added(0, type="function_call", call_id="c", name="look") + item_done(0, type="function_call", arguments='{"a":1}'),
        item_done(0, type="function_call", call_id="c", name="look", arguments={"a": 1}),
        item_added(0, type="function_call", call_id="c")
        + said("response.function_call_arguments.delta", output_index=0, delta='{"a":1}')
        + item_done(0, type="function_call", call_id="c", name="look"),
        item_added(None, type="function_call", id="fc", call_id="c", name="look")
        + item_added(None, type="message", id="msg")
        + said("response.function_call_arguments.delta", item_id="fc", delta='{"a":1}'),
    ],
    ids=["arguments.done", "in the announcement", "in the finished item", "as an object", "a name that comes late", "no index"],
)
def test_arguments_wherever_they_come(body: bytes) -> None:
    assert calls(run(created(), body, ended())) in ([("c", "look", '{"a":1}', True)],)


def test_a_call_that_was_never_announced_has_the_finished_items_name() -> None:
    delta = said("response.function_call_arguments.delta", output_index=3, item_id="fc", delta="{}")
    done = item_done(3, type="function_call", id="fc", call_id="c", name="look", arguments="{}")
    assert calls(run(delta, done, ended())) == [("c", "look", "{}", True)]


def test_ids_that_change_with_every_event_change_nothing() -> None:
    events = named("ids that change")
    assert calls(events) == [("call_1", "look", '{"a":1}', True)]
    assert text(events) == "ok"


def test_calls_of_one_id_are_two_and_may_alternate() -> None:
    assert calls(named("calls that alternate")) == [("call_0", "one", "{}", True), ("call_0-2", "two", '{"b":2}', True)]


@pytest.mark.parametrize("ids", [("rs", "msg", "fc"), ("x", "x", "x")], ids=["ids that hold", "ids that change"])
def test_without_an_index_the_id_tells_and_then_the_order(ids: tuple[str, str, str]) -> None:
    rs, msg, fc = ids
    call = {"type": "function_call", "call_id": "c", "name": "look"}
    body = (
        item_added(None, type="reasoning", id="rs")
        + said("response.reasoning_text.delta", item_id=rs, delta="Hm")
        + item_done(None, type="reasoning", id=rs, content=[{"type": "reasoning_text", "text": "Hm"}])
        + item_added(None, type="message", id="msg", content=[])
        + said("response.output_text.delta", item_id=msg, delta="Yes")
        + item_done(None, type="message", id=msg, content=[{"type": "output_text", "text": "Yes"}])
        + item_added(None, **call, id="fc", arguments="")
        + said("response.function_call_arguments.delta", item_id=fc, delta="{}")
        + item_done(None, **call, id=fc, arguments="{}")
    )
    events = run(created(), body, ended())
    assert (thinking(events), text(events), calls(events)) == ("Hm", "Yes", [("c", "look", "{}", True)])
    assert blocks(events) == ["thinking", "text", "tool_call"]


def test_a_place_that_is_used_again_is_another_call() -> None:
    first = item_added(0, type="function_call", call_id="a", name="one") + said(
        "response.function_call_arguments.delta", output_index=0, delta="{}"
    )
    second = item_added(0, type="function_call", call_id="b", name="two", arguments='{"x":1}')
    assert calls(run(first, second, ended())) == [("a", "one", "{}", True), ("b", "two", '{"x":1}', True)]


def test_an_announcement_that_is_repeated_is_one_call() -> None:
    added = item_added(0, type="function_call", id="fc", call_id="a", name="one")
    delta = said("response.function_call_arguments.delta", output_index=0, delta="{")
    assert calls(run(added, added, delta, added, delta.replace(b'"{"', b'"}"'), ended())) == [("a", "one", "{}", True)]


def test_a_finished_item_that_is_repeated_is_told_once() -> None:
    events = run(OPENAI_RESPONSES["only finished items"].replace(ended(), b"") * 2, ended())
    assert (text(events), thinking(events), len(calls(events))) == ("Yes", "Hm", 1)


def test_a_call_without_a_call_id_is_answered_by_the_items_id() -> None:
    assert calls(run(item_done(0, type="function_call", id="fc_7", name="look", arguments=""), ended())) == [("fc_7", "look", "", True)]


def test_arguments_that_the_limit_cut_are_invalid() -> None:
    events = named("length in arguments")
    assert calls(events) == [("call_1", "make", '{"lines": ["a', False)]
    assert end(events) == "length"


def test_arguments_that_never_came_before_the_limit_are_no_empty_ones() -> None:
    incomplete = ended("incomplete", incomplete_details={"reason": "max_output_tokens"})
    assert calls(run(call_item(0, "c", "make", status="incomplete"), incomplete)) == [("c", "make", "", False)]
    assert calls(run(item_added(0, type="function_call", call_id="c", name="make"), incomplete)) == [("c", "make", "", False)]


# --- what events leave out -------------------------------------------------------------------------------------------


def test_finished_items_are_enough() -> None:
    events = named("only finished items")
    assert (thinking(events), text(events), calls(events)) == ("Hm", "Yes", [("call_2", "look", '{"a":1}', True)])
    assert of(events, ev.Thinking)[-1].signature == "rs_0:c2VhbGVk"
    assert end(events) == "tool_calls"


def test_the_finished_response_is_enough() -> None:
    events = named("only the response")
    assert (text(events), end(events)) == ("all at once", "stop")


def test_what_never_finished_is_taken_from_the_response() -> None:
    output = [{"type": "reasoning", "summary": [], "encrypted_content": "c2VhbGVk"}, {"type": "function_call", "arguments": "{}"}]
    added = item_added(0, type="reasoning", summary=[]) + item_added(1, type="function_call", call_id="c", name="look")
    events = run(added, ended(output=output))
    assert of(events, ev.Thinking)[0].redacted == ":c2VhbGVk"
    assert calls(events) == [("c", "look", "{}", True)]


@pytest.mark.parametrize(
    "event",
    [
        said("response.output_text.done", output_index=0, content_index=0, text="Hi"),
        said("response.content_part.done", output_index=0, content_index=0, part={"type": "output_text", "text": "Hi"}),
        item_done(0, type="message", content=[{"type": "output_text", "text": "Hi"}]),
        item_done(0, type="message", content="Hi"),
        item_done(0, type="message", content=[{"type": "text", "text": "Hi"}]),
    ],
)
def test_text_without_pieces_is_taken_from_its_finished_form(event: bytes) -> None:
    assert text(run(item_added(0, type="message", content=[]), event, ended())) == "Hi"


# --- beside the content ----------------------------------------------------------------------------------------------


def test_tools_of_the_provider_are_data_once_whole() -> None:
    events = named("tools of the provider")
    assert of(events, ev.Data) == [
        ev.Data(
            name="openai_responses.web_search_call",
            data={"type": "web_search_call", "id": "ws_0", "status": "completed", "action": {"type": "search", "query": "x"}},
        )
    ]
    assert end(events) == "stop"


@pytest.mark.parametrize("kind", ["custom_tool_call", "image_generation_call", "mcp_list_tools", "hologram"])
def test_items_that_are_not_in_our_words_are_data(kind: str) -> None:
    progress = said(f"response.{kind}_input.delta", output_index=0, delta="*** Begin")
    events = run(item_added(0, type=kind), progress, item_done(0, type=kind, input="*** Begin"), text_item(1, "ok"), ended())
    assert of(events, ev.Data) == [ev.Data(name=f"openai_responses.{kind}", data={"type": kind, "input": "*** Begin"})]


def test_an_item_that_never_finished_is_told_as_it_was_announced() -> None:
    assert of(run(item_added(0, type="shell_call", id="sh"), ended()), ev.Data)[0].data == {"type": "shell_call", "id": "sh"}


def test_what_a_search_found_are_sources() -> None:
    results = [{"url": "https://a.example/", "title": "A", "snippet": "s"}, {"file_id": "f"}, 5]
    events = run(item_done(0, type="search_results", results=results), text_item(1, "ok"), ended())
    assert of(events, ev.Source) == [ev.Source(url="https://a.example/", title="A", text="s")]
    assert len(of(events, ev.Data)) == 1


def test_citations_are_sources_of_their_text() -> None:
    assert of(named("tools of the provider"), ev.Source) == [ev.Source(url="https://a.example/", title="A", index=0)]


def test_citations_of_finished_text_are_told_if_none_came_alone() -> None:
    annotations = [{"type": "file_citation", "file_id": "file-1", "filename": "a.txt"}, {"type": "file_path", "file_id": "file-2"}]
    part = {"type": "output_text", "text": "Hi", "annotations": annotations}
    place = {"output_index": 0, "content_index": 0}
    body = (
        said("response.output_text.delta", **place, delta="Hi")
        + said("response.content_part.done", **place, part=part)
        + item_done(0, type="message", content=[part])
    )
    events = run(body, ended())
    assert of(events, ev.Source) == [ev.Source(url="", title="a.txt", index=0)]
    assert of(events, ev.Data) == [ev.Data(name="openai_responses.file_path", data=annotations[1])]


def test_parts_of_unknown_types_are_data() -> None:
    part = {"type": "output_audio", "data": "AAAA"}
    body = said("response.content_part.done", output_index=0, content_index=0, part=part) + item_done(0, type="message", content=[part])
    assert of(run(body, ended()), ev.Data) == [ev.Data(name="openai_responses.output_audio", data=part)]


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("server_error", "upstream_error"),
        ("rate_limit_exceeded", "upstream_rate_limited"),
        ("insufficient_quota", "upstream_rate_limited"),
        ("invalid_prompt", "upstream_rejected"),
        ("image_too_large", "upstream_rejected"),
        ("bio_policy", "upstream_rejected"),
        ("vector_store_timeout", "upstream_error"),
    ],
)
def test_what_failed_is_told_by_its_class(code: str, told: str) -> None:
    error = {"code": code, "message": "So it went."}
    for body in (ended("failed", error=error), said("error", **error), data({"type": "error", "error": error}), data({"error": error})):
        events = run(created(), text_item(0, "Hel"), body)
        assert (end(events), last(events).message, last(events).partial) == (f"error/{told}", "So it went.", True)


def test_a_failure_without_words_is_one_too() -> None:
    assert end(run(ended("failed"))) == "error/upstream_error"
    assert end(run(ended("failed", error=None))) == "error/upstream_error"


def test_usage_of_a_failed_response_is_told() -> None:
    assert of(named("failed"), ev.Usage) == [USAGE]


def test_an_error_is_the_end_for_readers_of_our_own_events() -> None:
    decoder = load("openai_responses").new_decoder({})
    assert isinstance(decoder.feed(said("error", code="server_error", message="boom"))[-1], ev.Error)
    assert decoder.finished


def test_a_reader_of_the_frames_gets_what_follows_an_error() -> None:
    events, frames = read_by_an_sdk(OPENAI_RESPONSES["error, then failed"])
    assert end(events) == "error/upstream_error"
    assert frames[-2:] == ["error", "response.failed"]


@pytest.mark.parametrize("tail", [b"", DONE])
def test_a_reader_of_the_frames_is_told_the_error_at_the_end_of_the_body(tail: bytes) -> None:
    events, _ = read_by_an_sdk(text_item(0, "Hel"), said("error", code="rate_limit_exceeded", message="Slow down"), tail)
    assert (end(events), last(events).message) == ("error/upstream_rate_limited", "Slow down")


def test_an_error_at_which_an_sdk_stops_is_the_end_for_everybody() -> None:
    events, frames = read_by_an_sdk(text_item(0, "Hel"), said("error", error={"message": "boom"}), ended())
    assert (end(events), frames[-1]) == ("error/upstream_error", "error")


def test_a_second_answer_inside_this_one_is_an_error() -> None:
    events = named("spliced")
    assert (text(events), end(events)) == ("one", "error/upstream_protocol")


def test_a_reader_of_the_frames_gets_a_second_answer_to_its_end() -> None:
    events, frames = read_by_an_sdk(OPENAI_RESPONSES["spliced"])
    assert (end(events), frames[-1]) == ("error/upstream_protocol", "response.completed")


def test_the_same_beginning_twice_is_a_duplicate() -> None:
    assert end(run(created("a"), created("b"), text_item(0, "one"), created("b"), ended())) == "stop"


def test_events_that_are_no_json_end_the_stream_unless_nobody_knows_them() -> None:
    assert end(run(text_item(0, "a"), b"event: response.output_text.delta\ndata: {oops\n\n")) == "error/upstream_protocol"
    assert end(run(text_item(0, "a"), b"event: vendor.ping\ndata: now\n\n", ended())) == "stop"


def test_a_body_that_is_no_stream() -> None:
    assert end(named("json body")) == "error/upstream_rejected"
    assert end(named("nothing")) == "error/upstream_truncated"
