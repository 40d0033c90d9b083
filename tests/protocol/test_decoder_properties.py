"""What holds for every decoder and any bytes: cuts change nothing, the order is legal, and there is one terminal event."""

from __future__ import annotations

import json
from typing import Any

import provider_streams as streams
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.protocol import events as ev
from headrace.protocol.dialects import load

DIALECTS = ("openai_chat", "anthropic", "gemini", "openai_responses")
EVENT_TYPES = (
    "response.created",
    "response.output_item.added",
    "response.output_item.done",
    "response.content_part.done",
    "response.output_text.delta",
    "response.output_text.done",
    "response.output_text.annotation.added",
    "response.refusal.delta",
    "response.reasoning_text.delta",
    "response.reasoning_summary_text.delta",
    "response.reasoning_summary_text.done",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
)
FRAMES = {dialect: [] for dialect in DIALECTS}  # type: dict[str, list[bytes]]
for _dialect, _name, _body in streams.STREAMS:
    FRAMES[_dialect] += streams.frames(_body)


@pytest.mark.parametrize(("dialect", "name", "body"), streams.STREAMS, ids=streams.IDS)
def test_byte_by_byte_gives_the_same_events_as_the_whole(dialect: str, name: str, body: bytes) -> None:
    assert streams.decode(dialect, *(body[at : at + 1] for at in range(len(body)))) == streams.decode(dialect, body)


@given(st.data())
def test_any_cut_gives_the_same_events_as_the_whole(data: st.DataObject) -> None:
    dialect, _, body = data.draw(st.sampled_from(streams.STREAMS))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=12)))
    parts = [body[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    assert streams.decode(dialect, *parts) == streams.decode(dialect, body)


@pytest.mark.parametrize(("dialect", "name", "body"), streams.STREAMS, ids=streams.IDS)
def test_a_stream_that_is_cut_anywhere_ends_once_and_never_claims_more_than_came(dialect: str, name: str, body: bytes) -> None:
    whole = streams.decode(dialect, body)
    for at in range(len(body)):
        cut = streams.decode(dialect, body[:at])
        assert streams.text(whole).startswith(streams.text(cut).removesuffix("�"))
        if isinstance(cut[-1], ev.StreamEnd):
            # Nothing was cut but what follows the end.
            assert streams.end(cut) == streams.end(whole)
            assert streams.calls(cut) == streams.calls(whole)
        elif isinstance(whole[-1], ev.StreamEnd):
            assert streams.end(cut) == "error/upstream_truncated"
            assert cut[-1].partial is bool(streams.of(cut, ev.BlockEnd))  # type: ignore[attr-defined]


def mutated(data: st.DataObject, frames: list[bytes]) -> list[bytes]:
    """Delete, repeat and swap whole events, and damage some bytes of one."""
    frames = list(frames)
    for _ in range(data.draw(st.integers(0, 6))):
        if not frames:
            break
        at, to = (data.draw(st.integers(0, len(frames) - 1)) for _ in range(2))
        match data.draw(st.sampled_from(("delete", "repeat", "swap", "damage"))):
            case "delete":
                del frames[at]
            case "repeat":
                frames.insert(to, frames[at])
            case "swap":
                frames[at], frames[to] = frames[to], frames[at]
            case _:
                frame = bytearray(frames[at])
                for _ in range(data.draw(st.integers(1, 4))):
                    frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
                frames[at] = bytes(frame)
    return frames


@given(st.data())
def test_a_damaged_stream_still_gives_legal_events_and_one_end(data: st.DataObject) -> None:
    dialect, _, body = data.draw(st.sampled_from(streams.STREAMS))
    frames = mutated(data, streams.frames(body))
    damaged = b"".join(frames)
    assert streams.decode(dialect, damaged) == streams.decode(dialect, *frames)


@given(st.data())
def test_events_of_many_streams_in_any_order_give_legal_events_and_one_end(data: st.DataObject) -> None:
    dialect = data.draw(st.sampled_from(DIALECTS))
    frames = data.draw(st.lists(st.sampled_from(FRAMES[dialect]), max_size=25))
    streams.calls(streams.decode(dialect, *frames))


@given(st.sampled_from(DIALECTS), st.binary(max_size=200))
def test_garbage_gives_one_end(dialect: str, garbage: bytes) -> None:
    assert isinstance(streams.decode(dialect, garbage)[-1], ev.Error)


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(("\ud83d", "\ude00", "text", "tool_use")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def objects(*names: str, inner: st.SearchStrategy[Any] = JSON) -> st.SearchStrategy[Any]:
    """Objects with any of `names`, of any type: what a vendor might make of the schema."""
    return st.one_of(st.dictionaries(st.sampled_from(names), inner, max_size=4), JSON)


FUNCTIONS = objects("name", "arguments", inner=st.text(max_size=4) | JSON)
CALLS = st.lists(st.fixed_dictionaries({}, optional={"index": JSON, "id": JSON, "function": FUNCTIONS, "custom": FUNCTIONS}), max_size=3)
DELTAS = st.fixed_dictionaries(
    {},
    optional={
        "content": st.text(max_size=4) | JSON,
        "reasoning_content": JSON,
        "reasoning": JSON,
        "reasoning_details": st.lists(objects("type", "text", "data", "signature", "summary"), max_size=2),
        "tool_calls": CALLS | JSON,
        "function_call": FUNCTIONS,
        "refusal": JSON,
        "annotations": st.lists(objects("url_citation", inner=objects("url", "title")), max_size=2),
        "audio": JSON,
        "images": JSON,
    },
)
CHOICES = st.fixed_dictionaries({}, optional={"index": JSON, "delta": DELTAS | JSON, "finish_reason": JSON, "usage": JSON})
CHUNKS = st.fixed_dictionaries(
    {"choices": st.lists(CHOICES, max_size=3) | JSON},
    optional={
        "usage": objects("prompt_tokens", "completion_tokens", "prompt_tokens_details"),
        "x_groq": objects("usage"),
        "search_results": st.lists(objects("url", "title", "snippet"), max_size=2),
        "citations": JSON,
        "object": JSON,
    },
)
BLOCKS = objects("type", "text", "thinking", "signature", "data", "id", "name", "input", "citations", "content", inner=JSON)
MESSAGE_DELTAS = objects("type", "text", "thinking", "partial_json", "signature", "citation", "stop_reason", "stop_details", inner=JSON)
MESSAGES = st.fixed_dictionaries(
    {
        "type": st.sampled_from(
            (
                "message_start",
                "content_block_start",
                "content_block_delta",
                "content_block_stop",
                "message_delta",
                "message_stop",
                "ping",
                "x",
            )
        )
    },
    optional={
        "index": st.integers(0, 2) | JSON,
        "content_block": BLOCKS,
        "delta": MESSAGE_DELTAS,
        "message": objects("content", "usage", "stop_reason", inner=st.lists(BLOCKS, max_size=2) | JSON),
        "usage": objects("input_tokens", "output_tokens", "output_tokens_details"),
    },
)


PARTS = st.fixed_dictionaries(
    {},
    optional={
        "text": st.text(max_size=4) | JSON,
        "thought": st.just(True) | JSON,
        "thoughtSignature": JSON,
        "functionCall": st.fixed_dictionaries(
            {},
            optional={
                "id": JSON,
                "name": JSON,
                "args": JSON,
                "willContinue": st.booleans() | JSON,
                "partialArgs": st.lists(
                    st.fixed_dictionaries(
                        {"jsonPath": st.sampled_from(("$.a", "$.a[0]", "$.a[1].b", "$['a'].b", "$", "$[0]", "$.a[999999]")) | JSON},
                        optional=dict.fromkeys(("stringValue", "numberValue", "boolValue", "nullValue", "willContinue"), JSON),
                    ),
                    max_size=3,
                )
                | JSON,
            },
        )
        | JSON,
        "inlineData": JSON,
        "executableCode": JSON,
    },
)
CANDIDATES = st.fixed_dictionaries(
    {},
    optional={
        "index": JSON,
        "content": st.fixed_dictionaries({"parts": st.lists(PARTS, max_size=3) | JSON}) | JSON,
        "finishReason": st.sampled_from(("STOP", "SAFETY", "OTHER")) | JSON,
        "finishMessage": JSON,
        "groundingMetadata": objects("groundingChunks", inner=st.lists(objects("web", inner=objects("uri", "title")), max_size=2)),
        "citationMetadata": objects("citations", "citationSources", inner=st.lists(objects("uri", "title"), max_size=2)),
    },
)
RESPONSES = st.fixed_dictionaries(
    {"candidates": st.lists(CANDIDATES, max_size=2) | JSON},
    optional={
        "usageMetadata": objects("promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount"),
        "promptFeedback": objects("blockReason", "blockReasonMessage"),
        "responseId": JSON,
        "error": JSON,
    },
)

ITEM_TYPES = st.sampled_from(("message", "reasoning", "function_call", "custom_tool_call", "web_search_call")) | JSON
ITEM_PARTS = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from(("output_text", "refusal", "reasoning_text", "summary_text", "hologram")) | JSON},
        optional={
            "text": st.text(max_size=4) | JSON,
            "refusal": JSON,
            "annotations": st.lists(objects("type", "url", "title"), max_size=2),
        },
    ),
    max_size=3,
)
ITEMS = st.fixed_dictionaries(
    {"type": ITEM_TYPES},
    optional={
        "id": st.sampled_from(("a", "b")) | JSON,
        "call_id": st.sampled_from(("a", "b")) | JSON,
        "name": st.sampled_from(("look", "")) | JSON,
        "arguments": st.sampled_from(("{}", '{"a":')) | JSON,
        "status": st.sampled_from(("completed", "incomplete")) | JSON,
        "content": ITEM_PARTS | JSON,
        "summary": ITEM_PARTS | JSON,
        "encrypted_content": JSON,
    },
)
RESPONSE_EVENTS = st.fixed_dictionaries(
    {"type": st.sampled_from((*EVENT_TYPES, "response.completed", "response.incomplete", "response.failed", "error", "x")) | JSON},
    optional={
        "output_index": st.integers(0, 2) | JSON,
        "content_index": st.integers(0, 1) | JSON,
        "summary_index": st.integers(0, 1) | JSON,
        "item_id": st.sampled_from(("a", "b")) | JSON,
        "delta": st.text(max_size=4) | JSON,
        "text": st.text(max_size=4) | JSON,
        "arguments": st.sampled_from(("{}", '{"a":')) | JSON,
        "name": JSON,
        "refusal": JSON,
        "item": ITEMS | JSON,
        "part": ITEM_PARTS.map(lambda parts: parts[0] if parts else None) | JSON,
        "annotation": objects("type", "url", "title", "filename"),
        "response": st.fixed_dictionaries(
            {},
            optional={
                "id": st.sampled_from(("r1", "r2")),
                "status": st.sampled_from(("completed", "incomplete", "failed", "cancelled")) | JSON,
                "output": st.lists(ITEMS, max_size=2) | JSON,
                "usage": objects("input_tokens", "output_tokens", "output_tokens_details"),
                "incomplete_details": objects("reason"),
                "error": st.none() | JSON,
            },
        )
        | JSON,
    },
)


def wire(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


@given(st.lists(CHUNKS, max_size=8))
def test_chunks_with_values_of_any_type_give_legal_events_and_one_end(chunks: list[Any]) -> None:
    streams.calls(streams.decode("openai_chat", *map(wire, chunks)))


@given(st.lists(MESSAGES, max_size=10))
def test_messages_with_values_of_any_type_give_legal_events_and_one_end(messages: list[Any]) -> None:
    streams.calls(streams.decode("anthropic", *map(wire, messages)))


@given(st.lists(RESPONSES, max_size=8))
def test_responses_with_values_of_any_type_give_legal_events_and_one_end(responses: list[Any]) -> None:
    streams.calls(streams.decode("gemini", *map(wire, responses)))


@given(st.lists(RESPONSE_EVENTS, max_size=12), st.booleans())
def test_items_with_values_of_any_type_give_legal_events_and_one_end(said: list[Any], read: bool) -> None:
    decoder = load("openai_responses").new_decoder({})
    decoder.frames = [] if read else None
    events = [event for value in said for event in decoder.feed(wire(value))] + decoder.finish()
    streams.calls(streams.check(events, decoder))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_line_that_is_too_long_ends_the_stream(dialect: str) -> None:
    decoder = load(dialect).new_decoder({"line_bytes_max": 100})
    events = streams.check(decoder.feed(b"data: " + b"x" * 200), decoder)
    assert streams.end(events) == "error/upstream_protocol"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_came_before_a_line_that_is_too_long_is_kept(dialect: str) -> None:
    first = {
        "openai_chat": streams.chunk({"content": "a"}),
        "anthropic": streams.message_start() + streams.text_block(0, "a"),
        "gemini": streams.response({"text": "a"}),
        "openai_responses": streams.text_item(0, "a"),
    }
    events = streams.decode(dialect, first[dialect] + b"data: " + b"x" * 2000, quirks={"line_bytes_max": 1000})
    assert streams.text(events) == "a"
    assert streams.end(events) == "error/upstream_protocol"
    assert events[-1].partial  # type: ignore[attr-defined]
