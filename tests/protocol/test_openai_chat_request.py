"""Our request as a Chat Completions body."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from headrace.errors import BadRequest
from headrace.protocol.dialects import load
from headrace.protocol.dialects.openai_chat.request import QUIRKS, VENDORS
from headrace.protocol.request import ChatRequest

DIALECT = load("openai_chat")
USER = {"role": "user", "content": "Hi"}
TOOLS = [
    {"name": "look", "description": "Look it up.", "parameters": {"type": "object", "properties": {"q": {"type": "string"}}}},
    {"name": "stop"},
]


def body(quirks: dict[str, object] | None = None, **fields: Any) -> dict[str, Any]:
    request = msgspec.convert({"messages": [USER], **fields}, ChatRequest)
    upstream = DIALECT.build_request(request, "gpt-x", quirks or {})
    assert upstream.path == "/chat/completions"
    return msgspec.json.decode(upstream.body)  # type: ignore[no-any-return]


def messages(*turns: dict[str, Any], quirks: dict[str, object] | None = None, **fields: Any) -> list[dict[str, Any]]:
    return body(quirks, messages=list(turns), **fields)["messages"]  # type: ignore[no-any-return]


def refused(**fields: Any) -> str | None:
    with pytest.raises(BadRequest) as caught:
        body(**fields)
    return caught.value.field


def test_the_least_request() -> None:
    assert body() == {
        "model": "gpt-x",
        "messages": [USER],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_the_key_goes_into_the_authorization_header() -> None:
    assert DIALECT.auth_headers("sk-1") == {"authorization": "Bearer sk-1"}


def test_options() -> None:
    shape = body(max_tokens=5, temperature=0.0, top_p=0.5, stop=["END"])
    assert {name: shape[name] for name in ("max_tokens", "temperature", "top_p", "stop")} == {
        "max_tokens": 5,
        "temperature": 0.0,
        "top_p": 0.5,
        "stop": ["END"],
    }


# --- messages --------------------------------------------------------------------------------------------------------


def test_the_system_prompt_comes_first() -> None:
    assert messages({"role": "system", "content": "B"}, USER, system="A") == [
        {"role": "system", "content": "A"},
        {"role": "system", "content": "B"},
        USER,
    ]


def test_parts_of_a_user_message() -> None:
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image", "url": "https://a.example/x.png"},
        {"type": "image", "data": "aGk=", "media_type": "image/png"},
    ]
    assert messages({"role": "user", "content": parts})[0]["content"] == [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "https://a.example/x.png"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
    ]


def test_a_turn_with_tools() -> None:
    call = {"type": "tool_call", "tool_call_id": "c", "name": "look", "arguments": {"q": "é"}}
    result = {"type": "tool_result", "tool_call_id": "c", "content": "42"}
    turns = (
        USER,
        {"role": "assistant", "content": [{"type": "text", "text": "Let me see."}, call]},
        {"role": "tool", "content": [result]},
    )
    assert messages(*turns)[1:] == [
        {
            "role": "assistant",
            "content": "Let me see.",
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "look", "arguments": '{"q":"é"}'}}],
        },
        {"role": "tool", "tool_call_id": "c", "content": "42"},
    ]


def test_an_assistant_message_of_nothing_but_calls_has_no_content() -> None:
    call = {"type": "tool_call", "tool_call_id": "c", "name": "look"}
    assert messages(USER, {"role": "assistant", "content": [call]})[1]["content"] is None


def test_results_in_a_user_message_stand_before_its_text() -> None:
    parts = [{"type": "text", "text": "And?"}, {"type": "tool_result", "tool_call_id": "c", "content": "42", "ok": False}]
    assert messages({"role": "user", "content": parts}) == [
        {"role": "tool", "tool_call_id": "c", "content": "42"},
        {"role": "user", "content": [{"type": "text", "text": "And?"}]},
    ]


def test_thinking_goes_back_only_where_the_vendor_has_a_field_for_it() -> None:
    turn = {"role": "assistant", "content": [{"type": "thinking", "text": "hm", "signature": "s"}, {"type": "text", "text": "Yes"}]}
    assert messages(USER, turn)[1] == {"role": "assistant", "content": "Yes"}
    told = messages(USER, turn, quirks={"reasoning_field": "reasoning_content"})[1]
    assert told == {"role": "assistant", "content": "Yes", "reasoning_content": "hm"}


@pytest.mark.parametrize(
    ("turn", "field"),
    [
        ({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "thinking", "text": "t"}]}, "messages[1].content[1]"),
        ({"role": "user", "content": [{"type": "tool_call", "tool_call_id": "c", "name": "f"}]}, "messages[1].content[0]"),
        ({"role": "assistant", "content": [{"type": "image", "url": "https://a.example/"}]}, "messages[1].content[0]"),
        ({"role": "assistant", "content": [{"type": "tool_result", "tool_call_id": "c", "content": ""}]}, "messages[1].content[0]"),
        ({"role": "system", "content": [{"type": "image", "url": "https://a.example/"}]}, "messages[1].content[0]"),
        ({"role": "tool", "content": [{"type": "text", "text": "a"}]}, "messages[1].content[0]"),
        ({"role": "tool", "content": "42"}, "messages[1].content"),
        ({"role": "user", "content": []}, "messages[1].content"),
        ({"role": "user", "content": [{"type": "image"}]}, "messages[1].content[0]"),
        ({"role": "user", "content": [{"type": "image", "data": "aGk="}]}, "messages[1].content[0]"),
        ({"role": "user", "content": [{"type": "image", "data": "aGk=", "media_type": "image/png", "url": "u"}]}, "messages[1].content[0]"),
    ],
)
def test_what_cannot_be_said_is_refused_with_its_place(turn: dict[str, Any], field: str) -> None:
    assert refused(messages=[USER, turn]) == field


# --- tools and thinking ----------------------------------------------------------------------------------------------


def test_tools() -> None:
    assert body(tools=TOOLS)["tools"] == [
        {"type": "function", "function": TOOLS[0]},
        {"type": "function", "function": {"name": "stop", "parameters": {"type": "object", "properties": {}}}},
    ]


@pytest.mark.parametrize(
    ("choice", "told"),
    [("auto", "auto"), ("none", "none"), ("required", "required"), ("look", {"type": "function", "function": {"name": "look"}})],
)
def test_tool_choice(choice: str, told: object) -> None:
    assert body(tools=TOOLS, tool_choice=choice)["tool_choice"] == told


def test_a_choice_among_no_tools_is_left_out_or_refused() -> None:
    assert "tool_choice" not in body(tool_choice="auto")
    assert refused(tool_choice="required") == "tool_choice"
    assert refused(tools=TOOLS, tool_choice="nobody") == "tool_choice"


@pytest.mark.parametrize(
    ("thinking", "effort"),
    [
        (None, None),
        (False, None),
        (True, "medium"),
        ({}, "medium"),
        ({"effort": "high"}, "high"),
        ({"effort": "none"}, "none"),
        ({"budget_tokens": 500}, "low"),
        ({"budget_tokens": 2048}, "medium"),
        ({"budget_tokens": 30000}, "high"),
        ({"budget_tokens": 30000, "effort": "low"}, "low"),
    ],
)
def test_thinking_is_an_effort(thinking: object, effort: str | None) -> None:
    assert body(thinking=thinking).get("reasoning_effort") == effort
    assert "reasoning_effort" not in body({"reasoning_effort": False}, thinking=thinking)


# --- quirks and metadata ---------------------------------------------------------------------------------------------


def test_quirks_are_data() -> None:
    quirks: dict[str, object] = {
        "include_usage": False,
        "max_tokens_field": "max_completion_tokens",
        "system_role": "developer",
        "extra_body": {"provider": {"sort": "throughput"}, "temperature": 1},
    }
    shape = body(quirks, system="A", max_tokens=5, temperature=0.5)
    assert "stream_options" not in shape
    assert "max_tokens" not in shape
    assert shape["max_completion_tokens"] == 5
    assert shape["messages"][0]["role"] == "developer"
    assert shape["provider"] == {"sort": "throughput"}
    assert shape["temperature"] == 1


def test_the_path_is_a_quirk_too() -> None:
    request = msgspec.convert({"messages": [USER]}, ChatRequest)
    assert DIALECT.build_request(request, "m", {"path": "/openai/chat"}).path == "/openai/chat"


def test_of_the_metadata_only_the_user_goes_to_the_provider() -> None:
    assert body(metadata={"user_id": "u1", "ticket": 7})["user"] == "u1"
    assert "metadata" not in body(metadata={"user_id": "u1", "ticket": 7})


def test_metadata_that_is_sent_must_be_strings() -> None:
    assert body({"send_metadata": True}, metadata={"ticket": "7"})["metadata"] == {"ticket": "7"}
    assert refused(quirks={"send_metadata": True}, metadata={"ticket": 7}) == "metadata.ticket"


def forward(given: dict[str, Any], **quirks: object) -> dict[str, Any]:
    return msgspec.json.decode(DIALECT.forward_request(given, "gpt-x", quirks).body)  # type: ignore[no-any-return]


# --- what came later -------------------------------------------------------------------------------------------------


def test_parallel_tool_calls_are_told_where_there_are_tools() -> None:
    assert body(tools=TOOLS, parallel_tool_calls=False)["parallel_tool_calls"] is False
    assert "parallel_tool_calls" not in body(parallel_tool_calls=False)


def test_top_k_needs_a_vendor_that_knows_it() -> None:
    assert body({"top_k": True}, top_k=5)["top_k"] == 5
    assert refused(top_k=5) == "top_k"


def test_the_form_of_the_answer() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    form = {"type": "json_schema", "json_schema": schema, "name": "thing", "strict": True}
    assert body(answer_format=form)["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "thing", "schema": schema, "strict": True},
    }
    assert body(answer_format={"type": "json_schema", "json_schema": schema})["response_format"]["json_schema"]["name"] == "answer"
    assert body(answer_format={"type": "json_object"})["response_format"] == {"type": "json_object"}
    assert refused(quirks={"json_schema": False}, answer_format=form) == "answer_format.type"


@pytest.mark.parametrize(
    ("efforts", "asked", "told"),
    [
        (None, "xhigh", "high"),
        (None, "max", "high"),
        (None, "none", "none"),
        (["low", "high"], "medium", "low"),
        (["low", "high"], "none", None),
        (["high", "max"], "low", "high"),
        (["none", "high"], "minimal", "high"),
        (["none", "minimal", "low", "medium", "high", "xhigh", "max"], "xhigh", "xhigh"),
        ([], "high", None),
        (["turbo"], "high", None),
    ],
)
def test_an_effort_is_the_nearest_that_the_vendor_knows(efforts: list[str] | None, asked: str, told: str | None) -> None:
    quirks: dict[str, object] = {} if efforts is None else {"efforts": efforts}
    assert body(quirks, thinking={"effort": asked}).get("reasoning_effort") == told


@pytest.mark.parametrize(
    ("thinking", "told"),
    [
        (None, None),
        (True, {"type": "enabled"}),
        (False, {"type": "disabled"}),
        ({"effort": "none"}, {"type": "disabled"}),
        ({"effort": "low"}, {"type": "enabled"}),
        ({"budget_tokens": 500}, {"type": "enabled"}),
    ],
)
def test_some_vendors_have_a_switch_for_thinking(thinking: object, told: object) -> None:
    assert body({"thinking_type": True}, thinking=thinking).get("thinking") == told
    assert "thinking" not in body(thinking=thinking)


def test_results_in_parts_are_their_text_and_images_are_refused_with_their_place() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    result = {"type": "tool_result", "tool_call_id": "c", "content": parts}
    assert messages({"role": "tool", "content": [result]}) == [{"role": "tool", "tool_call_id": "c", "content": "a\n\nb"}]
    image = {"type": "image", "url": "https://a.example/x.png"}
    for role in ("tool", "user"):
        turn = {"role": role, "content": [{**result, "content": [*parts, image]}]}
        assert refused(messages=[USER, turn]) == "messages[1].content[0].content[2]"


def test_reasoning_goes_back_with_its_signatures_where_the_vendor_wants_it_so() -> None:
    thinking = [
        {"type": "thinking", "text": "hm", "signature": "s"},
        {"type": "thinking", "redacted": "x"},
        {"type": "thinking", "text": "so"},
    ]
    turn = {"role": "assistant", "content": [*thinking, {"type": "text", "text": "Yes"}]}
    assert messages(USER, turn, quirks={"reasoning_details": True})[1] == {
        "role": "assistant",
        "content": "Yes",
        "reasoning_details": [
            {"type": "reasoning.text", "text": "hm", "index": 0, "signature": "s"},
            {"type": "reasoning.encrypted", "data": "x", "index": 1},
            {"type": "reasoning.text", "text": "so", "index": 2},
        ],
    }


def test_ids_of_calls_have_the_length_that_the_vendor_wants() -> None:
    ids = ("call_abc", "a1B2c3D4e")
    calls = [{"type": "tool_call", "tool_call_id": id, "name": "look"} for id in ids]
    results = [{"type": "tool_result", "tool_call_id": id, "content": ""} for id in ids]
    found = messages(USER, {"role": "assistant", "content": calls}, {"role": "tool", "content": results}, quirks={"tool_call_id_length": 9})
    told = [call["id"] for call in found[1]["tool_calls"]]
    assert told == [result["tool_call_id"] for result in found[2:]]
    assert told[1] == "a1B2c3D4e"
    assert len(told[0]) == 9
    assert told[0].isalnum()


def test_a_vendor_may_not_know_users() -> None:
    assert "user" not in body({"user": False}, metadata={"user_id": "u1"})


def test_the_version_of_azure() -> None:
    request = msgspec.convert({"messages": [USER]}, ChatRequest)
    quirks: dict[str, object] = {"path": "/openai/deployments/d/chat/completions", "api_version": "2024-10-21"}
    expected = "/openai/deployments/d/chat/completions?api-version=2024-10-21"
    assert DIALECT.build_request(request, "m", quirks).path == expected
    assert DIALECT.forward_request({}, "m", quirks).path == expected


# --- vendors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vendor", VENDORS)
def test_what_is_known_of_a_vendor_is_made_of_quirks(vendor: str) -> None:
    assert set(VENDORS[vendor]) <= QUIRKS
    shape = body(VENDORS[vendor], max_tokens=5, thinking=True, answer_format={"type": "json_object"}, metadata={"user_id": "u"})
    assert shape["messages"] == [USER]
    assert not {"max_tokens", "max_completion_tokens"} <= set(shape)


def test_every_quirk_is_in_the_documentation_of_the_module() -> None:
    from headrace.protocol.dialects.openai_chat import request

    assert request.__doc__ is not None
    assert [name for name in sorted(QUIRKS) if f"`{name}`" not in request.__doc__] == []


def test_mistral_gets_nothing_that_it_refuses() -> None:
    shape = body(VENDORS["mistral"], max_tokens=5, metadata={"user_id": "u"}, thinking={"effort": "low"})
    assert set(shape) == {"model", "messages", "stream", "max_tokens", "reasoning_effort"}


# --- a client's own body ---------------------------------------------------------------------------------------------


def test_a_forwarded_body_keeps_what_is_not_known_here() -> None:
    given = {
        "model": "mine",
        "messages": [{"role": "user", "content": "Hi", "odd": 1}],
        "seed": 7,
        "n": 2,
        "odd": {"a": [1]},
        "stream": False,
    }
    assert forward(given) == {**given, "model": "gpt-x", "stream": True, "stream_options": {"include_usage": True}}
    assert given["model"] == "mine"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (None, {"include_usage": True}),
        ({}, {"include_usage": True}),
        ({"include_usage": False}, {"include_usage": True}),
        ({"include_obfuscation": False}, {"include_obfuscation": False, "include_usage": True}),
        (1, {"include_usage": True}),
    ],
)
def test_usage_is_always_asked_for(options: object, told: object) -> None:
    assert forward({"stream_options": options})["stream_options"] == told


def test_usage_is_not_asked_for_where_the_vendor_refuses_that() -> None:
    assert "stream_options" not in forward({}, include_usage=False)
    assert "stream_options" not in forward({"stream_options": {"include_usage": True}}, include_usage=False)
    kept = forward({"stream_options": {"include_usage": True, "odd": 1}}, include_usage=False)
    assert kept["stream_options"] == {"odd": 1}


@pytest.mark.parametrize(
    ("given", "wanted", "told"),
    [
        ({"max_tokens": 5}, "max_completion_tokens", {"max_completion_tokens": 5}),
        ({"max_completion_tokens": 5}, "max_tokens", {"max_tokens": 5}),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_completion_tokens", {"max_tokens": 5, "max_completion_tokens": 6}),
        ({"max_tokens": 5, "max_completion_tokens": None}, "max_completion_tokens", {"max_completion_tokens": 5}),
        ({"max_completion_tokens": 5}, None, {"max_completion_tokens": 5}),
        ({"max_tokens": 5}, "max_output", {"max_tokens": 5}),
        ({}, "max_tokens", {}),
    ],
)
def test_the_limit_of_tokens_gets_the_name_that_the_vendor_wants(
    given: dict[str, object], wanted: str | None, told: dict[str, object]
) -> None:
    found = forward(given, **({} if wanted is None else {"max_tokens_field": wanted}))
    assert {name: found[name] for name in found if name.startswith("max_")} == told


def test_extra_fields_stand_above_a_forwarded_body() -> None:
    assert forward({"temperature": 1}, extra_body={"temperature": 0})["temperature"] == 0
