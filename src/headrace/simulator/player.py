"""Plays one performance: passes its time, writes its bytes, and knows at every moment how far it is.

There is no task: a player is a timer and an iterator, so that it stops the moment it is told to.
"""

import asyncio
import math
from collections.abc import Callable
from itertools import chain

from headrace.simulator.http1 import response_head
from headrace.simulator.outlet import Outlet
from headrace.simulator.performance import Performance
from headrace.simulator.stats import Ledger, Phase, RequestRecord
from headrace.simulator.steps import Die, HangUp, Text, Think, ToolArgs, ToolStart, Wait

_BATCH_BYTES = 4 * 1024  # of tokens that are due, in one write


class Player:
    """Play `performance` through `write`; at its end call `on_end` with how to hang up, or None to keep the connection."""

    def __init__(
        self,
        performance: Performance,
        identity: list[tuple[str, str]],
        record: RequestRecord,
        ledger: Ledger,
        write: Callable[[bytes], None],
        on_end: Callable[[HangUp | None], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._performance = performance
        self._identity = identity
        self._record = record
        self._ledger = ledger
        self._write_out = write
        self._on_end = on_end
        self._steps = chain(performance.steps)
        self._body = performance.body()
        self.outlet = Outlet(performance.wire, self._write, self._drained, self._cut_off)
        self._due = self._loop.time() + performance.headers_s
        self._timer: asyncio.Handle | None = None
        self._head_written = False
        self._in_tool = False
        self._in_flight = 0
        self._over = False
        self._death: Die | None = None
        record.tokens_total = performance.tokens_total
        self._arm()

    def stop(self) -> Phase:
        """Generate nothing any more; return how far the answer had come."""
        if self._timer is not None:
            self._timer.cancel()
        self.outlet.aclose_nowait()
        return self._phase()

    def _phase(self) -> Phase:
        record = self._record
        if not self._head_written:
            return "before_headers"
        if record.tokens_total and record.tokens_written >= record.tokens_total:
            return "after_last_token"
        if self._in_tool:
            return "tool_arguments"
        return "streaming" if record.tokens_written else "before_first_token"

    def _arm(self) -> None:
        """Come back when the next step is due."""
        if self._due <= self._loop.time():
            self._timer = self._loop.call_soon(self._advance)
        elif self._due != math.inf:
            self._timer = self._loop.call_at(self._due, self._advance)

    def _advance(self) -> None:
        self._timer = None
        if not self._performance.sends_head:
            self._end(self._performance.wire.hang_up or "fin")
            return
        if not self._head_written:
            self._write_head()
        body = self._collect(self._loop.time())
        self.outlet.push(body, last=self._over and self._death is None)

    def _collect(self, now: float) -> bytearray:
        """Return the bytes of the steps that are due by `now`."""
        body = bytearray()
        interval_s = self._performance.interval_s
        while self._due <= now and len(body) < _BATCH_BYTES:
            step = next(self._steps, None)
            if step is None:
                self._over = True
                body += self._body.finish()
                break
            match step:
                case Wait(seconds):
                    self._due += seconds
                    continue
                case Die():
                    self._death, self._over = step, True
                    break
                case ToolStart() | ToolArgs():
                    self._in_tool = True
                case Text() | Think():
                    self._in_tool = False
                case _:
                    pass
            body += self._body.encode(step)
            self._in_flight += step.tokens
            self._due += step.tokens * interval_s
        return body

    def _drained(self) -> None:
        self._ledger.generated(self._record, self._in_flight)
        self._in_flight = 0
        if self._over:
            self._finish()
            return
        if self.outlet.was_full:  # the pace goes on from now; what was not generated meanwhile is not caught up
            self.outlet.was_full = False
            self._due = max(self._due, self._loop.time())
        self._arm()

    def _finish(self) -> None:
        wire = self._performance.wire
        if self._death is not None:
            if self._death.how == "short_chunk" and self._death.during is not None:
                event = self._body.encode(self._death.during)
                self.outlet.write_short(event[: len(event) // 2], len(event))
            self._end(self._death.how)
        elif wire.hang_up is not None:
            self._end(wire.hang_up)
        else:
            self._end("fin" if self._performance.closes else None)

    def _cut_off(self) -> None:
        self._end(self._performance.wire.hang_up or "fin")

    def _end(self, how: HangUp | None) -> None:
        self._ledger.end(self._record, self._performance.end)
        self._on_end(how)

    def _write(self, data: bytes) -> None:
        self._ledger.wrote(self._record, len(data))
        self._write_out(data)

    def _write_head(self) -> None:
        performance, wire = self._performance, self._performance.wire
        headers = [("content-type", performance.content_type), *self._identity, *performance.headers]
        if wire.gzip:
            headers.append(("content-encoding", "gzip"))
        if wire.framing == "chunked":
            headers.append(("transfer-encoding", "chunked"))
        elif wire.framing == "length":
            headers.append(("content-length", str(performance.length())))
        self._head_written = True
        self._write(response_head(performance.status, headers, version="1.0" if wire.framing == "close" else "1.1"))
