"""Idle streams: what it costs to keep an answer open on which nothing comes. Memory each, and how long it takes to open them.

Memory is the growth of the relay's PSS over the same relay with its code warm; the kernel's socket buffers are not in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from bench.machine import allow_open_files
from bench.stage import Load, Stage, report, request_to_relay

NEVER_US = 3_600_000_000
AHEAD = 64  # readers at most that wait for their first token, while all are being opened
SETTLE_S = 1.0


def run(stage: Stage, streams: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Open `streams` streams that stay silent after their first token, and return what they weigh."""
    allow_open_files(2 * streams + 256)
    with stage.provider(NEVER_US) as provider, stage.relay(provider, "openai_chat") as server:
        load = Load(readers=streams, streams_each=1, tokens=2, ramp_us=0)
        before = server.pss_bytes
        meter = server.meter()
        with stage.readers(server, request_to_relay(load.tokens), load, "hold", str(AHEAD)) as process:
            told = report(process, seconds_max=30 + streams / 100, log=server.log)
            meter.stop()
            time.sleep(SETTLE_S)
            after = server.pss_bytes
    figures = {
        "streams": streams,
        "pss_before_bytes": before,
        "pss_open_bytes": after,
        "bytes_each": round((after - before) / streams),
        "open_s": round(told["took_us"] / 1e6, 3),
        "opened_per_s": round(streams / (told["took_us"] / 1e6)),
        "cpu_us_each": round(meter.cpu_s * 1e6 / streams, 1),
        "ttft_ms": {name: round(told["ttft_us"][name] / 1000, 3) for name in ("p50", "p99")},
    }
    say(f"{streams} idle streams: {figures['bytes_each'] / 1024:.1f} KiB each, open after {figures['open_s']:.1f} s")
    return figures
