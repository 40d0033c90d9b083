"""Just enough SVG: elements, step lines, axes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

from headrace.cli.proof.figures.palette import standalone_css

Point = tuple[float, float]


class Box(NamedTuple):
    """The part of a figure in which data is drawn, and how data becomes pixels: `x_max` by `y_max` fill it, from the lower left."""

    left: float
    top: float
    width: float
    height: float
    x_max: float
    y_max: float

    @property
    def right(self) -> float:
        return self.left + self.width

    @property
    def bottom(self) -> float:
        return self.top + self.height

    def x(self, value: float) -> float:
        return self.left + self.width * value / self.x_max

    def y(self, value: float) -> float:
        return self.bottom - self.height * value / self.y_max


def number(value: float) -> str:
    """Return a coordinate: one digit behind the point is a tenth of a pixel."""
    return f"{value:.1f}".removesuffix(".0")


def element(name: str, content: str = "", **attributes: str | float) -> str:
    """Return `<name …>`. `content` is markup; a trailing or inner underscore of an attribute's name is a hyphen or nothing."""
    pairs = "".join(f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"' for key, value in attributes.items())
    return f"<{name}{pairs}>{content}</{name}>" if content else f"<{name}{pairs}/>"


def text(words: str, x: float, y: float, cls: str = "", anchor: str = "start") -> str:
    attributes = {"text_anchor": anchor} if anchor != "start" else {}
    if cls:
        attributes["class_"] = cls
    return element("text", escape(words), x=x, y=y, **attributes)


def line(x1: float, y1: float, x2: float, y2: float, cls: str) -> str:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=cls)


def path(points: Sequence[Point], cls: str) -> str:
    return element("path", d="M" + " ".join(f"{number(x)},{number(y)}" for x, y in points), class_=cls)


def steps(points: Sequence[Point], box: Box) -> list[Point]:
    """Return the corners of the line that stays where it is until the next point, in pixels."""
    corners: list[Point] = []
    level = box.y(points[0][1]) if points else 0.0
    for at, value in points:
        corners += [(box.x(at), level), (box.x(at), box.y(value))]
        level = box.y(value)
    return corners


def every(points: Sequence[Point], size: int) -> list[Point]:
    """Return every `size`-th point, and the last."""
    kept = list(points[size - 1 :: size])
    return kept if not points or (kept and kept[-1] == points[-1]) else [*kept, points[-1]]


def ticks(highest: float, wanted: int) -> list[float]:
    """Return round values from 0 up to at most `highest`, about `wanted` of them."""
    rough = highest / max(1, wanted)
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next((unit * factor for factor in (1, 2, 5) if unit * factor >= rough * 0.85), unit * 10)
    return [round(step * at, 10) for at in range(int(highest / step + 1e-9) + 1)]


def time_axis(box: Box, wanted: int) -> str:
    """Return seconds below the box; the last one carries the unit."""
    marks = ticks(box.x_max, wanted)
    shown = [f"{at:g}" for at in marks]
    shown[-1] += " s"
    anchors = ["start" if box.left == 0 and not at else "middle" for at in marks]
    labels = zip(marks, shown, anchors, strict=True)
    return "".join(text(words, box.x(at), box.bottom + 18, "axis", anchor) for at, words, anchor in labels)


def value_axis(box: Box, values: Iterable[float], unit: str = "") -> str:
    """Return grid lines at `values`, with the figure left of each."""
    parts = []
    for value in values:
        parts.append(line(box.left, box.y(value), box.right, box.y(value), "bed" if value == 0 else "grid"))
        parts.append(text(f"{value:g}{unit}", box.left - 8, box.y(value) + 4, "axis", "end"))
    return "".join(parts)


class Figure(NamedTuple):
    """A whole figure. `describe` is what somebody hears who does not see it."""

    content: str
    width: float
    height: float
    describe: str
    cls: str = "fig"

    def inline(self, extra: str = "") -> str:
        """Return it for a page that has the figures' style; it scales to the width of its place."""
        return self._svg(0.0, f"{self.cls} {extra}".strip(), "")

    def standalone(self, margin: float = 24.0) -> str:
        """Return it as a file of its own: with its colours, a ground, and a margin."""
        width, height = self.width + 2 * margin, self.height + 2 * margin
        ground = element("rect", x=-margin, y=-margin, width=width, height=height, rx=8, class_="ground")
        return self._svg(margin, self.cls, f"<style>{standalone_css()}</style>{ground}", width=width, height=height) + "\n"

    def _svg(self, margin: float, cls: str, before: str, **size: float) -> str:
        box = f"{number(-margin)} {number(-margin)} {number(self.width + 2 * margin)} {number(self.height + 2 * margin)}"
        title = element("title", escape(self.describe))
        return element(
            "svg", title + before + self.content, xmlns="http://www.w3.org/2000/svg", viewBox=box, class_=cls, role="img", **size
        )


def _value(value: str | float) -> str:
    return number(value) if isinstance(value, float | int) else escape(value)
