"""The body of `POST /v1/responses` in our words."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from responses_reader import START, STEM, STOP, call, check, read, request, text, thinking

from headrace.errors import BadRequest
from headrace.protocol.dialects import load
from headrace.protocol.dialects.openai_responses.encode import ResponsesEncoding
from headrace.protocol.dialects.openai_responses.parse import parse, with_items
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


def parsed(**body: Any) -> ChatRequest:
    return parse({"model": "swift", "input": "hi", **body})


def refused(**body: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        parsed(**body)
    return caught.value


def user(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


# --- input -----------------------------------------------------------------------------------------------------------


def test_text_is_one_message_of_the_user() -> None:
    assert parsed(instructions="Be brief.") == ChatRequest(model="swift", system="Be brief.", messages=[Message(role="user", content="hi")])


def test_messages_of_every_role() -> None:
    messages = parsed(
        input=[
            {"role": "developer", "content": "Rules."},
            {"type": "message", "role": "system", "content": [{"type": "input_text", "text": "More rules."}]},
            {"role": "user", "content": [{"type": "input_text", "text": "Hello"}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi.", "annotations": []}]},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
            {"role": "user", "content": "Why?"},
        ]
    ).messages
    assert messages == [
        Message(role="system", content=[TextPart("Rules.")]),
        Message(role="system", content=[TextPart("More rules.")]),
        Message(role="user", content=[TextPart("Hello")]),
        Message(role="assistant", content=[TextPart("Hi."), TextPart("No.")]),
        Message(role="user", content=[TextPart("Why?")]),
    ]


def test_images_by_address_and_as_data() -> None:
    parts = user(
        {"type": "input_image", "image_url": "https://a.test/x.png", "detail": "auto"},
        {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "low"},
    )
    content = parsed(input=parts).messages[0].content
    assert content == [ImagePart(url="https://a.test/x.png"), ImagePart(data="AAAA", media_type="image/png")]


def test_a_turn_with_reasoning_text_and_calls_is_one_message_and_so_are_its_results() -> None:
    messages = parsed(
        input=[
            {"role": "user", "content": "weather?"},
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}], "encrypted_content": "sig"},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Let me look."}]},
            {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": '{"city":"Paris"}'},
            {"type": "function_call", "call_id": "call_2", "name": "time", "arguments": ""},
            {"type": "function_call_output", "call_id": "call_1", "output": "22"},
            {"type": "function_call_output", "call_id": "call_2", "output": [{"type": "input_text", "text": "noon"}]},
            {"role": "user", "content": "and tomorrow?"},
        ]
    ).messages
    assert messages == [
        Message(role="user", content=[TextPart("weather?")]),
        Message(
            role="assistant",
            content=[
                ThinkingPart(text="hm", signature="sig"),
                TextPart("Let me look."),
                ToolCallPart(tool_call_id="call_1", name="weather", arguments={"city": "Paris"}),
                ToolCallPart(tool_call_id="call_2", name="time", arguments={}),
            ],
        ),
        Message(
            role="tool",
            content=[
                ToolResultPart(tool_call_id="call_1", content="22"),
                ToolResultPart(tool_call_id="call_2", content=[TextPart("noon")]),
            ],
        ),
        Message(role="user", content=[TextPart("and tomorrow?")]),
    ]


@pytest.mark.parametrize(
    ("block", "part"),
    [
        (thinking(0, "a ", "b\n", signature="sig=="), ThinkingPart(text="a b\n", signature="sig==")),
        (thinking(0, "a", kind="summary", signature="sig"), ThinkingPart(text="a", signature="sig")),
        (thinking(0, signature="sig"), ThinkingPart(text="", signature="sig")),
        (thinking(0, redacted="blob"), ThinkingPart(redacted="blob")),
        (thinking(0, "plain"), ThinkingPart(text="plain")),
    ],
)
def test_reasoning_comes_back_as_it_was_told(block: list[Any], part: ThinkingPart) -> None:
    events = [START, *block, *text(1, "Yes."), *call(2, "call_1", "f", '{"a":1}'), STOP]
    output = read(ResponsesEncoding(request()).encode(events))[-1]["response"]["output"]
    result = {"type": "function_call_output", "call_id": "call_1", "output": "ok"}
    message = parsed(input=[{"role": "user", "content": "go"}, *output, result]).messages[1]
    assert message.content == [part, TextPart("Yes."), ToolCallPart(tool_call_id="call_1", name="f", arguments={"a": 1})]


def test_a_signature_comes_back_from_clients_that_keep_nothing_else() -> None:
    items = [{"role": "user", "content": "a"}, {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "sig"}]
    assert parsed(input=items).messages[1].content == [ThinkingPart(signature="sig")]


def test_an_item_that_is_referred_to_is_put_in_its_place() -> None:
    events = [START, *text(0, "Yes."), STOP]
    item = read(ResponsesEncoding(request()).encode(events))[-1]["response"]["output"][0]
    asked: list[tuple[str, str]] = []

    def find(response: str, id: str) -> dict[str, Any] | None:
        asked.append((response, id))
        return item if id == item["id"] else None

    question = {"role": "user", "content": "go"}
    stranger = {"type": "item_reference", "id": "msg_theirs"}
    gone = {"type": "item_reference", "id": item["id"].removesuffix("_0") + "_7"}
    body = {"input": [question, {"type": "item_reference", "id": item["id"]}, {"id": item["id"]}, stranger, gone]}
    assert with_items(body, find) == {"input": [question, item, item, stranger, gone]}
    assert asked == [(f"resp_{STEM}", item["id"]), (f"resp_{STEM}", item["id"]), (f"resp_{STEM}", gone["id"])]
    for untouched in ({"input": "hi"}, {"input": [question, stranger, 5, {"type": "x", "id": item["id"]}]}, {}):
        assert with_items(untouched, find) is untouched


def test_reasoning_without_anything_in_it_is_left_out() -> None:
    items = [{"role": "user", "content": "a"}, {"type": "reasoning", "id": "rs_1", "summary": []}]
    assert [message.role for message in parsed(input=items).messages] == ["user"]


# --- options ---------------------------------------------------------------------------------------------------------


def test_options_that_have_a_word_of_ours() -> None:
    found = parsed(
        max_output_tokens=100,
        temperature=1,
        top_p=0.5,
        parallel_tool_calls=False,
        reasoning={"effort": "high", "summary": "auto"},
        metadata={"a": "b"},
        user="u1",
    )
    assert (found.max_tokens, found.temperature, found.top_p, found.parallel_tool_calls) == (100, 1.0, 0.5, False)
    assert found.thinking == ThinkingOptions(effort="high")
    assert found.metadata == {"a": "b", "user_id": "u1"}


TOOL = {"type": "function", "name": "weather", "description": "d", "parameters": {"type": "object"}, "strict": True}
OTHER = {"type": "function", "name": "time", "parameters": None, "strict": False}


def test_functions_and_the_choice_among_them() -> None:
    tools = [Tool(name="weather", description="d", parameters={"type": "object"}), Tool(name="time")]
    assert parsed(tools=[TOOL, OTHER]).tools == tools
    assert parsed(tools=[TOOL], tool_choice="required").tool_choice == "required"
    assert parsed(tools=[TOOL], tool_choice={"type": "function", "name": "weather"}).tool_choice == "weather"
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "time"}]}
    found = parsed(tools=[TOOL, OTHER], tool_choice=allowed)
    assert (found.tools, found.tool_choice) == (tools[1:], "required")


def test_functions_of_a_namespace_go_by_one_name_and_come_back_apart() -> None:
    group = {"type": "namespace", "name": "crm", "description": "d", "tools": [TOOL, OTHER]}
    found = parsed(tools=[OTHER, group], tool_choice={"type": "function", "name": "weather", "namespace": "crm"})
    assert [tool.name for tool in found.tools or []] == ["time", "crm__weather", "crm__time"]
    assert found.tool_choice == "crm__weather"

    events = [START, *call(0, "call_1", "crm__weather", "{}"), *call(1, "call_2", "time", "{}"), STOP]
    told = read(ResponsesEncoding(request(tools=[OTHER, group])).encode(events))
    check(told)
    output = told[-1]["response"]["output"]
    assert [(item.get("namespace"), item["name"]) for item in output] == [("crm", "weather"), (None, "time")]
    again = parsed(input=[{"role": "user", "content": "go"}, *output]).messages[1].parts()
    assert [part.name for part in again if isinstance(part, ToolCallPart)] == ["crm__weather", "time"]
    assert refused(tools=[group | {"tools": [{"type": "custom", "name": "x"}]}]).field == "tools[0].tools[0].type"


def test_the_form_of_the_answer() -> None:
    schema = {"type": "object", "properties": {}}
    shape = {"type": "json_schema", "name": "n", "schema": schema, "strict": True}
    assert parsed(text={"format": {"type": "text"}, "verbosity": "low"}).answer_format is None
    assert parsed(text={"format": {"type": "json_object"}}).answer_format == AnswerFormat(type="json_object")
    assert parsed(text={"format": shape}).answer_format == AnswerFormat(type="json_schema", json_schema=schema, name="n", strict=True)


def test_what_changes_nothing_about_the_answer_is_dropped() -> None:
    dropped = {
        "store": True,
        "include": ["reasoning.encrypted_content"],
        "truncation": "auto",
        "service_tier": "flex",
        "safety_identifier": "x",
        "prompt_cache_key": "x",
        "prompt_cache_retention": "24h",
        "stream_options": {"include_obfuscation": False},
        "max_tool_calls": 3,
        "background": True,
        "stream": True,
        "top_logprobs": 0,
        "previous_response_id": None,
        "tools": [],
    }
    assert parsed(**dropped) == parsed()


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["previous_response_id", "conversation"])
def test_earlier_turns_must_be_in_the_input(name: str) -> None:
    error = refused(**{name: "x_1"})
    assert error.field == name
    assert "earlier turns in input" in error.public_message


@pytest.mark.parametrize("kind", ["web_search", "file_search", "mcp", "code_interpreter", "image_generation", "custom", "local_shell"])
def test_tools_that_openai_runs_are_refused(kind: str) -> None:
    error = refused(tools=[TOOL, {"type": kind}])
    assert error.field == "tools[1].type"
    assert kind in error.public_message
    assert "Only a provider that speaks OpenAI Responses" in error.public_message


CASES: list[tuple[dict[str, Any], str]] = [
    ({"input": None}, "input"),
    ({"input": []}, "input"),
    ({"input": 5}, "input"),
    ({"input": ["hi"]}, "input[0]"),
    ({"input": [{}]}, "input[0].type"),
    ({"input": [{"id": "msg_1"}]}, "input[0]"),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
    ({"input": [{"type": "web_search_call", "id": "ws_1"}]}, "input[0].type"),
    ({"input": [{"role": "wizard", "content": "x"}]}, "input[0].role"),
    ({"input": [{"role": "user", "content": 5}]}, "input[0].content"),
    ({"input": [{"role": "user"}]}, "input[0].content"),
    ({"input": user({"type": "input_text"})}, "input[0].content[0].text"),
    ({"input": user({"type": "input_file", "file_id": "f"})}, "input[0].content[0].type"),
    ({"input": user({"type": "input_audio"})}, "input[0].content[0].type"),
    ({"input": user({"type": "input_image", "file_id": "f"})}, "input[0].content[0].file_id"),
    ({"input": user({"type": "input_image"})}, "input[0].content[0].image_url"),
    ({"input": [{"role": "system", "content": [{"type": "input_image", "image_url": "u"}]}]}, "input[0].content[0].type"),
    ({"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "[1]"}]}, "input[0].arguments"),
    ({"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{"}]}, "input[0].arguments"),
    ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input[0].call_id"),
    ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input[0].output"),
    ({"input": [{"type": "reasoning", "summary": "x"}]}, "input[0].summary"),
    ({"input": [{"type": "reasoning", "encrypted_content": 1}]}, "input[0].encrypted_content"),
    ({"model": 5}, "model"),
    ({"model": ""}, "model"),
    ({"instructions": []}, "instructions"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"max_output_tokens": 1.5}, "max_output_tokens"),
    ({"temperature": 3}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"temperature": 10**400}, "temperature"),
    ({"top_p": "1"}, "top_p"),
    ({"parallel_tool_calls": 1}, "parallel_tool_calls"),
    ({"tools": 5}, "tools"),
    ({"tools": [{"type": "function"}]}, "tools[0].name"),
    ({"tools": [{"type": "function", "name": "n" * 129}]}, "tools[0].name"),
    ({"tools": [{"type": "function", "name": "n", "parameters": []}]}, "tools[0].parameters"),
    ({"tool_choice": "some"}, "tool_choice"),
    ({"tool_choice": {"type": "web_search"}}, "tool_choice"),
    ({"tool_choice": {"type": "function"}}, "tool_choice.name"),
    ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}}, "tool_choice.tools"),
    ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
    ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
    ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
    ({"reasoning": {"effort": []}}, "reasoning.effort"),
    ({"reasoning": "high"}, "reasoning"),
    ({"metadata": []}, "metadata"),
    ({"user": 5}, "user"),
    ({"prompt": {"id": "p"}}, "prompt"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"include": ["message.output_text.logprobs"]}, "include"),
    ({"moderation": {"model": "m"}}, "moderation"),
    ({"context_management": [{"type": "compaction"}]}, "context_management"),
]


@pytest.mark.parametrize(("body", "field"), CASES, ids=[f"{field}-{position}" for position, (_, field) in enumerate(CASES)])
def test_the_refusal_names_where(body: dict[str, Any], field: str) -> None:
    assert refused(**body).field == field


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "role", "content", "text", "id", "name"]), inner, max_size=4)
    ),
    max_leaves=12,
)
_KINDS = st.sampled_from(["message", "reasoning", "function_call", "function_call_output", "input_text", "input_image", "function"])
_ITEM = st.dictionaries(
    st.sampled_from(["type", "role", "content", "output", "call_id", "name", "arguments", "summary", "text", "image_url"]),
    _JSON | _KINDS | st.just("user") | st.just("{}") | st.lists(st.fixed_dictionaries({"type": _KINDS, "text": _JSON})),
)
_BODY = st.fixed_dictionaries(
    {"input": _JSON | st.lists(_ITEM, max_size=4)},
    optional={
        name: _JSON | st.lists(_ITEM, max_size=2) | _ITEM
        for name in ("tools", "tool_choice", "text", "reasoning", "metadata", "temperature", "max_output_tokens", "include", "instructions")
    },
)


def refusal(body: dict[str, Any], *dialects: str) -> BadRequest | None:
    """Parse, and build a request for each provider; return what one of them refused."""
    try:
        found = parse(body)
        for dialect in dialects:
            load(dialect).build_request(found, "m", {})
    except BadRequest as error:
        return error
    return None


@given(_BODY)
def test_garbage_gives_a_request_or_a_refusal_that_names_a_field(body: dict[str, Any]) -> None:
    for dialects in ((), ("anthropic",), ("openai_chat",)):
        error = refusal(body, *dialects)
        assert error is None or error.field


@given(_BODY)
def test_whatever_the_request_was_its_response_can_be_told(body: dict[str, Any]) -> None:
    body = {name: value for name, value in body.items() if name != "input"}
    assert read(ResponsesEncoding(request(**body)).encode([START, STOP]))[-1]["type"] == "response.completed"
