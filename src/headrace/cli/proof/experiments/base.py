"""What every experiment has: a promise, the stage to try it on, and checks that make a verdict."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

import httpx2

from headrace.cli.proof.results import Result
from headrace.cli.proof.stage import Stage
from headrace.cli.proof.witness import Witness


class NotRun(Exception):
    """This machine cannot try it; the message says why."""


class Scene(NamedTuple):
    """What an experiment is given. `result` is to be filled in."""

    stage: Stage
    http: httpx2.AsyncClient
    witness: Witness
    result: Result

    def check(self, holds: bool, otherwise: str) -> None:
        """Note that something was promised and does not hold."""
        if not holds:
            self.result.reasons.append(otherwise)


class Experiment(NamedTuple):
    """`turn` is when it runs: those of one turn run at the same time, and the next turn follows. 0 runs beside all of them."""

    letter: str
    key: str
    title: str
    promise: str
    turn: int
    run: Callable[[Scene], Awaitable[None]]

    def blank(self) -> Result:
        return Result(letter=self.letter, key=self.key, title=self.title, promise=self.promise)


def ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
