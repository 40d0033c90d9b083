"""Retrying: one table, and bounds that hold whatever the error says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import (
    UpstreamAuth,
    UpstreamConnect,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamProtocol,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTruncated,
)
from headrace.policy.retry import BACKOFF_MAX_S, Retry, RetryPolicy, decide

POLICY = RetryPolicy(attempts_max=3, backoff_s=0.25, wait_s_max=10.0)
SAME, NEXT = False, True


@pytest.mark.parametrize(
    ("error", "attempt", "more_targets", "decision"),
    [
        # again at the same target: half to all of a wait that doubles (chance is 0 here, so half)
        (UpstreamConnect(), 1, False, Retry(0.125, SAME)),
        (UpstreamConnect(), 2, False, Retry(0.25, SAME)),
        (UpstreamConnect(), 3, False, None),
        (UpstreamTruncated(), 1, True, Retry(0.125, SAME)),
        (UpstreamProtocol(), 1, False, Retry(0.125, SAME)),
        (UpstreamError(provider_status=500), 1, False, Retry(0.125, SAME)),
        # the provider says when
        (UpstreamRateLimited(retry_after_s=3.0), 1, False, Retry(3.0, SAME)),
        (UpstreamOverloaded(retry_after_s=0.01), 1, False, Retry(0.125, SAME)),
        (UpstreamRateLimited(retry_after_s=0.0), 1, False, Retry(0.125, SAME)),
        # and asks for more than anybody should wait
        (UpstreamRateLimited(retry_after_s=11.0), 1, False, None),
        (UpstreamRateLimited(retry_after_s=11.0), 1, True, Retry(0.0, NEXT)),
        (UpstreamRateLimited(retry_after_s=10.0), 1, True, Retry(10.0, SAME)),
        # attempts are used up
        (UpstreamOverloaded(), 3, True, Retry(0.0, NEXT)),
        (UpstreamOverloaded(), 3, False, None),
        # the request itself is refused: no target will like it better
        (UpstreamRejected(), 1, True, None),
        # the relay's key is refused: another target has another key
        (UpstreamAuth(), 1, True, Retry(0.0, NEXT)),
        (UpstreamAuth(), 1, False, None),
    ],
    ids=str,
)
def test_what_follows_a_failed_attempt(error: UpstreamError, attempt: int, more_targets: bool, decision: Retry | None) -> None:
    assert decide(POLICY, error, attempt, more_targets=more_targets, chance=0.0) == decision


@pytest.mark.parametrize(("chance", "delay_s"), [(0.0, 0.5), (0.5, 0.75), (0.999999, 1.0)])
def test_jitter_is_between_half_and_all_of_the_wait(chance: float, delay_s: float) -> None:
    again = decide(RetryPolicy(backoff_s=1.0), UpstreamConnect(), 1, more_targets=False, chance=chance)

    assert again is not None
    assert again.delay_s == pytest.approx(delay_s, abs=1e-5)


@pytest.mark.parametrize("attempts_max", [0, 1])
def test_one_attempt_is_no_retry(attempts_max: int) -> None:
    assert decide(RetryPolicy(attempts_max=attempts_max), UpstreamConnect(), 1, more_targets=False, chance=0.0) is None


def test_the_wait_stops_doubling() -> None:
    again = decide(RetryPolicy(attempts_max=100), UpstreamConnect(), 60, more_targets=False, chance=0.999999)

    assert again is not None
    assert again.delay_s <= BACKOFF_MAX_S


_errors = st.builds(
    lambda cls, wait: cls(retry_after_s=wait),
    st.sampled_from([UpstreamConnect, UpstreamRateLimited, UpstreamOverloaded, UpstreamRejected, UpstreamAuth, UpstreamError]),
    st.none() | st.floats(0, 1e6),
)
_policies = st.builds(RetryPolicy, st.integers(0, 6), st.floats(0, 20), st.floats(0, 60))


@given(_policies, _errors, st.integers(1, 10), st.booleans(), st.floats(0, 0.999999))
def test_no_wait_is_longer_than_allowed_nor_shorter_than_asked(
    policy: RetryPolicy, error: UpstreamError, attempt: int, more_targets: bool, chance: float
) -> None:
    again = decide(policy, error, attempt, more_targets=more_targets, chance=chance)

    if again is None or again.next_target:
        return
    assert attempt < policy.attempts_max
    assert 0 <= again.delay_s <= policy.wait_s_max
    assert again.delay_s >= (error.retry_after_s or 0)


@given(_policies, st.lists(_errors, min_size=40, max_size=40), st.integers(1, 4))
def test_retrying_ends(policy: RetryPolicy, errors: list[UpstreamError], targets: int) -> None:
    at, attempt, made = 0, 1, 1
    for error in errors:
        again = decide(policy, error, attempt, more_targets=at + 1 < targets, chance=0.5)
        if again is None:
            break
        at, attempt = (at + 1, 1) if again.next_target else (at, attempt + 1)
        made += 1
    assert made <= max(1, policy.attempts_max) * targets
