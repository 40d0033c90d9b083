"""A client's Chat Completions body in our words."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import BadRequest
from headrace.protocol.dialects import load
from headrace.protocol.dialects.openai_chat.parse import parse
from headrace.protocol.lenient import DEPTH_MAX
from headrace.protocol.request import ChatRequest

USER = {"role": "user", "content": "Hi"}
FUNCTION = {"name": "look", "description": "Look it up.", "parameters": {"type": "object", "properties": {"q": {"type": "string"}}}}


def native(**fields: Any) -> dict[str, Any]:
    request = parse({"model": "m", "messages": [USER], **fields})
    builtins: dict[str, Any] = msgspec.to_builtins(request)
    msgspec.convert(builtins, ChatRequest)
    return {name: value for name, value in builtins.items() if value is not None}


def turn(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = native(messages=list(messages))["messages"]
    return found


def refused(**fields: Any) -> str | None:
    with pytest.raises(BadRequest) as caught:
        parse({"model": "m", "messages": [USER], **fields})
    assert caught.value.public_message
    return caught.value.field


def nested(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth):
        value = {"a": [value]}
    return value


def call(arguments: Any = '{"q":1}', **more: Any) -> dict[str, Any]:
    return {"id": "c1", "type": "function", "function": {"name": "look", "arguments": arguments}, **more}


# --- options ---------------------------------------------------------------------------------------------------------


def test_the_least_request() -> None:
    assert native() == {"model": "m", "messages": [USER]}


def test_options() -> None:
    options = native(
        max_tokens=5, temperature=1, top_p=0.5, top_k=40, stop="END", parallel_tool_calls=False, user="u1", metadata={"ticket": "7"}
    )
    assert {name: options[name] for name in options if name not in ("model", "messages")} == {
        "max_tokens": 5,
        "temperature": 1.0,
        "top_p": 0.5,
        "top_k": 40,
        "stop": ["END"],
        "parallel_tool_calls": False,
        "metadata": {"ticket": "7", "user_id": "u1"},
    }


def test_the_new_name_for_the_limit_of_tokens_stands_above_the_old_one() -> None:
    assert native(max_tokens=5, max_completion_tokens=7)["max_tokens"] == 7
    assert native(max_tokens=5, max_completion_tokens=None)["max_tokens"] == 5


def test_null_is_the_same_as_nothing() -> None:
    names = ("max_tokens", "temperature", "top_p", "stop", "tools", "tool_choice", "response_format", "reasoning_effort", "user", "n")
    assert native(**dict.fromkeys(names), logprobs=None, metadata=None, model=None, tool_calls=None) == {"messages": [USER]}


def test_what_changes_nothing_about_the_answers_meaning_is_dropped() -> None:
    dropped = {
        "seed": 1,
        "frequency_penalty": 0.5,
        "presence_penalty": 0.5,
        "logit_bias": {"50256": -100},
        "service_tier": "flex",
        "store": True,
        "prediction": {"type": "content", "content": "x"},
        "verbosity": "low",
        "stream": True,
        "stream_options": {"include_usage": True},
        "n": 1,
        "logprobs": False,
        "top_logprobs": 0,
        "modalities": ["text"],
        "something_new": [1],
    }
    assert native(**dropped) == {"model": "m", "messages": [USER]}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 2),
        ("logprobs", True),
        ("top_logprobs", 3),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "alloy", "format": "wav"}),
        ("functions", [FUNCTION]),
        ("web_search_options", {}),
        ("moderation", {"model": "omni"}),
    ],
)
def test_what_would_be_another_answer_is_refused(name: str, value: object) -> None:
    assert refused(**{name: value}) == name


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": {}}, "messages"),
        ({"model": 1}, "model"),
        ({"model": ""}, "model"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_completion_tokens": 1.5}, "max_completion_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"top_k": 0}, "top_k"),
        ({"stop": [1]}, "stop"),
        ({"stop": {}}, "stop"),
        ({"user": 1}, "user"),
        ({"metadata": []}, "metadata"),
        ({"metadata": nested(DEPTH_MAX)}, "metadata"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
        ({"reasoning_effort": "huge"}, "reasoning_effort"),
        ({"reasoning": "high"}, "reasoning"),
        ({"reasoning": {"effort": 1}}, "reasoning.effort"),
        ({"reasoning": {"max_tokens": 0}}, "reasoning.max_tokens"),
        ({"reasoning": {"enabled": "yes"}}, "reasoning.enabled"),
        ({"thinking": True}, "thinking"),
        ({"thinking": {"type": "maybe"}}, "thinking.type"),
        ({"thinking": {"type": "enabled", "budget_tokens": -1}}, "thinking.budget_tokens"),
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": 1}}}, "response_format.json_schema.schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": nested(DEPTH_MAX)}}}, "response_format.json_schema.schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"strict": 1}}}, "response_format.json_schema.strict"),
        ({"tools": {}}, "tools"),
        ({"tools": [1]}, "tools[0]"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]}, "tools[0].function.parameters"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": nested(DEPTH_MAX)}}]}, "tools[0].function.parameters"),
        ({"tools": [{"type": "function", "function": {"name": "f", "description": 1}}]}, "tools[0].function.description"),
        ({"tool_choice": "look"}, "tool_choice"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {}}}, "tool_choice.function.name"),
        ({"tool_choice": {"type": "function", "function": {"name": "none"}}}, "tool_choice"),
    ],
)
def test_a_wrong_type_is_refused_with_its_place(fields: dict[str, Any], where: str) -> None:
    assert refused(**fields) == where


@pytest.mark.parametrize(
    ("fields", "thinking"),
    [
        ({"reasoning_effort": "xhigh"}, {"effort": "xhigh"}),
        ({"reasoning_effort": "none"}, {"effort": "none"}),
        ({"reasoning": {"effort": "low"}}, {"effort": "low"}),
        ({"reasoning": {"max_tokens": 2000}}, {"budget_tokens": 2000}),
        ({"reasoning": {"enabled": False}}, False),
        ({"reasoning": {"exclude": True}}, None),
        ({"thinking": {"type": "enabled"}}, True),
        ({"thinking": {"type": "enabled", "budget_tokens": 5000}}, {"budget_tokens": 5000}),
        ({"thinking": {"type": "disabled"}}, False),
    ],
)
def test_thinking_in_the_words_of_three_vendors(fields: dict[str, Any], thinking: object) -> None:
    found = native(**fields).get("thinking")
    assert (found if not isinstance(found, dict) else {name: value for name, value in found.items() if value is not None}) == thinking


def test_the_form_of_the_answer() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    form = {"type": "json_schema", "json_schema": {"name": "thing", "schema": schema, "strict": True, "description": "A thing."}}
    assert native(response_format=form)["answer_format"] == {"type": "json_schema", "json_schema": schema, "name": "thing", "strict": True}
    assert native(response_format={"type": "json_object"})["answer_format"]["type"] == "json_object"
    assert "answer_format" not in native(response_format={"type": "text"})


def test_tools() -> None:
    found = native(
        tools=[{"type": "function", "function": {**FUNCTION, "strict": True}}, {"type": "function", "function": {"name": "stop"}}]
    )
    assert found["tools"] == [FUNCTION, {"name": "stop", "description": None, "parameters": {}}]
    assert "tools" not in native(tools=[])


@pytest.mark.parametrize("choice", ["auto", "none", "required"])
def test_tool_choice_is_a_word(choice: str) -> None:
    assert native(tool_choice=choice)["tool_choice"] == choice


def test_tool_choice_is_a_name() -> None:
    assert native(tool_choice={"type": "function", "function": {"name": "look"}})["tool_choice"] == "look"


# --- messages --------------------------------------------------------------------------------------------------------


def test_system_and_developer_are_the_same() -> None:
    assert turn({"role": "system", "content": "A"}, {"role": "developer", "content": [{"type": "text", "text": "B"}]}, USER) == [
        {"role": "system", "content": "A"},
        {"role": "system", "content": [{"type": "text", "text": "B"}]},
        USER,
    ]


def test_images_are_urls_or_data() -> None:
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "https://a.example/x.png", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
    ]
    found = turn({"role": "user", "content": parts, "name": "Ann"})[0]["content"]
    assert found == [
        {"type": "text", "text": "What is this?"},
        {"type": "image", "url": "https://a.example/x.png", "data": None, "media_type": None},
        {"type": "image", "url": None, "data": "aGk=", "media_type": "image/png"},
    ]


def test_a_turn_with_tools() -> None:
    found = turn(
        USER,
        {"role": "assistant", "content": "Let me see.", "tool_calls": [call()]},
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
    )
    assert found[1:] == [
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "Let me see."},
                {"type": "tool_call", "tool_call_id": "c1", "name": "look", "arguments": {"q": 1}},
            ],
        },
        {"role": "tool", "content": [{"type": "tool_result", "tool_call_id": "c1", "content": "42", "ok": True}]},
    ]


@pytest.mark.parametrize("arguments", ["", " ", "{}", None])
def test_no_arguments_are_an_empty_object(arguments: object) -> None:
    assert turn({"role": "assistant", "tool_calls": [call(arguments)]})[0]["content"][0]["arguments"] == {}


@pytest.mark.parametrize("arguments", ["{", '{"a":', "[1]", "1", '"{}"', {"q": 1}, 1, '{"a":\ud800}', '{"a":' * 500 + "1" + "}" * 500])
def test_arguments_that_are_no_json_object_are_refused_with_their_place(arguments: object) -> None:
    message = {"role": "assistant", "tool_calls": [call(), call(arguments)]}
    assert refused(messages=[USER, message]) == "messages[1].tool_calls[1].function.arguments"


def test_a_result_may_have_parts() -> None:
    parts = [{"type": "text", "text": "42"}, {"type": "image_url", "image_url": {"url": "https://a.example/x.png"}}]
    found = turn({"role": "tool", "tool_call_id": "c1", "content": parts})[0]["content"][0]["content"]
    assert [part["type"] for part in found] == ["text", "image"]
    assert turn({"role": "tool", "tool_call_id": "c1", "content": None})[0]["content"][0]["content"] == ""


def test_the_old_form_of_calls() -> None:
    found = turn(
        USER,
        {"role": "assistant", "content": None, "function_call": {"name": "look", "arguments": "{}"}},
        {"role": "function", "name": "look", "content": "42"},
    )
    assert found[1]["content"] == [{"type": "tool_call", "tool_call_id": "call_1", "name": "look", "arguments": {}}]
    assert found[2]["content"][0] == {"type": "tool_result", "tool_call_id": "call_1", "content": "42", "ok": True}


def test_a_refusal_is_what_the_assistant_said() -> None:
    assert turn({"role": "assistant", "content": None, "refusal": "No."}) == [{"role": "assistant", "content": "No."}]
    parts = [{"type": "text", "text": "Well. "}, {"type": "refusal", "refusal": "No."}]
    assert [part["text"] for part in turn({"role": "assistant", "content": parts})[0]["content"]] == ["Well. ", "No."]


def test_an_assistant_may_have_said_nothing() -> None:
    assert (
        turn({"role": "assistant"}, {"role": "assistant", "content": None, "tool_calls": []}) == [{"role": "assistant", "content": ""}] * 2
    )


@pytest.mark.parametrize(
    ("message", "where"),
    [
        (1, "messages[1]"),
        ({}, "messages[1].role"),
        ({"role": "robot", "content": "x"}, "messages[1].role"),
        ({"role": "user"}, "messages[1].content"),
        ({"role": "user", "content": 1}, "messages[1].content"),
        ({"role": "user", "content": []}, "messages[1].content"),
        ({"role": "user", "content": ["x"]}, "messages[1].content[0]"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[1].content[0].text"),
        ({"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}, "messages[1].content[0]"),
        ({"role": "user", "content": [{"type": "file", "file": {}}]}, "messages[1].content[0]"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "messages[1].content[0].image_url"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": 1}}]}, "messages[1].content[0].image_url.url"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": ""}}]}, "messages[1].content[0].image_url"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:x"}}]}, "messages[1].content[0].image_url"),
        ({"role": "system", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}, "messages[1].content[0]"),
        ({"role": "assistant", "content": 1}, "messages[1].content"),
        ({"role": "assistant", "audio": {"id": "a"}}, "messages[1].audio"),
        ({"role": "assistant", "refusal": 1}, "messages[1].refusal"),
        ({"role": "assistant", "tool_calls": {}}, "messages[1].tool_calls"),
        ({"role": "assistant", "tool_calls": [{"type": "custom", "id": "c"}]}, "messages[1].tool_calls[0].type"),
        ({"role": "assistant", "tool_calls": [{"id": "c"}]}, "messages[1].tool_calls[0].function"),
        ({"role": "assistant", "tool_calls": [{"function": {}}]}, "messages[1].tool_calls[0].id"),
        ({"role": "assistant", "tool_calls": [{"id": "c", "function": {}}]}, "messages[1].tool_calls[0].function.name"),
        ({"role": "assistant", "reasoning_content": {}, "content": ""}, None),
        ({"role": "assistant", "reasoning_content": {"a": 1}}, "messages[1].reasoning_content"),
        ({"role": "assistant", "reasoning_details": [{"text": 1}]}, "messages[1].reasoning_details[0].text"),
        ({"role": "tool", "content": "42"}, "messages[1].tool_call_id"),
        ({"role": "tool", "tool_call_id": "c", "content": 1}, "messages[1].content"),
    ],
)
def test_a_message_that_is_wrong_is_refused_with_its_place(message: object, where: str | None) -> None:
    if where is None:
        parse({"messages": [USER, message]})
    else:
        assert refused(messages=[USER, message]) == where


# --- reasoning of earlier turns --------------------------------------------------------------------------------------


def thinking(**fields: Any) -> list[tuple[str, str | None, str | None]]:
    content = turn({"role": "assistant", "content": "Yes", **fields})[0]["content"]
    assert content[-1] == {"type": "text", "text": "Yes"}
    return [(part["text"], part["signature"], part["redacted"]) for part in content[:-1]]


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_without_a_signature(field: str) -> None:
    assert thinking(**{field: "hm"}) == [("hm", None, None)]


def test_entries_of_reasoning_bring_back_what_was_signed_and_sealed() -> None:
    details = [
        {"type": "reasoning.text", "text": "hm", "signature": "s", "index": 0},
        {"type": "reasoning.encrypted", "data": "x", "index": 1},
        {"type": "reasoning.summary", "summary": "in short", "index": 2},
    ]
    assert thinking(reasoning_content="hm in short", reasoning_details=details) == [
        ("hm", "s", None),
        ("", None, "x"),
        ("in short", None, None),
    ]


def test_entries_that_a_client_kept_in_pieces_are_joined() -> None:
    details = [
        {"type": "reasoning.text", "text": "h", "index": 0},
        {"type": "reasoning.text", "text": "m", "index": 0},
        {"type": "reasoning.text", "signature": "s", "index": 0},
    ]
    assert thinking(reasoning="hm", reasoning_details=details) == [("hm", "s", None)]


def test_a_signature_without_text_signs_the_reasoning_beside_it() -> None:
    assert thinking(reasoning="hm", reasoning_details=[{"type": "reasoning.text", "signature": "s"}]) == [("hm", "s", None)]


def test_text_beside_sealed_entries_stands_before_them() -> None:
    details = [{"type": "reasoning.encrypted", "data": "x"}]
    assert thinking(reasoning_content="hm", reasoning_details=details) == [("hm", None, None), ("", None, "x")]


# --- properties ------------------------------------------------------------------------------------------------------

_FIELDS = (
    "type text role content function name arguments id image_url url parameters tool_calls reasoning_details signature json_schema schema "
    "index refusal effort tool_call_id"
)
_NAMES = (
    "messages model tools tool_choice stop response_format metadata reasoning thinking temperature top_p max_tokens n modalities "
    "reasoning_effort user parallel_tool_calls top_k"
)
_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.floats(allow_nan=True)
    | st.sampled_from(["", "text", "user", "function", "auto", "{}"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_FIELDS.split()), inner, max_size=5),
    max_leaves=20,
)
_MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "tool", "system", "function"])},
    optional=dict.fromkeys(
        ("content", "tool_calls", "reasoning_details", "reasoning_content", "tool_call_id", "refusal", "function_call"), _JSON
    ),
)


def parsed_or_refused(body: dict[str, Any]) -> None:
    field: str | None = "parsed"
    try:
        msgspec.convert(msgspec.to_builtins(parse(body)), ChatRequest)
    except BadRequest as error:
        field = error.field
    assert field


@given(st.dictionaries(st.sampled_from(_NAMES.split()), _JSON))
def test_any_body_is_parsed_or_refused_with_a_place(body: dict[str, Any]) -> None:
    parsed_or_refused(body)
    parsed_or_refused({**body, "messages": [USER]})


@given(st.lists(_MESSAGE, min_size=1, max_size=4))
def test_any_messages_are_parsed_or_refused_with_a_place(messages: list[dict[str, Any]]) -> None:
    parsed_or_refused({"messages": messages})


def test_what_the_request_builder_says_is_parsed_to_the_same_request() -> None:
    first = parse(
        {
            "messages": [
                {"role": "system", "content": "Be kind."},
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}],
                },
                {"role": "assistant", "content": "b", "tool_calls": [call()], "reasoning_details": [{"text": "hm", "signature": "s"}]},
                {"role": "tool", "tool_call_id": "c1", "content": "42"},
            ],
            "tools": [{"type": "function", "function": FUNCTION}],
            "tool_choice": {"type": "function", "function": {"name": "look"}},
            "parallel_tool_calls": False,
            "max_tokens": 5,
            "temperature": 0.5,
            "top_p": 0.5,
            "top_k": 5,
            "stop": ["a", "b"],
            "reasoning_effort": "high",
            "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True}},
            "user": "u",
        }
    )
    quirks: dict[str, object] = {"top_k": True, "reasoning_details": True}
    said = msgspec.json.decode(load("openai_chat").build_request(first, "m", quirks).body)
    del said["model"]
    assert parse(said) == first
