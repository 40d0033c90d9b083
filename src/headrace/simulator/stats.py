"""The provider's dashboard: what every request cost, and when its reader left."""

import time
from collections import deque
from collections.abc import Callable
from typing import Literal

from msgspec import Struct

State = Literal["running", "finished", "left", "died", "refused"]
Phase = Literal["before_headers", "before_first_token", "streaming", "tool_arguments", "after_last_token"]
_REQUESTS_MAX = 1000


class RequestRecord(Struct, kw_only=True):
    """One request. Times are seconds, by the wall clock and by the monotonic clock that all processes of a machine share."""

    id: int
    dialect: str
    model: str | None = None
    x_request_id: str | None = None
    stream: bool = False
    state: State = "running"
    phase_when_left: Phase | None = None
    tokens_written: int = 0
    tokens_total: int | None = None
    bytes_written: int = 0
    started_at: float
    started_at_monotonic: float
    first_token_at: float | None = None
    first_token_at_monotonic: float | None = None
    left_at: float | None = None
    left_at_monotonic: float | None = None
    ended_at: float | None = None
    ended_at_monotonic: float | None = None

    def line(self) -> str:
        """Return the request's end as one line for people."""
        seconds = (self.ended_at_monotonic or self.started_at_monotonic) - self.started_at_monotonic
        where = f" ({self.phase_when_left})" if self.phase_when_left else ""
        return f"#{self.id} {self.dialect} {self.model} {self.state}{where}: {self.tokens_written} tokens in {seconds:.3f} s"


class Totals(Struct):
    """Sums since the start; `aborted` are the requests whose reader left."""

    open: int = 0
    started: int = 0
    finished: int = 0
    aborted: int = 0
    died: int = 0
    refused: int = 0
    tokens_written: int = 0
    bytes_written: int = 0


class Stats(Struct):
    """What `GET /stats` answers: the totals, and the last requests, newest last."""

    totals: Totals
    requests: list[RequestRecord]


class Ledger:
    """Keeps the records. Every request passes `begin` once and `end` once."""

    def __init__(self, log: Callable[[str], None] | None = None) -> None:
        self.totals = Totals()
        self._log = log
        self._recent: deque[RequestRecord] = deque(maxlen=_REQUESTS_MAX)

    def begin(self, dialect: str, x_request_id: str | None) -> RequestRecord:
        self.totals.started += 1
        self.totals.open += 1
        record = RequestRecord(
            id=self.totals.started,
            dialect=dialect,
            x_request_id=x_request_id,
            started_at=time.time(),
            started_at_monotonic=time.monotonic(),
        )
        self._recent.append(record)
        return record

    def wrote(self, record: RequestRecord, size: int) -> None:
        record.bytes_written += size
        self.totals.bytes_written += size

    def generated(self, record: RequestRecord, tokens: int) -> None:
        if not tokens:
            return
        if record.first_token_at is None:
            record.first_token_at, record.first_token_at_monotonic = time.time(), time.monotonic()
        record.tokens_written += tokens
        self.totals.tokens_written += tokens

    def left(self, record: RequestRecord, phase: Phase) -> None:
        record.left_at, record.left_at_monotonic = time.time(), time.monotonic()
        record.phase_when_left = phase
        self.end(record, "left")

    def end(self, record: RequestRecord, state: Literal["finished", "left", "died", "refused"]) -> None:
        assert record.state == "running", "a request ends once"
        record.state = state
        record.ended_at = record.left_at or time.time()
        record.ended_at_monotonic = record.left_at_monotonic or time.monotonic()
        self.totals.open -= 1
        total = "aborted" if state == "left" else state
        setattr(self.totals, total, getattr(self.totals, total) + 1)
        if self._log is not None:
            self._log(record.line())

    def since(self, number: int = 0) -> Stats:
        """Return the totals, and the requests that are newer than `number`."""
        return Stats(self.totals, [record for record in self._recent if record.id > number])

    def find(self, number: int) -> RequestRecord | None:
        return next((record for record in self._recent if record.id == number), None)
