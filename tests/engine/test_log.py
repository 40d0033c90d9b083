"""The log: one writer, gapless numbers, and the same text however it is read."""

import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.engine.log import EVENT_COST, RUN_BYTES_MAX, Log
from headrace.errors import LocalProtocolError
from headrace.protocol import events as ev
from headrace.protocol.accumulate import Accumulator

LIMITLESS = 1 << 30
START = {"stream_id": "st_1", "message_id": "msg_1", "model": "m", "provider": "p", "protocol": 1, "resumable": True, "expires_at": 0.0}


def start() -> ev.StreamStart:
    return ev.StreamStart(**START)


def log_of(*events: ev.Event, bytes_max: int = LIMITLESS) -> Log:
    log = Log(bytes_max)
    for event in (start(), *events):
        log.append(event)
    return log


def texts(*pieces: str, index: int = 0) -> list[ev.Event]:
    return [ev.Text(index=index, text=piece) for piece in pieces]


def read_all(log: Log, *, step: int, compact: bool, after: int = 0) -> Iterator[ev.Event]:
    while after < log.last_seq:
        events, _ = log.read(after, step, compact=compact)
        yield from events
        after = events[-1].seq


def reply(events: Iterator[ev.Event] | list[ev.Event]) -> list[dict]:
    """Return the blocks that the events tell."""
    accumulator = Accumulator()
    for event in events:
        assert accumulator.feed(event)
    return [block.as_dict() for block in accumulator.blocks.values()]


def covered(events: list[ev.Event]) -> list[int]:
    """Return every number that the events stand for, in the order in which they came."""
    return [seq for event in events for seq in range(getattr(event, "from_seq", None) or event.seq, event.seq + 1)]


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_numbers_start_at_one_and_have_no_hole() -> None:
    appended = [start(), *texts("a", "b"), ev.BlockEnd(index=0, kind="text"), ev.StreamEnd(finish_reason="stop")]
    log = Log(LIMITLESS)
    for event in appended:
        log.append(event)

    assert [event.seq for event in appended] == [1, 2, 3, 4, 5]
    assert (log.first_seq, log.last_seq) == (1, 5)


def test_an_event_that_may_not_come_now_leaves_the_log_as_it_was() -> None:
    log = log_of(*texts("a"))
    before = (log.last_seq, log.size, log.total)

    with pytest.raises(LocalProtocolError):
        log.append(ev.StreamEnd(finish_reason="stop"))  # the block is open

    assert (log.last_seq, log.size, log.total) == before
    log.append(ev.Text(index=0, text="b"))
    assert log.last_seq == 3


def test_nothing_comes_after_the_terminal_event() -> None:
    log = log_of(ev.StreamEnd(finish_reason="stop"))

    assert log.ended
    with pytest.raises(LocalProtocolError):
        log.append(ev.Notice(code="late", message="too late"))


# --- reading ---------------------------------------------------------------------------------------------------------


def test_deltas_of_one_block_come_back_one_for_one() -> None:
    log = log_of(*texts("The", " quick", " fox"))

    events, cost = log.read(1, LIMITLESS, compact=False)

    assert [(event.seq, event.text, event.from_seq) for event in events] == [(2, "The", None), (3, " quick", None), (4, " fox", None)]
    assert cost == len("The quick fox") + 3 * EVENT_COST


def test_compacted_they_are_one_event_that_names_its_first_and_its_last() -> None:
    log = log_of(*texts("The", " quick", " fox"))

    events, _ = log.read(1, LIMITLESS, compact=True)

    assert [(event.from_seq, event.seq, event.text) for event in events] == [(2, 4, "The quick fox")]


def test_a_single_event_needs_no_from_seq() -> None:
    log = log_of(*texts("The", " quick"))

    events, _ = log.read(2, LIMITLESS, compact=True)

    assert [(event.from_seq, event.seq, event.text) for event in events] == [(None, 3, " quick")]


@pytest.mark.parametrize(("after", "text"), [(1, "abcd"), (2, "bcd"), (3, "cd"), (4, "d")])
def test_a_reader_in_the_middle_of_a_run_gets_the_rest_of_it(after: int, text: str) -> None:
    log = log_of(*texts("a", "b", "c", "d"))

    assert "".join(event.text for event in read_all(log, step=LIMITLESS, compact=True, after=after)) == text
    assert "".join(event.text for event in read_all(log, step=1, compact=False, after=after)) == text


@pytest.mark.parametrize("last", [ev.Text(index=0, text="c"), ev.BlockEnd(index=0, kind="text")])
@pytest.mark.parametrize("compact", [True, False])
def test_behind_the_last_event_there_is_nothing(last: ev.Event, compact: bool) -> None:
    log = log_of(*texts("a", "b"), last)

    assert log.read(log.last_seq, LIMITLESS, compact=compact) == ([], 0)


def test_a_step_is_never_less_than_one_event() -> None:
    log = log_of(*texts("x" * 1000, "y" * 1000))

    events, cost = log.read(1, 1, compact=True)

    assert [event.text for event in events] == ["x" * 1000]
    assert cost == 1000 + EVENT_COST


def test_blocks_that_alternate_keep_their_order() -> None:
    log = log_of(
        ev.ToolCallStart(index=0, tool_call_id="a", name="f"),
        ev.ToolCallStart(index=1, tool_call_id="b", name="g"),
        ev.ToolCallDelta(tool_call_id="a", arguments_delta="{"),
        ev.ToolCallDelta(tool_call_id="b", arguments_delta="["),
        ev.ToolCallDelta(tool_call_id="a", arguments_delta="}"),
    )

    events, _ = log.read(3, LIMITLESS, compact=True)

    assert [(event.tool_call_id, event.arguments_delta, event.seq) for event in events] == [("a", "{", 4), ("b", "[", 5), ("a", "}", 6)]


def test_a_signature_is_kept_beside_the_text_that_it_signs() -> None:
    log = log_of(
        ev.Thinking(index=0, text="Let me", kind="raw"),
        ev.Thinking(index=0, text=" see", kind="raw"),
        ev.Thinking(index=0, text="", kind="raw", signature="sig"),
        ev.Thinking(index=0, text="", kind="raw", redacted="xxx"),
    )

    events, _ = log.read(1, LIMITLESS, compact=True)

    assert [(event.text, event.signature, event.redacted, event.seq) for event in events] == [
        ("Let me see", None, None, 3),
        ("", "sig", None, 4),
        ("", None, "xxx", 5),
    ]


def test_thinking_of_two_kinds_is_not_mixed() -> None:
    log = log_of(ev.Thinking(index=0, text="a", kind="raw"), ev.Thinking(index=0, text="b", kind="summary"))

    assert [(event.text, event.kind) for event in log.read(1, LIMITLESS, compact=True)[0]] == [("a", "raw"), ("b", "summary")]


def test_a_long_block_is_read_in_bounded_steps() -> None:
    log = log_of(*texts(*["x" * 100] * 1000))

    events, cost = log.read(1, 16 * 1024, compact=True)

    assert 16 * 1024 <= cost < 16 * 1024 + 100 + EVENT_COST
    assert len(events) == 1


@pytest.mark.parametrize("text", ["für", "水力", "🌊", "e\u0301"])
def test_text_is_cut_between_events_and_nowhere_else(text: str) -> None:
    log = log_of(*texts(text, text, text))

    for compact in (True, False):
        assert "".join(event.text for event in read_all(log, step=1, compact=compact, after=1)) == text * 3


# --- distance --------------------------------------------------------------------------------------------------------


def test_distance_is_what_reading_costs() -> None:
    log = log_of(
        *texts("a", "bb", "ccc"),
        ev.BlockEnd(index=0, kind="text"),
        ev.Thinking(index=1, text="dd", kind="raw"),
        ev.Thinking(index=1, text="", kind="raw", signature="s"),
        *texts("ee", "f", index=2),
    )

    for after in range(log.last_seq + 1):
        assert log.distance(after) == log.read(after, LIMITLESS, compact=False)[1]
        assert log.distance(after) == log.read(after, LIMITLESS, compact=True)[1]
    assert log.distance(0) == log.total
    assert log.distance(log.last_seq) == 0
    assert log.distance(log.last_seq + 10) == 0


# --- the bound -------------------------------------------------------------------------------------------------------


def test_past_its_bound_the_oldest_goes_and_a_reader_behind_it_is_told_what_it_missed() -> None:
    log = log_of(*texts(*["x" * 999 + "\n"] * 400), bytes_max=128 * 1024)

    assert log.size <= 128 * 1024 + RUN_BYTES_MAX
    assert log.total > 400 * 1000
    events, _ = log.read(0, LIMITLESS, compact=True)
    gap, *rest = events
    assert isinstance(gap, ev.Gap)
    assert (gap.from_seq, gap.to_seq, gap.seq) == (1, log.first_seq - 1, log.first_seq - 1)
    assert gap.recoverable is False
    assert gap.characters == (log.first_seq - 2) * 1000  # all that is gone but `stream_start`, which has none
    assert covered(rest) == list(range(log.first_seq, log.last_seq + 1))


def test_a_reader_in_the_middle_of_what_is_gone_is_told_from_where_on_it_misses() -> None:
    log = log_of(*texts(*["x" * 1000] * 400), bytes_max=128 * 1024)

    events, _ = log.read(5, LIMITLESS, compact=True)

    assert isinstance(events[0], ev.Gap)
    assert (events[0].from_seq, events[0].to_seq, events[0].characters) == (6, log.first_seq - 1, None)


def test_a_reader_at_the_edge_misses_nothing() -> None:
    log = log_of(*texts(*["x" * 1000] * 400), bytes_max=128 * 1024)

    events, _ = log.read(log.first_seq - 1, LIMITLESS, compact=True)

    assert not any(isinstance(event, ev.Gap) for event in events)
    assert covered(events) == list(range(log.first_seq, log.last_seq + 1))


def test_one_event_larger_than_the_bound_is_kept_whole() -> None:
    log = log_of(*texts("x" * 5000), bytes_max=1000)

    assert [event.text for event in read_all(log, step=1, compact=True, after=1)] == ["x" * 5000]


def test_what_is_held_and_what_came_are_both_counted() -> None:
    log = Log(64 * 1024)
    log.append(start())
    for _ in range(1000):
        log.append(ev.Text(index=0, text="x" * 200))

    assert log.total == EVENT_COST + 1000 * (200 + EVENT_COST)
    assert log.size == log.distance(0) < log.total


def test_a_thousand_tokens_are_kept_in_at_most_64_kib() -> None:
    tokens = [f" token{n:03d}"[: 3 + n % 7] for n in range(1000)]
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        log = Log(4 * 1024 * 1024)
        log.append(start())
        for token in tokens:
            log.append(ev.Text(index=0, text=token))
        log.append(ev.BlockEnd(index=0, kind="text"))
        log.append(ev.StreamEnd(finish_reason="stop"))
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()

    assert held <= 64 * 1024
    assert log.last_seq == 1003


# --- properties ------------------------------------------------------------------------------------------------------

_pieces = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


@st.composite
def answers(draw: st.DrawFn) -> list[ev.Event]:
    """Draw a whole answer: blocks one after the other or alternating, each with its deltas, and the rest in between."""
    events: list[ev.Event] = [start()]
    open_blocks: list[tuple[int, str]] = []
    made = 0
    for _ in range(draw(st.integers(0, 40))):
        act = draw(st.sampled_from(["open", "delta", "delta", "delta", "delta", "close", "aside"]))
        if act == "open" and len(open_blocks) < 3:
            kind = draw(st.sampled_from(["text", "thinking", "tool_call"]))
            open_blocks.append((made, kind))
            if kind == "tool_call":
                events.append(ev.ToolCallStart(index=made, tool_call_id=f"call_{made}", name="f"))
            made += 1
        elif act == "delta" and open_blocks:
            index, kind = draw(st.sampled_from(open_blocks))
            events.append(_delta(draw, index, kind))
        elif act == "close" and open_blocks:
            index, kind = open_blocks.pop(draw(st.integers(0, len(open_blocks) - 1)))
            events += _closing(index, kind)
        elif act == "aside":
            events.append(draw(st.sampled_from([ev.Notice(code="n", message="m"), ev.Usage(source="provider", output_tokens=1)])))
    for index, kind in open_blocks:
        events += _closing(index, kind)
    return [*events, ev.StreamEnd(finish_reason="stop")]


def _delta(draw: st.DrawFn, index: int, kind: str) -> ev.Event:
    piece = draw(_pieces)
    if kind == "text":
        return ev.Text(index=index, text=piece)
    if kind == "tool_call":
        return ev.ToolCallDelta(tool_call_id=f"call_{index}", arguments_delta=piece)
    signature = draw(st.none() | st.just("sig"))
    return ev.Thinking(index=index, text=piece, kind=draw(st.sampled_from(["raw", "summary"])), signature=signature)


def _closing(index: int, kind: str) -> list[ev.Event]:
    end = ev.BlockEnd(index=index, kind=kind)  # type: ignore[arg-type]
    if kind != "tool_call":
        return [end]
    return [ev.ToolCallComplete(tool_call_id=f"call_{index}", name="f", arguments={}, arguments_raw="{}", valid=True), end]


def _legal(events: list[ev.Event]) -> list[ev.Event]:
    """Leave out the end of blocks in which nothing came."""
    begun = {getattr(event, "index", None) for event in events if not isinstance(event, ev.BlockEnd)}
    return [event for event in events if not isinstance(event, ev.BlockEnd) or event.index in begun]


def _filled(events: list[ev.Event], bytes_max: int) -> Log:
    log = Log(bytes_max)
    for event in events:
        log.append(event)
    return log


@given(answers().map(_legal), st.integers(1, 400))
def test_whatever_was_appended_is_read_back_in_any_steps(events: list[ev.Event], step: int) -> None:
    log = _filled(events, LIMITLESS)
    told = reply([*events])

    single = list(read_all(log, step=step, compact=False))
    assert [ev.encode(event) for event in single] == [ev.encode(event) for event in events]
    assert reply(single) == told


@given(answers().map(_legal), st.integers(1, 400))
def test_compacted_and_not_compacted_tell_the_same(events: list[ev.Event], step: int) -> None:
    log = _filled(events, LIMITLESS)

    compacted = list(read_all(log, step=step, compact=True))

    assert covered(compacted) == list(range(1, log.last_seq + 1))
    assert reply(compacted) == reply([*events])


@given(answers().map(_legal), st.data())
def test_a_reader_that_comes_back_at_any_place_has_everything_once(events: list[ev.Event], data: st.DataObject) -> None:
    log = _filled(events, LIMITLESS)
    after = data.draw(st.integers(0, log.last_seq))

    first = [event for event in read_all(log, step=1, compact=False) if event.seq <= after]
    rest = list(read_all(log, step=data.draw(st.integers(1, 200)), compact=True, after=after))

    assert covered(first + rest) == list(range(1, log.last_seq + 1))
    assert reply(first + rest) == reply([*events])


@given(answers().map(_legal), st.integers(64, 600))
def test_a_bounded_log_holds_its_newest_and_names_what_is_gone(events: list[ev.Event], bytes_max: int) -> None:
    log = _filled(events, bytes_max)

    held = list(read_all(log, step=LIMITLESS, compact=False))

    if isinstance(held[0], ev.Gap):
        assert (held[0].from_seq, held[0].to_seq) == (1, log.first_seq - 1)
        held = held[1:]
    assert covered(held) == list(range(log.first_seq, log.last_seq + 1))
    assert log.size == log.distance(log.first_seq - 1)
    assert sum(log.read(seq - 1, 1, compact=False)[1] for seq in range(log.first_seq, log.last_seq + 1)) == log.size
