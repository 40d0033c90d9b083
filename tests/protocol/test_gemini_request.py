"""Our request as a `streamGenerateContent` body."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from provider_streams import START, function_call, response

from headrace.errors import BadRequest, LocalProtocolError
from headrace.protocol.accumulate import Accumulator
from headrace.protocol.dialects import load, surface
from headrace.protocol.dialects.gemini.schema import cleaned
from headrace.protocol.request import ChatRequest
from headrace.protocol.surface import SurfaceRequest

DIALECT = load("gemini")
USER = {"role": "user", "content": "Hi"}
SCHEMA = {"type": "object", "properties": {"q": {"type": "string"}}}
TOOLS = [{"name": "look", "description": "Look it up.", "parameters": SCHEMA}, {"name": "stop"}]


def body(quirks: dict[str, object] | None = None, **fields: Any) -> dict[str, Any]:
    request = msgspec.convert({"messages": [USER], **fields}, ChatRequest)
    upstream = DIALECT.build_request(request, "gemini-x", quirks or {})
    assert upstream.path == "/models/gemini-x:streamGenerateContent?alt=sse"
    return msgspec.json.decode(upstream.body)  # type: ignore[no-any-return]


def path(model: str, **quirks: object) -> str:
    return DIALECT.build_request(msgspec.convert({"messages": [USER]}, ChatRequest), model, quirks).path


def contents(*turns: dict[str, Any], **quirks: object) -> list[dict[str, Any]]:
    return body(quirks, messages=list(turns))["contents"]  # type: ignore[no-any-return]


def model_parts(*parts: dict[str, Any], **quirks: object) -> list[dict[str, Any]]:
    return contents(USER, {"role": "assistant", "content": list(parts)}, **quirks)[1]["parts"]  # type: ignore[no-any-return]


def refused(**fields: Any) -> str | None:
    with pytest.raises(BadRequest) as caught:
        body(**fields)
    return caught.value.field


def call(id: str, name: str = "look", **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_call", "tool_call_id": id, "name": name, "arguments": arguments}


def result(id: str, content: Any = "42", *, ok: bool = True) -> dict[str, Any]:
    return {"role": "tool", "content": [{"type": "tool_result", "tool_call_id": id, "content": content, "ok": ok}]}


def test_the_least_request() -> None:
    assert body() == {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}


def test_the_key_has_a_header_of_its_own() -> None:
    assert DIALECT.auth_headers("k") == {"x-goog-api-key": "k"}


def test_no_client_speaks_this_dialect() -> None:
    with pytest.raises(LocalProtocolError):
        DIALECT.forward_request({}, "gemini-x", {})


# --- the path --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("gemini-2.5-flash", "/models/gemini-2.5-flash"),
        ("gemini-1.5-pro@002", "/models/gemini-1.5-pro@002"),
        ("models/gemini-x", "/models/gemini-x"),
        ("tunedModels/mine", "/tunedModels/mine"),
        ("publishers/google/models/gemini-x", "/publishers/google/models/gemini-x"),
        ("projects/p/locations/l/endpoints/7", "/projects/p/locations/l/endpoints/7"),
        ("modèle", "/models/mod%C3%A8le"),
        ("a;b=c&d", "/models/a%3Bb%3Dc%26d"),
    ],
)
def test_the_model_is_part_of_the_path(model: str, told: str) -> None:
    assert path(model) == f"{told}:streamGenerateContent?alt=sse"


def test_the_path_is_a_quirk() -> None:
    vertex = "/publishers/google/models/{model}:streamGenerateContent?alt=sse"
    assert path("gemini-x", path=vertex) == vertex.replace("{model}", "gemini-x")
    assert path("publishers/a/models/x", path=vertex) == "/publishers/a/models/x:streamGenerateContent?alt=sse"


@pytest.mark.parametrize(
    "model",
    [
        "..",
        ".",
        "../v1/files",
        "models/../../files",
        "models/./x",
        "models//x",
        "models/",
        "/models/x",
        "elsewhere/x",
        "x?key=y",
        "x#y",
        "x%2e%2e",
        "x:countTokens",
        "a\\b",
        "a b",
        "a\r\nb",
        "\ud83d",
    ],
)
def test_a_model_that_would_lead_to_another_place_is_refused(model: str) -> None:
    with pytest.raises(BadRequest) as caught:
        path(model)
    assert caught.value.field == "model"


@given(st.text(min_size=1, max_size=20) | st.text("./:?#%\\ amodels", min_size=1, max_size=20))
def test_any_model_gives_a_path_of_safe_characters_or_is_refused(model: str) -> None:
    try:
        told = path(model)
    except BadRequest:
        return
    assert told.isascii()
    assert told.isprintable()
    resource = told.removesuffix(":streamGenerateContent?alt=sse")
    assert not set(resource) & set("?#: \\")
    assert not {"", ".", ".."} & set(resource.split("/")[1:])


# --- options ---------------------------------------------------------------------------------------------------------


def test_options() -> None:
    shape = body(max_tokens=5, temperature=0.0, top_p=0.5, top_k=3, stop=["END"], metadata={"user_id": "u1"}, parallel_tool_calls=False)
    assert shape["generationConfig"] == {"maxOutputTokens": 5, "temperature": 0.0, "topP": 0.5, "topK": 3, "stopSequences": ["END"]}
    assert shape.keys() == {"contents", "generationConfig"}


def test_the_form_of_the_answer() -> None:
    assert body(answer_format={"type": "json_object"})["generationConfig"] == {"responseMimeType": "application/json"}
    wanted = {"type": "json_schema", "json_schema": SCHEMA, "name": "reply", "strict": True}
    assert body(answer_format=wanted)["generationConfig"] == {"responseMimeType": "application/json", "responseJsonSchema": SCHEMA}


def test_more_fields_are_merged_with_ours_however_deep() -> None:
    extra = {"generationConfig": {"seed": 7, "temperature": 1}, "safetySettings": []}
    shape = body({"extra_body": extra}, temperature=0.5, max_tokens=9)
    assert shape["generationConfig"] == {"maxOutputTokens": 9, "temperature": 1, "seed": 7}
    assert shape["safetySettings"] == []


@pytest.mark.parametrize(
    ("thinking", "by_budget", "by_level"),
    [
        (None, None, None),
        (False, {"thinkingBudget": 0}, {"thinkingLevel": "MINIMAL"}),
        ({"effort": "none"}, {"thinkingBudget": 0}, {"thinkingLevel": "MINIMAL"}),
        (True, {"includeThoughts": True}, {"includeThoughts": True}),
        ({}, {"includeThoughts": True}, {"includeThoughts": True}),
        ({"effort": "low"}, {"includeThoughts": True, "thinkingBudget": 1024}, {"includeThoughts": True, "thinkingLevel": "LOW"}),
        ({"effort": "xhigh"}, {"includeThoughts": True, "thinkingBudget": 24576}, {"includeThoughts": True, "thinkingLevel": "HIGH"}),
        ({"budget_tokens": 5000}, {"includeThoughts": True, "thinkingBudget": 5000}, {"includeThoughts": True, "thinkingLevel": "MEDIUM"}),
        ({"budget_tokens": 1}, {"includeThoughts": True, "thinkingBudget": 1}, {"includeThoughts": True, "thinkingLevel": "MINIMAL"}),
    ],
)
def test_thinking_is_a_budget_or_by_quirk_a_level(thinking: object, by_budget: object, by_level: object) -> None:
    assert body(thinking=thinking).get("generationConfig", {}).get("thinkingConfig") == by_budget
    assert body({"thinking": "level"}, thinking=thinking).get("generationConfig", {}).get("thinkingConfig") == by_level


# --- messages --------------------------------------------------------------------------------------------------------


def test_system_messages_at_the_start_are_the_system_instruction() -> None:
    shape = body(messages=[{"role": "system", "content": "B"}, USER], system="A")
    assert shape["systemInstruction"] == {"parts": [{"text": "A\n\nB"}]}
    assert [turn["role"] for turn in shape["contents"]] == ["user"]


def test_parts_of_a_user_message() -> None:
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image", "url": "https://a.example/x.PNG?size=1"},
        {"type": "image", "url": "https://a.example/x"},
        {"type": "image", "url": "gs://bucket/x", "media_type": "image/webp"},
        {"type": "image", "url": "data:image/gif;base64,aGk="},
        {"type": "image", "data": "aGk=", "media_type": "image/png"},
    ]
    assert contents({"role": "user", "content": parts})[0]["parts"] == [
        {"text": "What is this?"},
        {"fileData": {"fileUri": "https://a.example/x.PNG?size=1", "mimeType": "image/png"}},
        {"fileData": {"fileUri": "https://a.example/x"}},
        {"fileData": {"fileUri": "gs://bucket/x", "mimeType": "image/webp"}},
        {"inlineData": {"mimeType": "image/gif", "data": "aGk="}},
        {"inlineData": {"mimeType": "image/png", "data": "aGk="}},
    ]


def test_calls_and_their_results() -> None:
    turns = [USER, {"role": "assistant", "content": [call("a", q=1), call("b", "stop")]}, result("b", ok=False), result("a"), USER]
    told = contents(*turns)
    assert told[1] == {
        "role": "model",
        "parts": [
            {"functionCall": {"name": "look", "args": {"q": 1}, "id": "a"}},
            {"functionCall": {"name": "stop", "args": {}, "id": "b"}},
        ],
    }
    # All results of one turn are in the one message that follows it, each with the name of its tool.
    assert told[2] == {
        "role": "user",
        "parts": [
            {"functionResponse": {"name": "stop", "response": {"error": "42"}, "id": "b"}},
            {"functionResponse": {"name": "look", "response": {"output": "42"}, "id": "a"}},
            {"text": "Hi"},
        ],
    }
    assert len(told) == 3


def test_ids_of_calls_are_a_quirk() -> None:
    told = contents(USER, {"role": "assistant", "content": [call("a")]}, result("a"), call_ids=False)
    assert told[1]["parts"] == [{"functionCall": {"name": "look", "args": {}}}]
    assert told[2]["parts"] == [{"functionResponse": {"name": "look", "response": {"output": "42"}}}]


def test_an_id_that_two_turns_used_names_the_nearer_call() -> None:
    def turn(name: str) -> list[dict[str, Any]]:
        return [{"role": "assistant", "content": [call("call_0", name)]}, result("call_0")]

    told = contents(USER, *turn("look"), *turn("stop"))
    assert [part["parts"][0]["functionResponse"]["name"] for part in (told[2], told[4])] == ["look", "stop"]


def test_a_result_may_hold_images() -> None:
    content = [{"type": "text", "text": "a"}, {"type": "image", "data": "aGk=", "media_type": "image/png"}, {"type": "text", "text": "b"}]
    told = contents(USER, {"role": "assistant", "content": [call("a")]}, result("a", content))
    assert told[2]["parts"][0]["functionResponse"] == {
        "name": "look",
        "response": {"output": "a\n\nb"},
        "parts": [{"inlineData": {"mimeType": "image/png", "data": "aGk="}}],
        "id": "a",
    }


def test_results_stand_before_everything_else_in_their_message() -> None:
    parts = [{"type": "text", "text": "And?"}, {"type": "tool_result", "tool_call_id": "a", "content": "42"}]
    told = contents(USER, {"role": "assistant", "content": [call("a")]}, {"role": "user", "content": parts})
    assert [list(part) for part in told[2]["parts"]] == [["functionResponse"], ["text"]]


def test_empty_text_is_left_out() -> None:
    turns = contents(
        USER,
        {"role": "assistant", "content": ""},
        {"role": "user", "content": [{"type": "text", "text": ""}, {"type": "text", "text": "b"}]},
    )
    assert turns == [{"role": "user", "parts": [{"text": "Hi"}, {"text": "b"}]}]


def test_a_late_system_message_is_said_in_its_place_by_the_user() -> None:
    turns = [USER, {"role": "assistant", "content": "Yes?"}, {"role": "system", "content": "Be brief."}]
    assert body(messages=turns)["contents"][2] == {"role": "user", "parts": [{"text": "Be brief."}]}


@pytest.mark.parametrize(
    ("turn", "field"),
    [
        ({"role": "system", "content": [{"type": "image", "url": "u"}]}, "messages[1].content[0]"),
        ({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "thinking", "text": "t"}]}, "messages[1].content[1]"),
        ({"role": "user", "content": [{"type": "tool_call", "tool_call_id": "c", "name": "f"}]}, "messages[1].content[0]"),
        ({"role": "assistant", "content": [{"type": "tool_result", "tool_call_id": "c", "content": ""}]}, "messages[1].content[0]"),
        ({"role": "tool", "content": [{"type": "text", "text": "a"}]}, "messages[1].content[0]"),
        ({"role": "tool", "content": "42"}, "messages[1].content"),
        ({"role": "user", "content": ""}, "messages[1].content"),
        ({"role": "user", "content": []}, "messages[1].content"),
        ({"role": "user", "content": [{"type": "image"}]}, "messages[1].content[0]"),
        (result("nobody"), "messages[1].content[0].tool_call_id"),
    ],
)
def test_what_cannot_be_said_is_refused_with_its_place(turn: dict[str, Any], field: str) -> None:
    assert refused(messages=[USER, turn]) == field


def test_a_conversation_of_system_messages_is_refused() -> None:
    assert refused(messages=[{"role": "system", "content": "A"}]) == "messages"
    assert refused(messages=[{"role": "system", "content": [{"type": "image", "url": "u"}]}]) == "messages[0].content[0]"


# --- thoughts and signatures -----------------------------------------------------------------------------------------

SIGNATURE = {"type": "thinking", "signature": "gemini:c2ln"}
SIGNED_CALL = {"functionCall": {"name": "look", "args": {}, "id": "a"}, "thoughtSignature": "c2ln"}


def test_signed_thoughts_go_back_and_others_are_left_out() -> None:
    others = ({"type": "thinking", "text": "of nobody"}, {"type": "thinking", "redacted": "b64"})
    told = model_parts({"type": "thinking", "text": "hm", "signature": "gemini:c2ln"}, *others, {"type": "text", "text": "Yes"})
    assert told == [{"text": "hm", "thought": True, "thoughtSignature": "c2ln"}, {"text": "Yes"}]


@pytest.mark.parametrize("seal", ["RXVv", "rs_1:gAAAA", "headrace:c2ln"])
def test_what_another_provider_signed_is_not_sent_here(seal: str) -> None:
    assert model_parts({"type": "thinking", "text": "hm", "signature": seal}, {"type": "text", "text": "Yes"}) == [{"text": "Yes"}]
    assert "thoughtSignature" not in model_parts({"type": "thinking", "signature": seal}, call("a"))[0]


def test_a_lone_signature_belongs_to_the_call_that_follows_it() -> None:
    assert model_parts({"type": "text", "text": "a"}, SIGNATURE, call("a")) == [{"text": "a"}, SIGNED_CALL]


def test_a_lone_signature_reaches_the_call_also_over_text() -> None:
    # Clients of Chat Completions give back all reasoning first, then all text, then all calls.
    assert model_parts(SIGNATURE, {"type": "text", "text": "a"}, call("a")) == [{"text": "a"}, SIGNED_CALL]


def test_signatures_that_stand_together_belong_to_the_calls_in_their_order() -> None:
    told = model_parts(SIGNATURE, {"type": "thinking", "signature": "gemini:Mg=="}, call("a"), call("b"))
    assert [part.get("thoughtSignature") for part in told] == ["c2ln", "Mg=="]


def test_a_thought_that_was_merged_with_the_signature_behind_it_signs_the_first_call() -> None:
    thought = {"type": "thinking", "text": "hm", "signature": "gemini:c2ln"}
    told = model_parts(thought, call("a"), call("b"))
    assert told == [SIGNED_CALL, {"functionCall": {"name": "look", "args": {}, "id": "b"}}]


@pytest.mark.parametrize("following", [[], [{"type": "text", "text": "b"}], [{"type": "thinking", "text": "unsigned"}]])
def test_a_lone_signature_without_a_call_is_an_empty_text(following: list[dict[str, Any]]) -> None:
    told = model_parts({"type": "text", "text": "a"}, SIGNATURE, *following)
    assert told[:2] == [{"text": "a"}, {"text": "", "thoughtSignature": "c2ln"}]
    assert all("thoughtSignature" not in part for part in told[2:])


def test_an_image_of_the_model_goes_back_with_its_signature() -> None:
    image = {"type": "image", "data": "aGk=", "media_type": "image/png"}
    assert model_parts(SIGNATURE, image) == [{"inlineData": {"mimeType": "image/png", "data": "aGk="}, "thoughtSignature": "c2ln"}]


def test_a_signature_for_calls_that_lost_theirs_is_a_quirk() -> None:
    told = model_parts(call("a"), call("b"), call_signature="lost")
    assert [part.get("thoughtSignature") for part in told] == ["lost", None]
    assert model_parts(SIGNATURE, call("a"), call_signature="lost") == [SIGNED_CALL]
    assert model_parts({"type": "text", "text": "a"}, call_signature="lost") == [{"text": "a"}]


def test_what_the_model_said_goes_back_as_it_was() -> None:
    parts = [
        {"text": "Hm.", "thought": True, "thoughtSignature": "aQ=="},
        {"text": "I will look."},
        {"functionCall": {"name": "look", "args": {"q": 1}, "id": "a"}, "thoughtSignature": "Yg=="},
        {"functionCall": {"name": "stop", "args": {}, "id": "b"}},
        {"text": "", "thoughtSignature": "Yw=="},
    ]
    reply = Accumulator()
    decoder = DIALECT.new_decoder({})
    for event in [*decoder.feed(b"".join(response(part) for part in parts) + response(finish="STOP")), *decoder.finish()]:
        reply.feed(event)
    assert model_parts(*map(as_part, reply.blocks.values())) == parts


def as_part(block: Any) -> dict[str, Any]:
    if block.kind == "tool_call":
        return call(block.tool_call_id, block.name, **block.arguments)
    if block.kind == "thinking":
        return {"type": "thinking", "text": block.text, "signature": block.signature}
    return {"type": "text", "text": block.text}


SPOKEN = [
    response({"text": "Hm.", "thought": True}),
    response({"text": "I will look."}),
    response(function_call(args={}, id="a") | {"thoughtSignature": "c2ln"}, function_call("stop", args={}, id="b")),
    response({"text": ""}, finish="STOP"),
]


def said_to(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a client's request in that protocol and the whole answer that it gets to `SPOKEN`."""
    body: dict[str, Any] = (
        {"model": "x", "input": "Hi"} if name == "openai_responses" else {"model": "x", "messages": [USER], "max_tokens": 9}
    )
    told = surface(name)
    assert told.new_reply is not None
    reply = told.new_reply(SurfaceRequest(told, body, created=0))
    decoder = DIALECT.new_decoder({})
    for seq, event in enumerate([START, *decoder.feed(b"".join(SPOKEN)), *decoder.finish()], 1):
        reply.encode([msgspec.structs.replace(event, seq=seq)])
    return body, msgspec.json.decode(reply.body())


def asked_by(name: str, body: dict[str, Any], turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    key = "input" if name == "openai_responses" else "messages"
    told = surface(name)
    upstream = SurfaceRequest(told, body | {key: [USER, *turns]}, created=0).upstream(DIALECT, "gemini-x", {})
    return msgspec.json.decode(upstream.body)["contents"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["openai_chat", "anthropic", "openai_responses"])
def test_a_signature_survives_a_client_of_another_dialect(name: str) -> None:
    body, answer = said_to(name)
    turns = {
        "openai_chat": lambda: [choice["message"] for choice in answer["choices"]],
        "anthropic": lambda: [{"role": "assistant", "content": answer["content"]}],
        "openai_responses": lambda: answer["output"],
    }[name]()
    assert asked_by(name, body, turns)[1]["parts"] == [
        {"text": "I will look."},
        SIGNED_CALL,
        {"functionCall": {"name": "stop", "args": {}, "id": "b"}},
    ]


# --- tools -----------------------------------------------------------------------------------------------------------


def test_tools() -> None:
    assert body(tools=TOOLS)["tools"] == [
        {
            "functionDeclarations": [
                {"name": "look", "description": "Look it up.", "parametersJsonSchema": SCHEMA},
                {"name": "stop"},
            ]
        }
    ]


def test_a_tool_that_takes_nothing_has_no_schema() -> None:
    empty = {"type": "object", "properties": {}, "additionalProperties": False}
    assert body(tools=[{"name": "stop", "parameters": empty}])["tools"] == [{"functionDeclarations": [{"name": "stop"}]}]


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ("auto", {"mode": "AUTO"}),
        ("none", {"mode": "NONE"}),
        ("required", {"mode": "ANY"}),
        ("look", {"mode": "ANY", "allowedFunctionNames": ["look"]}),
    ],
)
def test_tool_choice(choice: str, told: object) -> None:
    assert body(tools=TOOLS, tool_choice=choice)["toolConfig"] == {"functionCallingConfig": told}


def test_a_choice_among_no_tools_is_left_out_or_refused() -> None:
    assert "toolConfig" not in body(tool_choice="none")
    assert refused(tool_choice="required") == "tool_choice"
    assert refused(tools=TOOLS, tool_choice="nobody") == "tool_choice"


def test_the_older_field_for_schemas_is_a_quirk() -> None:
    schema = {
        "type": "object",
        "$schema": "http://json-schema.org/draft-07/schema#",
        "additionalProperties": False,
        "properties": {
            "place": {"$ref": "#/$defs/Place", "description": "Where."},
            "unit": {"type": ["string", "null"], "const": "cm"},
            "level": {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "null"}]},
            "either": {"oneOf": [{"type": "string"}, {"type": "integer"}]},
            "both": {"type": ["string", "integer"]},
            "all": {"allOf": [{"type": "string"}, {"minLength": 2}]},
            "list": {"type": "array", "items": {"type": "string", "$comment": "x"}},
        },
        "required": ["place"],
        "$defs": {"Place": {"type": "object", "properties": {"name": {"type": "string"}, "inside": {"$ref": "#/$defs/Place"}}}},
    }
    [tool] = body({"tool_schema": "parameters"}, tools=[{"name": "look", "parameters": schema}])["tools"][0]["functionDeclarations"]
    assert tool["parameters"] == {
        "type": "object",
        "properties": {
            "place": {"type": "object", "description": "Where.", "properties": {"name": {"type": "string"}, "inside": {}}},
            "unit": {"type": "string", "nullable": True, "enum": ["cm"]},
            "level": {"type": "number", "nullable": True},
            "either": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
            "both": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
            "all": {"type": "string", "minLength": 2},
            "list": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["place"],
    }


SCHEMAS: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(("string", "null", "#/$defs/a", "#", "#/items", "elsewhere")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(("type", "properties", "items", "anyOf", "allOf", "$ref", "$defs", "a", "const", "enum")), inner)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(("type", "properties", "items", "$defs", "anyOf", "allOf", "$ref")), SCHEMAS))
def test_any_schema_can_be_cleaned(schema: dict[str, Any]) -> None:
    assert msgspec.json.encode(cleaned(schema))
