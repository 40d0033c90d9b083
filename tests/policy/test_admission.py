"""Admission: decisions in tables, and what must hold whatever the order in which people come and go."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import QueueFull
from headrace.policy.admission import HOLD_WEIGHT, Line, Place, Ticket


def entered(line: Line, users: str) -> list[Ticket]:
    """One ticket for each letter, in their order."""
    return [line.enter(user) for user in users]


def admitted(tickets: list[Ticket]) -> str:
    return "".join(ticket.user for ticket in tickets if ticket.admitted)


@pytest.mark.parametrize(
    ("capacity", "users", "running"),
    [
        (0, "aaabbb", "aaabbb"),  # no limit
        (1, "aab", "a"),
        (2, "aab", "aa"),
        (3, "ab", "ab"),
    ],
)
def test_as_many_run_as_there_are_places(capacity: int, users: str, running: str) -> None:
    line = Line(capacity)

    assert admitted(entered(line, users)) == running
    assert line.active == len(running)


@pytest.mark.parametrize(
    ("waiting", "order"),
    [
        ("", ""),
        ("a", "a"),
        ("abc", "abc"),  # one each: as they came
        ("aaab", "abaa"),  # everybody's first comes before anybody's second
        ("aabbc", "abcab"),
        ("aaaabbbb", "abababab"),
        ("aaabac", "abcaaa"),
    ],
)
def test_waiting_is_fair_between_users(waiting: str, order: str) -> None:
    line = Line(1)
    line.enter("z")
    entered(line, waiting)

    assert "".join(ticket.user for ticket in line.order()) == order


def served(line: Line, running: Ticket, arrivals: dict[int, str] | None = None) -> str:
    """Let one after the other run and leave; `arrivals`: who comes after so many have been served. Return who was served."""
    users, turn = "", [running]
    while turn:
        (running,) = turn
        entered(line, (arrivals or {}).get(len(users), ""))
        turn = line.leave(running)
        users += "".join(ticket.user for ticket in turn)
    return users


@pytest.mark.parametrize(
    ("waiting", "arrivals", "order"),
    [
        ("abc", {}, "abc"),
        ("aab", {}, "aba"),
        ("aaaab", {}, "abaaa"),  # 50 tabs of one do not hold up the other
        ("aaaa", {1: "b"}, "abaaa"),  # who comes now joins the round that is being served
        ("aaaa", {1: "b", 2: "b"}, "ababaa"),
        ("aabb", {2: "c"}, "abcab"),
        ("aaa", {1: "a", 2: "b"}, "aabaa"),
    ],
)
def test_places_that_come_free_go_round(waiting: str, arrivals: dict[int, str], order: str) -> None:
    line = Line(1)
    running = line.enter("z")
    entered(line, waiting)

    assert served(line, running, arrivals) == order
    assert (line.active, line.waiting) == (0, [])


def test_nobody_overtakes_those_who_wait() -> None:
    line = Line(2)
    first, _ = entered(line, "ab")
    waiting = line.enter("c")
    line.leave(first)

    assert waiting.admitted
    assert not line.enter("d").admitted


def test_leaving_twice_frees_one_place() -> None:
    line = Line(1)
    running, second, third = entered(line, "abc")

    assert line.leave(running) == [second]
    assert line.leave(running) == []
    assert (line.active, line.waiting) == (1, [third])


def test_who_gives_up_waiting_leaves_the_line_and_frees_no_place() -> None:
    line = Line(1)
    _, second, third = entered(line, "abc")

    assert line.leave(second) == []
    assert line.leave(second) == []
    assert (line.active, line.waiting) == (1, [third])
    assert line.place(third) == Place(1, 1, None)


def test_who_was_admitted_and_leaves_before_starting_frees_the_place() -> None:
    line = Line(1)
    running, second, third = entered(line, "abc")
    line.leave(running)

    assert line.leave(second) == [third]
    assert line.active == 1


def test_a_ticket_of_another_line_changes_nothing() -> None:
    line, other = Line(1), Line(1)
    line.enter("a")

    assert line.leave(other.enter("a")) == []
    assert (line.active, other.active) == (1, 1)


def test_a_line_that_is_full_says_so_and_when_to_come_back() -> None:
    line = Line(2, depth_max=2)
    running, *_ = entered(line, "abcd")
    with pytest.raises(QueueFull) as refused:
        line.enter("e")
    assert refused.value.retry_after_s is None  # nothing has ended yet to judge by

    line.leave(running, held_s=10.0)
    line.enter("e")
    with pytest.raises(QueueFull) as refused:
        line.enter("f")
    assert refused.value.retry_after_s == 15.0  # third in line, a place every 5 s
    assert len(line.waiting) == 2


@pytest.mark.parametrize(
    ("capacity", "position", "eta_s"),
    [(1, 1, 8.0), (1, 3, 24.0), (2, 1, 4.0), (4, 3, 6.0)],
)
def test_the_wait_is_judged_by_how_long_places_were_held(capacity: int, position: int, eta_s: float) -> None:
    line = Line(capacity)
    entered(line, "z" * capacity)
    line.leave(line.enter("z"))  # gave up: says nothing about holding
    line.hold_s = 8.0
    waiting = entered(line, "abcde")

    assert line.place(waiting[position - 1]) == Place(position, 5, eta_s)


def test_the_newest_hold_weighs_a_fifth() -> None:
    line = Line(1)
    line.leave(line.enter("a"), held_s=10.0)
    line.leave(line.enter("a"), held_s=20.0)

    assert line.hold_s == 10.0 + HOLD_WEIGHT * 10.0


# What must hold whatever happens. An act is: a user enters, or somebody (by number) leaves, also for the second time.
_acts = st.lists(st.one_of(st.sampled_from("abc"), st.integers(0, 30)), max_size=80)


@given(st.integers(0, 4), st.integers(0, 6), _acts)
def test_places_are_never_lost_doubled_or_left_empty(capacity: int, depth_max: int, acts: list[str | int]) -> None:
    line = Line(capacity, depth_max)
    inside: list[Ticket] = []
    everybody: list[Ticket] = []
    for act in acts:
        if isinstance(act, str):
            try:
                everybody.append(line.enter(act))
                inside.append(everybody[-1])
            except QueueFull:
                assert len(line.waiting) == depth_max
        elif everybody:
            leaver = everybody[act % len(everybody)]
            turn = line.leave(leaver, held_s=1.0)
            assert all(ticket.admitted for ticket in turn)
            inside = [ticket for ticket in inside if ticket is not leaver]

        assert line.active == sum(ticket.admitted for ticket in inside)
        assert set(map(id, line.waiting)) == {id(ticket) for ticket in inside if not ticket.admitted}
        assert not capacity or line.active <= capacity
        assert not line.waiting or line.active == capacity  # nobody waits while a place is free
        assert sorted(map(id, line.order())) == sorted(map(id, line.waiting))
        assert [line.place(ticket).position for ticket in line.order()] == list(range(1, len(line.waiting) + 1))


@given(st.text("abcd", max_size=30), st.dictionaries(st.integers(0, 20), st.text("abcd", max_size=3), max_size=8))
def test_between_two_turns_of_one_user_everybody_who_waits_has_one(waiting: str, arrivals: dict[int, str]) -> None:
    line = Line(1)
    running = line.enter("z")
    entered(line, waiting)
    turn, since = [running], dict.fromkeys("abcd", 0)
    count = 0
    while turn:
        (running,) = turn
        entered(line, arrivals.get(count, ""))
        waits = {ticket.user for ticket in line.waiting}
        turn = line.leave(running)
        for ticket in turn:
            count += 1
            for user in "abcd":
                since[user] = since[user] + 1 if user in waits and user != ticket.user else 0
            assert max(since.values()) <= 2 * (len(since) - 1)  # a whole round of the others, and the rest of the one before
