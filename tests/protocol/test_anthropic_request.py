"""Our request as a Messages body."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from headrace.errors import BadRequest
from headrace.protocol.dialects import load
from headrace.protocol.dialects.anthropic import request as request_module
from headrace.protocol.request import ChatRequest

DIALECT = load("anthropic")
USER = {"role": "user", "content": "Hi"}
TOOLS = [
    {"name": "look", "description": "Look it up.", "parameters": {"type": "object", "properties": {"q": {"type": "string"}}}},
    {"name": "stop"},
]


def body(quirks: dict[str, object] | None = None, **fields: Any) -> dict[str, Any]:
    request = msgspec.convert({"messages": [USER], **fields}, ChatRequest)
    upstream = DIALECT.build_request(request, "claude-x", quirks or {})
    assert upstream.path == "/v1/messages"
    return msgspec.json.decode(upstream.body)  # type: ignore[no-any-return]


def messages(*turns: dict[str, Any]) -> list[dict[str, Any]]:
    return body(messages=list(turns))["messages"]  # type: ignore[no-any-return]


def refused(**fields: Any) -> str | None:
    with pytest.raises(BadRequest) as caught:
        body(**fields)
    return caught.value.field


def forwarded(client: dict[str, Any], quirks: dict[str, object]) -> dict[str, Any]:
    return msgspec.json.decode(DIALECT.forward_request(client, "claude-x", quirks).body)  # type: ignore[no-any-return]


def headers(**quirks: object) -> dict[str, str]:
    request = msgspec.convert({"messages": [USER]}, ChatRequest)
    return DIALECT.build_request(request, "claude-x", quirks).headers


def test_the_least_request() -> None:
    assert body() == {
        "model": "claude-x",
        "max_tokens": 4096,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
        "stream": True,
    }


def test_headers() -> None:
    assert DIALECT.auth_headers("k") == {"x-api-key": "k"}
    assert headers() == {"anthropic-version": "2023-06-01"}
    assert headers(version="2030-01-01", beta=["a", "b"]) == {"anthropic-version": "2030-01-01", "anthropic-beta": "a,b"}
    assert headers(beta="a")["anthropic-beta"] == "a"


def test_options() -> None:
    shape = body(max_tokens=5, temperature=0.0, top_p=0.5, top_k=40, stop=["END"], metadata={"user_id": "u1", "ticket": 7})
    assert (shape["max_tokens"], shape["top_k"]) == (5, 40)
    assert (shape["temperature"], shape["top_p"], shape["stop_sequences"]) == (0.0, 0.5, ["END"])
    assert shape["metadata"] == {"user_id": "u1"}


def test_quirks_are_data() -> None:
    shape = body({"max_tokens_default": 100, "extra_body": {"service_tier": "auto"}})
    assert (shape["max_tokens"], shape["service_tier"]) == (100, "auto")


def test_all_quirks_are_listed() -> None:
    told = Path(request_module.__file__).read_text().split('"""')[1]
    assert set(re.findall(r"^- `(\w+)`|, `(\w+)` \(none\)", told, re.MULTILINE)) == {
        (name, "") if name != "beta" else ("", name) for name in request_module.QUIRKS
    }


def test_a_schema_for_the_answer() -> None:
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": schema, "name": "answer", "strict": True}
    assert body(answer_format=form)["output_config"] == {"format": {"type": "json_schema", "schema": schema}}
    adaptive = body({"thinking": "adaptive"}, answer_format=form, thinking={"effort": "max"})
    assert adaptive["output_config"] == {"effort": "max", "format": {"type": "json_schema", "schema": schema}}


def test_json_without_a_schema_is_refused() -> None:
    assert refused(answer_format={"type": "json_object"}) == "answer_format.type"
    assert refused(answer_format={"type": "json_schema"}) == "answer_format.json_schema"


# --- a client's own body ---------------------------------------------------------------------------------------------


def test_a_body_of_the_dialect_goes_on_as_it_came() -> None:
    client = {"model": "alias", "messages": [USER], "max_tokens": 1, "stream": False, "field_of_tomorrow": {"a": 1}}
    assert forwarded(client, {"extra_body": {"service_tier": "auto"}}) == {
        **client,
        "model": "claude-x",
        "stream": True,
        "service_tier": "auto",
    }
    assert client["model"] == "alias"


def test_what_other_providers_made_is_left_out_of_it() -> None:
    ours = [{"type": "thinking", "thinking": "hm", "signature": "headrace:"}, {"type": "redacted_thinking", "data": "headrace:b64"}]
    own = [{"type": "thinking", "thinking": "hm", "signature": "c2ln"}, {"type": "redacted_thinking", "data": "b64"}, "odd"]
    cited = {"type": "text", "text": "a", "citations": [{"encrypted_index": "headrace:"}]}
    turns = [
        USER,
        {"role": "assistant", "content": ours},
        {"role": "assistant", "content": [*ours, *own, cited]},
        {"role": "user", "content": []},
    ]
    assert forwarded({"messages": turns}, {})["messages"] == [
        USER,
        {"role": "assistant", "content": [*own, {"type": "text", "text": "a"}]},
        {"role": "user", "content": []},
    ]
    assert len(turns[1]["content"]) == 2


@pytest.mark.parametrize("odd", [None, 7, ["x"], [{"content": 7}], [{"content": [{"type": ["thinking"], "citations": 7}]}]])
def test_messages_of_another_structure_are_for_the_provider_to_judge(odd: object) -> None:
    assert forwarded({"messages": odd}, {})["messages"] == odd


# --- the cache -------------------------------------------------------------------------------------------------------

CACHE: dict[str, object] = {"cache_system_characters_min": 6}
MARK = {"type": "ephemeral"}


def test_a_long_system_prompt_is_cached_where_that_is_configured() -> None:
    marked = [{"type": "text", "text": "123456", "cache_control": MARK}]
    assert body(CACHE, system="123456")["system"] == marked
    assert forwarded({"system": "123456"}, CACHE)["system"] == marked
    assert body(CACHE, system="12345")["system"] == "12345"
    assert body({}, system="123456")["system"] == "123456"
    assert body({"cache_system_characters_min": 0}, system="123456")["system"] == "123456"
    assert "system" not in body(CACHE)


def test_the_time_that_a_cache_lives_is_a_quirk() -> None:
    assert body({**CACHE, "cache_ttl": "1h"}, system="123456")["system"][0]["cache_control"] == {**MARK, "ttl": "1h"}


def test_the_last_of_several_system_blocks_is_marked_and_their_lengths_count_together() -> None:
    system = [{"type": "text", "text": "123"}, {"type": "text", "text": "456"}]
    assert forwarded({"system": system}, CACHE)["system"] == [system[0], {**system[1], "cache_control": MARK}]
    assert "cache_control" not in system[1]


@pytest.mark.parametrize(
    "client",
    [
        {"system": "123456", "cache_control": MARK},
        {"system": [{"type": "text", "text": "123456", "cache_control": MARK}, {"type": "text", "text": "x"}]},
        {"system": "123456", "tools": [{"name": "look", "cache_control": MARK}]},
        {"system": "123456", "messages": [{"role": "user", "content": [{"type": "text", "text": "a", "cache_control": MARK}]}]},
        {
            "system": "123456",
            "messages": [{"role": "user", "content": [{"type": "tool_result", "content": [{"type": "text", "cache_control": MARK}]}]}],
        },
    ],
)
def test_a_request_that_caches_by_itself_is_left_alone(client: dict[str, Any]) -> None:
    assert forwarded(client, CACHE) == {**client, "model": "claude-x", "stream": True}


@pytest.mark.parametrize("system", [None, 7, [], ["123456"], [{"type": "text", "text": "123456"}, "x"], {"text": "123456"}])
def test_a_system_prompt_of_another_structure_is_for_the_provider_to_judge(system: object) -> None:
    assert forwarded({"system": system, "messages": 7, "tools": "x"}, CACHE)["system"] == system


# --- messages --------------------------------------------------------------------------------------------------------


def test_system_messages_at_the_start_are_the_system_prompt() -> None:
    shape = body(messages=[{"role": "system", "content": "B"}, USER], system="A")
    assert shape["system"] == "A\n\nB"
    assert [turn["role"] for turn in shape["messages"]] == ["user"]


def test_parts_of_a_user_message() -> None:
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image", "url": "https://a.example/x.png"},
        {"type": "image", "url": "data:image/gif;base64,aGk="},
        {"type": "image", "data": "aGk=", "media_type": "image/png"},
    ]
    assert messages({"role": "user", "content": parts})[0]["content"] == [
        {"type": "text", "text": "What is this?"},
        {"type": "image", "source": {"type": "url", "url": "https://a.example/x.png"}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/gif", "data": "aGk="}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}},
    ]


def test_thinking_goes_back_as_it_came() -> None:
    parts = [
        {"type": "thinking", "text": "hm", "signature": "c2ln"},
        {"type": "thinking", "redacted": "b64"},
        {"type": "thinking", "text": "of another provider"},
        {"type": "text", "text": "Yes"},
    ]
    assert messages(USER, {"role": "assistant", "content": parts})[1]["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "b64"},
        {"type": "text", "text": "Yes"},
    ]


def test_calls_and_their_results() -> None:
    def call(id: str) -> dict[str, Any]:
        return {"type": "tool_call", "tool_call_id": id, "name": "look", "arguments": {"q": 1}}

    def result(id: str, ok: bool = True) -> dict[str, Any]:
        return {"role": "tool", "content": [{"type": "tool_result", "tool_call_id": id, "content": "42", "ok": ok}]}

    told = messages(USER, {"role": "assistant", "content": [call("a"), call("b:1")]}, result("a"), result("b:1", ok=False), USER)
    assert told[1]["content"] == [
        {"type": "tool_use", "id": "a", "name": "look", "input": {"q": 1}},
        {"type": "tool_use", "id": "b_1", "name": "look", "input": {"q": 1}},
    ]
    # All results of one turn are in the one message that follows it.
    assert told[2] == {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "a", "content": "42"},
            {"type": "tool_result", "tool_use_id": "b_1", "content": "42", "is_error": True},
            {"type": "text", "text": "Hi"},
        ],
    }
    assert len(told) == 3


def test_results_stand_before_everything_else_in_their_message() -> None:
    parts = [{"type": "text", "text": "And?"}, {"type": "tool_result", "tool_call_id": "c", "content": "42"}]
    assert [block["type"] for block in messages({"role": "user", "content": parts})[0]["content"]] == ["tool_result", "text"]


def test_a_result_may_hold_texts_and_images() -> None:
    content = [{"type": "text", "text": "a"}, {"type": "text", "text": ""}, {"type": "image", "url": "https://a.example/x.png"}]
    turn = {"role": "tool", "content": [{"type": "tool_result", "tool_call_id": "c", "content": content}]}
    assert messages(turn)[0]["content"][0]["content"] == [
        {"type": "text", "text": "a"},
        {"type": "image", "source": {"type": "url", "url": "https://a.example/x.png"}},
    ]
    content[2] = {"type": "image"}
    assert refused(messages=[turn]) == "messages[0].content[0].content[2]"


def test_empty_text_is_left_out() -> None:
    turns = messages(
        USER,
        {"role": "assistant", "content": ""},
        {"role": "user", "content": [{"type": "text", "text": ""}, {"type": "text", "text": "b"}]},
    )
    assert turns == [{"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "b"}]}]


@pytest.mark.parametrize(
    ("turn", "field"),
    [
        ({"role": "system", "content": [{"type": "image", "url": "u"}]}, "messages[1].content[0]"),
        ({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "thinking", "text": "t"}]}, "messages[1].content[1]"),
        ({"role": "user", "content": [{"type": "tool_call", "tool_call_id": "c", "name": "f"}]}, "messages[1].content[0]"),
        ({"role": "assistant", "content": [{"type": "image", "url": "https://a.example/"}]}, "messages[1].content[0]"),
        ({"role": "assistant", "content": [{"type": "tool_result", "tool_call_id": "c", "content": ""}]}, "messages[1].content[0]"),
        ({"role": "tool", "content": [{"type": "text", "text": "a"}]}, "messages[1].content[0]"),
        ({"role": "tool", "content": "42"}, "messages[1].content"),
        ({"role": "user", "content": ""}, "messages[1].content"),
        ({"role": "user", "content": []}, "messages[1].content"),
        ({"role": "user", "content": [{"type": "image"}]}, "messages[1].content[0]"),
    ],
)
def test_what_cannot_be_said_is_refused_with_its_place(turn: dict[str, Any], field: str) -> None:
    assert refused(messages=[USER, turn]) == field


@pytest.mark.parametrize("seal", ["gemini:c2ln", "rs_1:gAAAA"])
def test_what_another_provider_signed_is_not_sent_here(seal: str) -> None:
    parts = [{"type": "thinking", "text": "hm", "signature": seal}, {"type": "thinking", "redacted": seal}, {"type": "text", "text": "Yes"}]
    assert messages(USER, {"role": "assistant", "content": parts})[1]["content"] == [{"type": "text", "text": "Yes"}]


def test_a_late_system_message_is_said_in_its_place_in_the_role_that_the_model_takes() -> None:
    turns = [USER, {"role": "assistant", "content": "Yes?"}, {"role": "system", "content": "Be brief."}, USER]
    said = [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Hi"}]
    assert messages(*turns)[2:] == [{"role": "user", "content": said}]

    apart = body({"late_system_role": "system"}, messages=turns)["messages"][2:]
    assert apart == [{"role": "system", "content": said[:1]}, {"role": "user", "content": said[1:]}]


def test_results_come_first_also_behind_a_late_system_message() -> None:
    call = {"type": "tool_call", "tool_call_id": "c", "name": "look"}
    result = {"role": "tool", "content": [{"type": "tool_result", "tool_call_id": "c", "content": "42"}]}
    said = messages(USER, {"role": "assistant", "content": [call]}, {"role": "system", "content": "Be brief."}, result)
    assert [block["type"] for block in said[2]["content"]] == ["tool_result", "text"]


def test_a_conversation_of_system_messages_is_refused() -> None:
    assert refused(messages=[{"role": "system", "content": "A"}]) == "messages"
    assert refused(messages=[{"role": "system", "content": [{"type": "image", "url": "u"}]}]) == "messages[0].content[0]"


# --- tools and thinking ----------------------------------------------------------------------------------------------


def test_tools() -> None:
    assert body(tools=TOOLS)["tools"] == [
        {"name": "look", "description": "Look it up.", "input_schema": TOOLS[0]["parameters"]},
        {"name": "stop", "input_schema": {"type": "object", "properties": {}}},
    ]


@pytest.mark.parametrize(
    ("choice", "told"),
    [("auto", {"type": "auto"}), ("none", {"type": "none"}), ("required", {"type": "any"}), ("look", {"type": "tool", "name": "look"})],
)
def test_tool_choice(choice: str, told: object) -> None:
    assert body(tools=TOOLS, tool_choice=choice)["tool_choice"] == told


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        (None, {"type": "auto", "disable_parallel_tool_use": True}),
        ("required", {"type": "any", "disable_parallel_tool_use": True}),
        ("look", {"type": "tool", "name": "look", "disable_parallel_tool_use": True}),
        ("none", {"type": "none"}),
    ],
)
def test_one_call_at_a_time_is_part_of_the_choice(choice: str | None, told: object) -> None:
    assert body(tools=TOOLS, tool_choice=choice, parallel_tool_calls=False)["tool_choice"] == told


def test_several_calls_at_a_time_are_the_default() -> None:
    assert "tool_choice" not in body(tools=TOOLS, parallel_tool_calls=True)
    assert "tool_choice" not in body(parallel_tool_calls=False)
    assert refused(tools=TOOLS, tool_choice="nobody", parallel_tool_calls=False) == "tool_choice"


def test_a_choice_among_no_tools_is_left_out_or_refused() -> None:
    assert "tool_choice" not in body(tool_choice="none")
    assert refused(tool_choice="required") == "tool_choice"
    assert refused(tools=TOOLS, tool_choice="nobody") == "tool_choice"


@pytest.mark.parametrize(
    ("thinking", "budget"),
    [
        (None, None),
        (False, None),
        ({"effort": "none"}, None),
        (True, 4096),
        ({"effort": "low"}, 1024),
        ({"effort": "high"}, 16384),
        ({"budget_tokens": 2000}, 2000),
        ({"budget_tokens": 1}, 1024),
    ],
)
def test_thinking_is_a_budget_on_top_of_the_default_limit(thinking: object, budget: int | None) -> None:
    shape = body(thinking=thinking)
    assert shape.get("thinking") == (None if budget is None else {"type": "enabled", "budget_tokens": budget})
    assert shape["max_tokens"] == 4096 + (budget or 0)


def test_a_budget_that_leaves_no_room_for_an_answer_is_refused() -> None:
    assert refused(thinking={"budget_tokens": 2000}, max_tokens=2000) == "max_tokens"
    assert body(thinking={"budget_tokens": 2000}, max_tokens=2001)["max_tokens"] == 2001


@pytest.mark.parametrize(
    ("effort", "max_tokens", "budget"),
    [("high", 50_000, 16384), ("high", 4000, 2000), ("max", 2048, 1024), ("low", 2047, None), ("low", 1, None)],
)
def test_the_budget_of_an_effort_leaves_room_for_an_answer(effort: str, max_tokens: int, budget: int | None) -> None:
    shape = body(thinking={"effort": effort}, max_tokens=max_tokens)
    assert shape.get("thinking") == (None if budget is None else {"type": "enabled", "budget_tokens": budget})
    assert shape["max_tokens"] == max_tokens


@pytest.mark.parametrize(
    ("thinking", "told"),
    [
        (None, {}),
        (False, {}),
        ({"effort": "none"}, {}),
        (True, {"thinking": {"type": "adaptive"}}),
        ({"budget_tokens": 2000}, {"thinking": {"type": "adaptive"}}),
        ({"effort": "high"}, {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}}),
        ({"effort": "minimal"}, {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}),
    ],
)
def test_adaptive_thinking_is_a_quirk(thinking: object, told: dict[str, object]) -> None:
    shape = body({"thinking": "adaptive"}, thinking=thinking)
    assert {name: value for name, value in shape.items() if name in ("thinking", "output_config")} == told
    assert shape["max_tokens"] == 4096
