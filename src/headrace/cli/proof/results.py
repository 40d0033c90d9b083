"""What the experiments found: the shape of `report.json`, and what may be said of it.

`schema` changes when a field changes its meaning or goes; new fields do not change it. Times are seconds from the beginning of
the experiment that they belong to.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from msgspec import Struct, field

SCHEMA = 1

Verdict: TypeAlias = Literal["held", "failed", "not_run"]
Kind: TypeAlias = Literal["text", "thinking", "tool", "life", "replayed"]
Ending: TypeAlias = Literal["complete", "stopped", "failed", "open"]
Number: TypeAlias = float | int | None


class Mark(Struct, frozen=True, array_like=True):
    """Something arrived. `life` is a sign of life without a token: a heartbeat, or the event that opens a stream."""

    at_s: float
    kind: Kind
    tokens: int = 1


class Trace(Struct, kw_only=True):
    """What arrived in one place, oldest first. `away` are the spans in which there was no connection."""

    label: str
    marks: list[Mark]
    ended_s: float
    end: Ending = "complete"
    away: list[tuple[float, float]] = []


class Curve(Struct, kw_only=True):
    """A quantity over time, as it was sampled."""

    label: str
    unit: str
    points: list[tuple[float, float]]


class Result(Struct, kw_only=True):
    """One experiment. `reasons` say what did not hold, `finding` what was found, in one line each."""

    letter: str
    key: str
    title: str
    promise: str
    verdict: Verdict = "not_run"
    finding: str = ""
    reasons: list[str] = []
    numbers: dict[str, Number] = {}
    traces: dict[str, Trace] = {}
    curves: dict[str, Curve] = {}
    detail: dict[str, Any] = {}


class Machine(Struct, kw_only=True):
    headrace: str
    nginx: str
    python: str
    system: str
    cores: int


class Report(Struct, kw_only=True):
    """A whole run. `made_at` is local time with its offset."""

    made_at: str
    command: str
    seconds: float
    machine: Machine
    results: list[Result]
    schema: int = field(default=SCHEMA)

    def result(self, key: str) -> Result | None:
        """Return the experiment `key` if it was run to its end and has something to show."""
        return next((r for r in self.results if r.key == key and r.verdict != "not_run"), None)


_ORDER: dict[Verdict, int] = {"failed": 0, "held": 1, "not_run": 2}
_VERBS = (("arrival", "streams", "stream"), ("stop", "stops", "stop"), ("drop", "resumes", "resume"))
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def failed_first(results: list[Result]) -> list[Result]:
    return sorted(results, key=lambda result: _ORDER[result.verdict])


def headline(results: list[Result]) -> str:
    """Return what held of the three main promises, then what did not. What was not run is not spoken of."""
    verdicts = {result.key: result.verdict for result in results}
    held = [does for key, does, _ in _VERBS if verdicts.get(key) == "held"]
    failed = [do for key, _, do in _VERBS if verdicts.get(key) == "failed"]
    said = ""
    if len(held) == len(_VERBS):
        said = "It streams, it stops, it resumes."
    elif held:
        said = f"It {' and '.join(held)}."
    if failed:
        said = f"{said} It does not {_either(failed)}.".strip()
    others = [r for r in results if r.verdict == "failed" and r.key not in {key for key, _, _ in _VERBS}]
    if others:
        said = f"{said} {_count(len(others))} other {'promise' if len(others) == 1 else 'promises'} failed.".strip()
    if said:
        return said
    some = sum(result.verdict == "held" for result in results)
    return f"{_count(some)} {'promise' if some == 1 else 'promises'} held." if some else "Nothing was tried."


def summary(results: list[Result]) -> str:
    """Return how many were tried and how many of them held."""
    tried = [result for result in results if result.verdict != "not_run"]
    failed = [result for result in tried if result.verdict == "failed"]
    promises = "promise" if len(tried) == 1 else "promises"
    said = f"{_count(len(tried))} {promises}, tried on this machine with a real nginx."
    if not failed:
        return f"{said} {'It' if len(tried) == 1 else f'All {_NUMBERS[len(tried)]}'} held."
    held = len(tried) - len(failed)
    first = "the one that failed comes first" if len(failed) == 1 else "those that failed come first"
    return f"{said} {_count(held)} held; {first}."


def _either(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _count(number: int) -> str:
    return _NUMBERS[number].capitalize() if number < len(_NUMBERS) else str(number)
