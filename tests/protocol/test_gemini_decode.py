"""Streams of `streamGenerateContent`, shape by shape."""

from __future__ import annotations

from typing import Any

import pytest
from provider_streams import GEMINI, calls, counts, data, decode, end, function_call, of, response, text, thinking

from headrace.protocol import events as ev
from headrace.protocol.dialects import load
from headrace.protocol.dialects.gemini.arguments import CHARACTERS_MAX
from headrace.protocol.dialects.gemini.decode import FAILED


def run(*chunks: bytes) -> list[ev.Event]:
    return decode("gemini", b"".join(chunks))


def last(events: list[ev.Event]) -> Any:
    return events[-1]


# --- text and the end ------------------------------------------------------------------------------------------------


def test_text_becomes_one_block_and_the_end_comes_last() -> None:
    assert run(GEMINI["text"]) == [
        ev.Usage(source="provider", input_tokens=11, output_tokens=1),
        ev.Text(index=0, text="Hel"),
        ev.Text(index=0, text="lo 👋\n"),
        ev.BlockEnd(index=0, kind="text"),
        ev.Usage(source="provider", input_tokens=11, output_tokens=27, reasoning_tokens=20),
        ev.StreamEnd(finish_reason="stop"),
    ]


def test_text_is_told_at_once() -> None:
    decoder = load("gemini").new_decoder({})
    assert decoder.feed(response({"text": "a"})) == [ev.Text(index=0, text="a")]
    assert decoder.begun


def test_a_reason_that_comes_with_every_event_ends_nothing_before_the_body() -> None:
    events = run(GEMINI["a reason with every event"])
    assert (text(events), end(events)) == ("Hello", "stop")


def test_a_body_that_ends_without_a_reason_was_cut_off() -> None:
    events = run(GEMINI["cut"])
    assert (text(events), end(events), last(events).partial) == ("Hel", "error/upstream_truncated", True)
    assert not last(run(GEMINI["nothing"])).partial


def test_an_unspecified_reason_is_none() -> None:
    assert end(run(response({"text": "a"}, finish="FINISH_REASON_UNSPECIFIED"))) == "error/upstream_truncated"


def test_the_last_event_may_lack_its_blank_line() -> None:
    assert end(run(GEMINI["text"].removesuffix(b"\r\n\r\n"))) == "stop"


def test_an_end_marker_that_a_gateway_adds_is_an_end_only_after_a_reason() -> None:
    done = b"data: [DONE]\n\n"
    assert end(run(GEMINI["text"], done)) == "stop"
    assert text(run(GEMINI["one event"], done, response({"text": "late"}))) == "1, 2, 3"
    assert end(run(GEMINI["cut"], done)) == "error/upstream_truncated"


@pytest.mark.parametrize(
    ("vendors", "ours"),
    [("STOP", "stop"), ("stop", "stop"), ("MAX_TOKENS", "length"), ("CONTINUATION", "length")],
)
def test_finish_reasons_become_ours(vendors: str, ours: str) -> None:
    events = run(response({"text": "a"}, finish=vendors))
    assert (end(events), of(events, ev.Notice)) == (ours, [])


@pytest.mark.parametrize(
    "vendors",
    ["SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY", "IMAGE_RECITATION", "MODEL_ARMOR"],
)
def test_what_a_filter_stopped_says_which(vendors: str) -> None:
    events = run(response({"text": "Well, "}), response(finish=vendors))
    assert (text(events), end(events)) == ("Well, ", "content_filter")
    assert of(events, ev.Notice) == [ev.Notice(code="content_filter", message=f"The provider's filter stopped the answer: {vendors}")]


@pytest.mark.parametrize("vendors", FAILED)
def test_an_answer_that_broke_is_an_error(vendors: str) -> None:
    events = run(response({"text": "Well, "}, **counts()), response(finish=vendors))
    assert (text(events), end(events), last(events).message) == ("Well, ", "error/upstream_error", FAILED[vendors])
    assert (last(events).retryable, last(events).partial) == (True, True)
    assert of(events, ev.Usage)


def test_an_answer_that_broke_says_what_the_provider_says() -> None:
    said = "Malformed function call: print(default_api.look(q=\n)"
    events = run(response(finish="MALFORMED_FUNCTION_CALL", candidate={"finishMessage": said}))
    assert last(events).message == "Malformed function call: print(default_api.look(q= )"
    assert not last(events).partial


def test_an_unknown_reason_is_a_stop_with_a_notice() -> None:
    events = run(response({"text": "a"}, finish="TIRED"))
    assert end(events) == "stop"
    assert of(events, ev.Notice) == [
        ev.Notice(code="unknown_finish_reason", message="The provider ended with a reason that is not known here: TIRED")
    ]


@pytest.mark.parametrize(
    ("feedback", "why"),
    [
        ({"blockReason": "PROHIBITED_CONTENT"}, "PROHIBITED_CONTENT"),
        ({"blockReason": "SAFETY", "blockReasonMessage": "Not this."}, "Not this. (SAFETY)"),
    ],
)
def test_a_blocked_prompt_ends_as_filtered_and_says_why(feedback: dict[str, str], why: str) -> None:
    events = run(data({"promptFeedback": feedback, **counts(4, 0)}))
    assert of(events, ev.Notice) == [ev.Notice(code="content_filter", message=f"The provider's filter stopped the answer: {why}")]
    assert of(events, ev.Usage) == [ev.Usage(source="provider", input_tokens=4, output_tokens=0)]
    assert end(events) == "content_filter"


def test_feedback_that_blocks_nothing_ends_nothing() -> None:
    events = run(response({"text": "a"}, promptFeedback={"safetyRatings": []}))
    assert end(events) == "error/upstream_truncated"


# --- errors ----------------------------------------------------------------------------------------------------------

OVERLOADED = {"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}
EXHAUSTED = {"error": {"code": 429, "message": "Too many.", "status": "RESOURCE_EXHAUSTED"}}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (data(OVERLOADED), "upstream_overloaded"),
        (data([EXHAUSTED]), "upstream_rate_limited"),
        (data(OVERLOADED["error"], event="error"), "upstream_overloaded"),
        (b"event: error\ndata: went wrong\n\n", "upstream_error"),
        (data({"error": {"code": 400, "message": "Bad.", "status": "INVALID_ARGUMENT"}}), "upstream_rejected"),
        (GEMINI["json body"], "upstream_rejected"),
        (b'{"error": {"code": 429, "message": "Too many.", "status": "RESOURCE_EXHAUSTED"}}', "upstream_rate_limited"),
        (b"<!doctype html><title>Bad Gateway</title>", "upstream_protocol"),
        (b"data: {nonsense\n\n", "upstream_protocol"),
    ],
)
def test_an_error_in_any_shape_ends_the_stream(body: bytes, code: str) -> None:
    assert end(run(body)) == f"error/{code}"


def test_an_error_inside_an_answer_keeps_what_came() -> None:
    events = run(GEMINI["error inside"], response({"text": "late"}, finish="STOP"))
    assert (text(events), end(events), last(events).partial) == ("a", "error/upstream_overloaded", True)


# --- thoughts and signatures -----------------------------------------------------------------------------------------


def test_thoughts_are_one_block_of_summaries_before_the_text() -> None:
    events = run(GEMINI["thoughts"])
    assert (thinking(events), text(events)) == ("**Plan**\n\nLook first.", "The answer")
    assert {event.kind for event in of(events, ev.Thinking)} == {"summary"}
    assert [(block.index, block.kind) for block in of(events, ev.BlockEnd)] == [(0, "thinking"), (1, "text"), (2, "thinking")]


def test_a_thoughts_signature_comes_after_it_in_its_block() -> None:
    events = run(response({"text": "Hm.", "thought": True, "thoughtSignature": "c2ln"}), response({"text": "More.", "thought": True}))
    assert events[:5] == [
        ev.Thinking(index=0, text="Hm.", kind="summary"),
        ev.Thinking(index=0, text="", kind="summary", signature="gemini:c2ln"),
        ev.BlockEnd(index=0, kind="thinking"),
        ev.Thinking(index=1, text="More.", kind="summary"),
        ev.BlockEnd(index=1, kind="thinking"),
    ]


def test_a_thoughts_signature_may_come_alone() -> None:
    events = run(response({"text": "Hm.", "thought": True}), response({"thought": True, "thoughtSignature": "c2ln"}, finish="STOP"))
    assert [(event.index, event.signature) for event in of(events, ev.Thinking)] == [(0, None), (0, "gemini:c2ln")]


@pytest.mark.parametrize("signed", [{"text": "", "thoughtSignature": "c2ln"}, {"thoughtSignature": "c2ln"}])
def test_the_signature_of_an_empty_part_is_a_block_of_its_own(signed: dict[str, Any]) -> None:
    events = run(response({"text": "a"}), response(signed, finish="STOP"))
    assert events[1:-1] == [
        ev.BlockEnd(index=0, kind="text"),
        ev.Thinking(index=1, text="", kind="summary", signature="gemini:c2ln"),
        ev.BlockEnd(index=1, kind="thinking"),
    ]


def test_the_signature_of_a_text_comes_after_it() -> None:
    events = run(response({"text": "a", "thoughtSignature": "c2ln"}, {"text": "b"}, finish="STOP"))
    assert [type(event).__name__ for event in events] == ["Text", "BlockEnd", "Thinking", "BlockEnd", "Text", "BlockEnd", "StreamEnd"]


def test_the_signature_of_a_call_comes_before_it_also_after_a_thought() -> None:
    thought = {"text": "Hm.", "thought": True}
    events = run(response(thought, function_call(args={}) | {"thoughtSignature": "c2ln"}, finish="STOP"))
    assert [type(event).__name__ for event in events][:5] == ["Thinking", "BlockEnd", "Thinking", "BlockEnd", "ToolCallStart"]
    assert [(event.index, event.signature) for event in of(events, ev.Thinking)] == [(0, None), (1, "gemini:c2ln")]


def test_empty_parts_say_nothing() -> None:
    events = run(response({"text": ""}), response({}), response({"text": "", "thought": True}), response(finish="STOP"))
    assert events == [ev.StreamEnd(finish_reason="stop")]


# --- calls -----------------------------------------------------------------------------------------------------------


def test_a_call_comes_whole() -> None:
    events = run(GEMINI["calls"])
    assert calls(events) == [("a1", "look", '{"q":"søk"}', True), ("call_7Qx_1", "stop", "{}", True)]
    assert end(events) == "tool_calls"
    assert [block.kind for block in of(events, ev.BlockEnd)] == ["text", "thinking", "tool_call", "tool_call"]


@pytest.mark.parametrize("args", [{}, {"args": None}, {"args": {}}])
def test_a_call_without_arguments_has_an_empty_object(args: dict[str, Any]) -> None:
    assert calls(run(response(function_call(id="a1", **args), finish="STOP"))) == [("a1", "look", "{}", True)]


def test_calls_of_one_name_in_one_answer_have_ids_of_their_own() -> None:
    parts = [function_call(args={"n": n}) for n in range(2)]
    events = run(response(*parts), response(function_call(id="call_7Qx_0", args={}), finish="STOP"))
    assert [id for id, *_ in calls(events)] == ["call_7Qx_0", "call_7Qx_1", "call_7Qx_0-2"]


@pytest.mark.parametrize(("args", "raw"), [('{"q": 1}', '{"q": 1}'), ([1], "[1]")])
def test_arguments_that_are_no_object_are_not_hidden(args: Any, raw: str) -> None:
    [(_, _, said, valid)] = calls(run(response(function_call(args=args), finish="STOP")))
    assert (said, valid) == (raw, raw.startswith("{"))


def test_a_call_without_a_name_is_not_valid() -> None:
    [(_, name, _, valid)] = calls(run(response(function_call(None, args={"q": 1}), finish="STOP")))
    assert (name, valid) == ("", False)


def test_a_limit_after_a_whole_call_leaves_it_valid() -> None:
    events = run(response(function_call(args={"q": 1}), finish="MAX_TOKENS"))
    assert (calls(events)[0][3], end(events)) == (True, "length")


# --- calls that come value by value ----------------------------------------------------------------------------------


def partial(*values: dict[str, Any], more: bool = True, name: str | None = None) -> bytes:
    return response(function_call(name, partialArgs=list(values), willContinue=more))


def pieces(*values: dict[str, Any]) -> list[tuple[str, str, str, bool]]:
    return calls(run(response(function_call("plan", willContinue=True)), partial(*values), partial(more=False), response(finish="STOP")))


def test_a_call_value_by_value_starts_at_once_and_is_whole_at_its_end() -> None:
    events = run(GEMINI["a call value by value"])
    assert events == [
        ev.ToolCallStart(index=0, tool_call_id="call_7Qx_0", name="plan"),
        ev.ToolCallDelta(tool_call_id="call_7Qx_0", arguments_delta='{"city":"New Delhi"}'),
        ev.ToolCallComplete(
            tool_call_id="call_7Qx_0", name="plan", arguments={"city": "New Delhi"}, arguments_raw='{"city":"New Delhi"}', valid=True
        ),
        ev.BlockEnd(index=0, kind="tool_call"),
        ev.StreamEnd(finish_reason="tool_calls"),
    ]


def test_values_stand_where_their_paths_say() -> None:
    [(_, _, raw, valid)] = pieces(
        {"jsonPath": "$.stops[0].name", "stringValue": "a"},
        {"jsonPath": "$.stops[1].name", "stringValue": "b"},
        {"jsonPath": "$.stops[0].minutes", "numberValue": 5},
        {"jsonPath": "$['it\\'s']", "boolValue": False},
        {"jsonPath": '$.deep["a.b"][0][1]', "nullValue": "NULL_VALUE"},
    )
    assert valid
    assert raw == '{"stops":[{"name":"a","minutes":5},{"name":"b"}],"it\'s":false,"deep":{"a.b":[[null,null]]}}'


def test_strings_of_several_places_may_alternate() -> None:
    values = [{"jsonPath": path, "stringValue": piece, "willContinue": True} for piece in "12" for path in ("$.a", "$.b")]
    assert pieces(*values, {"jsonPath": "$.a"})[0][2] == '{"a":"12","b":"12"}'


def test_a_string_that_ended_and_comes_again_is_the_last_one() -> None:
    assert pieces({"jsonPath": "$.a", "stringValue": "1"}, {"jsonPath": "$.a", "stringValue": "2"})[0][2] == '{"a":"2"}'


@pytest.mark.parametrize(
    "value",
    [
        {"stringValue": "x"},
        {"jsonPath": "$", "stringValue": "x"},
        {"jsonPath": "$[0]", "stringValue": "x"},
        {"jsonPath": "$..a", "stringValue": "x"},
        {"jsonPath": "$.a[*]", "stringValue": "x"},
        {"jsonPath": "$.a[99999]", "stringValue": "x"},
        {"jsonPath": "$.known.inner", "stringValue": "x"},
        {"jsonPath": "$.a" + ".a" * 200, "stringValue": "x"},
    ],
)
def test_values_that_fit_nowhere_leave_the_call_without_arguments(value: dict[str, Any]) -> None:
    known = {"jsonPath": "$.known", "stringValue": "y"}
    [(_, _, raw, valid)] = pieces(known, value)
    assert (raw, valid) == ("", False)


def test_a_place_without_a_value_changes_nothing() -> None:
    assert pieces({"jsonPath": "$.a", "stringValue": "x"}, {"jsonPath": "$.b"})[0][2] == '{"a":"x"}'


def test_strings_without_end_leave_the_call_without_arguments() -> None:
    piece = {"jsonPath": "$.a", "stringValue": "x" * (CHARACTERS_MAX // 4), "willContinue": True}
    [(_, _, raw, valid)] = calls(run(*[partial(piece, name="plan")] * 5, partial(more=False), response(finish="STOP")))
    assert (raw, valid) == ("", False)


@pytest.mark.parametrize("reason", ["MAX_TOKENS", "STOP"])
def test_a_call_that_never_ended_is_not_valid(reason: str) -> None:
    events = run(partial({"jsonPath": "$.a", "stringValue": "x"}, name="plan"), response(finish=reason))
    assert calls(events) == [("call_7Qx_0", "plan", "", False)]


def test_a_call_that_never_ended_is_not_valid_when_another_begins() -> None:
    events = run(
        partial({"jsonPath": "$.a", "stringValue": "x"}, name="plan"), response(function_call("look", args={"q": 1}), finish="STOP")
    )
    assert [(name, raw, valid) for _, name, raw, valid in calls(events)] == [("plan", "", False), ("look", '{"q":1}', True)]


def test_values_may_complete_arguments_that_came_whole() -> None:
    events = run(
        response(function_call("plan", args={"a": 1}, willContinue=True)), partial({"jsonPath": "$.b", "numberValue": 2.5}, more=False)
    )
    assert calls(events)[0][2] == '{"a":1,"b":2.5}'


# --- what has no event of its own ------------------------------------------------------------------------------------


def test_code_and_its_result_are_data_between_the_texts() -> None:
    events = run(GEMINI["code"])
    assert of(events, ev.Data) == [
        ev.Data(name="gemini.executableCode", data={"language": "PYTHON", "code": "print(1)"}),
        ev.Data(name="gemini.codeExecutionResult", data={"outcome": "OUTCOME_OK", "output": "1\n"}),
    ]
    assert [block.index for block in of(events, ev.BlockEnd)] == [0, 1]


def test_an_image_is_data_and_says_if_it_is_a_thought() -> None:
    image = {"inlineData": {"mimeType": "image/png", "data": "aGk="}}
    signed = image | {"thoughtSignature": "c2ln", "mediaResolution": {"level": "HIGH"}}
    events = run(response(image | {"thought": True}, signed, finish="STOP"))
    assert of(events, ev.Data) == [
        ev.Data(name="gemini.inlineData", data={"mimeType": "image/png", "data": "aGk=", "thought": True}),
        ev.Data(name="gemini.inlineData", data={"mimeType": "image/png", "data": "aGk="}),
    ]
    assert [event.signature for event in of(events, ev.Thinking)] == ["gemini:c2ln"]


def test_an_answer_has_begun_with_an_image() -> None:
    decoder = load("gemini").new_decoder({})
    decoder.feed(response({"inlineData": {"mimeType": "image/png", "data": "aGk="}}))
    assert decoder.begun


def test_pages_are_told_once_though_events_repeat_them() -> None:
    events = run(GEMINI["grounded"])
    assert of(events, ev.Source) == [ev.Source(url="u", title="t", index=0)]
    assert [event.data.get("webSearchQueries") for event in of(events, ev.Data)] == [None, ["q"]]


def test_a_document_of_a_file_search_has_no_address() -> None:
    found = {"retrievedContext": {"text": "Paris is …", "fileSearchStore": "fileSearchStores/x"}}
    events = run(response({"text": "a"}, candidate={"groundingMetadata": {"groundingChunks": [found, found]}}, finish="STOP"))
    assert of(events, ev.Source) == [ev.Source(url="", text="Paris is …", index=0)]


@pytest.mark.parametrize("name", ["citationSources", "citations"])
def test_citations_are_sources(name: str) -> None:
    cited = [{"startIndex": 1, "endIndex": 9, "uri": "https://a.example/", "license": "mit"}, {"startIndex": 2}]
    events = run(response({"text": "a"}, candidate={"citationMetadata": {name: cited}}, finish="STOP"))
    assert [source.url for source in of(events, ev.Source)] == ["https://a.example/"]


def test_only_the_first_candidate_counts() -> None:
    second = data({"candidates": [{"index": 1, "content": {"parts": [{"text": "b"}]}, "finishReason": "STOP"}]})
    events = run(response({"text": "a"}), second)
    assert (text(events), end(events)) == ("a", "error/upstream_truncated")


def test_usage_counts_tools_as_input_and_thoughts_as_output() -> None:
    spent = counts(15, 37, toolUsePromptTokenCount=770, thoughtsTokenCount=742, cachedContentTokenCount=4)
    events = run(response({"text": "a"}, usageMetadata={"trafficType": "ON_DEMAND"}), response(finish="STOP", **spent))
    assert of(events, ev.Usage) == [ev.Usage(source="provider", input_tokens=785, output_tokens=779, reasoning_tokens=742, cached_tokens=4)]


def test_figures_that_a_later_event_leaves_out_still_count() -> None:
    events = run(response({"text": "a"}, **counts(5, 1, thoughtsTokenCount=8)), response({"text": "b"}, finish="STOP", **counts(5, 2)))
    assert of(events, ev.Usage)[-1] == ev.Usage(source="provider", input_tokens=5, output_tokens=10, reasoning_tokens=8)


@pytest.mark.parametrize("odd", [{"candidates": []}, {"candidates": None}, {"candidates": [{"content": None}]}, {}, [], 5, None])
def test_events_without_content_are_passed_over(odd: Any) -> None:
    assert run(data(odd), GEMINI["one event"]) == run(GEMINI["one event"])


def test_several_responses_in_one_event_are_taken_in_order() -> None:
    events = run(data([{"candidates": [{"content": {"parts": [{"text": piece}]}}]} for piece in "ab"]), response(finish="STOP"))
    assert (text(events), end(events)) == ("ab", "stop")
