"""(e) Twenty seconds of thinking: with reasoning to show, without, and without a relay."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from headrace.cli.proof.experiments.base import Experiment, Scene
from headrace.cli.proof.probe import TIMEOUT_S, Reading, monotonic, read
from headrace.cli.proof.results import Mark, Trace

THINKING_S = 20
FIRST_S_MAX = 1.0
SILENCE_S_MAX = 10.5  # a heartbeat is due after 10 s; the rest is the way through nginx
SHOWN = f"thinking?first_token_s=0.2&thinking_s={THINKING_S}&tokens=60"
SILENT = f"thinking?first_token_s={THINKING_S}&progress=0&tokens=60"


async def run(scene: Scene) -> None:
    began = monotonic()
    shown, silent, alone = await asyncio.gather(
        read(scene.http, scene.stage.url, SHOWN, Reading(began)),
        read(scene.http, scene.stage.url, SILENT, Reading(began)),
        _alone(scene, began),
    )
    for key, label, reading in (("shown", "The model shows its reasoning", shown), ("silent", "The model shows nothing", silent)):
        scene.result.traces[key] = reading.trace(label)
    scene.result.traces["alone"] = alone
    traces = {"shown": shown.trace(""), "silent": silent.trace(""), "alone": alone}
    numbers = scene.result.numbers
    for key, trace in traces.items():
        numbers[f"{key}_first_s"], numbers[f"{key}_silence_s"] = trace.marks[0].at_s, longest_silence(trace)
    numbers["heartbeats"] = sum(mark.kind == "life" and 1 < mark.at_s < THINKING_S for mark in silent.marks)
    _judge(scene, shown, silent)


def _judge(scene: Scene, shown: Reading, silent: Reading) -> None:
    numbers = scene.result.numbers
    first = max(numbers["shown_first_s"] or 0.0, numbers["silent_first_s"] or 0.0)
    silence = max(numbers["shown_silence_s"] or 0.0, numbers["silent_silence_s"] or 0.0)
    numbers.update(first_s=first, silence_s=silence)
    scene.result.finding = f"first sign after {first:.2f} s, then at least every {silence:.1f} s"
    scene.check(first <= FIRST_S_MAX, f"the first sign of life came after {first:.2f} s")
    scene.check(silence <= SILENCE_S_MAX, f"there was no sign of life for {silence:.1f} s")
    for name, reading in (("with reasoning", shown), ("without", silent)):
        reason = getattr(reading.end, "finish_reason", None)
        scene.check(reason == "stop", f"{name}, the answer ended with {reason!r}")


def longest_silence(trace: Trace) -> float:
    """Return the longest time without any sign, from the sending of the request to the end."""
    times = [0.0, *(mark.at_s for mark in trace.marks), trace.ended_s]
    return round(max(b - a for a, b in pairwise(times)), 3)


async def _alone(scene: Scene, began: float) -> Trace:
    """Ask the provider itself, as one would without a relay."""
    body = {"model": SILENT, "stream": True, "messages": [{"role": "user", "content": "How does the mill work?"}]}
    url = f"{scene.stage.provider.url}/v1/chat/completions"
    async with scene.http.stream("POST", url, json=body, timeout=TIMEOUT_S) as response:
        marks = [Mark(round(monotonic() - began, 4), "text", chunk.count(b'"content":')) async for chunk in response.aiter_raw()]
    return Trace(label="The provider alone, without a relay", marks=marks, ended_s=round(monotonic() - began, 4))


EXPERIMENT = Experiment(
    letter="e",
    key="life",
    title="Twenty seconds of thinking show life",
    promise=(
        f"While a model thinks for {THINKING_S} s, a first sign of life comes within {FIRST_S_MAX:.0f} s, and then one at least every 10 s."
    ),
    turn=0,
    run=run,
)
