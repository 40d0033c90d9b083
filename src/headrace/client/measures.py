"""What a reader measures: when tokens reached it, on a monotonic clock.

TTFT runs from the sending of the request to the first *generated* token: text, reasoning or tool arguments. TPOT is
(last token - first token) / (tokens - 1), absent for one token. ITL are the gaps between tokens; tokens that came in one read have
a gap of 0 between them, which is how a buffering hop shows. The pause of a reconnect and the replay after it are in no gap.
"""

from __future__ import annotations

from array import array

import msgspec

from headrace.protocol import events as ev

_TOKENS = (ev.Text, ev.Thinking, ev.ToolCallDelta)


class ClientMetrics(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """In milliseconds. None means that there is nothing to tell yet. `tokens` are counted as the relay cut them."""

    headers_ms: float | None = None
    ttft_ms: float | None = None
    tpot_ms: float | None = None
    itl_ms: dict[str, float] | None = None
    max_gap_ms: float | None = None
    duration_ms: float | None = None
    tokens: int = 0
    reconnects: int = 0
    replayed: int = 0

    @property
    def tokens_per_s(self) -> float | None:
        return 1000 / self.tpot_ms if self.tpot_ms else None


class Stopwatch:
    """Takes the times of one answer; `metrics` may be asked for at any moment."""

    def __init__(self) -> None:
        self.started_at: float | None = None
        self.headers_at: float | None = None
        self.first_at: float | None = None
        self.last_at: float | None = None
        self.ended_at: float | None = None
        self.tokens = 0
        self.reconnects = 0
        self.replayed = 0
        self._gaps = array("f")
        self._replaying = False

    def started(self, now: float) -> None:
        """The request goes out; that it goes out again does not count."""
        self.started_at = now if self.started_at is None else self.started_at

    def opened(self, now: float, *, again: bool) -> None:
        """A response's head came; `again` says that it is not the first one."""
        self.headers_at = now if self.headers_at is None else self.headers_at
        if again:
            self.reconnects += 1
            self._replaying = True

    def took(self, events: list[ev.Event], now: float) -> int | None:
        """Count what one read brought. After a reconnect, return how many events the first such read stands for."""
        tokens = sum(_span(event) for event in events if isinstance(event, _TOKENS))
        if tokens:
            self._count(tokens, now)
        if not self._replaying or not events:
            return None
        self._replaying = False
        replayed = sum(_span(event) for event in events)
        self.replayed += replayed
        return replayed

    def ended(self, now: float) -> None:
        self.ended_at = now if self.ended_at is None else self.ended_at

    def _count(self, tokens: int, now: float) -> None:
        self.tokens += tokens
        if self.first_at is None:
            self.first_at = now
        elif self.last_at is not None and not self._replaying:
            self._gaps.append(now - self.last_at)
        if not self._replaying:
            self._gaps.extend([0.0] * (tokens - 1))
        self.last_at = now

    def metrics(self, now: float) -> ClientMetrics:
        start, first, last = self.started_at, self.first_at, self.last_at
        spread = last - first if first is not None and last is not None and self.tokens > 1 else None
        gaps = sorted(self._gaps)
        return ClientMetrics(
            headers_ms=_ms(start, self.headers_at),
            ttft_ms=_ms(start, first),
            tpot_ms=round(spread / (self.tokens - 1) * 1000, 3) if spread is not None else None,
            itl_ms={f"p{p}": round(gaps[(len(gaps) - 1) * p // 100] * 1000, 3) for p in (50, 90, 99)} if gaps else None,
            max_gap_ms=round(gaps[-1] * 1000, 3) if gaps else None,
            duration_ms=_ms(start, now if self.ended_at is None else self.ended_at),
            tokens=self.tokens,
            reconnects=self.reconnects,
            replayed=self.replayed,
        )


def _ms(start: float | None, end: float | None) -> float | None:
    return round((end - start) * 1000, 3) if start is not None and end is not None else None


def _span(event: ev.Event) -> int:
    """How many of the log's events this one stands for."""
    first = getattr(event, "from_seq", None)
    return event.seq - first + 1 if first is not None and not isinstance(event, ev.Reset) else 1
