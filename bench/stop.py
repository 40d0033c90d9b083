"""Stop: how long a provider goes on after its reader has asked for the end, with all streams running.

Twice: one Stop after another, as people press the button, and all at once, where the last one waits for the relay to have read all
the others. `cancel_ms` is what the receipt says: from the relay's taking up the request to the closing of its socket to the provider.
`provider` is seen from outside: from the sending of the Stop to the provider's seeing its connection closed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from bench.machine import CannotMeasure, allow_open_files
from bench.stage import Load, Stage, provider_report, report, request_to_relay

GAP_US = 20_000
RUNNING_MS = 500  # before the first Stop
TOKENS = 1_000_000  # more than anybody waits for
SPACED_US = 5_000


def run(stage: Stage, streams: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Return the delays of Stops one after another, and of Stops all at once."""
    allow_open_files(4 * streams + 256)
    return {"streams": streams, "spaced": _stop_all(stage, streams, SPACED_US, say), "at_once": _stop_all(stage, streams, 0, say)}


def _stop_all(stage: Stage, streams: int, gap_us: int, say: Callable[[str], None]) -> dict[str, Any]:
    load = Load(readers=streams, streams_each=1, tokens=TOKENS)
    with stage.provider(GAP_US) as provider, stage.relay(provider, "openai_chat") as server:
        stage.read(server, request_to_relay(10), Load(readers=50, streams_each=2, tokens=10), seconds_max=30)
        meter = server.meter()
        with stage.readers(server, request_to_relay(TOKENS), load, "stop", str(RUNNING_MS), str(gap_us)) as process:
            told = report(process, seconds_max=30 + streams * gap_us / 1e6, log=server.log)
            meter.stop()
            time.sleep(0.2)
            left = dict(provider_report(provider)["left_early"])
    missing = [number for number, *_ in told["stops"] if number not in left]
    if missing or len(told["stops"]) != streams:
        raise CannotMeasure(f"{len(missing)} of {streams} streams were stopped and their provider saw nothing of it.")
    figures: dict[str, Any] = {
        "gap_us": gap_us,
        "core_own": meter.own,
        "core_others": meter.others,
        "cancel_ms": percentiles([cancel_ms for *_, cancel_ms in told["stops"]]),
        "provider_ms": percentiles([(left[number] - asked_us) / 1000 for number, asked_us, *_ in told["stops"]]),
        "answer_ms": percentiles([(answered_us - asked_us) / 1000 for _, asked_us, answered_us, _ in told["stops"]]),
    }
    how = "all at once" if not gap_us else f"one every {gap_us / 1000:g} ms"
    say(f"{streams} Stops, {how}: provider hears of it after {figures['provider_ms']['p50']} ms, p99 {figures['provider_ms']['p99']} ms")
    return figures


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Return the middle, the 99th of a hundred and the greatest."""
    ordered = sorted(values)
    return {name: round(ordered[int(share * (len(ordered) - 1))], 3) for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))}
