"""Who may start now, who waits in line, and how long that is likely to take. Decisions only: nothing here waits or tells anyone.

A line belongs to one provider. Waiting is fair between users: it goes in rounds, in each of which everybody who waits is served
once, in the order in which they came. Whoever comes later joins the round that is being served.
"""

from __future__ import annotations

from typing import NamedTuple

from headrace.errors import QueueFull

HOLD_WEIGHT = 0.2  # of the newest hold time in the running mean


class Place(NamedTuple):
    """Where somebody stands: `position` 1 is next, out of `depth`; `eta_s` is None while nothing has ended yet to judge by."""

    position: int
    depth: int
    eta_s: float | None


class Ticket:
    """One request at a line. `admitted` is set by the line alone."""

    __slots__ = ("admitted", "line", "user")

    def __init__(self, line: Line, user: str) -> None:
        self.line = line
        self.user = user
        self.admitted = False


class Line:
    """The places at one provider, and the line in front of them.

    Args:
        capacity: how many may run at once; 0 is no limit.
        depth_max: how many may wait; one more is refused.
    """

    def __init__(self, capacity: int = 0, depth_max: int = 100) -> None:
        self.capacity = capacity
        self.depth_max = depth_max
        self.active = 0
        self.waiting: list[Ticket] = []
        self.hold_s: float | None = None
        self._round = 0
        self._served: set[str] = set()  # in this round

    def enter(self, user: str) -> Ticket:
        """Return a ticket, admitted or waiting.

        Raises:
            QueueFull: `depth_max` are waiting already.
        """
        ticket = Ticket(self, user)
        if not self.capacity or (self.active < self.capacity and not self.waiting):
            self.active += 1
            ticket.admitted = True
        elif len(self.waiting) >= self.depth_max:
            raise QueueFull(retry_after_s=self._eta(len(self.waiting) + 1))
        else:
            self.waiting.append(ticket)
        return ticket

    def leave(self, ticket: Ticket, held_s: float | None = None) -> list[Ticket]:
        """Give up a ticket, admitted or not; return those whose turn it is now. Leaving twice does nothing."""
        if ticket.line is not self:
            return []
        if not ticket.admitted:
            if ticket in self.waiting:
                self.waiting.remove(ticket)
            return []
        ticket.admitted = False
        self.active -= 1
        if held_s is not None:
            self.hold_s = held_s if self.hold_s is None else self.hold_s + HOLD_WEIGHT * (held_s - self.hold_s)
        return self._admit()

    def place(self, ticket: Ticket) -> Place:
        position = self.order().index(ticket) + 1
        return Place(position, len(self.waiting), self._eta(position))

    def order(self) -> list[Ticket]:
        """Return who waits, next first."""
        return [ticket for _, _, ticket in self._ranked()]

    def _ranked(self) -> list[tuple[int, int, Ticket]]:
        """Return (round, number by arrival, ticket) of everybody who waits, next first."""
        rounds: dict[str, int] = {}
        ranked = []
        for at, ticket in enumerate(self.waiting):
            turn = rounds.get(ticket.user, self._round + (ticket.user in self._served))
            rounds[ticket.user] = turn + 1
            ranked.append((turn, at, ticket))
        return sorted(ranked, key=lambda row: row[:2])

    def _admit(self) -> list[Ticket]:
        admitted = []
        for turn, _, ticket in self._ranked():
            if self.capacity and self.active >= self.capacity:
                break
            self.waiting.remove(ticket)
            self.active += 1
            ticket.admitted = True
            admitted.append(ticket)
            if turn > self._round:
                self._round = turn
                self._served.clear()
            self._served.add(ticket.user)
        if not self.waiting:
            self._served.clear()
        return admitted

    def _eta(self, position: int) -> float | None:
        """Places come free once every `hold / capacity` seconds on average."""
        if self.hold_s is None or not self.capacity:
            return None
        return round(position * self.hold_s / self.capacity, 1)
