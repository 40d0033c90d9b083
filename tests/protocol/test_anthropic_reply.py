"""A whole answer as one message: the same that the official SDK builds from the stream."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from anthropic._models import construct_type
from anthropic.types.beta import BetaMessage
from anthropic_client import FIRST, REQUEST, SURFACE, Forwarded, client, final_message, plain, told, whole_reply
from hypothesis import given
from hypothesis import strategies as st
from provider_streams import (
    ANTHROPIC,
    STREAMS,
    block_delta,
    block_start,
    block_stop,
    decode,
    message,
    message_end,
    message_start,
    text_block,
)

from headrace.protocol import events as ev
from headrace.protocol.dialects.anthropic.reply import whole_members
from headrace.protocol.sse import SSEEvent
from headrace.protocol.surface import SurfaceRequest

WHOLE = [(dialect, name, body) for dialect, name, body in STREAMS if isinstance(decode(dialect, body)[-1], ev.StreamEnd)]
# Here the SDK's types know less than the stream says.
UNKNOWN_TO_SDK = ("unknown things", "server tools")


def merged(*chunks: bytes) -> dict[str, Any]:
    reply: dict[str, Any] = json.loads(Forwarded(*chunks).reply.body())
    return reply


def built_by_sdk(body: bytes) -> dict[str, Any]:
    """Return the message of the SDK's beta helper, which knows most."""
    with client(body).beta.messages.stream(**REQUEST) as messages:
        return messages.get_final_message().model_dump(mode="json", warnings=False, exclude_none=True)


def as_sdk(message: dict[str, Any]) -> dict[str, Any]:
    built: Any = construct_type(type_=BetaMessage, value=message)
    found: dict[str, Any] = built.model_dump(mode="json", warnings=False, exclude_none=True)
    return found


# --- from events -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dialect", "name", "body"), WHOLE, ids=[f"{dialect}: {name}" for dialect, name, _ in WHOLE])
def test_the_reply_is_what_the_sdk_builds_from_the_stream(dialect: str, name: str, body: bytes) -> None:
    events = decode(dialect, body)
    assert plain(whole_reply(events)) == plain(final_message(told(*events)))


def test_an_empty_answer_is_a_whole_message() -> None:
    reply = whole_reply([ev.StreamEnd(finish_reason="stop")])
    assert (reply.id, reply.model, reply.content, reply.stop_reason) == ("msg_0123456789abcdef0123456789abcdef", "claude-x", [], "end_turn")


def call(raw: str, finish_reason: ev.FinishReason) -> object:
    events = [
        ev.ToolCallStart(index=0, tool_call_id="a", name="look"),
        ev.ToolCallDelta(tool_call_id="a", arguments_delta=raw),
        ev.ToolCallComplete(tool_call_id="a", name="look", arguments=None, arguments_raw=raw, valid=False, error="cut"),
        ev.BlockEnd(index=0, kind="tool_call"),
        ev.StreamEnd(finish_reason=finish_reason),
    ]
    return whole_reply(events).content[0].input  # type: ignore[union-attr]


def test_arguments_that_were_cut_off_keep_their_whole_members() -> None:
    assert call('{"path": "a.txt", "lines": ["one", "tw', "length") == {"path": "a.txt", "lines": ["one"]}


def test_arguments_that_are_no_json_are_told_as_they_are() -> None:
    assert call("{'path': 1}", "tool_calls") == {"INVALID_JSON": "{'path': 1}"}
    assert call("[1]", "tool_calls") == {"INVALID_JSON": "[1]"}


@pytest.mark.parametrize(
    ("raw", "whole"),
    [
        ("", {}),
        ("{", {}),
        ('{"a', {}),
        ('{"a"', {}),
        ('{"a":', {}),
        ('{"a": "x', {}),
        ('{"a": "x"', {"a": "x"}),
        ('{"a": "x\\', {}),
        ('{"a": "{\\"[", "b', {"a": '{"['}),
        ('{"a": 1', {}),
        ('{"a": 1, "b": tr', {"a": 1}),
        ('{"a": {"b": [1, {"c": 2}', {"a": {"b": [1, {"c": 2}]}}),
        ('{"a": {"b": [1, 2', {"a": {"b": [1]}}),
        ('{"a": 1}', {"a": 1}),
        ("[1, 2", {}),
        ("}]:,", {}),
        ("nonsense", {}),
    ],
)
def test_whole_members(raw: str, whole: object) -> None:
    assert whole_members(raw) == whole


@given(st.text(alphabet='{}[]":,\\ ab1'))
def test_whole_members_of_anything_are_an_object(raw: str) -> None:
    assert isinstance(whole_members(raw), dict)


@given(
    st.dictionaries(st.text(), st.recursive(st.none() | st.text() | st.integers(), lambda inner: st.lists(inner)), max_size=4), st.data()
)
def test_whole_members_are_a_beginning(arguments: dict[str, Any], data: st.DataObject) -> None:
    raw = json.dumps(arguments)
    found = whole_members(raw[: data.draw(st.integers(0, len(raw)))])
    assert list(found) == list(arguments)[: len(found)]
    assert whole_members(raw) == arguments


def test_arguments_that_are_nested_without_end_cost_one_pass() -> None:
    assert whole_members('{"a":' + "[" * 100_000) == {}


# --- from a provider's own frames ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for dialect, name, _ in WHOLE if dialect == "anthropic" and name not in UNKNOWN_TO_SDK])
def test_frames_are_merged_as_the_sdk_does_it(name: str) -> None:
    body = ANTHROPIC[name].replace(b'"role": "assistant"', b'"type": "message", "role": "assistant", "model": "claude-x"')
    assert as_sdk(merged(*(body[at : at + 9] for at in range(0, len(body), 9)))) == built_by_sdk(body)


def test_tools_of_the_provider_and_what_they_found_are_blocks() -> None:
    use, result, said = merged(ANTHROPIC["server tools"])["content"]
    assert use == {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}}
    assert result["content"] == [{"type": "web_search_result", "url": "https://a.example/", "title": "A"}]
    assert (said["text"], len(said["citations"])) == ("Found.", 1)


def test_what_is_not_known_survives() -> None:
    found = merged(
        message_start(type="message", model="claude-x", weather="fine", usage={"input_tokens": 3, "output_tokens": 1, "tier": "gold"}),
        block_start(0, type="hologram", size=3, layers=[1]),
        block_delta(0, type="hologram_delta", size=4, layers=[2], note="a"),
        block_delta(0, type="hologram_delta", note="b"),
        block_stop(0),
        text_block(1, "Hi"),
        message(
            "message_delta",
            delta={"stop_reason": "end_turn", "stop_sequence": None, "container": None, "mood": "good"},
            usage={"output_tokens": 9, "input_tokens": None, "iterations": [1]},
            context_management={"applied_edits": []},
        ),
        message("message_stop"),
    )
    assert found == {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-x",
        "content": [{"type": "hologram", "size": 4, "layers": [1, 2], "note": "ab"}, {"type": "text", "text": "Hi"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "mood": "good",
        "weather": "fine",
        "usage": {"input_tokens": 3, "output_tokens": 9, "tier": "gold", "iterations": [1]},
        "context_management": {"applied_edits": []},
    }


def test_compaction_citations_and_fallbacks() -> None:
    body = (
        message_start(type="message", model="first")
        + block_start(0, type="fallback", **{"from": {"model": "first"}, "to": {"model": "second"}})
        + block_stop(0)
        + block_start(1, type="compaction", content=None)
        + block_delta(1, type="compaction_delta", content="What was said.", encrypted_content="b64")
        + block_stop(1)
        + block_start(2, type="text", text="")
        + block_delta(2, type="citations_delta", citation={"type": "char_location", "cited_text": "t", "document_index": 0})
        + block_delta(2, type="text_delta", text="Yes")
        + block_stop(2)
        + message_end()
    )
    found = merged(body)
    assert found["model"] == "second"
    assert found["content"][1] == {"type": "compaction", "content": "What was said.", "encrypted_content": "b64"}
    assert found["content"][2]["citations"] == [{"type": "char_location", "cited_text": "t", "document_index": 0}]
    assert as_sdk(found) == built_by_sdk(body)


def test_a_message_that_starts_with_content_goes_on_behind_it() -> None:
    body = message_start(content=[{"type": "text", "text": "Be"}]) + block_delta(0, type="text_delta", text="fore") + text_block(1, "After")
    assert [block["text"] for block in merged(body + message_end())["content"]] == ["Before", "After"]


def test_characters_that_were_cut_between_two_deltas_are_whole() -> None:
    halves = b"".join(
        b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"%b"}}\n\n' % half
        for half in (b"a\\ud83d", b"\\ude00b", b"\\ud83d")
    )
    body = message_start() + block_start(0, type="text", text="") + halves + block_stop(0) + message_end()
    assert merged(body)["content"][0]["text"] == "a😀b�"


def test_a_stream_whose_start_never_came_is_still_a_message() -> None:
    found = merged(text_block(0, "Hi") + message_end())
    assert (found["type"], found["content"], found["stop_reason"]) == ("message", [{"type": "text", "text": "Hi"}], "end_turn")


@given(
    st.lists(st.sampled_from([frame for body in ANTHROPIC.values() for frame in body.split(b"\n\n") if b"data: " in frame]), max_size=12)
)
def test_frames_in_any_order_give_json(blocks: list[bytes]) -> None:
    assert SURFACE.new_reply is not None
    reply = SURFACE.new_reply(SurfaceRequest(SURFACE, {}))
    reply.encode([FIRST])
    reply.forward([SSEEvent(block.partition(b"data: ")[2]) for block in blocks])
    assert msgspec.json.decode(reply.body())["type"] == "message"


_ANY = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=3), lambda inner: st.lists(inner, max_size=2))


@given(st.lists(st.tuples(st.sampled_from(["message_start", "content_block_start", "content_block_delta", "message_delta"]), _ANY, _ANY)))
def test_frames_of_any_structure_give_json(odd: list[tuple[str, object, object]]) -> None:
    assert SURFACE.new_reply is not None
    reply = SURFACE.new_reply(SurfaceRequest(SURFACE, {}))
    for kind, index, value in odd:
        shape = {"type": kind, "index": index, "message": {"content": value}, "content_block": {"text": value}, "usage": value}
        for delta in (value, {"type": value, "text": value}, {"type": "text_delta", "text": value}, {"type": "citations_delta"}):
            reply.forward([SSEEvent(json.dumps({**shape, "delta": delta}).encode()), SSEEvent(b"no json")])
    assert isinstance(msgspec.json.decode(reply.body()), dict)
