"""Our events as a Messages stream, read by the official SDK."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import pytest
from anthropic.types import TextBlock, ThinkingBlock, ToolUseBlock
from anthropic_client import FIRST, REQUEST, Forwarded, client, final_message, frames, last, plain, raw_events, stream, told
from hypothesis import given
from hypothesis import strategies as st
from provider_streams import (
    ANTHROPIC,
    STREAMS,
    block_delta,
    block_start,
    data,
    decode,
    message,
    message_end,
    message_start,
    text_block,
    tool_block,
)

from headrace.errors import all_codes
from headrace.protocol import events as ev
from headrace.protocol.dialects import load
from headrace.protocol.dialects.anthropic import encode as encoding_module
from headrace.protocol.dialects.anthropic.encode import AnthropicStream
from headrace.protocol.dialects.anthropic.parse import parse
from headrace.protocol.dialects.anthropic.request import FOREIGN
from headrace.protocol.request import ThinkingPart

END = ev.StreamEnd(finish_reason="stop")
PING = AnthropicStream.heartbeat


def text(index: int, *texts: str) -> list[ev.Event]:
    return [*(ev.Text(index=index, text=part) for part in texts), ev.BlockEnd(index=index, kind="text")]


def thinking(index: int, *parts: ev.Thinking) -> list[ev.Event]:
    return [*parts, ev.BlockEnd(index=index, kind="thinking")]


def thought(text: str, **fields: Any) -> ev.Thinking:
    return ev.Thinking(index=0, text=text, kind="raw", **fields)


def call_start(index: int, id: str, name: str = "look") -> ev.Event:
    return ev.ToolCallStart(index=index, tool_call_id=id, name=name)


def fragment(id: str, text: str) -> ev.Event:
    return ev.ToolCallDelta(tool_call_id=id, arguments_delta=text)


def call_end(index: int, id: str, raw: str = "{}", name: str = "look") -> list[ev.Event]:
    complete = ev.ToolCallComplete(tool_call_id=id, name=name, arguments={}, arguments_raw=raw, valid=True)
    return [complete, ev.BlockEnd(index=index, kind="tool_call")]


def kinds(body: bytes) -> list[str]:
    """Each event's type; for those of blocks with the block's number, and for deltas with their own type."""
    found = []
    for event in frames(body):
        parts = [event["type"], str(event.get("index", "")), str(event.get("delta", {}).get("type", ""))]
        found.append(" ".join(part for part in parts if part))
    return found


# --- content ---------------------------------------------------------------------------------------------------------


def test_text_is_one_block_of_a_message() -> None:
    usage = ev.UsageTotals(source="provider", input_tokens=7, output_tokens=3, cached_tokens=4, reasoning_tokens=1)
    assert frames(told(*text(0, "Hel", 'lo\n"👋"'), ev.StreamEnd(finish_reason="stop", usage=usage))) == [
        {
            "type": "message_start",
            "message": {
                "id": "msg_0123456789abcdef0123456789abcdef",
                "type": "message",
                "role": "assistant",
                "model": "claude-x",
                "content": [],
                "stop_reason": None,
                "stop_sequence": None,
                "usage": {"input_tokens": 0, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 0},
            },
        },
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hel"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": 'lo\n"👋"'}},
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {
                "input_tokens": 3,
                "cache_read_input_tokens": 4,
                "output_tokens": 3,
                "output_tokens_details": {"thinking_tokens": 1},
            },
        },
        {"type": "message_stop"},
    ]


def test_nothing_is_said_before_the_answer_begins() -> None:
    encoding = stream()
    before = [FIRST, ev.Queue(position=1, depth=2, reason="busy"), ev.Notice(code="stalled", message="Slow."), ev.Usage(source="provider")]
    assert encoding.encode(before) == b""


def test_usage_that_is_known_early_stands_in_the_start() -> None:
    usage = ev.Usage(source="provider", input_tokens=10, cached_tokens=8)
    started = frames(told(usage, *text(0, "a")))[0]["message"]["usage"]
    assert started == {"input_tokens": 2, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 8, "output_tokens": 0}


def test_thinking_keeps_its_signature() -> None:
    body = told(*thinking(0, thought("Let me"), thought(" see."), thought("", signature="c2ln")), *text(1, "Yes"), END)
    first, second = final_message(body).content
    assert isinstance(first, ThinkingBlock)
    assert (first.thinking, first.signature) == ("Let me see.", FOREIGN + "c2ln")
    assert isinstance(second, TextBlock)
    assert kinds(body)[1:6] == [
        "content_block_start 0",
        "content_block_delta 0 thinking_delta",
        "content_block_delta 0 thinking_delta",
        "content_block_delta 0 signature_delta",
        "content_block_stop 0",
    ]


def test_thinking_that_nobody_signed_is_a_valid_block() -> None:
    (block,) = final_message(told(*thinking(0, thought("hm")), END)).content
    assert ThinkingBlock.model_validate(block.model_dump()) == ThinkingBlock(type="thinking", thinking="hm", signature=FOREIGN)


def test_a_redacted_part_is_a_block_of_its_own() -> None:
    body = told(*thinking(0, thought("a"), thought("", redacted="b64"), thought("b")), END)
    assert [block.to_dict() for block in final_message(body).content] == [
        {"type": "thinking", "thinking": "a", "signature": FOREIGN},
        {"type": "redacted_thinking", "data": FOREIGN + "b64"},
        {"type": "thinking", "thinking": "b", "signature": FOREIGN},
    ]
    assert [event["index"] for event in frames(body) if event["type"] == "content_block_stop"] == [0, 1, 2]


def test_a_call_is_told_as_it_comes() -> None:
    encoding = stream()
    started = encoding.encode([FIRST]) + encoding.encode([call_start(0, "toolu_1", "weather")])
    assert frames(started)[1]["content_block"] == {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}}
    assert frames(encoding.encode([fragment("toolu_1", '{"city"')]))[0]["delta"] == {"type": "input_json_delta", "partial_json": '{"city"'}


def test_ids_of_calls_are_such_as_the_api_takes_back() -> None:
    odd = [*(event for n, id in enumerate(("f.x:0", "f.x-0", "f_x:0")) for event in (call_start(n, id), *call_end(n, id)))]
    ids = [event["content_block"]["id"] for event in frames(told(*odd, END)) if event["type"] == "content_block_start"]
    assert ids == ["f_x_0", "f_x-0", "f_x_0-2"]


def test_calls_whose_fragments_alternate_come_one_after_the_other() -> None:
    alternating = [
        call_start(0, "a", "one"),
        fragment("a", '{"x":'),
        call_start(1, "b", "two"),
        fragment("b", "{"),
        fragment("a", "1}"),
        fragment("b", "}"),
        *text(2, "done"),
        *call_end(0, "a"),
        *call_end(1, "b"),
        END,
    ]
    body = told(*alternating)
    assert [event["index"] for event in frames(body) if "index" in event] == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2]
    one, two, said = final_message(body).content
    assert isinstance(one, ToolUseBlock)
    assert isinstance(two, ToolUseBlock)
    assert (one.id, one.name, one.input, two.id, two.name, two.input) == ("a", "one", {"x": 1}, "b", "two", {})
    assert isinstance(said, TextBlock)
    assert said.text == "done"


def test_the_first_of_alternating_calls_does_not_wait() -> None:
    encoding = stream()
    encoding.encode([FIRST, call_start(0, "a"), call_start(1, "b"), fragment("b", "{")])
    assert b'"partial_json":"{"' in encoding.encode([fragment("a", "{")])
    assert encoding.encode([fragment("b", "}")]) == b""


def test_what_waits_for_an_open_block_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding_module, "WAITING_CHARACTERS_MAX", 5)
    body = told(call_start(0, "a"), call_start(1, "b"), fragment("b", "12345"), fragment("b", "6"), fragment("a", "{}"), *call_end(0, "a"))
    assert kinds(body)[-1] == "error"
    assert kinds(body).count("error") == 1


def test_what_has_been_told_does_not_count_as_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding_module, "WAITING_CHARACTERS_MAX", 5)
    calls: list[ev.Event] = []
    for n in range(0, 8, 2):
        calls += [call_start(n, f"a{n}"), call_start(n + 1, f"b{n}"), fragment(f"b{n}", "12345")]
        calls += [*call_end(n, f"a{n}"), *call_end(n + 1, f"b{n}")]
    assert kinds(told(*calls, END))[-1] == "message_stop"


def test_sources_are_citations_of_the_text_around_them() -> None:
    early = ev.Source(url="https://a.example/", title="A", text="quote")
    late, nowhere = ev.Source(url="https://b.example/"), ev.Source(url="")
    body = told(early, ev.Text(index=0, text="Found."), late, nowhere, ev.BlockEnd(index=0, kind="text"), late, END)
    (block,) = final_message(body).content
    assert isinstance(block, TextBlock)
    assert [(citation.type, citation.url, citation.cited_text) for citation in block.citations or []] == [  # type: ignore[union-attr]
        ("web_search_result_location", "https://a.example/", "quote"),
        ("web_search_result_location", "https://b.example/", ""),
    ]
    frames(body)


def test_an_answer_from_elsewhere_can_go_back_to_anthropic_itself() -> None:
    seals = thinking(0, thought("hm", signature="c2ln"), thought("", redacted="b64"))
    cited = [ev.Text(index=1, text="Found."), ev.Source(url="https://a.example/"), ev.BlockEnd(index=1, kind="text")]
    answer = final_message(told(*seals, *cited, call_start(2, "f.x:0"), *call_end(2, "f.x:0"), END))
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": [block.to_dict() for block in answer.content]}]
    forwarded = json.loads(load("anthropic").forward_request({**REQUEST, "messages": turns}, "claude-x", {}).body)
    assert forwarded["messages"][1]["content"] == [
        {"type": "text", "text": "Found."},
        {"type": "tool_use", "id": "f_x_0", "name": "look", "input": {}},
    ]
    # Another provider gets it back as it was.
    parts = parse({**REQUEST, "messages": turns}).messages[1].content
    assert parts[:2] == [ThinkingPart(text="hm", signature="c2ln"), ThinkingPart(redacted="b64")]


def test_events_of_the_relay_alone_are_not_said() -> None:
    extra: list[ev.Event] = [
        ev.Data(name="x", data=1),
        ev.Notice(code="stalled", message="Slow."),
        ev.ToolResult(tool_call_id="a", ok=True, content=1),
    ]
    assert told(*text(0, "a"), *extra, END) == told(*text(0, "a"), END)


# --- the end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("stop", "end_turn"),
        ("length", "max_tokens"),
        ("tool_calls", "tool_use"),
        ("content_filter", "refusal"),
        ("refusal", "refusal"),
        ("pause", "pause_turn"),
    ],
)
def test_stop_reasons(ours: Any, theirs: str) -> None:
    assert final_message(told(*text(0, "a"), ev.StreamEnd(finish_reason=ours))).stop_reason == theirs


def test_an_empty_answer_is_a_whole_message() -> None:
    body = told(END)
    assert kinds(body) == ["message_start", "message_delta", "message_stop"]
    assert final_message(body).content == []


def test_the_words_of_a_refusal_are_its_details() -> None:
    details = final_message(told(ev.Notice(code="refusal", message="Against policy."), ev.StreamEnd(finish_reason="refusal"))).stop_details
    assert details is not None
    assert (details.type, details.explanation) == ("refusal", "Against policy.")


def test_an_error_after_content_is_an_error_event_and_the_last_one() -> None:
    error = ev.Error(code="upstream_overloaded", message="Busy.", retryable=True, partial=True)
    body = told(*text(0, "Hel"), error, *text(1, "late"), END)
    assert frames(body)[-1] == {"type": "error", "error": {"type": "overloaded_error", "message": "Busy."}}
    seen, failure = raw_events(body)
    assert [event["type"] for event in seen][-1] == "content_block_stop"
    assert failure is not None
    assert "Busy." in failure


def test_an_error_before_content_comes_without_a_message() -> None:
    assert kinds(told(ev.Error(code="upstream_idle", message="Silent.", retryable=True, partial=False))) == ["error"]


@pytest.mark.parametrize(
    ("code", "type"),
    [
        ("upstream_overloaded", "overloaded_error"),
        ("queue_timeout", "overloaded_error"),
        ("server_shutdown", "overloaded_error"),
        ("upstream_rate_limited", "rate_limit_error"),
        ("upstream_rejected", "invalid_request_error"),
        ("upstream_idle", "timeout_error"),
        ("stream_too_long", "timeout_error"),
        ("upstream_truncated", "api_error"),
        ("upstream_auth", "api_error"),
        ("a code of tomorrow", "api_error"),
    ],
)
def test_errors_have_the_types_of_the_api(code: str, type: str) -> None:
    event = frames(told(ev.Error(code=code, message="No.", retryable=True, partial=False)))[0]
    assert event["error"] == {"type": type, "message": "No."}


def test_every_code_with_a_type_exists() -> None:
    assert set(encoding_module.ERROR_TYPES) - {"cancelled"} <= set(all_codes())


def test_a_stopped_answer_is_no_whole_one() -> None:
    body = told(*text(0, "Hel"), ev.StreamEnd(finish_reason="cancelled"))
    assert frames(body)[-1] == {"type": "error", "error": {"type": "cancelled", "message": "The answer was stopped."}}
    with pytest.raises(anthropic.APIStatusError, match="stopped"):
        final_message(body)


@pytest.mark.parametrize(
    "loss",
    [
        ev.Reset(from_seq=2, reason="failed"),
        ev.Gap(from_seq=2, to_seq=3, reason="slow", recoverable=False),
        ev.Snapshot(through_seq=3, blocks=[]),
    ],
)
def test_what_is_withdrawn_or_missing_ends_the_stream_once_content_was_sent(loss: ev.Event) -> None:
    assert kinds(told(*text(0, "Hel"), loss, *text(1, "lo"), END))[-1] == "error"
    assert told(loss, *text(0, "Hello"), END) == told(*text(0, "Hello"), END)


# --- heartbeats ------------------------------------------------------------------------------------------------------


def test_heartbeats_change_nothing_for_the_sdk_not_even_before_the_message() -> None:
    body = told(*thinking(0, thought("hm")), *text(1, "Hel", "lo"), END)
    beating = PING + body.replace(b"\n\n", b"\n\n" + PING)
    assert raw_events(beating) == raw_events(body)
    assert plain(final_message(beating)) == plain(final_message(body))
    with client(beating).messages.stream(**REQUEST) as messages:
        assert "".join(messages.text_stream) == "Hello"


# --- whole streams ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dialect", "name", "body"), STREAMS, ids=[f"{dialect}: {name}" for dialect, name, _ in STREAMS])
def test_the_sdk_builds_what_the_provider_said(dialect: str, name: str, body: bytes) -> None:
    events = decode(dialect, body)
    said = told(*events)
    seen, failure = raw_events(said)
    deltas = [event["delta"] for event in seen if event["type"] == "content_block_delta"]
    assert "".join(delta["text"] for delta in deltas if delta["type"] == "text_delta") == "".join(
        event.text for event in events if isinstance(event, ev.Text)
    )
    assert "".join(delta["thinking"] for delta in deltas if delta["type"] == "thinking_delta") == "".join(
        event.text for event in events if isinstance(event, ev.Thinking)
    )
    calls = [event["content_block"]["name"] for event in seen if event.get("content_block", {}).get("type") == "tool_use"]
    assert calls == [event.name for event in events if isinstance(event, ev.ToolCallStart)]
    assert (failure is None) is isinstance(events[-1], ev.StreamEnd)
    assert frames(said)[-1]["type"] == ("message_stop" if failure is None else "error")


@given(st.data())
def test_how_events_are_grouped_changes_nothing(draw: st.DataObject) -> None:
    dialect, _, body = draw.draw(st.sampled_from(STREAMS))
    events = [FIRST, *decode(dialect, body)]
    encoding = stream()
    said, at = b"", 0
    while at < len(events):
        size = draw.draw(st.integers(1, 5))
        said += encoding.encode(events[at : at + size])
        at += size
    assert said == told(*events[1:])


@given(st.lists(st.tuples(st.sampled_from(["text", "thinking", "call"]), st.lists(st.text(min_size=1), min_size=1)), max_size=5), st.data())
def test_blocks_that_are_open_side_by_side_come_whole_and_one_after_the_other(
    blocks: list[tuple[str, list[str]]], draw: st.DataObject
) -> None:
    queues: list[list[ev.Event]] = []
    for index, (kind, parts) in enumerate(blocks):
        if kind == "text":
            queues.append(text(index, *parts))
        elif kind == "thinking":
            fragments = [ev.Thinking(index=index, text=part, kind="raw") for part in parts]
            queues.append([*fragments, ev.BlockEnd(index=index, kind="thinking")])
        else:
            id = f"call_{index}"
            queues.append([call_start(index, id), *(fragment(id, part) for part in parts), *call_end(index, id)])
    mixed: list[ev.Event] = []
    while any(queues):
        mixed.append(draw.draw(st.sampled_from([queue for queue in queues if queue])).pop(0))
    found: list[tuple[str, str]] = []
    opened: list[int] = []
    for event in frames(told(*mixed, END)):
        if event["type"] == "content_block_start":
            opened.append(event["index"])
            found.append((event["content_block"]["type"], ""))
        elif event["type"] == "content_block_delta":
            assert event["index"] == opened[-1]
            _, said = event["delta"].items()
            found[-1] = (found[-1][0], found[-1][1] + said[1])
    assert opened == list(range(len(blocks)))
    words = {"text": "text", "thinking": "thinking", "call": "tool_use"}
    assert sorted(found) == sorted((words[kind], "".join(parts)) for kind, parts in blocks)


# --- frames of a provider --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["text", "thinking and a call", "server tools", "unknown things", "refusal", "overloaded", "spliced"])
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_a_providers_own_frames_reach_the_sdk_as_they_came(name: str, size: int) -> None:
    body = ANTHROPIC[name]
    forwarded = Forwarded(*(body[at : at + size] for at in range(0, len(body), size)))
    assert forwarded.body == body
    assert raw_events(forwarded.body) == raw_events(body)


_FRAMES = [block + b"\n\n" for name, body in ANTHROPIC.items() if name != "json body" for block in body.split(b"\n\n") if block]


@given(st.lists(st.sampled_from(_FRAMES), max_size=15), st.integers(1, 200))
def test_whatever_a_provider_sends_the_sdk_sees_it_up_to_its_end(blocks: list[bytes], size: int) -> None:
    body = b"".join(blocks)
    forwarded = Forwarded(*(body[at : at + size] for at in range(0, len(body), size)))
    (direct, direct_error), (seen, error) = raw_events(body), raw_events(forwarded.body)
    assert seen == direct[: len(seen)]
    if isinstance(forwarded.events[-1], ev.StreamEnd) or any(event["type"] == "message_stop" for event in seen):
        assert error is None
    else:
        assert error is not None
        assert (len(seen), direct_error) == (len(direct), None) or direct_error is not None


def test_a_provider_that_breaks_off_is_said_to_have_done_so() -> None:
    assert last(Forwarded(ANTHROPIC["cut"]).body)["error"]["type"] == "api_error"


def test_frames_of_a_splice_go_on_and_the_verdict_comes_with_their_end() -> None:
    forwarded = Forwarded(ANTHROPIC["spliced"])
    assert isinstance(forwarded.events[-1], ev.Error)
    assert forwarded.events[-1].code == "upstream_protocol"
    broken_off = Forwarded(ANTHROPIC["spliced"].removesuffix(message("message_stop")))
    assert last(broken_off.body)["error"]["message"] == "The provider began a second answer inside this one."


@pytest.mark.parametrize(
    ("ending", "type"),
    [
        (ev.Error(code="upstream_idle", message="Silent.", retryable=True, partial=True), "timeout_error"),
        (ev.StreamEnd(finish_reason="cancelled"), "cancelled"),
    ],
)
def test_an_end_that_is_the_relays_own_is_an_error_behind_the_frames(ending: ev.Event, type: str) -> None:
    passed = message_start() + text_block(0, "Hel")
    body = Forwarded(passed, ending=ending).body
    assert body.startswith(passed)
    assert frames(body.removeprefix(passed))[0]["error"]["type"] == type


@pytest.mark.parametrize("end", [b"data: [DONE]\n\n", message("message_stop").removesuffix(b"\n")])
def test_a_good_end_without_its_last_event_is_what_the_sdk_would_see_without_us(end: bytes) -> None:
    body = message_start() + text_block(0, "a") + message("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 1})
    assert raw_events(Forwarded(body + end).body) == raw_events(body + end)


def test_a_name_that_says_nothing_is_passed_on_because_the_sdk_asks_for_one() -> None:
    body = message_start() + text_block(0, "a") + message("future_event").replace(b"event: future_event", b"event: message") + message_end()
    assert raw_events(Forwarded(body).body) == raw_events(body)


def test_a_last_event_without_a_name_is_an_end_as_well() -> None:
    body = message_start() + text_block(0, "a") + message_end().removesuffix(message("message_stop")) + data({"type": "message_stop"})
    assert Forwarded(body).body == body


def test_a_refused_key_is_not_told() -> None:
    refusal = message("error", error={"type": "authentication_error", "message": "invalid x-api-key sk-ant-12345"})
    body = Forwarded(message_start() + text_block(0, "a") + refusal).body
    assert b"sk-ant" not in body
    assert last(body)["error"] == {"type": "api_error", "message": "The provider refused this relay's credentials."}


def test_an_error_that_the_sdk_would_not_see_is_said_again() -> None:
    passed = message_start() + block_start(0, type="text", text="") + block_delta(0, type="text_delta", text="a")
    body = Forwarded(passed + data({"error": {"type": "overloaded_error", "message": "Busy"}})).body
    assert raw_events(passed)[1] is None
    assert "Busy" in (raw_events(body)[1] or "")


def test_calls_of_a_provider_are_passed_on_with_every_fragment() -> None:
    body = message_start() + tool_block(0, "toolu_1", "look", "", '{"a"', ":1}") + message_end("tool_use")
    assert Forwarded(body).body == body
