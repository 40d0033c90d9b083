"""What decoders write into: keys in, legal events out, arguments parsed once."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from provider_streams import check

from headrace.protocol import events as ev
from headrace.protocol.blocks import BlockWriter, ToolArguments

END = ev.StreamEnd(finish_reason="stop")


def test_take_hands_over_what_came_since_the_last_time() -> None:
    writer = BlockWriter()
    writer.text("t", "a")
    assert writer.take() == [ev.Text(index=0, text="a")]
    assert writer.take() == []


def test_a_block_begins_with_its_first_content() -> None:
    writer = BlockWriter()
    writer.text("t", "")
    writer.thinking("r", "")
    writer.end("t")
    assert (writer.take(), writer.begun) == ([], False)
    writer.text("t", "a")
    assert writer.begun


def test_indexes_are_given_in_the_order_of_arrival() -> None:
    writer = BlockWriter()
    writer.thinking("r", "t")
    writer.end("r")
    writer.text("t", "a")
    writer.end_all()
    assert [event.index for event in writer.take() if isinstance(event, ev.BlockEnd)] == [0, 1]


def test_a_key_may_be_used_again_after_its_end() -> None:
    writer = BlockWriter()
    for _ in range(2):
        writer.text("t", "a")
        writer.end("t")
    check([*writer.take(), END])


def test_ending_what_is_not_open_does_nothing() -> None:
    writer = BlockWriter()
    writer.end("t")
    assert writer.take() == []


def test_a_signature_opens_a_block_of_its_own() -> None:
    writer = BlockWriter()
    writer.thinking("r", "", signature="c2ln")
    assert writer.take() == [ev.Thinking(index=0, text="", kind="raw", signature="c2ln")]


def test_a_call_starts_when_its_name_is_known() -> None:
    writer = BlockWriter()
    writer.tool_call("c", "id", None)
    writer.arguments("c", '{"a"')
    assert writer.take() == []
    writer.tool_call("c", None, "f")
    writer.arguments("c", ":1}")
    writer.end("c")
    assert writer.take() == [
        ev.ToolCallStart(index=0, tool_call_id="id", name="f"),
        ev.ToolCallDelta(tool_call_id="id", arguments_delta='{"a"'),
        ev.ToolCallDelta(tool_call_id="id", arguments_delta=":1}"),
        ev.ToolCallComplete(tool_call_id="id", name="f", arguments={"a": 1}, arguments_raw='{"a":1}', valid=True),
        ev.BlockEnd(index=0, kind="tool_call"),
    ]


def test_a_call_without_a_name_is_told_at_its_end_and_is_not_valid() -> None:
    writer = BlockWriter()
    writer.arguments("c", "{}")
    writer.end("c")
    events = writer.take()
    check([*events, END])
    complete = events[2]
    assert isinstance(complete, ev.ToolCallComplete)
    assert (complete.tool_call_id, complete.arguments_raw, complete.arguments, complete.error) == (
        "call_0",
        "{}",
        None,
        "the call has no name",
    )


def test_an_id_names_one_call() -> None:
    writer = BlockWriter()
    for key in range(3):
        writer.tool_call(key, "same", "f")
    writer.end_all()
    events = writer.take()
    assert [event.tool_call_id for event in events if isinstance(event, ev.ToolCallStart)] == ["same", "same-2", "same-3"]
    check([*events, END])


def test_only_the_block_that_was_begun_last_is_cut_by_a_limit() -> None:
    writer = BlockWriter()
    writer.tool_call(0, "a", "f")
    writer.tool_call(1, "b", "f")
    writer.end_all(last_truncated=True)
    assert [event.valid for event in writer.take() if isinstance(event, ev.ToolCallComplete)] == [True, False]


# --- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fragments", [[], [""], ["  "], ["\n", "\t"]])
def test_no_arguments_are_an_empty_object(fragments: list[str]) -> None:
    arguments = ToolArguments()
    for fragment in fragments:
        arguments.append(fragment)
    assert arguments.complete(truncated=False) == ({}, None)
    assert arguments.parses == 0


def test_no_arguments_of_an_answer_that_was_cut_never_came() -> None:
    assert ToolArguments().complete(truncated=True) == (None, "the arguments were cut off")


@pytest.mark.parametrize(
    "raw", ["[1]", "1", '"{}"', "null", "{", '{"a":1', '{"a":NaN}', "{}{}", '{"a":1e999}', '{"a":' * 3000 + "1" + "}" * 3000]
)
@pytest.mark.parametrize("truncated", [True, False])
def test_arguments_that_are_no_whole_object_are_never_repaired(raw: str, truncated: bool) -> None:
    arguments = ToolArguments()
    arguments.append(raw)
    value, error = arguments.complete(truncated=truncated)
    assert value is None
    assert error
    assert arguments.raw.decode() == raw


def test_an_object_that_closed_before_the_cut_is_whole() -> None:
    arguments = ToolArguments()
    arguments.append('{"a":1}')
    assert arguments.complete(truncated=True) == ({"a": 1}, None)


def test_many_brackets_in_a_string_are_no_depth() -> None:
    arguments = ToolArguments()
    arguments.append('{"a":"' + '[{\\"' * 500 + '"}')
    value, error = arguments.complete(truncated=False)
    assert error is None
    assert value == {"a": '[{"' * 500}


def test_many_flat_objects_are_no_depth() -> None:
    arguments = ToolArguments()
    arguments.append('{"a":[' + ",".join(["{}"] * 500) + "]}")
    assert arguments.complete(truncated=False) == ({"a": [{}] * 500}, None)


@given(st.dictionaries(st.text(), st.text()), st.lists(st.integers(0, 200)))
def test_arguments_are_parsed_once_however_they_were_cut(value: dict[str, str], cuts: list[int]) -> None:
    raw = ev.encode(ev.Data(name="x", data=value)).decode()
    raw = raw[raw.index('"data":') + 7 : -1]
    at = sorted({0, len(raw), *(min(cut, len(raw)) for cut in cuts)})
    arguments = ToolArguments()
    for start, stop in itertools.pairwise(at):
        arguments.append(raw[start:stop])
    assert arguments.complete(truncated=False) == (value, None)
    assert arguments.parses <= 1


# --- characters that were cut apart ----------------------------------------------------------------------------------


def write(kind: str, *texts: str) -> str:
    writer = BlockWriter()
    for text in texts:
        if kind == "text":
            writer.text("k", text)
        elif kind == "thinking":
            writer.thinking("k", text)
        else:
            writer.tool_call("k", "id", "f")
            writer.arguments("k", text)
    writer.end_all()
    events = writer.take()
    check([*events, END])
    fields = {ev.Text: "text", ev.Thinking: "text", ev.ToolCallDelta: "arguments_delta"}
    return "".join(getattr(event, fields[type(event)]) for event in events if type(event) in fields)


@pytest.mark.parametrize("kind", ["text", "thinking", "arguments"])
@pytest.mark.parametrize(
    ("texts", "whole"),
    [
        (["a\ud83d", "\ude00b"], "a😀b"),
        (["\ud83d", "", "\ude00"], "😀"),
        (["\ud83d\ude00"], "😀"),
        (["\ud83d", "b"], "�b"),
        (["\ude00b"], "�b"),
        (["\ud83d"], "�"),
        (["\ud83d\ud83d", "\ude00"], "�😀"),
        (["\ud83d", "\n"], "�\n"),
    ],
)
def test_halves_of_a_character_are_joined_or_replaced(kind: str, texts: list[str], whole: str) -> None:
    assert write(kind, *texts) == whole


@given(st.text(), st.lists(st.integers(0, 60)))
def test_any_cut_between_utf16_units_gives_the_same_text(text: str, cuts: list[int]) -> None:
    units = [chr(unit) for unit in memoryview(text.encode("utf-16-le")).cast("H")]
    at = sorted({0, len(units), *(min(cut, len(units)) for cut in cuts)})
    assert write("text", *("".join(units[start:stop]) for start, stop in itertools.pairwise(at))) == text
