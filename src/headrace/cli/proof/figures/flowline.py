"""The flow line: one bar for each slice of time, as high as what arrived in it.

Dots are waiting, rings are signs of life, amber dots are away, hatched is replayed. It ends with a tick (complete), a gate
(stopped) or a cross (ended early).
"""

from __future__ import annotations

from itertools import pairwise

from headrace.cli.proof.figures.svg import Figure, element, line
from headrace.cli.proof.results import Kind, Trace

HEIGHT = 34.0
_BAR, _STEP, _TOP = 2.0, 3.0, 4.0
_BASE = 30.0
_TOKENS_MIN = 4  # the height of the line is never fewer tokens
_QUIET_S = 0.75  # so long without a token is waiting


class Slices:
    """The tokens of each slice by kind, over `axis_s` seconds in `width` pixels."""

    def __init__(self, trace: Trace, width: float, axis_s: float) -> None:
        self.width = width
        self.axis_s = axis_s
        count = int((width - 4) / _STEP)
        self._slice_s = axis_s / count
        self.kinds: list[dict[Kind, int]] = [{} for _ in range(count)]
        for mark in trace.marks:
            if mark.tokens and mark.kind != "life":
                slot = self.kinds[min(count - 1, int(mark.at_s / self._slice_s))]
                slot[mark.kind] = slot.get(mark.kind, 0) + mark.tokens
        heights = sorted(n for slot in self.kinds if (n := sum(v for k, v in slot.items() if k != "replayed")))
        top = heights[min(len(heights) - 1, int(len(heights) * 0.98))] if heights else 0
        self.full = max(_TOKENS_MIN, top)

    def x(self, at_s: float) -> float:
        return (self.width - 4) * at_s / self.axis_s

    def bars(self) -> str:
        return "".join(self._bar(index, slot) for index, slot in enumerate(self.kinds) if slot)

    def _bar(self, index: int, slot: dict[Kind, int]) -> str:
        kind = max(slot, key=lambda kind: slot[kind])
        left = index * _STEP
        if kind == "replayed":
            return line(left + 1, _TOP, left + 1, _BASE, "replayed")
        height = max(1.5, (_BASE - _TOP) * min(1.0, sum(slot.values()) / self.full))
        return element("rect", x=left, y=_BASE - height, width=_BAR, height=height, class_=kind)


def flow_line(trace: Trace, describe: str, *, axis_s: float | None = None, width: float = 300.0) -> Figure:
    """Return the flow line of a trace; `axis_s` is where its axis ends, the trace's own end if not given."""
    axis_s = max(axis_s or trace.ended_s, 0.1)
    slices = Slices(trace, width, axis_s)
    end = slices.x(trace.ended_s)
    parts = [line(0, _BASE, end, _BASE, "bed"), line(end, _BASE, width - 4, _BASE, "bed-rest") if end < width - 5 else ""]
    parts += [_gap(slices, start, stop, "waiting") for start, stop in quiet(trace)]
    parts += [_gap(slices, start, stop, "away") for start, stop in trace.away]
    parts.append(slices.bars())
    parts += [element("circle", cx=slices.x(at), cy=_BASE, r=2.6, class_="ring") for at in _signs(trace)]
    parts.append(_ending(trace, end))
    return Figure("".join(parts), width, HEIGHT, describe, "fig flow")


def quiet(trace: Trace) -> list[tuple[float, float]]:
    """Return the spans without a token, those in which there was no connection left out."""
    times = [0.0, *(mark.at_s for mark in trace.marks if mark.tokens and mark.kind != "life"), trace.ended_s]
    spans = [(a, b) for a, b in pairwise(times) if b - a >= _QUIET_S]
    return [span for span in spans if not any(a < span[1] and span[0] < b for a, b in trace.away)]


def _gap(slices: Slices, start: float, stop: float, cls: str) -> str:
    left, right = slices.x(start) + _BAR + 1, slices.x(stop) - 1
    cover = line(left, _BASE, right, _BASE, "cover")
    return (cover + line(left, _BASE, right, _BASE, cls)) if right > left else ""


def _signs(trace: Trace) -> list[float]:
    """Signs of life that came alone, so that a ring stands for something that is not seen otherwise."""
    spans = quiet(trace)
    return [mark.at_s for mark in trace.marks if mark.kind == "life" and any(a <= mark.at_s <= b - 0.3 for a, b in spans)]


def _ending(trace: Trace, x: float) -> str:
    if trace.end == "complete":
        return line(x, _BASE - 6, x, _BASE + 4, "bed")
    if trace.end == "stopped":
        return element("rect", x=x, y=_TOP, width=3.5, height=_BASE - _TOP + 2, rx=1, class_="gate")
    if trace.end == "failed":
        return element("path", d=f"M{x + 3:.1f} {_BASE - 12} l7 7 m0 -7 l-7 7", class_="cross")
    return ""
