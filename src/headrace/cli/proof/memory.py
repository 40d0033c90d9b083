"""The memory of another process as the kernel counts it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

from headrace.cli.proof.results import Curve

SAMPLE_S = 0.1


def is_told() -> bool:
    """Whether this system tells how much memory a process has."""
    return Path("/proc/self/smaps_rollup").exists()


def pss_kib(pid: int) -> int:
    """Return the proportional set size of `pid` in KiB, without pages of files.

    The code of libraries is left out because its share depends on who else on the machine has just started or ended.

    Raises:
        OSError: there is no such process, or this system does not tell (Linux does).
    """
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("Pss", "Pss_Anon"):
            found[name] = int(value.split()[0])
    if not found:
        raise OSError(f"/proc/{pid}/smaps_rollup has no Pss")
    return found.get("Pss_Anon", found.get("Pss", 0))


@contextlib.asynccontextmanager
async def sampling(pid: int, curve: Curve, began: float) -> AsyncIterator[None]:
    """Sample the memory of `pid` into `curve` while the block runs."""
    task = asyncio.create_task(_sample(pid, curve, began))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _sample(pid: int, curve: Curve, began: float) -> None:
    while True:
        curve.points.append((round(time.monotonic() - began, 3), pss_kib(pid)))
        await asyncio.sleep(SAMPLE_S)
