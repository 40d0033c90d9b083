"""(a) Every token arrives when it is made: directly, through nginx, and through an nginx that is told to buffer."""

from __future__ import annotations

import asyncio

from headrace.cli.proof.experiments.base import Experiment, Scene, ms
from headrace.cli.proof.probe import Reading, monotonic, read
from headrace.cli.proof.results import Mark, Number, Trace
from headrace.protocol import events as ev

TOKENS = 480
MODEL = f"story?tokens={TOKENS}"
PACE = "&tokens_per_s=50"
HOLD_S_MAX = 0.1
CLIFF_SPAN = 0.25  # of the provider's own: tokens that arrive in less than that came in a block
WAYS = (("direct", "Direct, without a proxy"), ("nginx", "Through nginx, with our headers"), ("buffering", "Through nginx, buffering"))


async def run(scene: Scene) -> None:
    stage = scene.stage
    whole = (await scene.witness.answer(MODEL))["content"]
    began = monotonic()
    urls = (stage.relay.url, stage.url, stage.nginx.url("buffering"))
    readings = await asyncio.gather(*(read(scene.http, url, MODEL + PACE, Reading(began)) for url in urls))
    for (key, label), reading in zip(WAYS, readings, strict=True):
        await _note(scene, key, label, reading, whole)
    _judge(scene, *readings)


async def _note(scene: Scene, key: str, label: str, reading: Reading, whole: str) -> None:
    record = await scene.witness.wait(reading.request_id, lambda record: record.state != "running")
    written = record.written_at_monotonic
    numbers = scene.result.numbers
    holds = [arrived - made for arrived, made in zip(reading.tokens, written, strict=False)]
    found: dict[str, Number] = {
        "tokens": len(reading.tokens),
        "tokens_written": len(written),
        "ttft_s": round(reading.ttft_s, 4),
        "tpot_ms": ms(reading.tpot_s),
        "total_s": round(reading.ended_at - reading.sent_at, 4),
        "hold_ms_max": ms(max(holds)),
        "hold_ms_median": ms(sorted(holds)[len(holds) // 2]),
        "whole": int(reading.text == whole and in_order(reading.events)),
        "span_s": round(reading.tokens[-1] - reading.tokens[0], 4),
        "span_written_s": round(written[-1] - written[0], 4),
    }
    numbers.update({f"{key}_{name}": value for name, value in found.items()})
    scene.result.traces[key] = reading.trace(label)
    marks = [Mark(round(at - reading.began, 4), "text") for at in written]
    scene.result.traces[f"{key}_written"] = Trace(label=f"{label}: as the provider wrote it", marks=marks, ended_s=marks[-1].at_s)


def in_order(events: list[ev.AnyEvent]) -> bool:
    """Whether the events are numbered from 1 on without a hole."""
    return [event.seq for event in events] == list(range(1, len(events) + 1))


def _judge(scene: Scene, direct: Reading, proxied: Reading, buffered: Reading) -> None:
    numbers, result = scene.result.numbers, scene.result
    held, tokens = numbers["nginx_hold_ms_max"] or 0.0, len(proxied.tokens)
    scene.check(held <= HOLD_S_MAX * 1000, f"a token was held for {held:.0f} ms on its way through nginx")
    scene.check(bool(numbers["nginx_whole"]), f"through nginx {tokens} of {TOKENS} tokens came, and not as the provider wrote them")
    scene.check(bool(numbers["direct_whole"]), "directly, the text is not what the provider wrote")
    numbers["is_cliff"] = int((numbers["buffering_span_s"] or 0.0) < CLIFF_SPAN * (numbers["buffering_span_written_s"] or 0.0))
    numbers["direct_earlier_ms"] = ms(_median_gap(direct, proxied))
    result.finding = f"through nginx: longest hold {held:.0f} ms, {tokens} of {TOKENS} in order"
    if not numbers["is_cliff"]:
        result.finding += "; told to buffer, this nginx did not"


def _median_gap(earlier: Reading, later: Reading) -> float:
    """How much earlier a token of the one reading came, as a rule, than the same token of the other."""
    gaps = sorted((b - later.sent_at) - (a - earlier.sent_at) for a, b in zip(earlier.tokens, later.tokens, strict=False))
    return gaps[len(gaps) // 2]


EXPERIMENT = Experiment(
    letter="a",
    key="arrival",
    title="Tokens arrive as they are made",
    promise=(
        f"Through nginx every token arrives at most {HOLD_S_MAX * 1000:.0f} ms after the provider wrote it, in order, and none is missing."
    ),
    turn=1,
    run=run,
)
