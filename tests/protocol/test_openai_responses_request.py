"""Our request as the body of `POST /responses`, which the official SDK's own types accept."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from openai.types.responses.response_create_params import ResponseCreateParamsStreaming
from provider_streams import OPENAI_RESPONSES, decode
from pydantic import TypeAdapter

from headrace.errors import BadRequest
from headrace.protocol.accumulate import Accumulator
from headrace.protocol.dialects import load
from headrace.protocol.dialects.openai_responses.request import QUIRKS, VENDORS
from headrace.protocol.request import ChatRequest

DIALECT = load("openai_responses")
USER = {"role": "user", "content": "Hi"}
SCHEMA = {"type": "object", "properties": {"q": {"type": "string"}}}
TOOLS = [{"name": "look", "description": "Look it up.", "parameters": SCHEMA}, {"name": "stop"}]
PARAMS: TypeAdapter[Any] = TypeAdapter(ResponseCreateParamsStreaming)


def body(quirks: dict[str, object] | None = None, **fields: Any) -> dict[str, Any]:
    request = msgspec.convert({"messages": [USER], **fields}, ChatRequest)
    sent: dict[str, Any] = msgspec.json.decode(DIALECT.build_request(request, "gpt-x", quirks or {}).body)
    PARAMS.validate_python(sent)
    return sent


def items(*messages: dict[str, Any], quirks: dict[str, object] | None = None) -> list[dict[str, Any]]:
    return body(quirks, messages=list(messages))["input"]  # type: ignore[no-any-return]


def assistant(*parts: dict[str, Any], quirks: dict[str, object] | None = None) -> list[dict[str, Any]]:
    return items({"role": "assistant", "content": list(parts)}, quirks=quirks)


def refused(quirks: dict[str, object] | None = None, **fields: Any) -> str | None:
    with pytest.raises(BadRequest) as caught:
        body(quirks, **fields)
    return caught.value.field


def thought(text: str = "", **fields: str) -> dict[str, Any]:
    return {"type": "thinking", "text": text, **fields}


def called(id: str = "c") -> dict[str, Any]:
    return {"type": "tool_call", "tool_call_id": id, "name": "look", "arguments": {"q": "é"}}


TEXT = {"type": "text", "text": "Yes"}
CALL = {"type": "function_call", "call_id": "c", "name": "look", "arguments": '{"q":"é"}'}
SAID = {"role": "assistant", "content": "Yes"}


def reasoning(id: str, *summaries: str) -> dict[str, Any]:
    summary = [{"type": "summary_text", "text": text} for text in summaries]
    return {"type": "reasoning", "id": id, "summary": summary, "encrypted_content": "c2Vh"}


def test_the_least_request() -> None:
    assert body() == {"model": "gpt-x", "input": [USER], "stream": True, "store": False}


def test_options() -> None:
    assert body(
        system="S", max_tokens=50, temperature=0.0, top_p=0.5, tools=TOOLS, parallel_tool_calls=False, metadata={"user_id": "u"}
    ) == {
        "model": "gpt-x",
        "input": [USER],
        "stream": True,
        "store": False,
        "instructions": "S",
        "max_output_tokens": 50,
        "temperature": 0.0,
        "top_p": 0.5,
        "tools": [
            {"type": "function", "name": "look", "description": "Look it up.", "parameters": SCHEMA, "strict": False},
            {"type": "function", "name": "stop", "parameters": {"type": "object", "properties": {}}, "strict": False},
        ],
        "parallel_tool_calls": False,
        "user": "u",
    }


def test_what_does_not_exist_is_refused_by_its_name() -> None:
    assert refused(stop=["END"]) == "stop"
    assert refused(top_k=3) == "top_k"
    assert "stop" not in body(stop=[])


@pytest.mark.parametrize("choice", ["auto", "none", "required"])
def test_a_choice_of_tools(choice: str) -> None:
    assert body(tools=TOOLS, tool_choice=choice)["tool_choice"] == choice


def test_one_tool_or_none_at_all() -> None:
    assert body(tools=TOOLS, tool_choice="look")["tool_choice"] == {"type": "function", "name": "look"}
    assert "tool_choice" not in body(tool_choice="auto")
    assert refused(tools=TOOLS, tool_choice="fly") == "tool_choice"


def test_the_form_of_the_answer() -> None:
    assert body(answer_format={"type": "json_object"})["text"] == {"format": {"type": "json_object"}}
    given = {"type": "json_schema", "json_schema": SCHEMA, "name": "found", "strict": True}
    assert body(answer_format=given)["text"] == {"format": {"type": "json_schema", "name": "found", "schema": SCHEMA, "strict": True}}
    assert body(answer_format={"type": "json_schema", "json_schema": SCHEMA})["text"]["format"]["name"] == "answer"
    assert refused(answer_format={"type": "json_schema"}) == "answer_format.json_schema"


# --- reasoning -------------------------------------------------------------------------------------------------------


def test_reasoning_is_asked_for_with_a_summary_and_sealed() -> None:
    sent = body(thinking=True)
    assert (sent["reasoning"], sent["include"]) == ({"effort": "medium", "summary": "auto"}, ["reasoning.encrypted_content"])
    assert not {"reasoning", "include"} & body().keys()
    assert not {"reasoning", "include"} & body(thinking=False).keys()


@pytest.mark.parametrize(
    ("options", "effort"),
    [
        ({"effort": "xhigh"}, "xhigh"),
        ({"budget_tokens": 100}, "low"),
        ({"budget_tokens": 2048}, "medium"),
        ({"budget_tokens": 9000}, "high"),
        ({}, "medium"),
    ],
)
def test_how_much_to_reason(options: dict[str, Any], effort: str) -> None:
    assert body(thinking=options)["reasoning"]["effort"] == effort


def test_no_reasoning_has_no_summary() -> None:
    sent = body(thinking={"effort": "none"})
    assert (sent["reasoning"], "include" in sent) == ({"effort": "none"}, False)


def test_what_vendors_want_differently_about_reasoning() -> None:
    assert body({"reasoning_effort": False}, thinking=True)["reasoning"] == {"summary": "auto"}
    assert body({"reasoning_summary": "detailed"}, thinking=True)["reasoning"]["summary"] == "detailed"
    assert body({"reasoning_summary": False}, thinking=True)["reasoning"] == {"effort": "medium"}
    assert "include" not in body({"encrypted_reasoning": False}, thinking=True)
    stored = body({"store": True}, thinking=True)
    assert (stored["store"], "include" in stored) == (True, False)
    assert "reasoning" not in body({"reasoning_effort": False, "reasoning_summary": False}, thinking=True)


@pytest.mark.parametrize(("effort", "sent"), [("low", "high"), ("xhigh", "high"), ("max", "max"), ("none", None)])
def test_an_effort_that_the_vendor_does_not_know_is_sent_as_the_nearest(effort: str, sent: str | None) -> None:
    assert body({"efforts": ["high", "max"]}, thinking={"effort": effort}).get("reasoning", {}).get("effort") == sent


def test_sealed_reasoning_goes_back_with_all_its_summaries() -> None:
    parts = [thought("Plan"), thought("Do", signature="rs_1:c2Vh"), called(), thought(redacted="rs_2:c2Vh"), TEXT]
    assert assistant(*parts) == [reasoning("rs_1", "Plan", "Do"), CALL, reasoning("rs_2"), SAID]


def test_reasoning_that_nobody_sealed_stays_here_unless_the_vendor_wants_its_text() -> None:
    assert assistant(thought("Hm"), called()) == [CALL]
    as_text = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm"}]}
    with_text = msgspec.convert({"messages": [{"role": "assistant", "content": [thought("Hm"), called()]}]}, ChatRequest)
    sent = msgspec.json.decode(DIALECT.build_request(with_text, "x", {"reasoning_text": True}).body)
    assert sent["input"] == [as_text, CALL]


@pytest.mark.parametrize("seal", [{"signature": "EqRkCk1YWE="}, {"redacted": "EmwKAhgBEgw"}])
def test_what_another_dialect_signed_stays_here(seal: dict[str, str]) -> None:
    assert assistant(thought("Hm", **seal), thought("Do", signature="rs_1:c2Vh"), called()) == [reasoning("rs_1", "Do"), CALL]
    assert assistant(thought("Hm", **seal), called()) == [CALL]


def test_reasoning_goes_back_without_its_id_where_there_is_none_or_the_vendor_would_miss_it() -> None:
    for part, quirks in ((thought(redacted=":c2Vh"), {}), (thought(redacted="rs_1:c2Vh"), {"reasoning_ids": False})):
        request = msgspec.convert({"messages": [{"role": "assistant", "content": [part, TEXT]}]}, ChatRequest)
        sent = msgspec.json.decode(DIALECT.build_request(request, "x", quirks).body)["input"]
        assert sent == [{"type": "reasoning", "summary": [], "encrypted_content": "c2Vh"}, SAID]


def test_reasoning_that_nothing_follows_stays_here() -> None:
    assert assistant(TEXT, thought("Hm", signature="rs_1:c2Vh")) == [SAID]
    assert items({"role": "assistant", "content": [thought("Hm", signature="rs_1:c2Vh")]}, USER) == [USER]
    split = items({"role": "assistant", "content": [thought("Hm", signature="rs_1:c2Vh")]}, {"role": "assistant", "content": "Yes"})
    assert split == [reasoning("rs_1", "Hm"), SAID]


@pytest.mark.parametrize("name", ["reasoning, remarks and a call", "sealed reasoning", "only finished items"])
def test_an_answer_can_be_sent_back(name: str) -> None:
    reply = Accumulator()
    for event in decode("openai_responses", OPENAI_RESPONSES[name]):
        reply.feed(event)
    parts: list[dict[str, Any]] = []
    for block in reply.blocks.values():
        match block.kind:
            case "text":
                parts.append({"type": "text", "text": block.text})
            case "thinking":
                seals = {key: seal for key, seal in (("signature", block.signature), ("redacted", block.redacted)) if seal}
                parts.append({"type": "thinking", "text": block.text, **seals})
            case _:
                call = {"tool_call_id": block.tool_call_id, "name": block.name, "arguments": block.arguments}
                parts.append({"type": "tool_call", **call})
    sent = assistant(*parts)
    assert (sent[0]["id"], sent[0]["encrypted_content"]) == ("rs_0", "c2VhbGVk")
    assert [summary["text"] for summary in sent[0]["summary"]] == [
        text for text in reply.thinking.replace("**Do", "|**Do").split("|") if text
    ]
    assert len(sent) == len({item.get("type") for item in sent})


# --- the conversation ------------------------------------------------------------------------------------------------


def test_system_messages_inside_the_conversation() -> None:
    system = {"role": "system", "content": "S"}
    assert items(system, USER) == [system, USER]
    assert items(system, USER, quirks={"system_role": "developer"})[0]["role"] == "developer"


def test_parts_of_a_user_message() -> None:
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image", "url": "https://a.example/x.png"},
        {"type": "image", "data": "aGk=", "media_type": "image/png"},
    ]
    assert items({"role": "user", "content": parts})[0]["content"] == [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "image_url": "https://a.example/x.png", "detail": "auto"},
        {"type": "input_image", "image_url": "data:image/png;base64,aGk=", "detail": "auto"},
    ]


def test_texts_of_an_assistant_keep_their_place_among_its_calls() -> None:
    more = {"type": "text", "text": "!"}
    assert assistant(TEXT, more, called(), TEXT, {"type": "text", "text": ""}) == [{**SAID, "content": "Yes!"}, CALL, SAID]


def test_results_of_tools_are_items_and_may_hold_images() -> None:
    plain = {"type": "tool_result", "tool_call_id": "c", "content": "4 °C"}
    rich = {
        "type": "tool_result",
        "tool_call_id": "d",
        "content": [{"type": "text", "text": "a"}, {"type": "image", "url": "https://a.example/"}],
    }
    told = {"type": "function_call_output", "call_id": "c", "output": "4 °C"}
    shown = [{"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": "https://a.example/", "detail": "auto"}]
    assert items({"role": "tool", "content": [plain, rich]}) == [told, {**told, "call_id": "d", "output": shown}]
    assert items({"role": "user", "content": [{"type": "text", "text": "and?"}, plain]}) == [
        told,
        {"role": "user", "content": [{"type": "input_text", "text": "and?"}]},
    ]


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ({"role": "user", "content": []}, "messages[0].content"),
        ({"role": "user", "content": [called()]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{"type": "image"}]}, "messages[0].content[0]"),
        ({"role": "assistant", "content": [{"type": "image", "url": "x"}]}, "messages[0].content[0]"),
        ({"role": "system", "content": [called()]}, "messages[0].content[0]"),
        ({"role": "tool", "content": "4"}, "messages[0].content"),
        ({"role": "tool", "content": [TEXT]}, "messages[0].content[0]"),
        (
            {"role": "tool", "content": [{"type": "tool_result", "tool_call_id": "c", "content": [{"type": "image"}]}]},
            "messages[0].content[0].content[0]",
        ),
    ],
)
def test_what_has_no_place_is_refused_by_its_name(message: dict[str, Any], field: str) -> None:
    assert refused(messages=[message]) == field


def test_metadata() -> None:
    assert body({"send_metadata": True}, metadata={"a": "b"})["metadata"] == {"a": "b"}
    assert refused({"send_metadata": True}, metadata={"a": 1}) == "metadata.a"
    assert "user" not in body({"user": False}, metadata={"user_id": "u"})


# --- where to, and a client's own body -------------------------------------------------------------------------------


def test_where_to() -> None:
    request = msgspec.convert({"messages": [USER]}, ChatRequest)
    assert DIALECT.build_request(request, "x", {}).path == "/responses"
    assert DIALECT.build_request(request, "x", {"path": "/r", "api_version": "2026-01-01"}).path == "/r?api-version=2026-01-01"
    assert DIALECT.forward_request({}, "x", {"path": "/r"}).path == "/r"
    assert DIALECT.auth_headers("k") == {"authorization": "Bearer k"}


def forwarded(body: dict[str, Any], **quirks: object) -> dict[str, Any]:
    return msgspec.json.decode(DIALECT.forward_request(body, "gpt-x", quirks).body)  # type: ignore[no-any-return]


def test_a_clients_own_body_goes_on_as_it_came() -> None:
    given = {"model": "alias", "input": "Hi", "background": True, "hologram": {"size": 3}, "store": True}
    sent = {"model": "gpt-x", "input": "Hi", "stream": True, "hologram": {"size": 3}, "store": True}
    assert forwarded(given) == sent
    assert forwarded(given, extra_body={"store": False}) == sent | {"store": False}
    assert given["background"] is True


def test_reasoning_that_the_relay_told_for_another_vendor_is_left_out() -> None:
    own = {"type": "reasoning", "id": "rs_0123456789abcdef0123456789abcdef_0", "summary": []}
    sealed = {"type": "reasoning", "summary": [], "encrypted_content": "redacted:x"}
    theirs = {"type": "reasoning", "id": "rs_0f5d", "summary": [], "encrypted_content": "gAAA"}
    assert forwarded({"input": [USER, own, sealed, theirs, SAID, 5]})["input"] == [USER, theirs, SAID, 5]


def test_every_vendor_has_only_quirks_that_exist() -> None:
    for quirks in VENDORS.values():
        assert quirks.keys() <= QUIRKS
        body(dict(quirks), thinking=True)


def test_extra_fields_stand_above_ours() -> None:
    assert body({"extra_body": {"store": True, "truncation": "auto"}}) | {"input": []} == {
        "model": "gpt-x",
        "input": [],
        "stream": True,
        "store": True,
        "truncation": "auto",
    }
