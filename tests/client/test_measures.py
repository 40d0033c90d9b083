"""TTFT, TPOT and gaps, on a clock that is told what time it is."""

import pytest

from headrace.client.measures import ClientMetrics, Stopwatch
from headrace.protocol import events as ev

START = ev.StreamStart(seq=1, stream_id="s", message_id="m", model="x", provider="p", protocol=1, resumable=True, expires_at=0)


def text(seq: int = 2, from_seq: int | None = None) -> ev.Event:
    return ev.Text(seq=seq, from_seq=from_seq, index=0, text="a")


def started() -> Stopwatch:
    watch = Stopwatch()
    watch.started(10.0)
    watch.opened(10.1, again=False)
    return watch


def test_nothing_is_measured_before_it_happens() -> None:
    assert Stopwatch().metrics(5.0) == ClientMetrics()


@pytest.mark.parametrize(
    "token",
    [text(), ev.Thinking(seq=2, index=0, text="a", kind="raw"), ev.ToolCallDelta(seq=2, tool_call_id="c", arguments_delta="{")],
)
def test_ttft_runs_to_the_first_generated_token(token: ev.Event) -> None:
    watch = started()
    watch.took([START, ev.Queue(seq=2, position=1, depth=1, reason="r")], 10.2)
    watch.took([ev.ToolCallStart(seq=3, index=0, tool_call_id="c", name="n")], 10.3)
    assert watch.metrics(10.3).ttft_ms is None
    watch.took([token], 10.5)
    assert watch.metrics(11.0) == ClientMetrics(headers_ms=100.0, ttft_ms=500.0, duration_ms=1000.0, tokens=1)


def test_tpot_and_gaps() -> None:
    watch = started()
    for at in (11.0, 11.125, 11.25, 11.75):
        watch.took([text()], at)
    watch.took([text(), text()], 12.0)
    watch.ended(12.5)
    metrics = watch.metrics(99.0)
    assert metrics.tpot_ms == 200.0
    assert metrics.tokens_per_s == 5.0
    assert metrics.itl_ms == {"p50": 125.0, "p90": 250.0, "p99": 250.0}
    assert metrics.max_gap_ms == 500.0
    assert metrics.duration_ms == 2500.0


def test_one_token_has_no_rate() -> None:
    watch = started()
    watch.took([text()], 11.0)
    metrics = watch.metrics(12.0)
    assert (metrics.tpot_ms, metrics.tokens_per_s, metrics.itl_ms, metrics.max_gap_ms) == (None, None, None, None)


def test_sending_again_does_not_set_the_clock_back() -> None:
    watch = started()
    watch.started(20.0)
    watch.took([text()], 21.0)
    assert watch.metrics(21.0).ttft_ms == 11_000.0


def test_a_pause_and_the_replay_after_it_are_in_no_gap() -> None:
    watch = started()
    watch.took([text()], 11.0)
    watch.took([text()], 11.25)
    watch.opened(15.0, again=True)
    assert watch.took([], 15.1) is None, "a heartbeat is no replay"
    assert watch.took([text(9, from_seq=4), text(10)], 15.2) == 7
    assert watch.took([text(11)], 15.45) is None
    metrics = watch.metrics(15.45)
    assert (metrics.tokens, metrics.replayed, metrics.reconnects) == (10, 7, 1)
    assert metrics.itl_ms == {"p50": 250.0, "p90": 250.0, "p99": 250.0}
    assert metrics.max_gap_ms == 250.0
