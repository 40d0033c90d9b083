"""The meter: times are given, so every figure can be worked out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.engine.meter import SLICES_MAX, Meter

T0 = 1000.0  # a monotonic clock starts anywhere


def metered(*arrivals: tuple[float, int], received: float = T0) -> Meter:
    """A meter through which tokens went as they came: (seconds after the request, how many)."""
    meter = Meter(received)
    for at, tokens in arrivals:
        meter.passed(tokens, received + at)
    return meter


# --- TTFT and TPOT ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arrivals", "provider_count", "ttft_ms", "tpot_ms"),
    [
        ([], None, None, None),
        ([(0.5, 1)], None, 500.0, None),  # one token has no rate
        ([(0.5, 1)], 40, 500.0, None),  # one arrival has none either, whatever it holds
        ([(0.5, 1), (0.6, 1)], None, 500.0, 100.0),
        ([(0.5, 1), (0.6, 1), (0.8, 1)], None, 500.0, 150.0),
        ([(0.5, 1), (0.8, 3)], None, 500.0, 100.0),  # three came at once
        ([(0.5, 2)], None, 500.0, 0.0),  # both in one read
        ([(0.5, 1), (1.5, 1)], 11, 500.0, 100.0),  # the provider knows better how many tokens two deltas were
        ([(0.5, 1), (0.6, 1), (0.7, 1)], 2, 500.0, 100.0),  # but not that they were fewer than came
        ([(0.5, 1), (0.6, 1)], 0, 500.0, 100.0),
        ([(0.0, 1)], None, 0.0, None),
    ],
)
def test_ttft_and_tpot(arrivals: list[tuple[float, int]], provider_count: int | None, ttft_ms: float | None, tpot_ms: float | None) -> None:
    metrics = metered(*arrivals).metrics(T0 + 10, provider_count)

    assert metrics.ttft_ms == ttft_ms
    assert metrics.tpot_ms == tpot_ms
    assert metrics.duration_ms == 10_000
    assert metrics.tokens == sum(tokens for _, tokens in arrivals)


def test_what_did_not_happen_is_absent() -> None:
    metrics = Meter(T0).metrics(T0 + 0.25, None)

    assert metrics.duration_ms == 250
    for name in ("ttft_ms", "tpot_ms", "queue_ms", "upstream_headers_ms", "itl_ingress_ms", "max_gap_ms", "cancel_ms", "arrivals"):
        assert getattr(metrics, name) is None, name


def test_marks_become_durations() -> None:
    meter = metered((2.0, 1))
    meter.queued_s, meter.sent_at, meter.headers_at, meter.cancel_s, meter.attempts = 0.5, T0 + 0.6, T0 + 1.1, 0.004, 2

    metrics = meter.metrics(T0 + 3, None)

    assert (metrics.queue_ms, metrics.upstream_headers_ms, metrics.cancel_ms, metrics.attempts) == (500, 500, 4, 2)


# --- gaps ------------------------------------------------------------------------------------------------------------


def test_tokens_of_one_read_have_no_gap_between_them() -> None:
    """That is how a hop that buffers shows: most gaps are nothing, a few are long."""
    smooth = metered(*[(n * 0.02, 1) for n in range(100)]).metrics(T0 + 2, None)
    staged = metered(*[(n * 0.4, 20) for n in range(5)]).metrics(T0 + 2, None)

    assert smooth.itl_ingress_ms is not None
    assert staged.itl_ingress_ms is not None
    assert smooth.itl_ingress_ms["p50"] == pytest.approx(20, rel=0.12)
    assert smooth.itl_ingress_ms["p99"] == pytest.approx(20, rel=0.12)
    assert staged.itl_ingress_ms["p50"] == 0
    assert staged.itl_ingress_ms["p99"] == pytest.approx(400, rel=0.12)
    assert smooth.max_gap_ms == pytest.approx(20)
    assert staged.max_gap_ms == pytest.approx(400)


@given(st.lists(st.integers(0, 120_000_000), min_size=1, max_size=60))
def test_quantiles_are_right_within_an_eighth(gaps_us: list[int]) -> None:
    meter = metered((0.0, 1))
    now = T0
    for gap in gaps_us:
        now += gap / 1e6
        meter.passed(1, now)

    found = meter.metrics(now, None).itl_ingress_ms

    assert found is not None
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
        rank = next(n for n in range(1, len(gaps_us) + 1) if n >= share * len(gaps_us))
        true_us = sorted(gaps_us)[rank - 1]
        assert abs(found[name] * 1000 - true_us) <= max(1.5, 0.125 * true_us + 1)


# --- arrivals --------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(1, 5)), min_size=1, max_size=80))
def test_no_token_is_lost_between_the_slices(steps: list[tuple[float, int]]) -> None:
    meter, now = Meter(T0), T0
    for gap, tokens in steps:
        now += gap
        meter.passed(tokens, now)

    arrivals = meter.metrics(now, None).arrivals

    assert arrivals is not None
    assert sum(arrivals.ingress) == sum(arrivals.egress) == sum(tokens for _, tokens in steps)
    assert len(arrivals.ingress) <= SLICES_MAX
    assert len(arrivals.ingress) * arrivals.slice_ms / 1000 >= now - T0 - 1e-6


@pytest.mark.parametrize(("seconds", "slice_ms"), [(1, 50), (5.9, 50), (6.1, 100), (20, 200), (1800, 25600)])
def test_slices_grow_with_the_stream_and_never_past_their_number(seconds: float, slice_ms: int) -> None:
    meter = Meter(T0)
    for n in range(1001):
        meter.passed(1, T0 + seconds * n / 1000)

    arrivals = meter.metrics(T0 + seconds, None).arrivals

    assert arrivals is not None
    assert arrivals.slice_ms == slice_ms
    assert len(arrivals.ingress) <= SLICES_MAX
    assert sum(arrivals.ingress) == 1001


def test_a_token_stands_in_the_slice_of_its_time() -> None:
    arrivals = metered((0.01, 1), (0.12, 2), (0.26, 3)).metrics(T0 + 1, None).arrivals

    assert arrivals is not None
    assert arrivals.ingress == [1, 0, 2, 0, 0, 3]


# --- two ends --------------------------------------------------------------------------------------------------------


def test_what_passed_on_one_stack_went_out_as_it_came() -> None:
    metrics = metered((0.1, 1), (0.3, 1)).metrics(T0 + 1, None)

    assert metrics.itl_egress_ms == metrics.itl_ingress_ms
    assert metrics.arrivals is not None
    assert metrics.arrivals.egress == metrics.arrivals.ingress


def test_what_was_held_back_goes_out_when_a_reader_catches_up() -> None:
    meter = metered((0.01, 1))
    meter.held_back(4, T0 + 0.02)
    meter.held_back(5, T0 + 0.11)
    meter.caught_up(T0 + 0.31)
    meter.passed(1, T0 + 0.33)

    arrivals = meter.metrics(T0 + 1, None).arrivals

    assert arrivals is not None
    assert arrivals.ingress == [5, 0, 5, 0, 0, 0, 1]
    assert arrivals.egress == [1, 0, 0, 0, 0, 0, 10]


def test_what_never_went_out_is_missing_at_the_exit_alone() -> None:
    meter = metered((0.01, 3))
    meter.held_back(4, T0 + 0.06)

    arrivals = meter.metrics(T0 + 1, None).arrivals

    assert arrivals is not None
    assert (sum(arrivals.ingress), sum(arrivals.egress)) == (7, 3)


def test_catching_up_with_nothing_counts_nothing() -> None:
    meter = metered((0.01, 3))
    meter.caught_up(T0 + 0.5)
    meter.held_back(1, T0 + 0.6)
    meter.caught_up(T0 + 0.7)
    meter.caught_up(T0 + 0.8)

    arrivals = meter.metrics(T0 + 1, None).arrivals

    assert arrivals is not None
    assert sum(arrivals.egress) == 4


@given(st.lists(st.tuples(st.sampled_from(["passed", "held_back", "caught_up"]), st.floats(0, 2), st.integers(1, 9)), max_size=60))
def test_out_is_never_more_than_in_and_equal_once_caught_up(steps: list[tuple[str, float, int]]) -> None:
    """A batch passes only if nothing is held back: the reader that it goes to is the foremost."""
    meter, now, behind = Meter(T0), T0, False
    for act, gap, tokens in steps:
        now += gap
        if act == "caught_up":
            meter.caught_up(now)
            behind = False
        elif act == "passed" and not behind:
            meter.passed(tokens, now)
        else:
            meter.held_back(tokens, now)
            behind = True
        assert meter.egress.tokens <= meter.ingress.tokens
        assert behind or meter.egress.tokens == meter.ingress.tokens
