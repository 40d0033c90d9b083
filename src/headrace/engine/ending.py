"""What is said when a stream ends: its phase, its receipt, its usage, and what an error inside a 200 stands for."""

from __future__ import annotations

from typing import Literal, NamedTuple

from headrace.engine.attempt import AttemptPhase
from headrace.errors import UpstreamError
from headrace.protocol import events as ev

ContentPhase = Literal["thinking", "text", "tool_arguments", "after_last_token"]
Phase = Literal["queued", "ended"] | AttemptPhase | ContentPhase

PHASE_OF: dict[type[ev.Event], ContentPhase] = {
    ev.Text: "text",
    ev.Thinking: "thinking",
    ev.ToolCallDelta: "tool_arguments",
    ev.ToolCallStart: "tool_arguments",
}


class Receipt(NamedTuple):
    """What a Stop did. Times are Unix seconds; `cancel_ms` runs from the asking to the closing of the upstream socket."""

    requested_at: float
    upstream_closed_at: float | None
    cancel_ms: float | None
    phase: Phase
    tokens_before: int
    tokens_after: int
    already_ended: bool


def receipt(asked_at: float, took_s: float | None, phase: Phase, tokens: int) -> Receipt:
    """Return what a Stop did that was asked at `asked_at` and closed the upstream socket after `took_s`, if there was one."""
    return Receipt(
        requested_at=round(asked_at, 6),
        upstream_closed_at=round(asked_at + took_s, 6) if took_s is not None else None,
        cancel_ms=round(took_s * 1000, 3) if took_s is not None else None,
        phase=phase,
        tokens_before=tokens,
        tokens_after=0,
        already_ended=False,
    )


def totals(usage: ev.Usage | None, seen: int, *, complete: bool) -> ev.UsageTotals | None:
    """Return the provider's figures where its count is final, else an estimate from the tokens that were `seen` to pass.

    A provider's count is final at the end of its answer. Before that it may be the count of its first chunk, so an answer that was cut
    short keeps it only where it is not less than what was seen.
    """
    if usage is None and not seen:
        return None
    said = usage.output_tokens if usage is not None else None
    if usage is not None and said is not None and (complete or said >= seen):
        return ev.UsageTotals(
            source=usage.source,
            input_tokens=usage.input_tokens,
            output_tokens=said,
            reasoning_tokens=usage.reasoning_tokens,
            cached_tokens=usage.cached_tokens,
            cost_usd=usage.cost_usd,
        )
    return ev.UsageTotals(
        source="estimated",
        input_tokens=usage.input_tokens if usage is not None else None,
        output_tokens=seen,
        cached_tokens=usage.cached_tokens if usage is not None else None,
    )


def as_failure(terminal: ev.Error) -> UpstreamError:
    """Return the failed attempt that an error inside a 200 is while no content has come: the same as an error status."""
    cls = next((c for c in UpstreamError.__subclasses__() if c.code == terminal.code), UpstreamError)
    return cls(terminal.message, retry_after_s=terminal.retry_after_seconds, detail=f"{terminal.code} inside the stream")
