"""What `useChat` posts, in our words."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import BadRequest
from headrace.protocol.dialects import load
from headrace.protocol.dialects.ai_sdk.surface import SURFACE
from headrace.protocol.request import ChatRequest, Message

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)
HI = {"type": "text", "text": "Hi"}
SAID_HI = Message(role="user", content="Hi")
PICTURE = {"type": "file", "mediaType": "image/png", "url": "data:image/png;base64,iVBO"}


def posted(*messages: dict[str, Any], **fields: Any) -> ChatRequest:
    return SURFACE.parse({"id": "chat", "messages": list(messages), "trigger": "submit-message", "messageId": None, **fields})


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"id": "u", "role": "user", "parts": list(parts)}


def assistant(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"id": "a", "role": "assistant", "parts": list(parts)}


def tool(state: str, **fields: Any) -> dict[str, Any]:
    return {"type": "tool-look", "toolCallId": "c1", "state": state, "input": {"q": "mills"}, **fields}


def turns(*messages: dict[str, Any]) -> list[Any]:
    """The messages behind the first, as JSON."""
    return msgspec.to_builtins(posted(user(HI), *messages).messages)[1:]  # type: ignore[no-any-return]


def refused(*messages: Any, **fields: Any) -> str | None:
    with pytest.raises(BadRequest) as caught:
        posted(*(messages or (user(HI),)), **fields)
    assert caught.value.field is not None
    assert caught.value.field in caught.value.public_message
    return caught.value.field


# --- messages ----------------------------------------------------------------------------------------------------------


def test_the_least_request() -> None:
    assert posted(user(HI)) == ChatRequest(messages=[SAID_HI])


def test_text_alone_is_a_string_because_some_vendors_take_nothing_else() -> None:
    body = load("openai_chat").build_request(posted(user(HI)), "m", {}).body
    assert msgspec.json.decode(body)["messages"] == [{"role": "user", "content": "Hi"}]


def test_a_message_that_has_content_instead_of_parts_is_text() -> None:
    assert posted({"role": "user", "content": "Hi"}).messages == [SAID_HI]


def test_a_system_message_is_its_text() -> None:
    system = {"id": "s", "role": "system", "parts": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]}
    assert posted(system, user(HI)).messages[0] == Message(role="system", content="Be brief.")


def test_images_as_data_and_by_address() -> None:
    by_address = {"type": "file", "mediaType": "image/*", "url": "https://example.org/mill.jpg"}
    content = msgspec.to_builtins(posted(user(PICTURE, by_address, HI)).messages[0])["content"]
    assert content == [
        {"type": "image", "url": None, "data": "iVBO", "media_type": "image/png"},
        {"type": "image", "url": "https://example.org/mill.jpg", "data": None, "media_type": None},
        {"type": "text", "text": "Hi"},
    ]


@pytest.mark.parametrize(
    ("part", "field"),
    [
        (PICTURE | {"mediaType": "application/pdf"}, "messages[0].parts[0].mediaType"),
        (PICTURE | {"url": "blob:https://example.org/1"}, "messages[0].parts[0].url"),
        (PICTURE | {"url": "data:image/png,%89PNG"}, "messages[0].parts[0].url"),
        (PICTURE | {"url": "data:text/html;base64,iVBO"}, "messages[0].parts[0].url"),
        (PICTURE | {"url": 1}, "messages[0].parts[0].url"),
        ({"type": "text"}, "messages[0].parts[0].text"),
        ({"type": "text", "text": 1}, "messages[0].parts[0].text"),
        ({"text": "Hi"}, "messages[0].parts[0].type"),
        ({"type": "hologram"}, "messages[0].parts[0].type"),
        ({"type": "tool-look"}, "messages[0].parts[0].type"),
        ("Hi", "messages[0].parts[0]"),
    ],
)
def test_what_a_user_cannot_say_is_refused_by_its_name(part: Any, field: str) -> None:
    assert refused(user(part)) == field


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([], "messages"),
        ("Hi", "messages"),
        (None, "messages"),
        ([1], "messages[0]"),
        ([user(HI), {"role": "user"}], "messages[1].parts"),
        ([{"role": "robot", "parts": []}], "messages[0].role"),
        ([{"parts": []}], "messages[0].role"),
        ([user()], "messages[0].parts"),
        ([user({"type": "data-page", "data": 1})], "messages[0].parts"),
        ([assistant()], "messages"),
    ],
)
def test_a_conversation_that_is_none_is_refused(messages: Any, field: str) -> None:
    with pytest.raises(BadRequest) as caught:
        SURFACE.parse({"messages": messages})
    assert caught.value.field == field


# --- what the assistant said --------------------------------------------------------------------------------------------


def test_reasoning_comes_back_with_its_signature() -> None:
    signed = {"type": "reasoning", "text": "Hm.", "state": "done", "providerMetadata": {"headrace": {"signature": "s1"}}}
    hidden = {"type": "reasoning", "text": "", "providerMetadata": {"headrace": {"redacted": "r1"}}}
    (turn,) = turns(assistant(signed, hidden, {"type": "reasoning", "text": ""}, {"type": "text", "text": "Yes."}))
    assert turn["content"] == [
        {"type": "thinking", "text": "Hm.", "signature": "s1", "redacted": None},
        {"type": "thinking", "text": "", "signature": None, "redacted": "r1"},
        {"type": "text", "text": "Yes."},
    ]


def test_reasoning_of_a_chat_that_began_with_the_sdks_own_provider_keeps_its_signature() -> None:
    signed = {"type": "reasoning", "text": "Hm.", "providerMetadata": {"anthropic": {"signature": "s1"}}}
    hidden = {"type": "reasoning", "text": "", "providerMetadata": {"anthropic": {"redactedData": "r1"}, "headrace": 7}}
    (turn,) = turns(assistant(signed, hidden))
    assert [(part["signature"], part["redacted"]) for part in turn["content"]] == [("s1", None), (None, "r1")]


@pytest.mark.parametrize(
    ("output", "text"), [("a mill", "a mill"), ({"n": [1, None]}, '{"n":[1,null]}'), (None, "null"), (float("nan"), "null"), ("", "")]
)
def test_a_call_and_its_result(output: Any, text: str) -> None:
    call, result = turns(assistant({"type": "text", "text": "Let me look."}, tool("output-available", output=output)))
    assert call == {
        "role": "assistant",
        "content": [
            {"type": "text", "text": "Let me look."},
            {"type": "tool_call", "tool_call_id": "c1", "name": "look", "arguments": {"q": "mills"}},
        ],
    }
    assert result == {"role": "tool", "content": [{"type": "tool_result", "tool_call_id": "c1", "content": text, "ok": True}]}


def test_a_dynamic_tool_is_a_tool() -> None:
    part = tool("output-available", output="a mill") | {"type": "dynamic-tool", "toolName": "look"}
    assert turns(assistant(part)) == turns(assistant(tool("output-available", output="a mill")))


def test_results_stand_behind_the_step_that_asked_for_them() -> None:
    step = {"type": "step-start"}
    calls = [tool("output-available", output=name, toolCallId=name) for name in ("c1", "c2")]
    first, results, second = turns(assistant(step, *calls, step, {"type": "text", "text": "Both are mills."}))
    assert [part["tool_call_id"] for part in first["content"]] == ["c1", "c2"]
    assert (results["role"], [part["content"] for part in results["content"]]) == ("tool", ["c1", "c2"])
    assert second == {"role": "assistant", "content": [{"type": "text", "text": "Both are mills."}]}


def test_what_the_user_said_between_two_steps_stands_between_them() -> None:
    steering = {"type": "steering-message", "id": "x", "parts": [{"type": "text", "text": "Faster."}]}
    said = turns(assistant({"type": "text", "text": "One."}, steering, {"type": "text", "text": "Two."}))
    assert [turn["role"] for turn in said] == ["assistant", "user", "assistant"]
    assert said[1]["content"] == "Faster."


@pytest.mark.parametrize(
    ("part", "why"),
    [
        (tool("output-error", errorText="No such mill."), "No such mill."),
        (tool("input-available"), "The call was not run."),
        (tool("approval-requested", approval={"id": "p"}), "The call was not run."),
        (tool("approval-responded", approval={"id": "p", "approved": True}), "The call was not run."),
        (tool("approval-responded", approval={"id": "p", "approved": False}), "The user did not allow this call."),
        (tool("approval-responded", approval={"id": "p", "approved": False, "reason": "Too dear."}), "Too dear."),
        (tool("output-denied"), "The user did not allow this call."),
    ],
)
def test_a_call_that_gave_nothing_has_an_error_for_its_result(part: dict[str, Any], why: str) -> None:
    _, result = turns(assistant(part))
    assert result["content"] == [{"type": "tool_result", "tool_call_id": "c1", "content": why, "ok": False}]


def test_a_call_that_broke_off_is_dropped() -> None:
    broken = tool("input-streaming", input={"q": "mi"}, rawInput='{"q": "mi')
    assert turns(assistant({"type": "text", "text": "Let me"}, broken)) == turns(assistant({"type": "text", "text": "Let me"}))


def test_a_call_with_broken_arguments_has_none_and_its_error() -> None:
    call, result = turns(assistant(tool("output-error", input='{"q": "mi', errorText="The arguments were cut off.")))
    assert call["content"][0]["arguments"] == {}
    assert result["content"][0] == {"type": "tool_result", "tool_call_id": "c1", "content": "The arguments were cut off.", "ok": False}


def test_a_call_without_a_name_is_dropped() -> None:
    assert turns(assistant(tool("output-error", errorText="The call has no name.") | {"type": "tool-"})) == []


def test_what_is_for_peoples_eyes_is_left_out() -> None:
    parts = [
        {"type": "step-start"},
        {"type": "source-url", "sourceId": "1", "url": "https://example.org"},
        {"type": "source-document", "sourceId": "2", "mediaType": "text/plain", "title": "T"},
        {"type": "data-gap", "data": {}},
        {"type": "custom", "kind": "vendor.thing"},
        {"type": "reasoning-file", "mediaType": "image/png", "url": "https://example.org/1.png"},
    ]
    assert turns(assistant(*parts)) == []
    assert posted(user(*parts, HI)).messages == [SAID_HI]


@pytest.mark.parametrize(
    ("part", "field"),
    [
        (PICTURE, "messages[0].parts[0]"),
        ({"type": "hologram"}, "messages[0].parts[0].type"),
        (tool("output-lost"), "messages[0].parts[0].state"),
        (tool("input-available", toolCallId=""), "messages[0].parts[0].toolCallId"),
        (tool("input-available", toolCallId=None), "messages[0].parts[0].toolCallId"),
        (tool("input-available", input=["q"]), "messages[0].parts[0].input"),
        (tool("output-error"), "messages[0].parts[0].errorText"),
        ({"type": "dynamic-tool", "state": "input-available", "toolCallId": "c1"}, "messages[0].parts[0].toolName"),
        ({"type": "reasoning"}, "messages[0].parts[0].text"),
        ({"type": "steering-message"}, "messages[0].parts[0].parts"),
        ({"type": "steering-message", "parts": [1]}, "messages[0].parts[0].parts[0]"),
    ],
)
def test_what_an_assistant_cannot_have_said_is_refused_by_its_name(part: Any, field: str) -> None:
    assert refused(assistant(part)) == field


# --- options -----------------------------------------------------------------------------------------------------------


def test_options_stand_beside_the_messages_under_their_own_names() -> None:
    options = {
        "model": "simulator/story",
        "system": "Be brief.",
        "max_tokens": 5,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "stop": ["END"],
        "tools": [{"name": "look", "parameters": {"type": "object"}}],
        "tool_choice": "look",
        "parallel_tool_calls": False,
        "thinking": {"effort": "low"},
        "metadata": {"user_id": "u1"},
    }
    shape = msgspec.to_builtins(posted(user(HI), **options))
    assert {name: shape[name] for name in options if name not in ("tools", "thinking")} == {
        name: value for name, value in options.items() if name not in ("tools", "thinking")
    }
    assert (shape["tools"][0]["name"], shape["thinking"]["effort"]) == ("look", "low")


def test_options_under_the_names_that_the_ai_sdk_has_for_them() -> None:
    choice = {"type": "tool", "toolName": "look"}
    ours = {"max_tokens": 5, "top_p": 0.9, "top_k": 40, "stop": ["END"], "tool_choice": "look", "parallel_tool_calls": False}
    assert posted(
        user(HI), maxOutputTokens=5, topP=0.9, topK=40, stopSequences=["END"], toolChoice=choice, parallelToolCalls=False
    ) == posted(user(HI), **ours)
    assert posted(user(HI), maxTokens=5, toolChoice="auto") == posted(user(HI), max_tokens=5, tool_choice="auto")


def test_what_is_the_applications_own_is_left_alone() -> None:
    assert posted(user(HI), sessionId="x", webSearch=True, model=None) == posted(user(HI))


@pytest.mark.parametrize("trigger", ["submit-message", "regenerate-message"])
def test_the_trigger_changes_nothing(trigger: str) -> None:
    assert posted(user(HI), trigger=trigger, messageId="a") == posted(user(HI))


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"maxOutputTokens": "5"}, "maxOutputTokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 10**400}, "temperature"),
        ({"toolChoice": {"type": "tool"}}, "toolChoice"),
        ({"tools": [{"name": ""}]}, "tools[0].name"),
        ({"tools": [{"name": "look", "inputSchema": {}}]}, "tools[0]"),
        ({"thinking": {"effort": "some"}}, "thinking.effort"),
        ({"metadata": 1}, "metadata"),
    ],
)
def test_a_wrong_option_is_refused_by_the_name_that_the_caller_gave_it(options: dict[str, Any], field: str) -> None:
    assert refused(**options) == field


def test_what_is_nested_without_end_is_refused() -> None:
    deep: Any = {}
    for _ in range(5000):
        deep = {"x": deep}
    assert refused(assistant(tool("input-available", input=deep))) == "messages[0].parts[0].input"
    assert refused(assistant(tool("output-available", output=deep))) == "messages[0].parts[0].output"
    assert refused(metadata=deep) == "metadata"


def test_a_refusal_repeats_only_the_beginning_of_what_it_was_given() -> None:
    with pytest.raises(BadRequest) as caught:
        posted(user({"type": "x" * 10_000}))
    assert len(caught.value.public_message) < 300


# --- any body ----------------------------------------------------------------------------------------------------------

_TYPES = ("text", "file", "reasoning", "tool-look", "dynamic-tool", "step-start", "steering-message", "data-x", "source-url", "")
_STATES = ("input-streaming", "input-available", "output-available", "output-error", "output-denied", "approval-responded")
_NAMES = ("text", "state", "toolCallId", "toolName", "input", "output", "errorText", "mediaType", "url", "providerMetadata", "parts")
_OPTIONS = ("model", "max_tokens", "tools", "toolChoice", "thinking", "metadata", "stop", "temperature")
_PARTS = JSON | st.builds(
    lambda kind, state, fields: {"type": kind, **fields, **({"state": state} if state else {})},
    st.sampled_from(_TYPES),
    st.none() | st.sampled_from(_STATES),
    st.dictionaries(st.sampled_from(_NAMES), JSON | st.just("image/png") | st.just("https://example.org"), max_size=6),
)
_MESSAGES = JSON | st.builds(
    lambda role, parts: {"role": role, "parts": parts}, st.sampled_from(("user", "assistant", "system")), st.lists(_PARTS, max_size=4)
)


@given(st.lists(_MESSAGES, max_size=4) | JSON, st.dictionaries(st.sampled_from(_OPTIONS), JSON, max_size=3))
def test_any_body_is_a_request_or_refused_by_the_name_of_what_is_wrong(messages: Any, options: dict[str, Any]) -> None:
    field: str | None = "none"
    said = [Message(role="user", content="Hi")]
    try:
        said = SURFACE.parse({"messages": messages, **options}).messages
    except BadRequest as refusal:
        field = refusal.field
    assert field
    assert said
    assert all(message.parts() for message in said)
