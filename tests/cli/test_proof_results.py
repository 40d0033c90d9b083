"""What the report says of results: the headline, the order, the measures taken from events."""

from __future__ import annotations

import msgspec
import pytest

from headrace.cli.proof.experiments import ALL
from headrace.cli.proof.experiments.drop import first_seq, seams, span
from headrace.cli.proof.experiments.life import longest_silence
from headrace.cli.proof.probe import Reading
from headrace.cli.proof.results import Mark, Report, Result, Trace, Verdict, failed_first, headline, summary
from headrace.protocol import events as ev

KEYS = {"a": "arrival", "b": "stop", "c": "tools", "d": "slow", "e": "life", "f": "drop"}


def results(**verdicts: Verdict) -> list[Result]:
    """Return six results; those that are not named held."""
    return [
        Result(letter=letter, key=key, title=key, promise="", verdict=verdicts.get(letter, "held"), finding=f"found {letter}")
        for letter, key in KEYS.items()
    ]


def only(*letters: str) -> list[Result]:
    return results(**{letter: "not_run" for letter in KEYS if letter not in letters})


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (results(), "It streams, it stops, it resumes."),
        (results(f="failed"), "It streams and stops. It does not resume."),
        (results(b="failed"), "It streams and resumes. It does not stop."),
        (results(b="failed", f="failed"), "It streams. It does not stop or resume."),
        (results(a="failed", b="failed", f="failed"), "It does not stream, stop or resume."),
        (results(f="not_run"), "It streams and stops."),
        (results(a="failed", b="not_run", f="not_run"), "It does not stream."),
        (results(d="failed"), "It streams, it stops, it resumes. One other promise failed."),
        (results(c="failed", d="failed", f="failed"), "It streams and stops. It does not resume. Two other promises failed."),
        (only("c"), "One promise held."),
        (only("c", "d"), "Two promises held."),
        (results(**dict.fromkeys("abef", "not_run"), c="failed", d="held"), "One other promise failed."),
        (only(), "Nothing was tried."),
    ],
)
def test_the_headline_says_only_what_held_and_what_failed(found: list[Result], said: str) -> None:
    assert headline(found) == said


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (results(), "Six promises, tried on this machine with a real nginx. All six held."),
        (results(d="failed"), "Six promises, tried on this machine with a real nginx. Five held; the one that failed comes first."),
        (
            results(a="failed", d="failed"),
            "Six promises, tried on this machine with a real nginx. Four held; those that failed come first.",
        ),
        (only("a", "b"), "Two promises, tried on this machine with a real nginx. All two held."),
        (only("a"), "One promise, tried on this machine with a real nginx. It held."),
    ],
)
def test_the_summary_counts_what_was_tried(found: list[Result], said: str) -> None:
    assert summary(found) == said


def test_failed_comes_first_and_not_run_last() -> None:
    ordered = failed_first(results(b="not_run", d="failed", f="failed"))
    assert "".join(result.letter for result in ordered) == "dfaceb"


def test_every_experiment_has_its_letter_and_a_promise() -> None:
    assert {experiment.letter: experiment.key for experiment in ALL} == KEYS
    assert all(experiment.title and experiment.promise.endswith(".") for experiment in ALL)


def test_the_report_survives_its_json() -> None:
    trace = Trace(label="x", marks=[Mark(0.1, "text", 1), Mark(0.2, "life", 0)], ended_s=0.3, away=[(0.1, 0.2)])
    result = Result(letter="a", key="arrival", title="t", promise="p", verdict="held", traces={"x": trace}, numbers={"n": None})
    machine = {"headrace": "1", "nginx": "1", "python": "3", "system": "s", "cores": 2}
    report = msgspec.convert({"made_at": "now", "command": "c", "seconds": 1, "machine": machine, "results": []}, Report)
    report.results.append(result)
    encoded = msgspec.json.encode(report)
    assert msgspec.json.decode(encoded, type=Report) == report
    assert msgspec.json.decode(encoded)["schema"] == 1


# What is taken from a stream


def texts(*spans: tuple[int, int]) -> list[ev.Event]:
    return [ev.Text(index=0, text="x", seq=last, from_seq=None if first == last else first) for first, last in spans]


@pytest.mark.parametrize(
    ("spans", "lost", "doubled"),
    [
        ([(1, 1), (2, 2), (3, 3)], 0, 0),
        ([(1, 1), (2, 5), (6, 6)], 0, 0),
        ([(1, 1), (3, 3)], 1, 0),
        ([(1, 1), (4, 6), (9, 9)], 4, 0),
        ([(1, 1), (2, 4), (3, 5)], 0, 2),
        ([(1, 1), (1, 1), (2, 2)], 0, 1),
        ([], 0, 0),
    ],
)
def test_a_lost_and_a_doubled_event_are_counted(spans: list[tuple[int, int]], lost: int, doubled: int) -> None:
    assert seams(texts(*spans)) == (lost, doubled)


def test_an_event_that_stands_for_several_counts_as_many() -> None:
    (merged,) = texts((4, 9))
    assert (first_seq(merged), span(merged)) == (4, 6)
    assert span(ev.Notice(seq=7, code="x", message="y")) == 1


@pytest.mark.parametrize(("times", "ended", "silence"), [([0.5, 1.0], 1.2, 0.5), ([3.0], 4.0, 3.0), ([0.1], 9.0, 8.9), ([], 2.0, 2.0)])
def test_silence_is_measured_from_the_request_to_the_end(times: list[float], ended: float, silence: float) -> None:
    assert longest_silence(Trace(label="", marks=[Mark(at, "life", 0) for at in times], ended_s=ended)) == silence


STREAM = (
    b'id: 1\ndata: {"type":"stream_start","seq":1,"stream_id":"s","message_id":"m","model":"x","provider":"p","protocol":1,'
    b'"resumable":true,"expires_at":1}\n\n: ping\nid: 2\ndata: {"type":"text","seq":2,"index":0,"text":"a: ping\\n"}\n\n: ping\n: ping\n'
    b'data: {"type":"from the future","seq":3}\n\ndata: [DONE]\n\n'
)


@pytest.mark.parametrize("size", [1, 2, 7, len(STREAM)])
def test_heartbeats_and_tokens_are_counted_however_the_stream_was_cut(size: int) -> None:
    reading = Reading(began=10.0)
    for number, at in enumerate(range(0, len(STREAM), size)):
        reading.feed(STREAM[at : at + size], 10.0 + number / 1000)
    kinds = [mark.kind for mark in reading.marks]
    assert kinds.count("text") == 1
    assert kinds.count("life") == 4, "the opening event and three heartbeats"
    assert reading.text == "a: ping\n"
    assert len(reading.tokens) == 1
