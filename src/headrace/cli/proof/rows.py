"""The small picture of each experiment, and how its verdict looks."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import escape

from headrace.cli.proof.figures.charts import flow_of_flood
from headrace.cli.proof.figures.flowline import flow_line
from headrace.cli.proof.figures.svg import Figure
from headrace.cli.proof.results import Result, Trace, Verdict

WORDS: dict[Verdict, str] = {"held": "Held", "failed": "Failed", "not_run": "Not run"}
_ICONS: dict[Verdict, str] = {
    "held": "M2 7.5 L5.5 11 L12 3.5",
    "failed": "M3 3 L11 11 M11 3 L3 11",
    "not_run": "M3 7 L11 7",
}


def _of_trace(key: str) -> Callable[[Result], tuple[Trace, float | None]]:
    return lambda result: (result.traces[key], None)


def _of_stop(result: Result) -> tuple[Trace, float | None]:
    """The axis goes on to the end of the watch, so that one sees that nothing came."""
    return result.traces["reader"], result.curves["written"].points[-1][0]


_ROWS: dict[str, Callable[[Result], tuple[Trace, float | None]]] = {
    "arrival": _of_trace("nginx"),
    "stop": _of_stop,
    "tools": _of_trace("reader"),
    "slow": lambda result: (flow_of_flood(result), None),
    "life": _of_trace("shown"),
    "drop": _of_trace("client"),
}


def row_figure(result: Result) -> Figure | None:
    """Return the flow line of an experiment, or None where it came to nothing that could be drawn."""
    try:
        trace, axis_s = _ROWS[result.key](result)
    except (KeyError, IndexError):
        return None
    return flow_line(trace, f"{result.title}: {result.finding}", axis_s=axis_s)


def flow_of(result: Result) -> str:
    figure = row_figure(result)
    return figure.inline() if figure is not None else "<span></span>"


def prose(words: str) -> str:
    """Return text for people as markup, with the apostrophes that print has."""
    return escape(re.sub(r"(?<=\w)'(?=\w)", "’", words))


def verdict(result: Result) -> str:
    icon = (
        f'<svg viewBox="0 0 14 14" aria-hidden="true"><path d="{_ICONS[result.verdict]}" fill="none" stroke="currentColor" '
        'stroke-width="1.8" stroke-linecap="round" stroke-linejoin="round"/></svg>'
    )
    return f'<span class="verdict {result.verdict}">{icon}{WORDS[result.verdict]}</span>'
