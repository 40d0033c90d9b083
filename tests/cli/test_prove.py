"""`headrace prove` as a command: its options, its exit status, and its words, without a process behind it."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import click.testing
import httpx2
import pytest

import headrace.cli.prove as prove
from headrace.cli.proof import run as running
from headrace.cli.proof.experiments import NotRun, Scene
from headrace.cli.proof.experiments.base import Experiment
from headrace.cli.proof.results import Machine, Report, Verdict

MACHINE = Machine(headrace="0.1", nginx="1.22.1", python="3.11", system="Linux", cores=2)


class NoStage:
    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


def invoke(monkeypatch: pytest.MonkeyPatch, folder: Path, *options: str, **verdicts: Verdict) -> click.testing.Result:
    """Run the command; the experiments that are asked for held, but for `verdicts`."""

    def measure(stage: object, console: object, wanted: str) -> Report:
        results = [experiment.blank() for experiment in prove.ALL]
        for result in results:
            if result.letter in wanted:
                result.verdict = verdicts.get(result.letter, "held")
                result.reasons = ["it was too slow"] if result.verdict == "failed" else []
        return Report(made_at="2026-11-20T16:52:00+01:00", command="headrace prove", seconds=1, machine=MACHINE, results=results)

    monkeypatch.setattr(prove, "Stage", NoStage)
    monkeypatch.setattr(prove, "measure", measure)
    return click.testing.CliRunner().invoke(prove.command, ["--out", str(folder), *options])


def test_all_held_is_status_0(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    outcome = invoke(monkeypatch, tmp_path)
    assert outcome.exit_code == 0
    assert "It streams, it stops, it resumes." in outcome.output
    assert f"The report: {tmp_path / 'report.html'}" in outcome.output
    assert (tmp_path / "report.json").exists()


def test_one_that_failed_is_status_1_and_comes_first_with_its_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    outcome = invoke(monkeypatch, tmp_path, e="failed")
    assert outcome.exit_code == 1
    lines = [line for line in outcome.output.splitlines() if line.startswith(("✓", "✗", "–"))]
    assert lines[0].startswith("✗ Failed")
    assert "it was too slow" in lines[0]


@pytest.mark.parametrize("asked", ["a,c", "ac", "C, A"])
def test_only_some_are_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked: str) -> None:
    outcome = invoke(monkeypatch, tmp_path, "--only", asked)
    assert outcome.exit_code == 0
    assert outcome.output.count("✓ Held") == 2
    assert outcome.output.count("– Not run") == 4


@pytest.mark.parametrize("asked", ["g", "a,x", ""])
def test_a_letter_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked: str) -> None:
    outcome = invoke(monkeypatch, tmp_path, "--only", asked)
    assert outcome.exit_code == 2
    assert "letters from a to f, as in a,b" in outcome.output


# What becomes of an experiment


def verdict_of(monkeypatch: pytest.MonkeyPatch, act: object) -> tuple[Verdict, list[str]]:
    async def run(scene: Scene) -> None:
        if isinstance(act, Exception):
            raise act
        scene.check(bool(act), "it does not")

    experiment = Experiment("a", "arrival", "title", "promise.", 1, run)
    scene = Scene(None, None, None, experiment.blank())  # type: ignore[arg-type]
    asyncio.run(running._try(experiment, scene))
    return scene.result.verdict, scene.result.reasons


def test_what_holds_held_and_what_does_not_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert verdict_of(monkeypatch, True) == ("held", [])
    assert verdict_of(monkeypatch, False) == ("failed", ["it does not"])


def test_what_breaks_off_failed_and_what_cannot_be_tried_was_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert verdict_of(monkeypatch, OSError("no route")) == ("failed", ["it could not be finished: OSError: no route"])
    assert verdict_of(monkeypatch, NotRun("no /proc here")) == ("not_run", ["no /proc here"])


def test_the_report_can_be_shown_on_a_port(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fetched: list[str] = []

    def serve_once(server: prove.http.server.ThreadingHTTPServer) -> None:
        url = f"http://127.0.0.1:{server.server_port}/report.html"
        asking = threading.Thread(target=lambda: fetched.append(httpx2.get(url, trust_env=False).text))
        asking.start()
        server.handle_request()
        asking.join()
        raise KeyboardInterrupt

    monkeypatch.setattr(prove.http.server.ThreadingHTTPServer, "serve_forever", serve_once)
    outcome = invoke(monkeypatch, tmp_path, "--open-port", "0")
    assert outcome.exit_code == 0
    assert "/report.html (Ctrl-C ends it)" in outcome.output
    assert fetched[0].startswith("<!doctype html>")
