"""`python -m bench [hot-path|side-by-side|stop|idle] [--quick]`: measure, print tables, keep the results."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from bench import hot_path, idle, report, side_by_side, stop
from bench.machine import CannotMeasure, cores, describe, pinned
from bench.stage import Stage

RESULTS = Path(__file__).parent / "results" / "latest.json"
DOCS = Path(__file__).parent.parent / "docs" / "benchmarks.md"
PARTS = ("hot-path", "side-by-side", "stop", "idle")


def main() -> int:
    asked = _arguments()
    parts = [asked.part] if asked.part else list(PARTS)
    results: dict[str, Any] = {"machine": describe(), "quick": asked.quick}
    begun = time.monotonic()
    try:
        if "hot-path" in parts:
            _say("The hot path alone")
            both = cores()
            with pinned(both[0] if both else None):
                results["hot_path"] = hot_path.run(_say_indented, quick=asked.quick)
        if parts != ["hot-path"]:
            with Stage.open() as stage:
                _measure_processes(stage, parts, asked, results)
    except CannotMeasure as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    results["machine"]["load_average_after"] = [round(load, 2) for load in os.getloadavg()]
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(report.for_terminal(results))
    for sentence in report.verdicts(results):
        print(f"\nMissed, on this machine and under this load: {sentence}.")
    print(f"\n{time.monotonic() - begun:.0f} s. All figures: {RESULTS.relative_to(RESULTS.parents[2])}")
    if asked.write_docs:
        DOCS.write_text(report.for_docs(results))
        print(f"Written: {DOCS.relative_to(DOCS.parents[1])}")
    return 0


def _measure_processes(stage: Stage, parts: list[str], asked: argparse.Namespace, results: dict[str, Any]) -> None:
    if "side-by-side" in parts:
        _say("Beside nginx, in turns")
        plan = side_by_side.Plan.quick() if asked.quick else side_by_side.Plan()
        plan = plan._replace(rounds=asked.rounds or plan.rounds)
        results["side_by_side"] = side_by_side.run(stage, plan, _say_indented)
    if "stop" in parts:
        _say("Stop")
        results["stop"] = stop.run(stage, 100 if asked.quick else 500, _say_indented)
    if "idle" in parts:
        _say("Idle streams")
        results["idle"] = idle.run(stage, asked.streams or (500 if asked.quick else 2000), _say_indented)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="What a relayed token costs, measured on this machine.")
    parser.add_argument("part", nargs="?", choices=PARTS, help="one part only (default: all)")
    parser.add_argument("--quick", action="store_true", help="less load, one round: half a minute, and rough")
    parser.add_argument("--rounds", type=_positive, help="side-by-side: rounds for each dialect (default: 3)")
    parser.add_argument("--streams", type=_positive, help="idle: how many streams (default: 2000)")
    parser.add_argument("--write-docs", action="store_true", help="render docs/benchmarks.md from this run of all parts")
    asked = parser.parse_args()
    if asked.write_docs and (asked.part or asked.quick):
        parser.error("--write-docs takes a whole run: neither one part nor --quick")
    return asked


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def _say(text: str) -> None:
    print(text, flush=True)


def _say_indented(text: str) -> None:
    print(f"  {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
