"""The other figures: what the provider wrote around a Stop, how late tokens were, memory, a drop, signs of life."""

from __future__ import annotations

from headrace.cli.proof.figures.flowline import flow_line, quiet
from headrace.cli.proof.figures.svg import Box, Figure, element, every, line, path, steps, text, ticks, time_axis, value_axis
from headrace.cli.proof.results import Mark, Result, Trace

HEIGHT = 210.0
LADDER_S = 0.5
_LEFT = 46.0


def holds(result: Result, width: float, limit_ms: float) -> Figure:
    """(a) How long each token was on its way, from the provider's write to the reader's read, through nginx."""
    arrived, written = ([mark.at_s for mark in result.traces[key].marks if mark.tokens] for key in ("nginx", "nginx_written"))
    points = [(b, (b - a) * 1000) for a, b in zip(written, arrived, strict=False)]
    box = _box(width, result.traces["nginx"].ended_s, limit_ms * 1.15)
    parts = [value_axis(box, [0, limit_ms / 2, limit_ms], " ms"), time_axis(box, _seconds(width))]
    parts += [line(box.x(at), box.bottom, box.x(at), box.y(max(late, 0.4)), "hair") for at, late in points]
    parts.append(line(box.left, box.y(limit_ms), box.right, box.y(limit_ms), "limit"))
    parts.append(text(f"promised: {limit_ms:.0f} ms or less", box.right, box.y(limit_ms) - 7, "axis", "end"))
    worst, half = result.numbers["nginx_hold_ms_max"] or 0.0, result.numbers["nginx_hold_ms_median"] or 0.0
    says = f"How late each token was behind nginx: half of them {half:.1f} ms or less, the worst {worst:.0f} ms."
    return Figure("".join(parts), width, HEIGHT, says)


def ladder(result: Result, width: float) -> Figure:
    """(a) The middle of the answer, token by token: from the provider's write to the reader's read."""
    arrived, written = ([mark.at_s for mark in result.traces[key].marks if mark.tokens] for key in ("nginx", "nginx_written"))
    middle = written[len(written) // 2]
    rungs = [(a - middle, b - middle) for a, b in zip(written, arrived, strict=False) if 0 <= a - middle < LADDER_S]
    box = Box(_LEFT + 38, 10, width - _LEFT - 46, 56, LADDER_S * 1.04, 1)
    parts = [text("provider", box.left - 12, box.top + 4, "axis", "end"), text("reader", box.left - 12, box.bottom + 4, "axis", "end")]
    parts += [line(box.left, y, box.right, y, "bed-rest") for y in (box.top, box.bottom)]
    for made, came in rungs:
        parts.append(line(box.x(made), box.top, box.x(came), box.bottom, "hair"))
        parts += [element("circle", cx=box.x(at), cy=y, r=2.2, class_="dot") for at, y in ((made, box.top), (came, box.bottom))]
    says = f"{len(rungs)} tokens in {LADDER_S} s, each a line from the provider's write to the reader's read. An upright line is no delay."
    return Figure("".join(parts), width, 84, says)


def stop(result: Result, width: float) -> Figure:
    """(b) Tokens written by the provider, before and after Stop."""
    points = result.curves["written"].points
    pressed, most = result.numbers["pressed_s"] or 0.0, max(value for _, value in points)
    box = _box(width, points[-1][0] * 1.02, most * 1.22)
    parts = [value_axis(box, ticks(most, 3)), time_axis(box, _seconds(width))]
    corners = [*steps([(0.0, 0.0), *points], box)]
    parts.append(path([*corners, (corners[-1][0], box.bottom), (box.left, box.bottom)], "area"))
    parts.append(path(corners, "line"))
    x = box.x(pressed)
    parts.append(element("rect", x=x - 1.75, y=box.top, width=3.5, height=box.height, rx=1, class_="gate"))
    anchor, edge = ("end", x - 10) if pressed > box.x_max / 2 else ("start", x + 10)
    parts.append(text("Stop", edge, box.top + 12, "strong", anchor))
    after = result.numbers["tokens_written_after"]
    parts.append(text(f"{after or 'no'} token{'' if after == 1 else 's'} after it", box.right - 4, box.y(most) - 9, "", "end"))
    says = f"The provider had written {most:.0f} tokens at Stop and wrote {after} more in the {result.numbers['watched_s']} s after it."
    return Figure("".join(parts), width, HEIGHT, says)


def weight(result: Result, width: float, limit_kib: float) -> Figure:
    """(d) Memory of the relay above the same number of idle streams, for each reader."""
    readers, idle = result.numbers["readers"] or 1, result.numbers["idle_kib"] or 0.0
    stalled = result.numbers["stalled_s"] or 0.0
    points = [(at, (kib - idle) / readers) for at, kib in result.curves["weight"].points]
    low = min(0.0, *(value for _, value in points))
    box = _box(width, points[-1][0], limit_kib * 1.2)
    parts = [value_axis(box, [0, limit_kib / 2, limit_kib], " KiB"), time_axis(box, _seconds(width))]
    parts.append(line(box.left, box.y(limit_kib), box.right, box.y(limit_kib), "limit"))
    parts.append(text(f"promised: {limit_kib:.0f} KiB or less", box.right, box.y(limit_kib) - 7, "axis", "end"))
    parts.append(_marker(box, stalled, "they stop reading"))
    clipped = [(at, max(value, low, -limit_kib * 0.06)) for at, value in points]
    parts.append(path([(box.x(at), box.y(value)) for at, value in clipped], "weight"))
    says = f"Memory of the relay for each stalled reader, above an idle stream: {result.numbers['held_kib']:.0f} KiB."
    return Figure("".join(parts), width, HEIGHT, says)


def flood(result: Result, width: float) -> Figure:
    """(d) What the provider has written: flat once nobody reads."""
    stalled = result.numbers["stalled_s"] or 0.0
    points = result.curves["written"].points
    most = points[-1][1]
    box = _box(width, points[-1][0], most * 1.3)
    parts = [value_axis(box, ticks(most, 3), " MiB"), time_axis(box, _seconds(width))]
    corners = steps([(0.0, 0.0), *points], box)
    parts.append(path([*corners, (corners[-1][0], box.bottom), (box.left, box.bottom)], "area"))
    parts.append(path(corners, "line"))
    parts.append(_marker(box, stalled, ""))
    paused = result.numbers["paused_s"] or 0.0
    parts.append(text(f"paused after {paused:.1f} s", box.right, box.y(most) - 9, "", "end"))
    return Figure("".join(parts), width, HEIGHT, f"The provider wrote {most:.1f} MiB and then nothing more.")


def drop(result: Result, width: float) -> Figure:
    """(f) Tokens at the client, with the time in which there was no connection."""
    points = result.curves["received"].points
    cut, back = result.numbers["cut_s"] or 0.0, result.numbers["back_s"] or 0.0
    most = points[-1][1]
    box = _box(width, points[-1][0] * 1.02, most * 1.06)
    parts = [value_axis(box, ticks(most, 4)), time_axis(box, _seconds(width))]
    before = [point for point in points if point[0] <= cut]
    after = [point for point in points if point[0] >= back]
    parts.append(path(steps([(0.0, 0.0), *every(before, 8)], box), "line"))
    parts.append(path(steps([after[0], *every(after[1:], 8)], box), "line"))
    level, landing = before[-1][1], after[0][1]
    parts.append(line(box.x(cut), box.y(level), box.x(back), box.y(level), "away"))
    parts.append(line(box.x(back), box.y(level), box.x(back), box.y(landing), "replayed"))
    parts.append(_cross(box.x(cut), box.y(level)))
    parts.append(text("connection lost", box.x(cut) + 6, box.y(level) + 20, "amber-text"))
    replayed = result.numbers["replayed"]
    parts.append(text(f"{replayed} events replayed", box.x(back) - 12, box.y((level + landing) / 2) + 4, "", "end"))
    says = f"Tokens at the client. The connection was lost at {cut:.1f} s and back at {back:.1f} s, when {replayed} events were replayed."
    return Figure("".join(parts), width, HEIGHT, says)


def lives(result: Result, width: float) -> dict[str, Figure]:
    """(e) The flow lines of the three streams, over the same time."""
    axis_s = max(trace.ended_s for trace in result.traces.values())
    return {key: flow_line(trace, _says(trace), axis_s=axis_s, width=width) for key, trace in result.traces.items()}


def life_axis(result: Result, width: float) -> Figure:
    """(e) The seconds below the flow lines."""
    axis_s = max(trace.ended_s for trace in result.traces.values())
    return Figure(time_axis(Box(0, 0, width - 4, 0, axis_s, 1), 5), width, 22, f"Seconds from 0 to {axis_s:.0f}")


def flow_of_flood(result: Result) -> Trace:
    """Return what the provider wrote as a trace, in sixteenths of a MiB, so that it can be a flow line."""
    start = result.numbers["stalled_s"] or 0.0
    marks, before = [], 0.0
    for at, mib in result.curves["written"].points:
        if mib > before:
            marks.append(Mark(round(at - start, 3), "text", max(1, round((mib - before) * 16))))
        before = mib
    return Trace(label="What the provider wrote", marks=marks, ended_s=result.curves["written"].points[-1][0] - start, end="open")


def _says(trace: Trace) -> str:
    spans = quiet(trace)
    longest = max((b - a for a, b in spans), default=0.0)
    signs = sum(mark.kind == "life" for mark in trace.marks)
    tokens = sum(mark.tokens for mark in trace.marks)
    return f"{trace.label}: {tokens} tokens, {signs} signs of life, longest time without a token {longest:.1f} s."


def _box(width: float, x_max: float, y_max: float) -> Box:
    return Box(_LEFT + 8, 14, width - _LEFT - 12, HEIGHT - 44, x_max, y_max)


def _seconds(width: float) -> int:
    return 10 if width > 500 else 5


def _marker(box: Box, at_s: float, words: str) -> str:
    x = box.x(at_s)
    return line(x, box.top, x, box.bottom, "limit") + (text(words, x + 8, box.top + 12, "") if words else "")


def _cross(x: float, y: float) -> str:
    return element("path", d=f"M{x - 4:.1f} {y - 4:.1f} l8 8 m0 -8 l-8 8", class_="cross")
