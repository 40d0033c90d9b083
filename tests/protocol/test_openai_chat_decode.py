"""Chat Completions streams, shape by shape."""

from __future__ import annotations

import pytest
from provider_streams import DONE, OPENAI_CHAT, call, calls, chunk, data, decode, end, of, text, thinking, usage_chunk

from headrace.protocol import events as ev
from headrace.protocol.dialects import load


def run(*chunks: bytes) -> list[ev.Event]:
    return decode("openai_chat", b"".join(chunks))


# --- text and the end ------------------------------------------------------------------------------------------------


def test_text_becomes_one_block_and_the_end_comes_last() -> None:
    assert run(OPENAI_CHAT["text"]) == [
        ev.Text(index=0, text="Bonjour"),
        ev.Text(index=0, text=", ça va 👋?\n"),
        ev.Usage(source="provider", input_tokens=11, output_tokens=7),
        ev.BlockEnd(index=0, kind="text"),
        ev.StreamEnd(finish_reason="stop"),
    ]


def test_a_chunk_with_one_token_is_told_at_once() -> None:
    decoder = load("openai_chat").new_decoder({})
    assert decoder.feed(chunk({"content": "a"})) == [ev.Text(index=0, text="a")]
    assert decoder.feed(chunk({"content": ""})) == []
    assert decoder.feed(chunk({"content": "b"})) == [ev.Text(index=0, text="b")]


def test_a_finish_reason_is_not_the_end_until_the_body_ends() -> None:
    decoder = load("openai_chat").new_decoder({})
    decoder.feed(chunk({"content": "a"}, "stop"))
    assert not decoder.finished
    assert decoder.finish()[-1] == ev.StreamEnd(finish_reason="stop")
    assert decoder.finished


def test_the_end_marker_without_a_finish_reason_is_an_end() -> None:
    events = run(OPENAI_CHAT["no finish reason"])
    assert (text(events), end(events)) == ("4", "stop")


@pytest.mark.parametrize("body", [chunk({"content": "a"}), chunk({"role": "assistant", "content": ""}), usage_chunk()])
def test_a_body_without_finish_reason_and_end_marker_was_cut_off(body: bytes) -> None:
    events = run(body)
    assert end(events) == "error/upstream_truncated"
    assert events[-1].partial is bool(text(events))  # type: ignore[attr-defined]


def test_an_end_marker_without_any_answer_is_no_success() -> None:
    assert end(run(DONE)) == "error/upstream_protocol"


@pytest.mark.parametrize("tail", [b"data: [DONE]", b"data: [DONE]\n", b"data: [DONE]\r\n\r\n", b"data:[DONE]\n\n", b"data: [DONE] \n\n"])
def test_the_end_marker_may_lack_its_blank_line_or_a_space(tail: bytes) -> None:
    assert end(run(chunk({"content": "a"}), tail)) == "stop"


def test_nothing_after_the_end_marker_counts() -> None:
    events = run(chunk({"content": "a"}, "stop"), DONE, chunk({"content": "b"}), data({"error": {"message": "late"}}), DONE)
    assert (text(events), end(events)) == ("a", "stop")


@pytest.mark.parametrize(
    ("vendors", "ours"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("model_length", "length"),
        ("MAX_TOKENS", "length"),
        ("content_filter", "content_filter"),
        ("sensitive", "content_filter"),
        ("eos", "stop"),
        ("error", "error/upstream_error"),
        ("insufficient_system_resource", "error/upstream_overloaded"),
        ("abort", "error/upstream_truncated"),
    ],
)
def test_finish_reasons_of_vendors_become_ours(vendors: str, ours: str) -> None:
    events = run(chunk({"content": "a"}), chunk({}, vendors), DONE)
    assert end(events) == ours
    assert of(events, ev.Notice) == []


@pytest.mark.parametrize("reason", ["galactic", 17, ["stop"]])
def test_an_unknown_finish_reason_is_a_stop_with_a_notice(reason: object) -> None:
    events = run(chunk({"content": "a"}, reason), DONE)
    assert end(events) == "stop"
    assert [notice.code for notice in of(events, ev.Notice)] == ["unknown_finish_reason"]


def test_an_empty_finish_reason_is_none() -> None:
    assert end(run(chunk({"content": "a"}, ""))) == "error/upstream_truncated"


def test_content_after_the_finish_reason_still_counts() -> None:
    assert text(run(chunk({"content": "a"}, "stop"), chunk({"content": "b"}, "stop"), DONE)) == "ab"


def test_other_choices_are_left_out() -> None:
    other = {"index": 1, "delta": {"content": "second"}, "finish_reason": "length"}
    events = run(data({"choices": [other, {"index": 0, "delta": {"content": "first"}, "finish_reason": "stop"}]}), DONE)
    assert (text(events), end(events)) == ("first", "stop")


def test_a_choice_without_an_index_is_the_first() -> None:
    assert text(run(data({"choices": [{"delta": {"content": "a"}}]}), DONE)) == "a"


def test_line_ends_comments_and_other_fields_change_nothing() -> None:
    events = run(OPENAI_CHAT["crlf, comments and another field"])
    assert (text(events), end(events)) == ("ab", "stop")


def test_a_first_chunk_with_filter_results_only_means_nothing() -> None:
    events = run(OPENAI_CHAT["filter results first"])
    assert [type(event) for event in events] == [ev.Text, ev.BlockEnd, ev.StreamEnd]


@pytest.mark.parametrize(
    "odd", [b"data: null\n\n", b"data: 3\n\n", b'data: []\n\ndata: "x"\n\n', b"data\n\n", b"event: ping\ndata: {}\n\n"]
)
def test_events_that_are_no_chunks_mean_nothing(odd: bytes) -> None:
    assert text(run(chunk({"content": "a"}), odd, chunk({"content": "b"}, "stop"), DONE)) == "ab"


def test_json_that_is_broken_in_the_middle_ends_the_stream() -> None:
    events = run(chunk({"content": "a"}), b'data: {"choices": [\n\n', chunk({"content": "b"}, "stop"), DONE)
    assert (text(events), end(events)) == ("a", "error/upstream_protocol")
    assert events[-1].partial  # type: ignore[attr-defined]


@pytest.mark.parametrize("extra", [b'"logprob": NaN', b'"x": "\\ud83d"', b'"x": "a\tb"', b'"x": -Infinity'])
def test_json_that_a_strict_parser_refuses_is_read_all_the_same(extra: bytes) -> None:
    events = run(b'data: {%b, "choices": [{"delta": {"content": "a"}}], "error": null}\n\n' % extra, DONE)
    assert (text(events), end(events)) == ("a", "stop")


def test_a_character_that_is_cut_between_two_deltas_comes_whole() -> None:
    assert text(run(OPENAI_CHAT["split surrogates"])) == "a😀b"


def test_half_a_character_without_its_other_half_is_replaced() -> None:
    assert text(run(b'data: {"choices":[{"delta":{"content":"a\\ud83d"}}]}\n\n', chunk({"content": "b"}, "stop"), DONE)) == "a�b"
    assert text(run(b'data: {"choices":[{"delta":{"content":"a\\ud83d"}}]}\n\n', DONE)) == "a�"


# --- thinking --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_is_a_block_of_its_own_before_the_text(field: str) -> None:
    events = run(chunk({field: "h"}), chunk({field: "m", "content": ""}), chunk({"content": "Yes"}, "stop"), DONE)
    assert events == [
        ev.Thinking(index=0, text="h", kind="raw"),
        ev.Thinking(index=0, text="m", kind="raw"),
        ev.BlockEnd(index=0, kind="thinking"),
        ev.Text(index=1, text="Yes"),
        ev.BlockEnd(index=1, kind="text"),
        ev.StreamEnd(finish_reason="stop"),
    ]


def test_the_same_reasoning_in_two_fields_is_told_once() -> None:
    details = [{"type": "reasoning.text", "text": "hm", "index": 0}]
    delta = {"reasoning_content": "hm", "reasoning": "hm", "reasoning_details": details}
    assert thinking(run(chunk(delta), chunk({"content": "a"}, "stop"), DONE)) == "hm"


def test_reasoning_details_are_read_where_nothing_else_has_the_text() -> None:
    events = run(
        chunk({"reasoning_details": [{"type": "reasoning.summary", "summary": "In short"}]}), chunk({"content": "a"}, "stop"), DONE
    )
    assert of(events, ev.Thinking) == [ev.Thinking(index=0, text="In short", kind="summary")]


def test_signatures_and_sealed_reasoning_are_kept_beside_the_text() -> None:
    events = run(
        chunk({"reasoning": "hm", "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]}),
        chunk({"reasoning_details": [{"type": "reasoning.text", "signature": "c2ln"}, {"type": "reasoning.encrypted", "data": "b64"}]}),
        chunk({"content": "a"}, "stop"),
        DONE,
    )
    assert of(events, ev.Thinking) == [
        ev.Thinking(index=0, text="hm", kind="raw"),
        ev.Thinking(index=0, text="", kind="raw", signature="c2ln"),
        ev.Thinking(index=0, text="", kind="raw", redacted="b64"),
    ]


def test_content_as_a_list_of_parts_is_thinking_and_text() -> None:
    events = run(OPENAI_CHAT["list content"])
    assert (thinking(events), text(events)) == ("Let me", "Answer")
    assert [block.kind for block in of(events, ev.BlockEnd)] == ["thinking", "text"]


def test_a_part_of_an_unknown_type_is_carried_as_data() -> None:
    part = {"type": "reference", "reference_ids": [1]}
    events = run(chunk({"content": [part, {"type": "text", "text": "a"}]}), DONE)
    assert of(events, ev.Data) == [ev.Data(name="openai_chat.reference", data=part)]
    assert text(events) == "a"


def test_reasoning_that_is_no_text_is_left_out() -> None:
    assert thinking(run(chunk({"reasoning": {"effort": "high"}, "content": "a"}), DONE)) == ""


# --- tool calls ------------------------------------------------------------------------------------------------------


def test_fragments_of_parallel_calls_may_alternate() -> None:
    events = run(OPENAI_CHAT["parallel calls"])
    assert calls(events) == [("call_a", "look", '{"q":"é"}', True), ("call_b", "find", '{"z":[1]}', True)]
    assert of(events, ev.ToolCallComplete)[0].arguments == {"q": "é"}
    assert end(events) == "tool_calls"


def test_arguments_are_told_as_they_come_and_parsed_once() -> None:
    decoder = load("openai_chat").new_decoder({})
    assert decoder.feed(chunk(call(0, "call_a", "look", ""))) == [ev.ToolCallStart(index=0, tool_call_id="call_a", name="look")]
    for fragment in ('{"a', '": ', "1}"):
        assert decoder.feed(chunk(call(0, arguments=fragment))) == [ev.ToolCallDelta(tool_call_id="call_a", arguments_delta=fragment)]
    decoder.feed(DONE)
    (name, arguments), *rest = decoder.finished_calls
    assert (name, arguments.fragments, arguments.parses, rest) == ("look", 3, 1, [])


@pytest.mark.parametrize(
    ("fragments", "expected"),
    [
        pytest.param(
            [call(None, "a", "f", "{}"), call(None, "b", "g", '{"x":1}')],
            [("a", "f", "{}"), ("b", "g", '{"x":1}')],
            id="no index: the id tells",
        ),
        pytest.param(
            [call(None, "a", "f", '{"x"'), call(None, "a", None, ":1}")],
            [("a", "f", '{"x":1}')],
            id="no index: the same id goes on",
        ),
        pytest.param(
            [call(None, "a", "f", '{"x"'), call(None, None, None, ":1}"), call(None, "", None, "")],
            [("a", "f", '{"x":1}')],
            id="no index, no id: the last call goes on",
        ),
        pytest.param(
            [call(None, None, "f", "{}"), call(None, None, "f", "{}")],
            [("call_7Qx_1", "f", "{}"), ("call_7Qx_2", "f", "{}")],
            id="no index, no id: a name begins a call",
        ),
        pytest.param(
            [call(0, "a", "f", ""), call(0, "", None, '{"x"'), call(0, "", "", ":1}")],
            [("a", "f", '{"x":1}')],
            id="an empty id goes on",
        ),
        pytest.param(
            [call("0", "a", "f", "{"), call("0", None, None, "}"), call("1", "b", "g", "{}")],
            [("a", "f", "{}"), ("b", "g", "{}")],
            id="an index in quotes",
        ),
        pytest.param(
            [call(0, "a", "f", "{}"), call(0, "b", "g", "{}")],
            [("a", "f", "{}"), ("b", "g", "{}")],
            id="another id and name on the same index is another call",
        ),
        pytest.param(
            [call(0, "a1", "f", ""), call(0, "a2", None, '{"x"'), call(0, "a3", None, ":1}")],
            [("a1", "f", '{"x":1}')],
            id="another id alone is made up for the fragment",
        ),
        pytest.param(
            [call(0, "a", "f", '{"x"'), call(0, "a", "f", ":1"), call(0, None, "f", "}")],
            [("a", "f", '{"x":1}')],
            id="a name that is repeated is no news",
        ),
        pytest.param(
            [call(0, "null", "f", '{"x":1}'), call(0, "null", "f", '{"x":2}')],
            [("call_7Qx_1", "f", '{"x":1}'), ("call_7Qx_2", "f", '{"x":2}')],
            id="a placeholder for an id: an object after an object is another call",
        ),
        pytest.param(
            [call(0, None, "f", "{}"), call(0, None, "g", "{}")],
            [("call_7Qx_1", "f", "{}"), ("call_7Qx_2", "g", "{}")],
            id="no ids: another name is another call",
        ),
        pytest.param(
            [call(0, "a", "f", "{}"), call(1, "a", "f", '{"x":1}')],
            [("a", "f", "{}"), ("a-2", "f", '{"x":1}')],
            id="an id that is used twice names two calls",
        ),
        pytest.param([call(0, "a", "f", {"x": 1})], [("a", "f", '{"x":1}')], id="arguments as an object"),
        pytest.param([call(0, "a", None, '{"x"'), call(0, None, "f", ":1}")], [("a", "f", '{"x":1}')], id="the name comes late"),
        pytest.param([call(0, None, "f", "{}"), call(0, "late", None, "")], [("call_7Qx_1", "f", "{}")], id="the id comes too late"),
        pytest.param([call(0, "a", "f")], [("a", "f", "")], id="no arguments"),
        pytest.param([call(3, "d", "f", "{}"), call(1, "b", "g", "{}")], [("d", "f", "{}"), ("b", "g", "{}")], id="order of arrival"),
    ],
)
def test_which_call_a_fragment_belongs_to(fragments: list[dict[str, object]], expected: list[tuple[str, str, str]]) -> None:
    events = run(*(chunk(fragment) for fragment in fragments), chunk({}, "tool_calls"), DONE)
    assert calls(events) == [(*one, True) for one in expected]
    together = {"tool_calls": [part for fragment in fragments for part in fragment["tool_calls"]]}  # type: ignore[attr-defined]
    assert calls(run(chunk(together, "tool_calls"), DONE)) == calls(events)


def test_a_call_is_over_when_another_takes_its_place() -> None:
    decoder = load("openai_chat").new_decoder({})
    decoder.feed(chunk(call(0, "a", "f", "{}")))
    events = decoder.feed(chunk(call(0, "b", "g", "{}")))
    assert [type(event) for event in events[:3]] == [ev.ToolCallComplete, ev.BlockEnd, ev.ToolCallStart]


def test_a_call_without_a_name_is_not_valid() -> None:
    events = run(chunk(call(0, "a", None, "{}")), DONE)
    complete = of(events, ev.ToolCallComplete)[0]
    assert (complete.name, complete.arguments, complete.arguments_raw, complete.valid) == ("", None, "{}", False)


def test_the_legacy_function_call_is_a_call() -> None:
    events = run(OPENAI_CHAT["function_call"])
    assert calls(events) == [("call_7Qx_1", "old", '{"a":2}', True)]
    assert end(events) == "tool_calls"


def test_a_custom_tool_has_text_for_arguments() -> None:
    fragment = {"index": 0, "id": "a", "type": "custom", "custom": {"name": "code", "input": "print(1)"}}
    events = run(chunk({"tool_calls": [fragment]}, "tool_calls"), DONE)
    assert calls(events) == [("a", "code", "print(1)", False)]


def test_arguments_that_are_no_object_are_not_valid() -> None:
    events = run(chunk(call(0, "a", "f", "[1]")), chunk(call(1, "b", "g", "{oops}")), chunk({}, "tool_calls"), DONE)
    assert calls(events) == [("a", "f", "[1]", False), ("b", "g", "{oops}", False)]


def test_a_limit_in_the_middle_of_arguments_keeps_them_raw_and_says_length() -> None:
    events = run(OPENAI_CHAT["length in arguments"])
    assert calls(events) == [("call_a", "look", '{"q": "unfin', False)]
    assert end(events) == "length"


def test_a_limit_cuts_only_the_last_call() -> None:
    events = run(chunk(call(0, "a", "f", "")), chunk(call(1, "b", "g", "")), chunk({}, "length"), DONE)
    assert calls(events) == [("a", "f", "", True), ("b", "g", "", False)]


def test_a_cut_in_the_middle_of_arguments_is_an_error_after_the_call_is_closed() -> None:
    events = run(OPENAI_CHAT["cut in arguments"])
    assert calls(events) == [("call_a", "look", '{"q": "unfin', False)]
    assert end(events) == "error/upstream_truncated"


def test_calls_with_the_finish_reason_stop_are_tool_calls() -> None:
    assert end(run(chunk(call(0, "a", "f", "{}")), chunk({}, "stop"), DONE)) == "tool_calls"


def test_the_finish_reason_tool_calls_without_calls_is_a_stop() -> None:
    assert end(run(chunk({"content": "a"}), chunk({}, "tool_calls"), DONE)) == "stop"


def test_text_before_and_after_calls_makes_two_blocks() -> None:
    events = run(chunk({"content": "a"}), chunk(call(0, "c", "f", "{")), chunk({"content": "b"}), chunk(call(0, arguments="}")), DONE)
    assert [event.index for event in of(events, ev.Text)] == [0, 2]
    assert calls(events) == [("c", "f", "{}", True)]


def test_deeply_nested_arguments_are_refused_but_kept() -> None:
    nested = '{"a":' * 500 + "1" + "}" * 500
    events = run(chunk(call(0, "c", "f", nested), "tool_calls"), DONE)
    assert calls(events) == [("c", "f", nested, False)]


# --- refusal ---------------------------------------------------------------------------------------------------------


def test_a_refusal_is_a_notice_and_a_finish_reason_and_no_text() -> None:
    events = run(OPENAI_CHAT["refusal"])
    assert (text(events), end(events)) == ("", "refusal")
    assert of(events, ev.Notice) == [ev.Notice(code="refusal", message="I cannot.")]


def test_an_empty_refusal_field_means_nothing() -> None:
    assert end(run(chunk({"content": "a", "refusal": ""}), chunk({"refusal": None}, "stop"), DONE)) == "stop"


# --- usage -----------------------------------------------------------------------------------------------------------


def usages(events: list[ev.Event]) -> list[tuple[int | None, ...]]:
    return [(u.input_tokens, u.output_tokens, u.reasoning_tokens, u.cached_tokens) for u in of(events, ev.Usage)]


def test_usage_with_its_details() -> None:
    details = {"prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens_details": {"reasoning_tokens": 2}}
    assert usages(run(chunk({"content": "a"}, "stop"), usage_chunk(**details), DONE)) == [(11, 7, 2, 4)]


def test_usage_with_every_chunk_is_told_when_a_block_begins_and_at_the_end() -> None:
    assert usages(run(OPENAI_CHAT["usage with every chunk"])) == [(3, 1, None, None), (3, 20, None, None)]


def test_usage_that_did_not_change_is_told_once() -> None:
    assert usages(run(chunk({"content": "a"}, "stop"), usage_chunk(), usage_chunk(), DONE)) == [(11, 7, None, None)]


@pytest.mark.parametrize(
    "where",
    [
        pytest.param(chunk({}, "stop", x_groq={"id": "r", "usage": {"prompt_tokens": 1, "completion_tokens": 2}}), id="x_groq"),
        pytest.param(
            data({"choices": [{"delta": {}, "finish_reason": "stop", "usage": {"prompt_tokens": 1, "completion_tokens": 2}}]}), id="choice"
        ),
        pytest.param(chunk({}, "stop", usage={"input_tokens": 1, "output_tokens": 2}), id="other names"),
    ],
)
def test_usage_in_other_places(where: bytes) -> None:
    assert usages(run(chunk({"content": "a"}), where, DONE)) == [(1, 2, None, None)]


@pytest.mark.parametrize("usage", [None, {}, [], "none", {"prompt_tokens": None}, {"prompt_tokens": -1}, {"prompt_tokens": True}])
def test_usage_without_figures_is_not_told(usage: object) -> None:
    assert usages(run(chunk({"content": "a"}, "stop", usage=usage), data({"choices": [], "usage": usage}), DONE)) == []


def test_usage_is_told_before_an_error() -> None:
    events = run(chunk({"content": "a"}, None, usage={"prompt_tokens": 1, "completion_tokens": 2}), data({"error": {"message": "x"}}))
    assert usages(events) == [(1, 2, None, None)]


# --- sources and media -----------------------------------------------------------------------------------------------


def test_search_results_and_citations_are_sources_once_each() -> None:
    found = {
        "search_results": [{"url": "https://a.example/", "title": "A", "snippet": "s"}],
        "citations": ["https://a.example/", "https://b.example/"],
    }
    events = run(*(chunk({"content": str(n)}, None, **found) for n in range(3)), DONE)
    assert of(events, ev.Source) == [ev.Source(url="https://a.example/", title="A", text="s"), ev.Source(url="https://b.example/")]


def test_annotations_are_sources() -> None:
    citation = {"type": "url_citation", "url_citation": {"url": "https://a.example/", "title": "A", "start_index": 0}}
    assert of(run(chunk({"content": "a", "annotations": [citation]}), DONE), ev.Source) == [ev.Source(url="https://a.example/", title="A")]


def test_images_and_audio_are_carried_as_data() -> None:
    events = run(chunk({"images": [{"type": "image_url"}]}), chunk({"audio": {"id": "x", "data": "b64"}}), DONE)
    assert [event.name for event in of(events, ev.Data)] == ["openai_chat.images", "openai_chat.audio"]


# --- errors inside a 200 ---------------------------------------------------------------------------------------------

HALF = chunk({"content": "half"})


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        pytest.param(OPENAI_CHAT["error chunk"], "upstream_error", "boom", id="chunk with choices, then the end marker"),
        pytest.param(OPENAI_CHAT["error event"], "upstream_rejected", "no", id="named event"),
        pytest.param(OPENAI_CHAT["error field"], "upstream_error", "context shift is disabled", id="field of its own"),
        pytest.param(
            HALF + data({"error": {"message": "slow down", "code": 429}}), "upstream_rate_limited", "slow down", id="number as code"
        ),
        pytest.param(HALF + data({"error": {"message": "busy", "code": "503"}}), "upstream_overloaded", "busy", id="number in quotes"),
        pytest.param(HALF + data({"error": "plain words"}), "upstream_error", "plain words", id="string"),
        pytest.param(HALF + data({"object": "error", "message": "too long", "code": 400}), "upstream_rejected", "too long", id="object"),
        pytest.param(HALF + b"event: error\ndata: all is lost\n\n", "upstream_error", "all is lost", id="named event with plain text"),
        pytest.param(
            HALF + data({"error": {"message": "<html><body><h1>502 Bad Gateway</h1><hr>nginx</body></html>"}}),
            "upstream_error",
            "502 Bad Gateway nginx",
            id="html",
        ),
        pytest.param(
            HALF + data({"error": {"message": "bad key sk-abcdef0123456789", "code": "invalid_api_key"}}),
            "upstream_auth",
            "The provider refused this relay's credentials.",
            id="refused key",
        ),
        pytest.param(HALF + data({"error": {"code": 500}}), "upstream_error", "The provider reported an error.", id="no message"),
    ],
)
def test_an_error_inside_a_stream_ends_it(error: bytes, code: str, message: str) -> None:
    events = run(error, chunk({"content": "late"}, "stop"), DONE)
    assert text(events) == "half"
    last = events[-1]
    assert isinstance(last, ev.Error)
    assert (last.code, last.message, last.partial) == (code, message, True)


def test_an_error_before_any_content_is_not_partial() -> None:
    assert run(data({"error": {"message": "x"}}))[-1].partial is False  # type: ignore[attr-defined]


@pytest.mark.parametrize("empty", [None, {}, "", 0, False])
def test_an_empty_error_field_means_nothing(empty: object) -> None:
    assert end(run(chunk({"content": "a"}, "stop", error=empty), DONE)) == "stop"


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        (OPENAI_CHAT["json body"], "upstream_rejected", "Bad model"),
        (b'{\n "error": {\n  "message": "Slow down",\n  "type": "rate_limit_error"\n }\n}', "upstream_rate_limited", "Slow down"),
        (b'[{"error": {"code": 503, "message": "No capacity"}}]', "upstream_overloaded", "No capacity"),
        (b'{"detail": "Not Found"}', "upstream_error", "Not Found"),
        (OPENAI_CHAT["html body"], "upstream_protocol", "The provider sent something that is not a valid stream."),
        (
            b'{"id": "x", "object": "chat.completion", "choices": []}',
            "upstream_protocol",
            "The provider sent something that is not a valid stream.",
        ),
        (b"upstream connect error", "upstream_protocol", "The provider sent something that is not a valid stream."),
        (b"", "upstream_truncated", "The provider's answer broke off before its end."),
        (b": still waiting\n\n", "upstream_truncated", "The provider's answer broke off before its end."),
        (b'data: {"choi', "upstream_truncated", "The provider's answer broke off before its end."),
    ],
)
def test_a_body_without_one_event_says_what_it_is(body: bytes, code: str, message: str) -> None:
    last = run(body)[-1]
    assert isinstance(last, ev.Error)
    assert (last.code, last.message, last.partial) == (code, message, False)
