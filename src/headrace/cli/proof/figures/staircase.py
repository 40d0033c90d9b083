"""The staircase and the cliff: tokens that have arrived, over time, on three ways from the same provider."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from headrace.cli.proof.figures.svg import Box, Figure, Point, every, line, number, path, steps, text, ticks, time_axis
from headrace.cli.proof.results import Result, Trace

STEPS = 48


class Size(NamedTuple):
    """How large the figure is, and how much it may say."""

    width: float
    height: float
    seconds: int  # labels on the time axis
    values: int
    is_narrow: bool


WIDE = Size(1200, 300, 11, 5, False)
MEDIUM = Size(820, 290, 11, 5, False)
NARROW = Size(372, 290, 5, 5, True)
README = Size(860, 280, 11, 5, False)


def step_tokens(result: Result) -> int:
    """How many tokens one step of the figure is."""
    return max(1, round(len(result.traces["nginx"].marks) / STEPS))


def staircase(result: Result, size: Size) -> Figure:
    """Return the figure of experiment (a)."""
    arrived = {key: _count(result.traces[key]) for key in ("direct", "nginx", "buffering")}
    most = int(max(points[-1][1] for points in arrived.values()))
    end = max(result.traces[key].ended_s for key in arrived)
    box = Box(40, 12, size.width - 48, size.height - 48, end * 1.06, most)
    parts = [_grid(box, _levels(box, size)), time_axis(box, size.seconds)]
    stepped = {key: [(0.0, 0.0), *every(points, step_tokens(result))] for key, points in arrived.items()}
    ours = [*steps(stepped["nginx"], box), (box.right, box.y(most))]
    parts.append(path([*ours, (box.right, box.bottom), (box.left, box.bottom)], "area"))
    parts.append(path(steps(stepped["direct"], box), "halo"))
    parts.append(path(ours, "line"))
    parts.append(path([*steps(stepped["buffering"], box), (box.right, box.y(stepped["buffering"][-1][1]))], "cliff"))
    parts.append(_labels(result, box, arrived, size))
    return Figure("".join(parts), size.width, size.height, describe(result), "fig staircase")


def describe(result: Result) -> str:
    numbers = result.numbers
    return (
        f"Tokens that have arrived, over time. Through nginx with the relay's headers the first came after {numbers['nginx_ttft_s']:.2f} s "
        f"and the rest one by one until {numbers['nginx_total_s']:.1f} s. Through a buffering nginx the first came after "
        f"{numbers['buffering_ttft_s']:.2f} s."
    )


def _count(trace: Trace) -> list[Point]:
    """Return the running count of tokens."""
    points: list[Point] = []
    tokens = 0
    for mark in trace.marks:
        if mark.tokens and mark.kind != "life":
            tokens += mark.tokens
            points.append((mark.at_s, float(tokens)))
    return points


def _grid(box: Box, values: list[float]) -> str:
    parts = []
    for value in values:
        cls = "bed-rest" if value else "bed"
        parts.append(line(box.left, box.y(value), box.right, box.y(value), cls))
        parts.append(text(number(value), box.left - 8, box.y(value) + 4, "axis", "end"))
    return "".join(parts)


def _labels(result: Result, box: Box, arrived: dict[str, list[Point]], size: Size) -> str:
    numbers = result.numbers
    first, pace = numbers["nginx_ttft_s"] or 0.0, numbers["nginx_tpot_ms"] or 0.0
    left = box.left + (14 if size.is_narrow else box.width * 0.045)
    top = _between_lines(box, size, 0.92 if size.is_narrow else 0.52)
    said = [
        text("Through nginx, with our headers", left, top, "strong flow-text"),
        text(f"first token {first:.2f} s, then one every {pace:.0f} ms", left, top + 18),
    ]
    fell = arrived["buffering"][0][0]
    right, low = box.x(fell) - 12, _between_lines(box, size, 0.15 if size.is_narrow else 0.3)
    said.append(text("Through nginx, buffering", right, low, "strong rust-text", "end"))
    if numbers["is_cliff"]:
        tokens = numbers["buffering_tokens"]
        words = f"nothing for {numbers['buffering_ttft_s']:.2f} s, then {tokens} tokens" + ("" if size.is_narrow else " at once")
        said.append(text(words, right, low + 18, "", "end"))
    if not size.is_narrow:
        said.append(_direct_label(result, box, arrived["direct"]))
    return "".join(said)


def _levels(box: Box, size: Size) -> list[float]:
    """Return where the grid lines are: round values, and the whole answer."""
    return [*(value for value in ticks(box.y_max, size.values) if value < box.y_max * 0.93), box.y_max]


def _between_lines(box: Box, size: Size, share: float) -> float:
    """Return the base line of the first of two lines of text that stand between two grid lines, about so far up the figure."""
    values = _levels(box, size)
    middles = [(low + high) / 2 for low, high in pairwise(values)]
    return box.y(min(middles, key=lambda middle: abs(middle - share * box.y_max))) - 4


def _direct_label(result: Result, box: Box, points: list[Point]) -> str:
    """Point at the line below ours."""
    earlier = result.numbers["direct_earlier_ms"] or 0.0
    words = "Direct, without a proxy: the same staircase"
    if abs(earlier) >= 1:
        words += f", {abs(earlier):.0f} ms {'earlier' if earlier > 0 else 'later'}"
    at, tokens = points[int(len(points) * 0.8)]
    x, y = box.x(at), box.y(tokens)
    height = box.top + 26
    return text(words, x - 120, height + 4, "", "end") + path([(x - 112, height), (x - 6, y)], "leader")
