"""The relay beside nginx as a plain proxy: the same streams, on the same core, in turns within one run.

nginx passes bytes on. The relay parses each event, types it, logs it for resuming, meters it and writes it anew. The ratio of their CPU
time per token is therefore the price of all that, and the one figure here that can be compared between machines.

A third lane has nothing in between. Its delays are those of the provider, the readers and the loopback themselves.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from bench.machine import CannotMeasure
from bench.stage import DIALECTS, Dialect, Load, Server, Stage, report, request_to_provider, request_to_relay

GAP_US = 20_000  # 50 tokens a second
WARM_UP = Load(readers=100, streams_each=3, tokens=10)
SAMPLE_S = 0.5
SETTLE_S = 0.3
PACE_MIN = 0.9

LANES = ("nginx", "headrace")
PAIRED = (
    "cpu_us_per_token",
    "delay_p50_us",
    "delay_p99_us",
    "ttft_p50_us",
    "ttft_p99_us",
    "pss_idle_bytes",
    "pss_peak_bytes",
    "core_own",
    "pace",
)


class Plan(NamedTuple):
    # A ramp as long as a stream: from its end on, streams begin as evenly as they end. It is no multiple of the gap between tokens,
    # so that tokens come one by one and not in bunches.
    load: Load = Load(readers=500, streams_each=2, tokens=100, ramp_us=3_970)
    warm_up: Load = WARM_UP
    rounds: int = 3
    dialects: tuple[Dialect, ...] = DIALECTS

    @classmethod
    def quick(cls) -> Plan:
        return cls(load=Load(readers=100, streams_each=1, tokens=100, ramp_us=19_850), rounds=1)


def run(stage: Stage, plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """Return, for each dialect, each round's figures and their medians."""
    dialects: dict[str, Any] = {}
    for dialect in plan.dialects:
        with stage.provider(GAP_US) as provider:
            rounds = [_round(stage, plan, provider, dialect, number, say) for number in range(plan.rounds)]
            direct = _measure(stage, provider, request_to_provider(dialect, plan.load.tokens), plan.load)
        dialects[dialect] = {"rounds": rounds, "median": summary(rounds), "direct": direct}
    return {"load": {**plan.load._asdict(), "gap_us": GAP_US}, "pinned": stage.core_measured is not None, "dialects": dialects}


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return each lane's medians, and the median of the rounds' ratios (which is not the ratio of the medians).

    Rounds in which a lane fell behind the pace are left out where there are others: what comes late comes in bunches, and costs less.
    """
    held = [round_ for round_ in rounds if min(round_[lane]["pace"] for lane in LANES) >= PACE_MIN]
    rounds = held or rounds
    lanes = {lane: {name: statistics.median(round_[lane][name] for round_ in rounds) for name in PAIRED} for lane in LANES}
    ratios = [round_["ratio"] for round_ in rounds]
    return {**lanes, "ratio": round(statistics.median(ratios), 3), "ratio_range": [min(ratios), max(ratios)], "rounds_held": len(held)}


def _round(stage: Stage, plan: Plan, provider: Server, dialect: Dialect, number: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure both, the first of them in turns, so that a drift of the machine's speed favours neither."""
    figures: dict[str, Any] = {}
    for lane in LANES if number % 2 == 0 else reversed(LANES):
        starting = stage.nginx(provider) if lane == "nginx" else stage.relay(provider, dialect)
        with starting as server:
            ask = (lambda n: request_to_provider(dialect, n)) if lane == "nginx" else request_to_relay
            stage.read(server, ask(plan.warm_up.tokens), plan.warm_up, seconds_max=60)
            time.sleep(SETTLE_S)
            figures[lane] = _measure(stage, server, ask(plan.load.tokens), plan.load)
    figures["ratio"] = round(figures["headrace"]["cpu_us_per_token"] / figures["nginx"]["cpu_us_per_token"], 3)
    say(
        f"{dialect} round {number + 1}: nginx {figures['nginx']['cpu_us_per_token']:.1f} µs, "
        f"headrace {figures['headrace']['cpu_us_per_token']:.1f} µs per token, ratio {figures['ratio']:.2f}"
    )
    return figures


def _measure(stage: Stage, server: Server, request: bytes, load: Load) -> dict[str, Any]:
    """Run the load once and return what it cost `server` and what its readers saw."""
    lasts_s = load.streams_each * load.tokens * GAP_US / 1e6 + load.readers * load.ramp_us / 1e6
    idle = server.pss_bytes
    begun, meter = time.monotonic(), server.meter()
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(stage.readers(server, request, load))
        peak = idle
        while process.poll() is None and time.monotonic() < begun + lasts_s:
            time.sleep(SAMPLE_S)
            peak = max(peak, server.pss_bytes)
        told = report(process, seconds_max=60 + 5 * lasts_s, log=server.log)
        meter.stop()
    expected = load.readers * load.streams_each * load.tokens
    if told["tokens"] != expected:
        raise CannotMeasure(f"{server.name}: {told['tokens']} tokens arrived of {expected}.")
    return {
        "tokens": told["tokens"],
        "seconds": round(told["took_us"] / 1e6, 3),
        "cpu_us_per_token": round(meter.cpu_s * 1e6 / told["tokens"], 2),
        "pace": round(min(1.0, lasts_s * 1e6 / told["took_us"]), 3),
        "core_own": meter.own,
        "core_others": meter.others,
        "delay_p50_us": told["delay_us"]["p50"],
        "delay_p99_us": told["delay_us"]["p99"],
        "ttft_p50_us": told["ttft_us"]["p50"],
        "ttft_p99_us": told["ttft_us"]["p99"],
        "pss_idle_bytes": idle,
        "pss_peak_bytes": max(peak, idle),
    }
