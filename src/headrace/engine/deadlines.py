"""The deadline table: what is due next for a stream, and what has expired. Plain functions of the state and the clock.

| deadline | while | from |
|---|---|---|
| total | always | the request's arrival |
| queue wait | in line | the joining of the line |
| first token | the request is out, no content yet | the sending |
| idle | content has come, and we are reading | the provider's last byte |
| grace | nobody is attached | the last reader's leaving |
| heartbeat | a reader is attached and takes bytes | the last byte written to it |
| slow reader | a reader is attached and takes nothing, also after the stream's end | the moment it was full |

Heartbeats go to readers and never touch what is measured from the provider's bytes. While backpressure keeps us from reading, the provider
cannot be late.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from headrace.errors import HeadraceError, QueueTimeout, StreamTooLong, UpstreamFirstTokenTimeout, UpstreamIdle

if TYPE_CHECKING:
    from headrace.engine.stream import Stream

SLACK_S = 0.001  # a timer may fire this much early


def next_due(stream: Stream) -> float:
    """Return when something may be due, on the monotonic clock. It may turn out not to be: tokens do not move the timer."""
    settings = stream.settings
    if stream.ended:
        return min((r.blocked_at + settings.slow_reader_s for r in stream.readers if r.blocked_at is not None), default=math.inf)
    due, _ = provider_deadline(stream)
    grace_s = stream.grace_s
    if stream.detached_at is not None and grace_s is not None:
        due = min(due, stream.detached_at + grace_s)
    for reader in stream.readers:
        if reader.blocked_at is not None:
            due = min(due, reader.blocked_at + settings.slow_reader_s)
        else:
            due = min(due, reader.wrote_at + settings.heartbeat_s)
    return due


def expired(stream: Stream, now: float) -> HeadraceError | None:
    """Return the error with which the stream ends now, or None."""
    due, error = provider_deadline(stream)
    return error() if now >= due - SLACK_S else None


def provider_deadline(stream: Stream) -> tuple[float, type[HeadraceError]]:
    """Return the nearest deadline that ends the stream, and with what."""
    settings, start, attempt = stream.settings, stream.meter.start, stream.attempt
    due: tuple[float, type[HeadraceError]] = (start + settings.total_s, StreamTooLong)
    other: tuple[float, type[HeadraceError]] | None = None
    if stream.in_line:
        other = (stream.queued_at + settings.queue_wait_s_max, QueueTimeout)
    elif stream.has_content:
        if not stream.paused and attempt is not None:
            other = (attempt.heard_at + settings.idle_s, UpstreamIdle)
    elif attempt is not None and attempt.phase != "connecting" and stream.meter.sent_at is not None:
        other = (stream.meter.sent_at + settings.first_token_s, UpstreamFirstTokenTimeout)
    return other if other is not None and other[0] < due[0] else due


def grace_over(stream: Stream, now: float) -> bool:
    grace_s = stream.grace_s
    return stream.detached_at is not None and grace_s is not None and now >= stream.detached_at + grace_s - SLACK_S
