"""The provider of the proof: the simulator as a process of its own, with a dashboard that also stamps every token.

Run as a module. It prints its address as its first line, and the end of each request as another.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import time
from functools import partial

from msgspec import field

from headrace.simulator import RequestRecord, Simulator
from headrace.simulator.stats import Ledger

STAMPS_MAX = 20_000


class StampedRecord(RequestRecord, kw_only=True):
    """A request with the moment of each token, by the clock that all processes of the machine share."""

    written_at_monotonic: list[float] = field(default_factory=list)


class StampedLedger(Ledger):
    def begin(self, dialect: str, x_request_id: str | None) -> RequestRecord:
        plain = super().begin(dialect, x_request_id)
        record = StampedRecord(**{name: getattr(plain, name) for name in plain.__struct_fields__})
        self._recent[-1] = record
        return record

    def generated(self, record: RequestRecord, tokens: int) -> None:
        super().generated(record, tokens)
        if isinstance(record, StampedRecord) and len(record.written_at_monotonic) < STAMPS_MAX:
            record.written_at_monotonic += [time.monotonic()] * tokens


async def serve(port: int) -> None:
    """Serve until SIGTERM or SIGINT."""
    tell = partial(print, flush=True)
    over = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, over.set)
    simulator = Simulator(port=port, log=tell)
    simulator.ledger = StampedLedger(tell)
    async with simulator:
        tell(f"The provider listens on {simulator.base_url}.")
        await over.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    asyncio.run(serve(parser.parse_args().port))
