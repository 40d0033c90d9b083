"""A whole `chat.completion`, from events and from a provider's chunks."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from headrace.protocol import events as ev
from headrace.protocol.dialects import surface
from headrace.protocol.sse import SSEEvent
from headrace.protocol.surface import SurfaceRequest

SURFACE = surface("openai_chat")
START = ev.StreamStart(
    stream_id="st_0123456789abcdef0123456789abcdef",
    message_id="msg_1",
    model="some/model",
    provider="p",
    protocol=1,
    resumable=True,
    expires_at=1.0,
)
USAGE = ev.UsageTotals(source="provider", input_tokens=10, output_tokens=5, cost_usd=0.25)
END = ev.StreamEnd(finish_reason="stop", usage=USAGE)


def body(events: list[ev.Event], chunks: list[dict[str, Any]] | None = None, **options: object) -> dict[str, Any]:
    assert SURFACE.new_reply is not None
    reply = SURFACE.new_reply(SurfaceRequest(SURFACE, {}, created=1_700_000_000, options=options))
    assert reply.encode([START]) == b""
    if chunks is not None:
        assert reply.forward([*(SSEEvent(json.dumps(chunk).encode()) for chunk in chunks), SSEEvent(b"[DONE]")]) == b""
    for event in events:
        assert reply.encode([event]) == b""
    found: dict[str, Any] = json.loads(reply.body())
    return found


def answer(*events: ev.Event, **options: object) -> dict[str, Any]:
    completion = body([*events] if isinstance(events[-1], ev.StreamEnd) else [*events, END], **options)
    ChatCompletion.model_validate(completion, strict=True)
    choice: dict[str, Any] = completion["choices"][0]
    return choice


# --- from events -----------------------------------------------------------------------------------------------------


def test_a_text() -> None:
    events = [ev.Text(index=0, text="Hel"), ev.Text(index=0, text="lo"), ev.BlockEnd(index=0, kind="text"), END]
    assert body(events) == {
        "id": "chatcmpl-0123456789abcdef0123456789abcdef",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "some/model",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15, "cost": 0.25},
    }


def test_calls() -> None:
    events = [
        ev.ToolCallStart(index=0, tool_call_id="c1", name="look"),
        ev.ToolCallDelta(tool_call_id="c1", arguments_delta='{"q": 1}'),
        ev.ToolCallComplete(tool_call_id="c1", name="look", arguments={"q": 1}, arguments_raw='{"q": 1}', valid=True),
        ev.ToolCallComplete(tool_call_id="c2", name="stop", arguments={}, arguments_raw="", valid=True),
        ev.StreamEnd(finish_reason="tool_calls"),
    ]
    choice = answer(*events)
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"q": 1}'}},
            {"id": "c2", "type": "function", "function": {"name": "stop", "arguments": "{}"}},
        ],
    }


def test_calls_stand_in_the_order_in_which_they_began() -> None:
    """As in a stream, whichever of them is over first."""
    events = [
        ev.ToolCallStart(index=0, tool_call_id="c1", name="slow"),
        ev.ToolCallStart(index=1, tool_call_id="c2", name="quick"),
        ev.ToolCallComplete(tool_call_id="c2", name="quick", arguments={}, arguments_raw="{}", valid=True),
        ev.ToolCallComplete(tool_call_id="c1", name="slow", arguments={}, arguments_raw="{}", valid=True),
        ev.StreamEnd(finish_reason="tool_calls"),
    ]
    assert [call["id"] for call in answer(*events)["message"]["tool_calls"]] == ["c1", "c2"]


THOUGHT: list[ev.Event] = [
    ev.Thinking(index=0, text="hm", kind="raw"),
    ev.BlockEnd(index=0, kind="thinking"),
    ev.Thinking(index=1, text="so", kind="raw"),
    ev.Thinking(index=1, text="", kind="raw", signature="s"),
    ev.BlockEnd(index=1, kind="thinking"),
    ev.Text(index=2, text="Yes"),
]


def test_reasoning() -> None:
    message = answer(*THOUGHT)["message"]
    assert message["reasoning_content"] == "hmso"
    assert message["reasoning_details"] == [{"type": "reasoning.text", "index": 0, "text": "so", "signature": "s"}]


def test_reasoning_as_openrouter_has_it() -> None:
    message = answer(*THOUGHT, reasoning_field="reasoning")["message"]
    assert message["reasoning"] == "hmso"
    assert message["reasoning_details"] == [
        {"type": "reasoning.text", "index": 0, "text": "hm"},
        {"type": "reasoning.text", "index": 1, "text": "so", "signature": "s"},
    ]


def test_reasoning_left_out() -> None:
    assert answer(*THOUGHT, reasoning_field="none")["message"] == {"role": "assistant", "content": "Yes", "refusal": None}


def test_sources_and_refusals() -> None:
    assert answer(ev.Text(index=0, text="Hi"), ev.Source(url="https://a.example/"))["message"]["annotations"] == [
        {
            "type": "url_citation",
            "url_citation": {"url": "https://a.example/", "title": "https://a.example/", "start_index": 2, "end_index": 2},
        }
    ]
    refused = answer(ev.Notice(code="refusal", message="No."), ev.StreamEnd(finish_reason="refusal"))
    assert refused["message"] == {"role": "assistant", "content": None, "refusal": "No."}
    assert refused["finish_reason"] == "stop"


def test_what_was_withdrawn_is_not_in_the_answer() -> None:
    events = [*THOUGHT, ev.Source(url="https://a.example/"), ev.Reset(from_seq=2, reason="failed"), ev.Text(index=0, text="Again")]
    assert answer(*events)["message"] == {"role": "assistant", "content": "Again", "refusal": None}


def test_an_empty_answer() -> None:
    assert answer(END)["message"]["content"] == ""


# --- from a provider's chunks ----------------------------------------------------------------------------------------


def chunk(delta: dict[str, Any] | None = None, **choice: Any) -> dict[str, Any]:
    return {
        "id": "gen-1",
        "object": "chat.completion.chunk",
        "created": 7,
        "model": "vendor-model",
        "choices": [{"index": 0, "delta": delta or {}, "finish_reason": None, **choice}],
    }


def whole(*chunks: dict[str, Any], end: ev.StreamEnd = END) -> dict[str, Any]:
    return body([end], [*chunks])


def message(*deltas: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = whole(*(chunk(delta) for delta in deltas))["choices"][0]["message"]
    return found


def test_text_and_usage() -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "queue_time": 0.5}
    completion = whole(
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": "Hel"}),
        chunk({"content": "lo"}),
        chunk(finish_reason="stop"),
        {**chunk(), "choices": [], "usage": usage},
    )
    ChatCompletion.model_validate(completion, strict=True)
    assert completion == {
        "id": "gen-1",
        "object": "chat.completion",
        "created": 7,
        "model": "vendor-model",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "logprobs": None, "finish_reason": "stop"}],
        "usage": usage,
    }


def test_what_is_not_known_here_survives() -> None:
    completion = whole(
        {**chunk({"content": "a", "thoughts": "x"}), "x_groq": {"id": "req_1"}, "provider": "P", "obfuscation": "abc"},
        {**chunk({"content": "b", "thoughts": "y"}, native_finish_reason=None), "system_fingerprint": "fp"},
        {
            **chunk(finish_reason="stop", native_finish_reason="end", stop_reason=7, content_filter_results={"hate": {"filtered": False}}),
            "x_groq": {"usage": {"queue_time": 1}},
            "citations": ["https://a.example/"],
            "service_tier": "default",
        },
    )
    choice = completion["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": "ab", "thoughts": "xy"}
    assert choice["native_finish_reason"] == "end"
    assert choice["stop_reason"] == 7
    assert choice["content_filter_results"] == {"hate": {"filtered": False}}
    assert completion["x_groq"] == {"id": "req_1", "usage": {"queue_time": 1}}
    assert completion["citations"] == ["https://a.example/"]
    assert (completion["provider"], completion["service_tier"], completion["system_fingerprint"]) == ("P", "default", "fp")
    assert "obfuscation" not in completion


def test_the_first_id_that_says_something_holds() -> None:
    azure = {"id": "", "created": 0, "model": "", "object": "", "choices": [], "prompt_filter_results": [{"prompt_index": 0}]}
    completion = whole(azure, chunk({"content": "a"}), {**chunk({"content": "b"}), "id": "gen-2", "created": 8})
    assert (completion["id"], completion["created"], completion["model"]) == ("gen-1", 7, "vendor-model")
    assert completion["prompt_filter_results"] == [{"prompt_index": 0}]


def test_what_a_provider_leaves_empty_is_ours() -> None:
    empty = {**chunk({"content": "a"}), "id": "", "created": 0, "model": "", "service_tier": ""}
    completion = whole(empty)
    ChatCompletion.model_validate(completion, strict=True)
    assert completion["id"].startswith("chatcmpl-")
    assert (completion["created"], completion["model"]) == (1_700_000_000, "some/model")
    assert completion["choices"][0]["finish_reason"] == "stop"
    assert completion["usage"]["total_tokens"] == 15


def test_several_choices() -> None:
    completion = whole(
        chunk({"role": "assistant", "content": "a"}, index=1),
        chunk({"role": "assistant", "content": "x"}),
        chunk({"content": "b"}, index=1, finish_reason="length"),
        chunk({"content": "y"}, finish_reason="stop"),
    )
    assert [(choice["index"], choice["message"]["content"], choice["finish_reason"]) for choice in completion["choices"]] == [
        (0, "xy", "stop"),
        (1, "ab", "length"),
    ]


def test_logprobs_follow_each_other() -> None:
    def token(text: str) -> dict[str, Any]:
        return {"token": text, "logprob": -0.5, "bytes": None, "top_logprobs": []}

    completion = whole(
        chunk({"content": "a"}, logprobs={"content": [token("a")], "refusal": None}, token_ids=[1]),
        chunk({"content": "b"}, logprobs={"content": [token("b")], "refusal": None}, token_ids=[2, 3]),
        chunk(finish_reason="stop", logprobs=None),
    )
    ChatCompletion.model_validate(completion, strict=True)
    choice = completion["choices"][0]
    assert choice["logprobs"] == {"content": [token("a"), token("b")], "refusal": None}
    assert choice["token_ids"] == [1, 2, 3]


def call(index: int | None, arguments: str, id: str | None = None, name: str | None = None, **more: Any) -> dict[str, Any]:
    function = {"arguments": arguments} if name is None else {"name": name, "arguments": arguments}
    fragment: dict[str, Any] = {"function": function, **more}
    return {**fragment, **({} if index is None else {"index": index}), **({} if id is None else {"id": id, "type": "function"})}


def test_calls_by_index() -> None:
    found = message(
        {"role": "assistant", "content": None, "tool_calls": [call(0, "", "c1", "look")]},
        {"tool_calls": [call(0, '{"a"'), call(1, "", "c2", "stop", extra_content={"google": {"thought_signature": "s"}})]},
        {"tool_calls": [call(1, "{}"), call(0, ":1}")]},
    )
    assert found == {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"a":1}'}},
            {
                "id": "c2",
                "type": "function",
                "function": {"name": "stop", "arguments": "{}"},
                "extra_content": {"google": {"thought_signature": "s"}},
            },
        ],
    }


@pytest.mark.parametrize(
    "fragments",
    [
        [call(0, '{"a":1}', "c1", "look"), call(0, '{"b":2}', "c2", "stop")],
        [call(None, '{"a":1}', "c1", "look"), call(None, '{"b":2}', "c2", "stop")],
        [call(0, '{"a":', "c1", "look"), call(0, "1}", "", ""), call(1, '{"b":2}', "c2", "stop")],
        [call(0, '{"a":', "c1", "look"), call(0, "1}", "c1", "look"), call(1, '{"b":2}', "c2", "stop")],
    ],
)
def test_calls_of_vendors_with_an_accent(fragments: list[dict[str, Any]]) -> None:
    calls = message(*({"tool_calls": [fragment]} for fragment in fragments))["tool_calls"]
    assert [(found["id"], found["function"]["name"], found["function"]["arguments"]) for found in calls] == [
        ("c1", "look", '{"a":1}'),
        ("c2", "stop", '{"b":2}'),
    ]


def test_a_call_without_an_id_gets_one_and_an_object_becomes_its_json() -> None:
    assert message({"tool_calls": [{"function": {"name": "look", "arguments": {"a": 1}}}]})["tool_calls"] == [
        {"id": "call_gen1_1", "type": "function", "function": {"name": "look", "arguments": '{"a":1}'}}
    ]


def test_labels_are_not_pieces() -> None:
    found = message(
        {"role": "assistant", "content": "", "channel": "analysis", "reasoning": "h"},
        {"role": "assistant", "content": "a", "channel": "final", "reasoning": "m"},
    )
    assert found == {"role": "assistant", "content": "a", "channel": "final", "reasoning": "hm"}


def test_entries_with_an_index_are_joined_and_others_follow_each_other() -> None:
    found = message(
        {"reasoning_details": [{"type": "reasoning.text", "text": "h", "index": 0, "format": "f"}], "annotations": [{"a": 1}]},
        {"reasoning_details": [{"type": "reasoning.text", "text": "m", "index": 0, "format": "f"}], "annotations": [{"b": 2}]},
        {"reasoning_details": [{"type": "reasoning.text", "signature": "s", "index": 0}], "images": [{"type": "image_url"}]},
        {"reasoning_details": [{"type": "reasoning.encrypted", "data": "x", "index": 1}]},
    )
    assert found["reasoning_details"] == [
        {"type": "reasoning.text", "text": "hm", "index": 0, "format": "f", "signature": "s"},
        {"type": "reasoning.encrypted", "data": "x", "index": 1},
    ]
    assert found["annotations"] == [{"a": 1}, {"b": 2}]
    assert found["images"] == [{"type": "image_url"}]


def test_audio_is_joined() -> None:
    audio = [{"id": "a", "transcript": "He"}, {"data": "AA"}, {"transcript": "llo", "data": "BB"}, {"expires_at": 9}]
    assert message(*({"audio": piece} for piece in audio))["audio"] == {"id": "a", "transcript": "Hello", "data": "AABB", "expires_at": 9}


def test_content_in_parts_stays_in_parts() -> None:
    def thought(text: str) -> dict[str, Any]:
        return {"type": "thinking", "thinking": [{"type": "text", "text": text}]}

    found = message(
        {"role": "assistant", "content": ""},
        {"content": [thought("h")]},
        {"content": [thought("m"), {"type": "text", "text": "1"}]},
        {"content": "44"},
        {"content": [{"type": "reference", "reference_ids": [1]}]},
    )
    assert found["content"] == [
        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
        {"type": "text", "text": "144"},
        {"type": "reference", "reference_ids": [1]},
    ]


def test_a_whole_message_counts_only_where_no_delta_came() -> None:
    repeated = chunk({"content": "b"}, message={"role": "assistant", "content": "ab"})
    assert whole(chunk({"content": "a"}), repeated)["choices"][0]["message"]["content"] == "ab"
    only = chunk({"role": "assistant", "content": ""}, message={"role": "assistant", "content": "ab"})
    assert whole(only)["choices"][0]["message"]["content"] == "ab"


def test_halves_of_a_character_are_joined() -> None:
    assert message({"content": "\ud83d"}, {"content": "\ude00"})["content"] == "😀"


def test_a_value_that_is_nested_too_deeply_is_cut() -> None:
    lists: Any = []
    dicts: Any = {}
    for _ in range(400):
        lists, dicts = [lists], {"a": dicts}
    deltas = [{"content": "a", "lists": lists, "dicts": dicts}, {"content": "b", "lists": lists, "dicts": dicts}]
    assert message(*deltas)["content"] == "ab"


def test_an_error_that_is_null_is_not_in_the_answer() -> None:
    assert "error" not in whole({**chunk({"content": "a"}), "error": None})


@given(st.lists(st.text(max_size=4), max_size=6), st.lists(st.text(max_size=4), max_size=6), st.lists(st.text(max_size=4), max_size=4))
def test_the_sdk_joins_the_same_chunks_to_the_same_message(content: list[str], refusal: list[str], arguments: list[str]) -> None:
    chunks = [chunk({"role": "assistant", "content": None})]
    chunks += [chunk({"content": piece}) for piece in content] + [chunk({"refusal": piece}) for piece in refusal]
    if arguments:
        chunks += [chunk({"tool_calls": [call(0, "", "c1", "look")]})] + [chunk({"tool_calls": [call(0, piece)]}) for piece in arguments]
    chunks.append(chunk(finish_reason="stop"))
    state: ChatCompletionStreamState[Any] = ChatCompletionStreamState()
    for piece in chunks:
        list(state.handle_chunk(ChatCompletionChunk.model_validate(piece)))
    theirs: dict[str, Any] = state.current_completion_snapshot.choices[0].message.to_dict()
    for theirs_call in theirs.get("tool_calls") or ():
        theirs_call.pop("index")
        theirs_call["function"].pop("parsed_arguments", None)
    theirs.pop("parsed", None)
    ours = whole(*chunks)["choices"][0]["message"]
    assert {name: value for name, value in ours.items() if value is not None} == {n: v for n, v in theirs.items() if v is not None}


_FIELDS = "content delta index tool_calls function arguments name id type text thinking logprobs message"
_ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.text(max_size=2),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(_FIELDS.split()),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


@given(st.lists(st.dictionaries(st.sampled_from(["id", "choices", "usage", "created", "model", "citations"]), _ANY), max_size=4))
def test_any_chunks_give_a_body(chunks: list[dict[str, Any]]) -> None:
    assert whole(*chunks)["object"] == "chat.completion"


@given(st.lists(_ANY, max_size=4))
def test_any_deltas_give_a_body(deltas: list[Any]) -> None:
    assert whole(*({"choices": [{"delta": delta}]} for delta in deltas))["object"] == "chat.completion"
