"""Whether a failed attempt at a provider is made again, when, and with which target. Decisions only."""

from __future__ import annotations

from typing import NamedTuple

from headrace.errors import UpstreamAuth, UpstreamError

BACKOFF_MAX_S = 8.0


class Retry(NamedTuple):
    """Try again after `delay_s`, with the next target of the list if `next_target`."""

    delay_s: float
    next_target: bool


class RetryPolicy(NamedTuple):
    """`attempts_max` attempts at each target; waits double from `backoff_s`; a provider that asks for more than `wait_s_max` is left."""

    attempts_max: int = 3
    backoff_s: float = 0.25
    wait_s_max: float = 10.0


def decide(policy: RetryPolicy, error: UpstreamError, attempt: int, *, more_targets: bool, chance: float) -> Retry | None:
    """Return what to do after attempt number `attempt` (from 1) at one target failed with `error`, before any content came.

    `chance` in [0, 1) is the jitter: between half and all of the wait. None means: give up, and tell the caller.
    """
    again = error.retryable and attempt < policy.attempts_max
    if again:
        wait = min(policy.backoff_s * 2 ** (attempt - 1), BACKOFF_MAX_S) * (0.5 + chance / 2)
        if error.retry_after_s is not None:
            wait = max(wait, error.retry_after_s)
        if wait <= policy.wait_s_max:
            return Retry(wait, next_target=False)
    if more_targets and (error.retryable or isinstance(error, UpstreamAuth)):
        return Retry(0.0, next_target=True)
    return None
