"""What a client is given: the reply, the receipt of a Stop, a stream's state, and how the connection stands."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

from headrace.client.measures import ClientMetrics
from headrace.protocol import events as ev
from headrace.protocol.accumulate import Accumulator

StreamStatus: TypeAlias = Literal["queued", "connecting", "waiting", "streaming", "completed", "cancelled", "failed"]
ConnectionState: TypeAlias = Literal["idle", "connecting", "live", "reconnecting", "resumed", "stopping", "ended"]


class Reply(Accumulator):
    """The answer as far as it has come: `text`, `thinking`, `tool_calls`, `usage`, and `end`, the terminal event.

    `complete` is true only where the provider itself said that this is all, and all of it came. `metrics` is set at the end.
    """

    def __init__(self) -> None:
        super().__init__()
        self.metrics: ClientMetrics | None = None

    @property
    def stream_id(self) -> str | None:
        return self.start.stream_id if self.start is not None else None

    @property
    def finish_reason(self) -> ev.FinishReason | None:
        return self.end.finish_reason if isinstance(self.end, ev.StreamEnd) else None


class Connection(msgspec.Struct, kw_only=True, frozen=True):
    """How a stream's connection stands, for whoever shows it.

    `connecting` and `reconnecting` carry the number of the `attempt`, the wait before it in `delay_s`, and from the second one on
    the `reason`. `resumed` is `live` again, with the number of events that were `replayed`.
    """

    state: ConnectionState
    attempt: int = 1
    delay_s: float = 0.0
    reason: str | None = None
    replayed: int = 0


class Failure(msgspec.Struct, kw_only=True, frozen=True):
    """A stream's terminal error, as its state tells it."""

    code: str
    message: str = ""
    retryable: bool = False
    partial: bool = False


class Receipt(msgspec.Struct, kw_only=True, frozen=True):
    """What a Stop did. Times are Unix seconds by the relay's clock.

    `status` is `not_started` where the relay has not seen the request yet: should it still come, it is ended at once.
    `phase` is where the stream stood: queued, connecting, headers, first_token, thinking, text, tool_arguments, after_last_token,
    ended. `cancel_ms` runs from the asking to the closing of the provider's connection; without such a connection it is None.
    """

    status: Literal["cancelled", "completed", "failed", "not_started"]
    stream_id: str | None = None
    finish_reason: ev.FinishReason | None = None
    error: Failure | None = None
    requested_at: float | None = None
    upstream_closed_at: float | None = None
    cancel_ms: float | None = None
    phase: str | None = None
    tokens_before: int = 0
    tokens_after: int = 0
    usage: ev.UsageTotals | None = None
    already_ended: bool = False

    @classmethod
    def decode(cls, body: bytes) -> Receipt:
        """Return the receipt from the answer to a cancel.

        Raises:
            msgspec.DecodeError: it is not such an answer.
        """
        inner = msgspec.json.decode(body, type=_CancelAnswer).receipt
        return msgspec.convert(msgspec.json.decode(body, type=dict[str, Any]) | (inner or {}), cls)


class _CancelAnswer(msgspec.Struct):
    receipt: dict[str, Any] | None = None


class StreamState(msgspec.Struct, kw_only=True, frozen=True):
    """A stream's state on the relay; `blocks` have the shape of `ReplyBlock.as_dict`."""

    stream_id: str
    status: StreamStatus
    model: str
    provider: str
    last_seq: int
    created_at: float
    expires_at: float
    blocks: list[dict[str, Any]]
    readers: int = 0
    usage: ev.UsageTotals | None = None
    metrics: ev.Metrics | None = None
    finish_reason: ev.FinishReason | None = None
    error: Failure | None = None
