"""What follows from each setback: tables, since the decision is a plain function."""

import itertools

import pytest

from headrace.client.recovery import (
    Decision,
    Dropped,
    Finish,
    GiveUp,
    Policy,
    Refused,
    Resend,
    Resume,
    Setback,
    Situation,
    decide,
    decide_wait,
)
from headrace.errors import BadRequest, ExpiredStream, IncompleteStream, RelayUnreachable, TooManyStreams, UnknownStream

POLICY = Policy(attempts_max=3, backoff_s=1.0, backoff_s_max=5.0, retry_after_s_max=30.0)
LOST = Dropped("lost", "connection reset by peer")
UNREACHABLE = Dropped("unreachable", "connection refused")

NEW = Situation()
OPENED = Situation(stream_id="st_1", begun=True)
READING = Situation(last_seq=7, stream_id="st_1", begun=True)
JOINING = Situation(last_seq=0, stream_id="st_1", can_resend=False)


def busy(retry_after_s: float | None = None) -> Refused:
    return Refused(429, TooManyStreams(retry_after_s=retry_after_s), True)


@pytest.mark.parametrize(
    ("situation", "setback", "expected"),
    [
        (NEW, UNREACHABLE, Resend(1.0)),
        (NEW, busy(), Resend(1.0)),
        (NEW, busy(4.0), Resend(4.0)),
        (NEW, Refused(502, RelayUnreachable()), Resend(1.0)),
        (OPENED, LOST, Resend(1.0)),  # no event yet: the key makes it a reader of the same stream
        (READING, LOST, Resume(1.0)),
        (READING, Dropped("ended_early", "EOF"), Resume(1.0)),
        (READING, Dropped("silent", "nothing for 25 s"), Resume(1.0)),
        (READING, Dropped("garbled", "not JSON"), Resume(1.0)),
        (READING, UNREACHABLE, Resume(1.0)),
        (READING, busy(0.2), Resume(1.0)),
        (READING._replace(failures=1), LOST, Resume(2.0)),
        (READING._replace(failures=2), LOST, Resume(4.0)),
        (JOINING, LOST, Resume(1.0)),
        (READING._replace(stop_asked=True), LOST, Finish()),
        (NEW._replace(stop_asked=True), UNREACHABLE, Finish()),
        (NEW._replace(stop_asked=True), Refused(400, BadRequest()), Finish()),
    ],
)
def test_a_setback_is_made_good(situation: Situation, setback: Setback, expected: Decision) -> None:
    assert decide(POLICY, situation, setback, chance=1.0) == expected


@pytest.mark.parametrize(
    ("situation", "setback", "error"),
    [
        (NEW, Refused(400, BadRequest()), BadRequest),
        (NEW, Refused(503, BadRequest(), retryable=False), BadRequest),  # the relay's own word beats the status
        (READING, Refused(404, UnknownStream()), UnknownStream),
        (READING, Refused(410, ExpiredStream()), ExpiredStream),
        (NEW, busy(31.0), TooManyStreams),  # longer than anybody wants to wait unasked
        (NEW._replace(failures=3), UNREACHABLE, RelayUnreachable),
        (NEW._replace(failures=3), busy(), TooManyStreams),
        (JOINING._replace(failures=3), UNREACHABLE, RelayUnreachable),
        (OPENED._replace(failures=3), LOST, IncompleteStream),
        (READING._replace(failures=3), LOST, IncompleteStream),
        (READING._replace(failures=3), busy(), IncompleteStream),
        (Situation(last_seq=2, begun=True), LOST, IncompleteStream),  # nobody ever said the stream's id
    ],
)
def test_a_setback_is_the_last_one(situation: Situation, setback: Setback, error: type[Exception]) -> None:
    decision = decide(POLICY, situation, setback, chance=1.0)
    assert isinstance(decision, GiveUp)
    assert type(decision.error) is error


@pytest.mark.parametrize(
    ("status", "retried"), [(s, s in (429, 502, 503, 504)) for s in (400, 401, 404, 408, 409, 410, 422, 429, 500, 502, 503, 504)]
)
def test_without_the_relays_word_the_status_decides(status: int, retried: bool) -> None:
    decision = decide(POLICY, NEW, Refused(status, RelayUnreachable()), chance=1.0)
    assert isinstance(decision, Resend) is retried


def test_an_address_that_is_wrong_is_heard_of_sooner() -> None:
    policy = POLICY._replace(connect_attempts_max=1)
    assert decide(policy, NEW, UNREACHABLE, chance=1.0) == Resend(1.0)
    assert isinstance(decide(policy, NEW._replace(failures=1), UNREACHABLE, chance=1.0), GiveUp)
    assert decide(policy, NEW._replace(failures=1), busy(), chance=1.0) == Resend(2.0)
    assert decide(policy, READING._replace(failures=1), UNREACHABLE, chance=1.0) == Resume(2.0)


def test_the_wait_doubles_up_to_its_limit() -> None:
    policy = Policy()
    waits = [decide_wait(policy, failures, LOST, chance=1.0) for failures in range(9)]
    assert waits == [0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 5.0, None]


def test_chance_takes_up_to_half_of_the_wait() -> None:
    assert decide_wait(POLICY, 1, LOST, chance=0.0) == 1.0
    assert decide_wait(POLICY, 1, LOST, chance=0.5) == 1.5


def test_every_combination_has_an_answer() -> None:
    setbacks = [LOST, UNREACHABLE, busy(), busy(99.0), Refused(404, UnknownStream()), Refused(503, RelayUnreachable())]
    known = [None, "st_1"]
    for failures, seq, stream_id, begun, resend, stop, setback in itertools.product(
        (0, 3), (0, 5), known, (False, True), (False, True), (False, True), setbacks
    ):
        situation = Situation(failures, seq, stream_id, begun, resend, stop)
        decision = decide(POLICY, situation, setback, chance=0.5)
        if isinstance(decision, Resend):
            assert seq == 0
            assert resend
        if isinstance(decision, Resume):
            assert stream_id is not None
