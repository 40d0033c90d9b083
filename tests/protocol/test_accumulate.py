"""From events to the reply, in every form in which a reader may get them."""

from __future__ import annotations

import provider_streams as streams
import pytest

from headrace.protocol import events as ev
from headrace.protocol.accumulate import Accumulator


def fed(*events: ev.Event) -> Accumulator:
    reply = Accumulator()
    for event in events:
        reply.feed(event)
    return reply


def numbered(*events: ev.Event) -> list[ev.Event]:
    for seq, event in enumerate(events, 1):
        event.seq = seq
    return list(events)


def answer() -> list[ev.Event]:
    return numbered(
        ev.StreamStart(stream_id="s", message_id="m", model="x", provider="p", protocol=1, resumable=True, expires_at=0),
        ev.Thinking(index=0, text="h", kind="raw"),
        ev.Thinking(index=0, text="m", kind="raw"),
        ev.Thinking(index=0, text="", kind="raw", signature="c2ln"),
        ev.BlockEnd(index=0, kind="thinking"),
        ev.Text(index=1, text="Hel"),
        ev.Text(index=1, text="lo"),
        ev.Source(url="https://a.example/", index=1),
        ev.BlockEnd(index=1, kind="text"),
        ev.ToolCallStart(index=2, tool_call_id="c", name="f"),
        ev.ToolCallDelta(tool_call_id="c", arguments_delta='{"a"'),
        ev.ToolCallDelta(tool_call_id="c", arguments_delta=":1}"),
        ev.ToolCallComplete(tool_call_id="c", name="f", arguments={"a": 1}, arguments_raw='{"a":1}', valid=True),
        ev.BlockEnd(index=2, kind="tool_call"),
        ev.ToolResult(tool_call_id="c", ok=True, content="42", duration_ms=3.0),
        ev.Usage(source="provider", output_tokens=5),
        ev.StreamEnd(finish_reason="tool_calls"),
    )


SHAPES = [
    {"index": 0, "kind": "thinking", "ended": True, "text": "hm", "thinking_kind": "raw", "signature": "c2ln"},
    {"index": 1, "kind": "text", "ended": True, "text": "Hello"},
    {
        "index": 2,
        "kind": "tool_call",
        "ended": True,
        "tool_call_id": "c",
        "name": "f",
        "arguments_raw": '{"a":1}',
        "valid": True,
        "arguments": {"a": 1},
        "result": {"ok": True, "content": "42", "duration_ms": 3.0},
    },
]


def shapes(reply: Accumulator) -> list[dict[str, object]]:
    return [block.as_dict() for block in reply.blocks.values()]


def test_a_whole_answer() -> None:
    reply = fed(*answer())
    assert shapes(reply) == SHAPES
    assert (reply.text, reply.thinking, [call.name for call in reply.tool_calls]) == ("Hello", "hm", ["f"])
    assert reply.start is not None
    assert reply.usage is not None
    assert [source.url for source in reply.sources] == ["https://a.example/"]
    assert reply.complete


def test_feeding_a_replay_changes_nothing() -> None:
    reply = fed(*answer())
    assert [reply.feed(event) for event in answer()] == [False] * len(answer())
    assert shapes(reply) == SHAPES


@pytest.mark.parametrize("at", range(1, len(answer()) + 1))
def test_a_snapshot_stands_for_what_led_to_it(at: int) -> None:
    events = answer()
    before = fed(*events[:at])
    snapshot = ev.Snapshot(through_seq=at, blocks=shapes(before), seq=at)
    resumed = fed(snapshot, *events)
    assert shapes(resumed) == SHAPES
    assert (resumed.text, resumed.thinking) == ("Hello", "hm")


def test_a_compacted_replay_is_the_same_answer() -> None:
    events = answer()
    reply = fed(events[0], ev.Thinking(index=0, text="hm", kind="raw", seq=3, from_seq=2), *events[3:])
    assert shapes(reply) == SHAPES


def test_arguments_are_those_of_the_completed_call() -> None:
    events = answer()
    lost_a_fragment = [event for event in events if event.seq != 11]
    assert shapes(fed(*lost_a_fragment)) == SHAPES


def test_an_open_call_has_its_fragments_and_no_verdict() -> None:
    call = fed(*answer()[:11]).tool_calls[0]
    assert (call.text, call.valid, call.ended) == ('{"a"', None, False)
    assert "arguments" not in call.as_dict()


def test_a_reset_withdraws_what_came_from_its_number_on() -> None:
    reply = fed(
        *numbered(
            ev.Text(index=0, text="kept"),
            ev.BlockEnd(index=0, kind="text"),
            ev.Source(url="https://kept.example/"),
            ev.Text(index=1, text="gone"),
            ev.ToolCallStart(index=2, tool_call_id="c", name="f"),
            ev.Source(url="https://gone.example/"),
            ev.Data(name="gone", data=None),
            ev.Reset(from_seq=4, reason="retry"),
            ev.Text(index=1, text="again"),
            ev.ToolCallDelta(tool_call_id="c", arguments_delta="of no call"),
        )
    )
    assert reply.text == "keptagain"
    assert reply.tool_calls == []
    assert [source.url for source in reply.sources] == ["https://kept.example/"]
    assert reply.data == []


def test_after_a_gap_the_answer_is_not_complete_and_open_blocks_say_so() -> None:
    reply = fed(
        ev.Text(index=0, text="a", seq=1),
        ev.Gap(from_seq=2, to_seq=5, seq=5, reason="slow_reader", recoverable=False),
        ev.Text(index=0, text="z", seq=6),
        ev.BlockEnd(index=0, kind="text", seq=7),
        ev.StreamEnd(finish_reason="stop", seq=8),
    )
    assert reply.text == "az"
    assert reply.blocks[0].skipped
    assert not reply.complete


def test_a_snapshot_heals_a_gap() -> None:
    reply = fed(
        ev.Text(index=0, text="a", seq=1),
        ev.Gap(from_seq=2, to_seq=5, seq=5, reason="slow_reader", recoverable=True),
        ev.Snapshot(through_seq=6, seq=6, blocks=[{"index": 0, "kind": "text", "ended": True, "text": "a-z"}]),
        ev.StreamEnd(finish_reason="stop", seq=7),
    )
    assert (reply.text, reply.complete) == ("a-z", True)


@pytest.mark.parametrize(
    "end",
    [
        ev.StreamEnd(finish_reason="cancelled"),
        ev.Error(code="upstream_truncated", message="m", retryable=True, partial=True),
        None,
    ],
)
def test_only_the_providers_own_end_makes_an_answer_complete(end: ev.Event | None) -> None:
    reply = fed(ev.Text(index=0, text="a"), *([end] if end else []))
    assert not reply.complete


def test_fragments_of_unknown_calls_are_ignored() -> None:
    reply = fed(
        ev.ToolCallDelta(tool_call_id="c", arguments_delta="{"),
        ev.ToolCallComplete(tool_call_id="c", name="f", arguments={}, arguments_raw="{}", valid=True),
        ev.ToolResult(tool_call_id="c", ok=True, content=None),
    )
    assert reply.blocks == {}


@pytest.mark.parametrize(("dialect", "name", "body"), streams.STREAMS, ids=streams.IDS)
def test_the_reply_of_a_decoded_stream_is_what_its_events_tell(dialect: str, name: str, body: bytes) -> None:
    events = streams.decode(dialect, body)
    reply = fed(*events)
    assert (reply.text, reply.thinking) == (streams.text(events), streams.thinking(events))
    assert [(call.tool_call_id, call.name, call.text, call.valid) for call in reply.tool_calls] == streams.calls(events)
    assert all(block.ended for block in reply.blocks.values())
    assert reply.complete is isinstance(events[-1], ev.StreamEnd)
