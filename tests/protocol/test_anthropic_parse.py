"""A Messages body as our request."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import BadRequest
from headrace.protocol.dialects import load
from headrace.protocol.dialects.anthropic.parse import parse
from headrace.protocol.request import (
    AnswerFormat,
    ChatRequest,
    ImagePart,
    Message,
    TextPart,
    ThinkingOptions,
    ThinkingPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
)

USER = {"role": "user", "content": "Hi"}
SCHEMA = {"type": "object", "properties": {"q": {"type": "string"}}}


def request(**fields: Any) -> ChatRequest:
    parsed = parse({"model": "gpt-x", "max_tokens": 5, "messages": [USER], **fields})
    # What was parsed is what our own surface would have taken.
    assert msgspec.convert(msgspec.to_builtins(parsed), ChatRequest) == parsed
    return parsed


def refused(**fields: Any) -> str | None:
    with pytest.raises(BadRequest) as caught:
        request(**fields)
    assert caught.value.public_message
    return caught.value.field


def turn(role: str, *blocks: dict[str, Any]) -> Message:
    return request(messages=[{"role": role, "content": list(blocks)}]).messages[0]


# --- the conversation ------------------------------------------------------------------------------------------------


def test_the_least_request() -> None:
    assert request() == ChatRequest(model="gpt-x", max_tokens=5, messages=[Message(role="user", content="Hi")])


def test_system_prompts_as_a_string_as_blocks_and_between_messages() -> None:
    assert request(system="Be kind.").system == "Be kind."
    blocks = [{"type": "text", "text": "A", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "B"}]
    assert request(system=blocks).system == "A\n\nB"
    assert request(system="").system is None
    late = request(messages=[USER, {"role": "system", "content": blocks}, USER]).messages[1]
    assert late == Message(role="system", content="A\n\nB")


def test_text_and_images() -> None:
    assert turn(
        "user",
        {"type": "text", "text": "What is this?", "cache_control": {"type": "ephemeral"}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}},
        {"type": "image", "source": {"type": "url", "url": "https://a.example/x.png"}},
    ).content == [
        TextPart("What is this?"),
        ImagePart(data="aGk=", media_type="image/png"),
        ImagePart(url="https://a.example/x.png"),
    ]


def test_documents_and_search_results_that_are_text_become_text() -> None:
    blocks = [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}]
    assert turn(
        "user",
        {"type": "document", "title": "Plan", "context": "A draft.", "source": {"type": "text", "media_type": "text/plain", "data": "x"}},
        {"type": "document", "source": {"type": "content", "content": blocks}},
        {"type": "search_result", "title": "A", "source": "https://a.example/", "content": blocks},
    ).content == [TextPart("Plan\n\nA draft.\n\nx"), TextPart("One.\n\nTwo."), TextPart("A\n\nhttps://a.example/\n\nOne.\n\nTwo.")]


def test_thinking_and_calls_of_earlier_turns() -> None:
    assert turn(
        "assistant",
        {"type": "thinking", "thinking": "hm", "signature": "headrace:c2ln"},
        {"type": "thinking", "thinking": "unsigned", "signature": "headrace:"},
        {"type": "redacted_thinking", "data": "headrace:b64"},
        {"type": "text", "text": "Let me look.", "citations": None},
        {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"q": 1}, "caller": {"type": "direct"}},
    ).content == [
        ThinkingPart(text="hm", signature="c2ln"),
        ThinkingPart(text="unsigned"),
        ThinkingPart(redacted="b64"),
        TextPart("Let me look."),
        ToolCallPart(tool_call_id="toolu_1", name="look", arguments={"q": 1}),
    ]


def test_what_only_anthropic_can_read_is_not_for_others() -> None:
    sealed = [
        {"type": "redacted_thinking", "data": "b64"},
        {"type": "thinking", "thinking": "", "signature": "c2ln"},
    ]
    thought = {"type": "thinking", "thinking": "hm", "signature": "c2ln"}
    turns = [USER, {"role": "assistant", "content": sealed}, {"role": "assistant", "content": [*sealed, thought]}]
    assert request(messages=turns).messages == [
        Message(role="user", content="Hi"),
        Message(role="assistant", content=[ThinkingPart(text="hm")]),
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"content": "42"}, "42"),
        ({}, ""),
        ({"content": []}, ""),
        ({"content": [{"type": "text", "text": "42"}]}, "42"),
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, [TextPart("a"), TextPart("b")]),
        ({"content": [{"type": "image", "source": {"type": "url", "url": "u"}}]}, [ImagePart(url="u")]),
    ],
)
def test_results_of_tools(content: dict[str, Any], told: object) -> None:
    part = turn("user", {"type": "tool_result", "tool_use_id": "toolu_1", **content}).content[0]
    assert part == ToolResultPart(tool_call_id="toolu_1", content=told)  # type: ignore[arg-type]


def test_a_result_that_is_an_error_is_not_ok() -> None:
    part = turn("user", {"type": "tool_result", "tool_use_id": "a", "content": "no", "is_error": True}).content[0]
    assert part == ToolResultPart(tool_call_id="a", content="no", ok=False)


# --- options ---------------------------------------------------------------------------------------------------------


def test_options() -> None:
    parsed = request(temperature=0.5, top_p=1, top_k=40, stop_sequences=["END"], metadata={"user_id": "u1", "x": 1})
    assert (parsed.temperature, parsed.top_p, parsed.top_k, parsed.stop) == (0.5, 1, 40, ["END"])
    assert parsed.metadata == {"user_id": "u1"}


def test_tools() -> None:
    tools = [
        {"name": "look", "description": "Look it up.", "input_schema": SCHEMA, "cache_control": {"type": "ephemeral"}},
        {"type": "custom", "name": "stop", "input_schema": {"type": "object"}, "strict": True},
    ]
    assert request(tools=tools).tools == [
        Tool(name="look", description="Look it up.", parameters=SCHEMA),
        Tool(name="stop", parameters={"type": "object"}),
    ]
    assert request(tools=[]).tools is None


@pytest.mark.parametrize(
    ("choice", "told", "parallel"),
    [
        ({"type": "auto"}, "auto", None),
        ({"type": "any"}, "required", None),
        ({"type": "none"}, "none", None),
        ({"type": "tool", "name": "look"}, "look", None),
        ({"type": "auto", "disable_parallel_tool_use": True}, "auto", False),
        ({"type": "any", "disable_parallel_tool_use": False}, "required", True),
    ],
)
def test_tool_choice(choice: dict[str, Any], told: str, parallel: bool | None) -> None:
    parsed = request(tools=[{"name": "look", "input_schema": SCHEMA}], tool_choice=choice)
    assert (parsed.tool_choice, parsed.parallel_tool_calls) == (told, parallel)


@pytest.mark.parametrize(
    ("fields", "thinking"),
    [
        ({}, None),
        ({"thinking": {"type": "disabled"}}, False),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, ThinkingOptions(budget_tokens=2000)),
        ({"thinking": {"type": "adaptive", "display": "omitted"}}, True),
        ({"thinking": {"type": "between_tools"}}, True),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "xhigh"}}, ThinkingOptions(effort="xhigh")),
        ({"output_config": {"effort": "max"}}, ThinkingOptions(effort="max")),
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "low"}}, False),
        ({"output_config": {"effort": None}}, None),
    ],
)
def test_thinking(fields: dict[str, Any], thinking: object) -> None:
    assert request(**fields).thinking == thinking


def test_the_form_of_the_answer() -> None:
    form = {"type": "json_schema", "schema": SCHEMA}
    told = AnswerFormat(type="json_schema", json_schema=SCHEMA)
    assert request(output_config={"format": form}).answer_format == told
    assert request(output_format=form).answer_format == told
    assert request(output_config={"format": None}, output_format=None).answer_format is None


def test_what_changes_nothing_about_the_answer_is_left_out() -> None:
    assert (
        request(
            stream=True,
            service_tier="auto",
            inference_geo="eu",
            speed="fast",
            cache_control={"type": "ephemeral"},
            context_management={"edits": [{"type": "clear_tool_uses_20250919"}]},
            diagnostics={"previous_message_id": "msg_1"},
            container=None,
            mcp_servers=[],
        )
        == request()
    )


# --- what is refused -------------------------------------------------------------------------------------------------


def block(role: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": [fields]}]}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"temprature": 1}, "temprature"),
        ({"container": "c_1"}, "container"),
        ({"mcp_servers": [{"url": "https://a.example/"}]}, "mcp_servers"),
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": ["Hi"]}, "messages[0]"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [USER, {"role": "user"}]}, "messages[1].content"),
        ({"messages": [{"role": "system", "content": [{"type": "image"}]}]}, "messages[0].content[0].type"),
        (block("user", text="x"), "messages[0].content[0].type"),
        (block("user", type="text"), "messages[0].content[0].text"),
        (block("user", type="thinking", thinking="x"), "messages[0].content[0].type"),
        (block("user", type="container_upload", file_id="f"), "messages[0].content[0].type"),
        (block("user", type="image", source={"type": "file", "file_id": "f"}), "messages[0].content[0].source.type"),
        (block("user", type="image", source={"type": "base64", "data": "aGk="}), "messages[0].content[0].source.media_type"),
        (block("user", type="document", source={"type": "base64", "data": "aGk="}), "messages[0].content[0].source.type"),
        (block("user", type="tool_result", content="x"), "messages[0].content[0].tool_use_id"),
        (block("user", type="tool_result", tool_use_id="a", is_error="no"), "messages[0].content[0].is_error"),
        (
            block("user", type="tool_result", tool_use_id="a", content=[{"type": "tool_reference", "tool_name": "x"}]),
            "messages[0].content[0].content[0].type",
        ),
        (block("assistant", type="image", source={"type": "url", "url": "u"}), "messages[0].content[0].type"),
        (block("assistant", type="server_tool_use", id="s", name="web_search", input={}), "messages[0].content[0].type"),
        (block("assistant", type="tool_use", id="a", name="look", input="{}"), "messages[0].content[0].input"),
        (block("assistant", type="thinking", thinking="x", signature=1), "messages[0].content[0].signature"),
        ({"system": 1}, "system"),
        ({"system": [{"type": "image"}]}, "system[0].type"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": 1.5}, "top_k"),
        ({"stop_sequences": "END"}, "stop_sequences"),
        ({"stop_sequences": [1]}, "stop_sequences[0]"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"name": "look"}]}, "tools[0].input_schema"),
        ({"tools": [{"name": "", "input_schema": {}}]}, "tools[0].name"),
        ({"tools": [{"name": "look", "input_schema": {}, "description": 1}]}, "tools[0].description"),
        ({"tools": {}}, "tools"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tool_choice": {"type": "auto", "disable_parallel_tool_use": 1}}, "tool_choice.disable_parallel_tool_use"),
        ({"thinking": True}, "thinking"),
        ({"thinking": {"type": "hard"}}, "thinking.type"),
        ({"thinking": {"type": "enabled", "budget_tokens": 0}}, "thinking.budget_tokens"),
        ({"output_config": {"effort": "utmost"}}, "output_config.effort"),
        ({"output_config": {"format": {"type": "json_object"}}}, "output_config.format.type"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
        ({"output_format": {"type": "xml"}}, "output_format.type"),
        ({"metadata": {"user_id": 1}}, "metadata.user_id"),
        ({"metadata": "u1"}, "metadata"),
    ],
)
def test_what_cannot_be_said_is_refused_by_its_name_in_the_body(fields: dict[str, Any], field: str) -> None:
    assert refused(**fields) == field


def test_a_tool_of_the_provider_names_who_could_run_it() -> None:
    with pytest.raises(BadRequest, match=r"web_search_20250305 .* Anthropic"):
        request(tools=[{"type": "web_search_20250305", "name": "web_search"}])


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "text", "content", "source", "role", "name", "id", "input", "data", "effort", "format", "schema"])
            | st.text(max_size=3),
            inner
            | st.sampled_from(["text", "image", "tool_use", "tool_result", "user", "assistant", "document", "base64", "auto", "enabled"]),
            max_size=4,
        )
    ),
    max_leaves=12,
)
_FIELDS = [
    "messages",
    "system",
    "tools",
    "tool_choice",
    "thinking",
    "output_config",
    "metadata",
    "max_tokens",
    "top_p",
    "stop_sequences",
    "model",
]


@given(st.dictionaries(st.sampled_from(_FIELDS), _JSON))
def test_any_body_is_a_request_or_refused(fields: dict[str, Any]) -> None:
    with contextlib.suppress(BadRequest):
        request(**fields)


def test_a_parsed_request_can_be_told_in_another_dialect() -> None:
    parsed = request(
        system="S",
        messages=[
            USER,
            {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}]},
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "42"}, {"type": "text", "text": "?"}],
            },
        ],
        tools=[{"name": "look", "input_schema": SCHEMA}],
    )
    body = msgspec.json.decode(load("openai_chat").build_request(parsed, "gpt-x", {}).body)
    assert [message["role"] for message in body["messages"]] == ["system", "user", "assistant", "tool", "user"]
