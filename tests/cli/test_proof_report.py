"""The report and its figures: drawn from what was measured, whole in one file, with every text escaped."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import pytest

from headrace.cli.proof.figures import svg
from headrace.cli.proof.figures.flowline import flow_line, quiet
from headrace.cli.proof.figures.palette import DARK, LIGHT, standalone_css
from headrace.cli.proof.figures.staircase import MEDIUM, NARROW, WIDE, Size, staircase
from headrace.cli.proof.output import all_figures, write
from headrace.cli.proof.report import render
from headrace.cli.proof.results import Kind, Machine, Mark, Report, Result, Trace

HOSTILE = "</style><script>alert('x')</script>&\"it's"
URL = re.compile(r"""(?:https?:)?//[\w.-]+|url\(|@import|\bsrc=""")


def trace(count: int, *, start: float = 0.2, gap: float = 0.02, kind: Kind = "text", held: bool = False) -> Trace:
    times = [round(start + gap * (count if held else at), 4) for at in range(count)]
    return Trace(label=HOSTILE, marks=[Mark(0.01, "life", 0), *(Mark(at, kind) for at in times)], ended_s=times[-1] + 0.01)


def arrival() -> Result:
    names = {"ttft_s": 0.2, "tpot_ms": 20.0, "total_s": 2.2, "hold_ms_max": 12.0, "hold_ms_median": 1.0, "tokens": 100}
    numbers = {f"{way}_{name}": value for way in ("direct", "nginx", "buffering") for name, value in names.items()}
    traces = {"direct": trace(100), "nginx": trace(100), "nginx_written": trace(100, start=0.199), "buffering": trace(100, held=True)}
    return Result(
        letter="a",
        key="arrival",
        title=HOSTILE,
        promise=HOSTILE,
        verdict="failed",
        finding=HOSTILE,
        reasons=[HOSTILE],
        numbers=numbers | {"is_cliff": 1, "direct_earlier_ms": 3.0, "buffering_ttft_s": 2.2},
        traces=traces,
    )


def report(*results: Result) -> Report:
    machine = Machine(headrace="0.1", nginx="1.22.1", python="3.11", system="Linux", cores=2)
    return Report(made_at="2026-11-20T16:52:00+01:00", command=HOSTILE, seconds=26.0, machine=machine, results=list(results))


BROKEN_OFF = Result(letter="d", key="slow", title="A stalled reader", promise="p", verdict="failed", reasons=["it could not be finished"])
NOT_RUN = Result(letter="b", key="stop", title="Stop", promise="p", reasons=["not asked for"])


def test_the_page_names_no_address_and_loads_nothing() -> None:
    page = render(report(arrival(), BROKEN_OFF, NOT_RUN)).replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert URL.findall(page) == []
    assert "<link" not in page
    assert re.findall(r'href="([^"]*)"', page).count("report.json") >= 1


def test_every_text_in_the_page_is_escaped() -> None:
    page = render(report(arrival(), BROKEN_OFF, NOT_RUN))
    assert "<script" not in page
    assert page.count("<style>") == page.count("</style>") == 1
    assert "&lt;script&gt;" in page


def test_an_experiment_that_broke_off_or_was_not_run_has_a_row_all_the_same() -> None:
    page = render(report(NOT_RUN, BROKEN_OFF))
    assert "it could not be finished" in page
    assert "Not run" in page
    assert 'href="#slow"' in page
    assert 'id="stop"' not in page
    assert page.index("A stalled reader") < page.index("not asked for"), "failed first"


@pytest.mark.parametrize("size", [WIDE, MEDIUM, NARROW])
def test_the_staircase_has_the_cliff_where_the_tokens_fell(size: Size) -> None:
    result = arrival()
    drawn = ET.fromstring(staircase(result, size).inline())
    (cliff,) = [path.attrib["d"] for path in drawn.iter("{http://www.w3.org/2000/svg}path") if path.attrib["class"] == "cliff"]
    corners = [tuple(map(float, corner.split(","))) for corner in cliff[1:].split(" ")]
    drop = max(pairwise(corners), key=lambda pair: pair[0][1] - pair[1][1])
    assert drop[0][0] == drop[1][0], "upright"
    box_width, axis_s = size.width - 48, result.traces["buffering"].ended_s * 1.06
    assert drop[0][0] == pytest.approx(40 + box_width * 2.2 / axis_s, abs=0.1), "where the tokens came, and nowhere else"


def test_every_figure_is_well_formed_and_stands_alone(tmp_path: Path) -> None:
    figures = all_figures(report(arrival()))
    assert {"a-staircase", "a-holds", "a-ladder", "a-flow-line"} <= figures.keys()
    for figure in figures.values():
        alone = figure.standalone()
        ET.fromstring(alone)
        ET.fromstring(figure.inline())
        assert "var(" not in alone
        assert "prefers-color-scheme" in alone
        assert URL.findall(alone.replace('xmlns="http://www.w3.org/2000/svg"', "")) == []


def test_what_is_written_is_the_page_the_json_and_the_figures(tmp_path: Path) -> None:
    page = write(report(arrival(), NOT_RUN), tmp_path / "out")
    assert page.name == "report.html"
    assert {path.name for path in page.parent.iterdir()} == {"report.html", "report.json", "figures"}
    assert (page.parent / "figures" / "a-staircase.svg").exists()


def test_both_schemes_have_the_same_colours() -> None:
    assert LIGHT.keys() == DARK.keys()
    assert "var(" not in standalone_css()


# The flow line


def shapes(drawn: svg.Figure, name: str) -> list[dict[str, str]]:
    return [node.attrib for node in ET.fromstring(drawn.inline()).iter() if node.attrib.get("class") == name]


def test_a_bar_is_as_high_as_what_arrived() -> None:
    marks = [Mark(0.05, "text", 8), Mark(5.0, "text", 4), Mark(9.95, "tool", 8)]
    drawn = flow_line(Trace(label="", marks=marks, ended_s=10.0), "")
    heights = [float(bar["height"]) for bar in shapes(drawn, "text")]
    assert heights[0] == 2 * heights[1]
    assert len(shapes(drawn, "tool")) == 1


@pytest.mark.parametrize(("end", "shape"), [("complete", "bed"), ("stopped", "gate"), ("failed", "cross")])
def test_a_line_shows_how_it_ended(end: str, shape: str) -> None:
    drawn = flow_line(Trace(label="", marks=[Mark(0.1, "text")], ended_s=1.0, end=end), "")  # type: ignore[arg-type]
    assert shapes(drawn, shape)


def test_waiting_is_dots_away_is_amber_and_a_heartbeat_is_a_ring() -> None:
    marks = [Mark(0.1, "text"), Mark(2.0, "life", 0), Mark(4.0, "text"), Mark(7.0, "replayed", 30), Mark(7.5, "text")]
    drawn = flow_line(Trace(label="", marks=marks, ended_s=8.0, away=[(4.0, 7.0)]), "")
    assert quiet(Trace(label="", marks=marks, ended_s=8.0, away=[(4.0, 7.0)])) == [(0.1, 4.0)]
    assert len(shapes(drawn, "waiting")) == 1
    assert len(shapes(drawn, "away")) == 1
    assert len(shapes(drawn, "ring")) == 1
    assert len(shapes(drawn, "replayed")) == 1


# The axes


@pytest.mark.parametrize(
    ("highest", "wanted", "expected"),
    [(10.4, 11, list(range(11))), (480, 5, [0, 100, 200, 300, 400]), (0.9, 5, [0, 0.2, 0.4, 0.6, 0.8]), (9.7, 3, [0, 5])],
)
def test_ticks_are_round(highest: float, wanted: int, expected: list[float]) -> None:
    assert svg.ticks(highest, wanted) == expected


def test_every_nth_point_keeps_the_last() -> None:
    points = [(float(at), float(at)) for at in range(1, 8)]
    assert svg.every(points, 3) == [(3, 3), (6, 6), (7, 7)]
    assert svg.every(points[:6], 3) == [(3, 3), (6, 6)]
    assert svg.every([], 3) == []
