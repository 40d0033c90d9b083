"""What a reader does after each setback. Decisions only: no waiting, no clock, no network.

Everything that may go wrong while an answer is read is one of two setbacks. `Dropped` is a connection that failed, fell silent or
ended without a terminal event; `Refused` is an HTTP answer that is no stream. `decide` says what follows, from what is known.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

from headrace.errors import HeadraceError, IncompleteStream, RelayUnreachable

RETRYABLE_STATUSES = frozenset({429, 502, 503, 504})

DropReason: TypeAlias = Literal["unreachable", "lost", "silent", "ended_early", "garbled", "stopped"]


class Policy(NamedTuple):
    """How long a reader keeps trying.

    `attempts_max` counts attempts in a row that brought nothing new: one new event, and all of them are there again. The wait
    doubles from `backoff_s` to `backoff_s_max`, less up to half of it by chance. A relay that asks for more than
    `retry_after_s_max` is not waited for. `connect_attempts_max` takes the place of `attempts_max` where there has been no answer
    from the relay at all: for whoever would rather hear soon that the address is wrong.
    """

    attempts_max: int = 8
    backoff_s: float = 0.25
    backoff_s_max: float = 5.0
    retry_after_s_max: float = 30.0
    connect_attempts_max: int | None = None


class Dropped(Exception):
    """The connection did not carry the answer to its end."""

    def __init__(self, reason: DropReason, detail: str) -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(f"{reason}: {detail}")


class Refused(Exception):
    """The relay, or something in front of it, answered with a status. `retryable` is None where only the status speaks."""

    def __init__(self, status: int, error: HeadraceError, retryable: bool | None = None) -> None:
        self.status = status
        self.error = error
        self.retryable = status in RETRYABLE_STATUSES if retryable is None else retryable
        super().__init__(f"{status}: {error}")


Setback: TypeAlias = Dropped | Refused


class Situation(NamedTuple):
    """What is known when a setback comes.

    Attributes:
        failures: attempts in a row that brought nothing new, this one not counted.
        begun: whether the relay has ever answered with a stream.
        can_resend: whether this reader sent the request itself; one that joined by a stream's id did not.
    """

    failures: int = 0
    last_seq: int = 0
    stream_id: str | None = None
    begun: bool = False
    can_resend: bool = True
    stop_asked: bool = False


class Resend(NamedTuple):
    """Send the whole request again after `delay_s`. Its Idempotency-Key makes that safe: the answer is never made twice."""

    delay_s: float


class Resume(NamedTuple):
    """Ask for what comes behind the last event after `delay_s`."""

    delay_s: float


class Finish(NamedTuple):
    """It is over, and nothing is wrong: the user wanted no more of it."""


class GiveUp(NamedTuple):
    error: HeadraceError


Decision: TypeAlias = Resend | Resume | Finish | GiveUp


def decide(policy: Policy, situation: Situation, setback: Setback, *, chance: float) -> Decision:
    """Return what to do after `setback`. `chance` in [0, 1) is the jitter."""
    if situation.stop_asked:
        return Finish()
    if isinstance(setback, Refused) and not setback.retryable:
        return GiveUp(setback.error)
    if policy.connect_attempts_max is not None and isinstance(setback, Dropped) and not situation.begun:
        policy = policy._replace(attempts_max=policy.connect_attempts_max)
    wait = decide_wait(policy, situation.failures, setback, chance=chance)
    if wait is None:
        return GiveUp(_last_error(situation, setback))
    if situation.last_seq == 0 and situation.can_resend:
        return Resend(wait)
    return Resume(wait) if situation.stream_id is not None else GiveUp(_last_error(situation, setback))


def decide_wait(policy: Policy, failures: int, setback: Setback, *, chance: float) -> float | None:
    """Return for how many seconds to wait before the next attempt, or None where there is none."""
    if failures >= policy.attempts_max or (isinstance(setback, Refused) and not setback.retryable):
        return None
    wait = min(policy.backoff_s * 2.0**failures, policy.backoff_s_max) * (0.5 + chance / 2)
    asked = setback.error.retry_after_s if isinstance(setback, Refused) else None
    if asked is None:
        return wait
    return max(wait, asked) if asked <= policy.retry_after_s_max else None


def _last_error(situation: Situation, setback: Setback) -> HeadraceError:
    """What to raise when all attempts are used up: an answer that was begun is incomplete, whatever failed last."""
    if situation.begun:
        return IncompleteStream(detail=str(setback))
    return failure(setback)


def failure(setback: Setback) -> HeadraceError:
    """Return the error that a setback is where nothing can be kept and nothing is left to try."""
    if isinstance(setback, Refused):
        return setback.error
    return RelayUnreachable(f"The relay could not be reached: {setback.detail}.")
