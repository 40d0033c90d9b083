"""Measures of one stream, on a monotonic clock: TTFT, TPOT, ITL at both ends, arrivals over time.

Definitions: TTFT runs from the request to the first *generated* token (text, thinking or tool arguments), not to a role chunk.
TPOT is (last token - first token) / (tokens - 1), absent for one token. ITL samples are the gaps between tokens; tokens that come
in one read have a gap of 0 between them, which is how a buffering hop shows.
"""

from __future__ import annotations

from array import array

from headrace.protocol.events import Arrivals, Metrics

SLICES_MAX = 120
FIRST_SLICE_S = 0.05
BATCH = 64  # tokens whose times wait to be counted


class Flow:
    """Tokens passing one point: their times, gaps and slices. Memory is bounded whatever the stream's length.

    A token costs one append to an array of times; they are counted into gaps and slices a batch at a time. With hundreds of streams
    nothing of a stream is in the processor's cache when its next token comes, so what a token touches is what it costs.
    """

    __slots__ = ("_counted", "_gaps", "_last", "_slices", "_start", "_times", "first", "max_gap", "slice_s")

    def __init__(self, start: float) -> None:
        self._start = start
        self._times = array("d")
        self._counted = 0
        self._last = 0.0
        self._gaps: dict[int, int] = {}
        self._slices: list[int] = []
        self.first = 0.0
        self.max_gap = 0.0
        self.slice_s = FIRST_SLICE_S

    @property
    def tokens(self) -> int:
        return self._counted + len(self._times)

    @property
    def last(self) -> float:
        """When the newest token passed; 0 before the first."""
        return self._times[-1] if self._times else self._last

    def add(self, tokens: int, now: float) -> None:
        """Count `tokens` that came together at `now`."""
        times = self._times
        times.append(now)
        if tokens > 1:
            times.extend([now] * (tokens - 1))
        if len(times) >= BATCH:
            self._count()

    def settle(self) -> Flow:
        """Count what is still uncounted; call it before reading `first`, `max_gap` or `slice_s`."""
        if self._times:
            self._count()
        return self

    def copy(self) -> Flow:
        self.settle()
        twin = Flow(self._start)
        twin._counted, twin._last, twin.first, twin.max_gap, twin.slice_s = (
            self._counted,
            self._last,
            self.first,
            self.max_gap,
            self.slice_s,
        )
        twin._gaps, twin._slices = self._gaps.copy(), self._slices.copy()
        return twin

    def _count(self) -> None:
        gaps, slices, start, last = self._gaps, self._slices, self._start, self._last
        times, max_gap, per_slice = iter(self._times), self.max_gap, 1 / self.slice_s
        if not self._counted:
            self.first = last = next(times)
            self._slice(last)
            per_slice = 1 / self.slice_s
        for now in times:
            gap = now - last
            last = now
            if gap > max_gap:
                max_gap = gap
            us = int(gap * 1e6)
            if us >= 8:  # a bucket each below 8 µs, then four to each doubling
                bits = us.bit_length()
                us = (bits << 2) + ((us >> (bits - 3)) & 3) - 8
            gaps[us] = gaps.get(us, 0) + 1
            at = int((now - start) * per_slice)
            if at < len(slices):
                slices[at] += 1
            else:
                self._slice(now)
                per_slice = 1 / self.slice_s
        self.max_gap = max_gap
        self._counted += len(self._times)
        self._last = last
        self._times = array("d")

    def quantiles(self) -> dict[str, float] | None:
        """Return p50, p90 and p99 of the gaps in milliseconds, to within 12 %, or None without a gap."""
        total = sum(self._gaps.values())
        if not total:
            return None
        found: dict[str, float] = {}
        seen, buckets = 0, sorted(self._gaps.items())
        wanted = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)]
        for bucket, count in buckets:
            seen += count
            while wanted and seen >= wanted[0][1] * total:
                found[wanted.pop(0)[0]] = round(_bucket_us(bucket) / 1000, 3)
        return found

    def slices(self, slice_s: float) -> list[int]:
        """Return the counts in slices of `slice_s`, a power of two times this flow's own."""
        own, ratio = self._slices, round(slice_s / self.slice_s)
        return [sum(own[at : at + ratio]) for at in range(0, len(own), ratio)]

    def _slice(self, now: float) -> None:
        """Count a token in a slice that is not there yet."""
        self._slices[self._grow(int((now - self._start) / self.slice_s))] += 1

    def _grow(self, at: int) -> int:
        slices = self._slices
        while at >= SLICES_MAX:
            slices[:] = [sum(slices[i : i + 2]) for i in range(0, len(slices), 2)]
            self.slice_s *= 2
            at //= 2
        slices.extend([0] * (at + 1 - len(slices)))
        return at


class Meter:
    """All times of one stream. The owner sets the marks, the flows count tokens as they come in and go out.

    While every token goes out on the stack on which it came in, the two flows are one and the same object; the first token that
    has to wait parts them.
    """

    __slots__ = ("attempts", "cancel_s", "egress", "headers_at", "ingress", "queued_s", "sent_at", "start")

    def __init__(self, now: float) -> None:
        self.start = now
        self.ingress = Flow(now)
        self.egress = self.ingress
        self.queued_s: float | None = None
        self.sent_at: float | None = None
        self.headers_at: float | None = None
        self.cancel_s: float | None = None
        self.attempts = 0

    def held_back(self, tokens: int, now: float) -> None:
        """Count tokens that came in and could not go out to anybody at once."""
        if self.egress is self.ingress:
            self.egress = self.ingress.copy()
        self.ingress.add(tokens, now)

    def passed(self, tokens: int, now: float) -> None:
        """Count tokens that came in and went out on one stack."""
        self.ingress.add(tokens, now)
        if self.egress is not self.ingress:
            self.egress.add(tokens, now)

    def caught_up(self, now: float) -> None:
        """The foremost reader has everything again: what was held back has gone out."""
        if self.egress is not self.ingress and self.ingress.tokens > self.egress.tokens:
            self.egress.add(self.ingress.tokens - self.egress.tokens, now)

    def metrics(self, now: float, output_tokens: int | None) -> Metrics:
        """Return the measures as they stand. `output_tokens`: the provider's own count, where it gave one."""
        ingress, egress = self.ingress.settle(), self.egress.settle()
        tokens = output_tokens if output_tokens and output_tokens >= ingress.tokens else ingress.tokens
        tpot = (ingress.last - ingress.first) / (tokens - 1) if ingress.tokens > 1 else None
        slice_s = max(ingress.slice_s, egress.slice_s)
        return Metrics(
            ttft_ms=_ms(ingress.first - self.start) if ingress.tokens else None,
            tpot_ms=_ms(tpot),
            queue_ms=_ms(self.queued_s),
            upstream_headers_ms=_ms(self.headers_at - self.sent_at) if self.headers_at and self.sent_at else None,
            duration_ms=_ms(now - self.start),
            itl_ingress_ms=ingress.quantiles(),
            itl_egress_ms=egress.quantiles(),
            max_gap_ms=_ms(ingress.max_gap) if ingress.tokens > 1 else None,
            cancel_ms=_ms(self.cancel_s),
            tokens=ingress.tokens,
            attempts=self.attempts or None,
            arrivals=Arrivals(slice_ms=round(slice_s * 1000), ingress=ingress.slices(slice_s), egress=egress.slices(slice_s))
            if ingress.tokens
            else None,
        )


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


def _bucket_us(bucket: int) -> float:
    """Return the middle of a bucket in microseconds."""
    if bucket < 8:
        return float(bucket)
    bits, quarter = divmod(bucket + 8, 4)
    low = (4 + quarter) << (bits - 3)
    return low + (1 << (bits - 3)) / 2
