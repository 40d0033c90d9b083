"""The table of what may follow what, and how blocks nest."""

from __future__ import annotations

import pytest

from headrace.errors import LocalProtocolError
from headrace.protocol import events as ev
from headrace.protocol.lifecycle import TABLE, Lifecycle, State

START = ev.StreamStart(stream_id="s", message_id="m", model="x", provider="p", protocol=1, resumable=True, expires_at=0)
TEXT = ev.Text(index=0, text="a")
CALL = ev.ToolCallStart(index=0, tool_call_id="c", name="f")
ARGUMENTS = ev.ToolCallDelta(tool_call_id="c", arguments_delta="{}")
COMPLETE = ev.ToolCallComplete(tool_call_id="c", name="f", arguments={}, arguments_raw="{}", valid=True)
END = ev.StreamEnd(finish_reason="stop")
ERROR = ev.Error(code="x", message="m", retryable=False, partial=False)
RESET = ev.Reset(from_seq=2, reason="retry")


def text_end(index: int = 0) -> ev.BlockEnd:
    return ev.BlockEnd(index=index, kind="text")


def call_end(index: int = 0) -> ev.BlockEnd:
    return ev.BlockEnd(index=index, kind="tool_call")


def follow(*events: ev.Event) -> Lifecycle:
    lifecycle = Lifecycle()
    for event in (START, *events):
        lifecycle.step(event)
    return lifecycle


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([], "waiting"),
        ([ev.Queue(position=1, depth=1, reason="provider")], "waiting"),
        ([TEXT], "streaming"),
        ([TEXT, TEXT, text_end(), END], "ended"),
        ([END], "ended"),
        ([ERROR], "ended"),
        ([CALL, ARGUMENTS, COMPLETE, call_end(), ev.ToolResult(tool_call_id="c", ok=True, content=""), END], "ended"),
        ([CALL, COMPLETE, call_end(), END], "ended"),
        ([TEXT, ev.ToolCallStart(index=1, tool_call_id="c", name="f"), ARGUMENTS, COMPLETE, text_end(), call_end(1), END], "ended"),
        ([ev.Usage(source="provider"), TEXT, ev.Notice(code="stalled", message="m"), ev.Source(url="u"), text_end(), END], "ended"),
        ([TEXT, RESET], "waiting"),
        ([TEXT, text_end(), RESET, TEXT, text_end(), END], "ended"),
        ([CALL, ARGUMENTS, RESET, CALL, COMPLETE, call_end(), END], "ended"),
    ],
)
def test_legal_orders(events: list[ev.Event], state: State) -> None:
    assert follow(*events).state == state


@pytest.mark.parametrize(
    ("events", "bad"),
    [
        pytest.param([], START, id="a second start"),
        pytest.param([TEXT], ev.Queue(position=1, depth=1, reason="provider"), id="a queue after content"),
        pytest.param([], RESET, id="a reset of nothing"),
        pytest.param([END], TEXT, id="content after the end"),
        pytest.param([END], END, id="a second end"),
        pytest.param([ERROR], END, id="an end after an error"),
        pytest.param([TEXT], END, id="an end with an open block"),
        pytest.param([TEXT], ERROR, id="an error with an open block"),
        pytest.param([TEXT, text_end()], TEXT, id="text for a block that has ended"),
        pytest.param([TEXT], ev.Thinking(index=0, text="", kind="raw"), id="thinking in a text block"),
        pytest.param([TEXT], ev.ToolCallStart(index=0, tool_call_id="c", name="f"), id="a call in an open block"),
        pytest.param([TEXT, text_end()], CALL, id="a call in a block that has ended"),
        pytest.param([TEXT], call_end(), id="the end of a block as another kind"),
        pytest.param([], text_end(), id="the end of no block"),
        pytest.param([CALL], call_end(), id="the end of a call that is not complete"),
        pytest.param([CALL], ev.ToolCallStart(index=1, tool_call_id="c", name="f"), id="a call that starts twice"),
        pytest.param([], ARGUMENTS, id="arguments without a call"),
        pytest.param([CALL, COMPLETE], ARGUMENTS, id="arguments of a complete call"),
        pytest.param([CALL, COMPLETE], COMPLETE, id="a call that is complete twice"),
        pytest.param([CALL, COMPLETE, call_end()], COMPLETE, id="a call that is complete after its end"),
    ],
)
def test_illegal_orders_raise_and_change_nothing(events: list[ev.Event], bad: ev.Event) -> None:
    lifecycle = follow(*events)
    state = lifecycle.state
    for _ in range(2):
        with pytest.raises(LocalProtocolError):
            lifecycle.step(bad)
        assert lifecycle.state == state


def test_nothing_may_come_before_the_start() -> None:
    with pytest.raises(LocalProtocolError):
        Lifecycle().step(TEXT)


def test_gap_and_snapshot_belong_to_a_reader_and_never_to_the_log() -> None:
    of_a_reader = {ev.Gap, ev.Snapshot}
    assert {cls for row in TABLE.values() for cls in row} == set(ev.TYPES.values()) - of_a_reader


def test_both_terminal_events_are_legal_in_every_state_but_the_first_and_the_last() -> None:
    assert {state for state, row in TABLE.items() if set(ev.TERMINAL) <= set(row)} == {"waiting", "streaming"}
