"""What an AG-UI client posts, in our words."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import BadRequest
from headrace.protocol.dialects.ag_ui.surface import SURFACE
from headrace.protocol.request import ChatRequest, Message, Tool

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)
HI = {"id": "u1", "role": "user", "content": "Hi"}
SAID_HI = Message(role="user", content="Hi")


def posted(*messages: dict[str, Any], **fields: Any) -> ChatRequest:
    body = {"threadId": "t1", "runId": "r1", "state": {}, "messages": list(messages), "tools": [], "context": [], "forwardedProps": {}}
    return SURFACE.parse(body | fields)


def turns(*messages: dict[str, Any]) -> list[Any]:
    """The messages behind the first, as JSON."""
    return msgspec.to_builtins(posted(HI, *messages).messages)[1:]  # type: ignore[no-any-return]


def asked(*ids: str, content: str | None = None, arguments: str = '{"q":"mills"}') -> dict[str, Any]:
    calls = [{"id": id, "type": "function", "function": {"name": "look", "arguments": arguments}} for id in ids]
    return {"id": "a1", "role": "assistant", "toolCalls": calls, **({} if content is None else {"content": content})}


def answered(id: str, content: Any = "a mill", **fields: Any) -> dict[str, Any]:
    return {"id": f"r-{id}", "role": "tool", "toolCallId": id, "content": content, **fields}


def refused(*messages: Any, **fields: Any) -> str | None:
    with pytest.raises(BadRequest) as caught:
        posted(*(messages or (HI,)), **fields)
    assert caught.value.field is not None
    assert caught.value.field in caught.value.public_message
    return caught.value.field


# --- messages ----------------------------------------------------------------------------------------------------------


def test_the_least_request() -> None:
    assert SURFACE.parse({"threadId": "t1", "runId": "r1", "messages": [HI]}) == ChatRequest(messages=[SAID_HI])


def test_what_a_client_sends_where_it_has_nothing_to_say() -> None:
    assert posted(HI, tools=None, context=None, forwardedProps=None, resume=[]) == ChatRequest(messages=[SAID_HI])


def test_instructions() -> None:
    said = posted(
        {"id": "s", "role": "system", "content": "Be brief."}, {"id": "d", "role": "developer", "content": "And kind."}, HI
    ).messages
    assert [(turn.role, turn.content) for turn in said] == [("system", "Be brief."), ("system", "And kind."), ("user", "Hi")]


def test_images_as_data_and_by_address() -> None:
    content = [
        {"type": "text", "text": "What is it?"},
        {"type": "image", "source": {"type": "data", "value": "iVBO", "mimeType": "image/png"}},
        {"type": "image", "source": {"type": "url", "value": "https://example.org/mill.jpg"}},
        {"type": "binary", "mimeType": "image/png", "data": "iVBO"},
        {"type": "binary", "mimeType": "image/jpeg", "url": "https://example.org/mill.jpg"},
    ]
    inline = {"type": "image", "url": None, "data": "iVBO", "media_type": "image/png"}
    address = {"type": "image", "url": "https://example.org/mill.jpg", "data": None, "media_type": None}
    said = msgspec.to_builtins(posted({"id": "u", "role": "user", "content": content}).messages[0])["content"]
    assert said == [content[0], inline, address, inline, address]


def test_one_part_of_text_is_a_string() -> None:
    assert posted({"id": "u", "role": "user", "content": [{"type": "text", "text": "Hi"}]}).messages == [SAID_HI]


def test_reasoning_and_what_follows_it_are_one_turn() -> None:
    (turn,) = turns(
        {"id": "1", "role": "reasoning", "content": "Hm.", "encryptedValue": "signature:s1"},
        {"id": "2", "role": "reasoning", "content": "", "encryptedValue": "redacted:r1"},
        {"id": "3", "role": "reasoning", "content": "Hm?", "encryptedValue": "s2"},
        {"id": "4", "role": "reasoning", "content": ""},
        {"id": "5", "role": "assistant", "content": "Yes."},
    )
    assert turn["role"] == "assistant"
    assert turn["content"] == [
        {"type": "thinking", "text": "Hm.", "signature": "s1", "redacted": None},
        {"type": "thinking", "text": "", "signature": None, "redacted": "r1"},
        {"type": "thinking", "text": "Hm?", "signature": "s2", "redacted": None},
        {"type": "text", "text": "Yes."},
    ]


def test_calls_and_their_results() -> None:
    call, results, text = turns(
        asked("c1", "c2", content="Let me look."), answered("c2", "b"), answered("c1", "a"), {**asked(), "content": "Two."}
    )
    assert [part["type"] for part in call["content"]] == ["text", "tool_call", "tool_call"]
    assert call["content"][1] == {"type": "tool_call", "tool_call_id": "c1", "name": "look", "arguments": {"q": "mills"}}
    assert [(part["tool_call_id"], part["content"], part["ok"]) for part in results["content"]] == [("c1", "a", True), ("c2", "b", True)]
    assert text["content"] == [{"type": "text", "text": "Two."}]


def test_a_result_stands_behind_its_call_wherever_it_came() -> None:
    said = turns(asked("c1"), {"id": "a2", "role": "assistant", "content": "It runs."}, HI, answered("c1"), {**HI, "content": "And?"})
    assert [turn["role"] for turn in said] == ["assistant", "tool", "user", "user"]
    assert said[1]["content"][0]["content"] == "a mill"


def test_an_id_that_is_used_again_has_a_result_each_time() -> None:
    said = turns(asked("c1"), answered("c1", "first"), asked("c1"), answered("c1", "second"))
    assert [turn["content"][0].get("content") for turn in said] == [None, "first", None, "second"]


@pytest.mark.parametrize(
    ("result", "content", "ok"),
    [
        ([], "The call was not run.", False),
        ([answered("c1", "", error="No such mill.")], "No such mill.", False),
        ([answered("c1", "Nothing.", error="No such mill.")], "Nothing.", False),
        ([answered("c1", "No mill.", metadata={"headrace": {"ok": False}})], "No mill.", False),
        ([answered("c1", "")], "", True),
        ([answered("c1", [{"type": "text", "text": "a"}])], "a", True),
        ([answered("c1", [])], "", True),
    ],
)
def test_how_a_call_ended(result: list[dict[str, Any]], content: str, ok: bool) -> None:
    _, results = turns(asked("c1"), *result)
    assert results["content"] == [{"type": "tool_result", "tool_call_id": "c1", "content": content, "ok": ok}]


@pytest.mark.parametrize("arguments", ["", '{"q": "mi', "[1]", "null"])
def test_arguments_that_are_no_object_are_none(arguments: str) -> None:
    call, _ = turns(asked("c1", arguments=arguments))
    assert call["content"][0]["arguments"] == {}


def test_what_is_for_peoples_eyes_is_left_out() -> None:
    assert turns({"id": "1", "role": "activity", "activityType": "plan", "content": {}}, {"id": "2", "role": "assistant"}) == []


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ("Hi", "messages[0]"),
        ({"role": "robot"}, "messages[0].role"),
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": ""}, "messages[0].content"),
        ({"role": "user", "content": []}, "messages[0].content"),
        ({"role": "user", "content": [{"type": "audio"}]}, "messages[0].content[0].type"),
        ({"role": "user", "content": [{"type": "image"}]}, "messages[0].content[0].source"),
        ({"role": "user", "content": [{"type": "image", "source": {"type": "file", "value": "f"}}]}, "messages[0].content[0].source.type"),
        (
            {"role": "user", "content": [{"type": "image", "source": {"type": "url", "value": "file:///etc/passwd"}}]},
            "messages[0].content[0].source.value",
        ),
        ({"role": "user", "content": [{"type": "binary", "mimeType": "audio/wav", "data": ""}]}, "messages[0].content[0].mimeType"),
        ({"role": "system"}, "messages[0].content"),
        ({"role": "reasoning"}, "messages[0].content"),
        ({"role": "assistant", "content": 1}, "messages[0].content"),
        ({"role": "assistant", "toolCalls": [{"id": "c"}]}, "messages[0].toolCalls[0].function"),
        ({"role": "assistant", "toolCalls": [{"function": {"name": "f", "arguments": {}}}]}, "messages[0].toolCalls[0].function.arguments"),
        ({"role": "assistant", "toolCalls": [{"function": {"name": "f", "arguments": "{}"}}]}, "messages[0].toolCalls[0].id"),
        (answered("c1"), "messages[0].toolCallId"),
        ({"role": "tool", "content": "x"}, "messages[0].toolCallId"),
    ],
)
def test_a_wrong_message_is_refused_by_the_name_of_what_is_wrong(message: Any, field: str) -> None:
    assert refused(message) == field


# --- the rest ----------------------------------------------------------------------------------------------------------


def test_tools() -> None:
    schema = {"type": "object", "properties": {"q": {"type": "string"}}}
    given = [{"name": "look", "description": "Look it up.", "parameters": schema}, {"name": "stop", "description": ""}]
    assert posted(HI, tools=given).tools == [Tool(name="look", description="Look it up.", parameters=schema), Tool(name="stop")]


def test_context_goes_behind_the_system_prompt() -> None:
    context = [{"description": "The page", "value": "Mills"}, {"description": "The user", "value": "Ada"}]
    assert posted(HI, context=context).system == "The page:\nMills\n\nThe user:\nAda"
    assert posted(HI, context=context, forwardedProps={"system": "Be brief."}).system == "Be brief.\n\nThe page:\nMills\n\nThe user:\nAda"


def test_options_are_forwarded_props() -> None:
    request = posted(HI, forwardedProps={"model": "simulator/story", "maxOutputTokens": 5, "thinking": True, "somethingElse": 1})
    assert (request.model, request.max_tokens, request.thinking) == ("simulator/story", 5, True)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"threadId": None}, "threadId"),
        ({"runId": 1}, "runId"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"forwardedProps": 1}, "forwardedProps"),
        ({"forwardedProps": {"maxTokens": "5"}}, "forwardedProps.maxTokens"),
        ({"forwardedProps": {"thinking": {"effort": "some"}}}, "forwardedProps.thinking.effort"),
        ({"tools": {}}, "tools"),
        ({"tools": [{"name": ""}]}, "tools[0].name"),
        ({"tools": [{"name": "f", "description": 1}]}, "tools[0].description"),
        ({"tools": [{"name": "f", "parameters": 1}]}, "tools[0].parameters"),
        ({"context": [1]}, "context[0]"),
        ({"context": [{"description": "x"}]}, "context[0].value"),
        ({"resume": [{"interruptId": "i", "status": "resolved"}]}, "resume"),
    ],
)
def test_a_wrong_member_is_refused_by_its_name(fields: dict[str, Any], field: str) -> None:
    assert refused(HI, **fields) == field


def test_what_is_nested_without_end_is_refused() -> None:
    deep: Any = {}
    for _ in range(5000):
        deep = {"x": deep}
    assert refused(tools=[{"name": "f", "parameters": deep}]) == "tools[0].parameters"
    assert turns(asked("c1", arguments='{"x":' * 5000))[0]["content"][0]["arguments"] == {}
    assert refused(HI, asked("c1", arguments='{"x":' * 200 + "1" + "}" * 200)) == "messages[1].toolCalls[0].function.arguments"


# --- any body ----------------------------------------------------------------------------------------------------------

_ROLES = ("user", "assistant", "system", "developer", "tool", "reasoning", "activity")
_NAMES = ("content", "toolCalls", "toolCallId", "encryptedValue", "metadata", "error")
_MESSAGES = JSON | st.builds(
    lambda role, fields: {"role": role, **fields},
    st.sampled_from(_ROLES),
    st.dictionaries(st.sampled_from(_NAMES), JSON | st.just(asked("c1")["toolCalls"]) | st.just("c1"), max_size=4),
)


@given(st.lists(_MESSAGES, max_size=5) | JSON, st.dictionaries(st.sampled_from(("tools", "context", "forwardedProps", "resume")), JSON))
def test_any_body_is_a_request_or_refused_by_the_name_of_what_is_wrong(messages: Any, fields: dict[str, Any]) -> None:
    field: str | None = "none"
    said = [SAID_HI]
    try:
        said = SURFACE.parse({"threadId": "t", "runId": "r", "messages": messages, **fields}).messages
    except BadRequest as refusal:
        field = refusal.field
    assert field
    assert said
    assert all(message.parts() for message in said)
