"""What both clients have in common: everything that does not wait."""

from __future__ import annotations

import uuid
from collections.abc import Callable

from headrace.client import asks
from headrace.client.answers import Connection, Receipt, Reply
from headrace.client.asks import Messages, RequestFields
from headrace.client.frames import Transport
from headrace.client.measures import ClientMetrics
from headrace.client.port import Address, Port
from headrace.client.recovery import Policy
from headrace.client.session import Plan
from headrace.client.turn import Calls, Turn

OnConnection = Callable[[Connection], None]


class StreamBase:
    """What an answer's reader can be asked at any moment."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn

    @property
    def reply(self) -> Reply:
        """What has been read so far. It stays, whatever happens to the stream."""
        return self._turn.session.reply

    @property
    def metrics(self) -> ClientMetrics:
        """TTFT, TPOT and gaps as this side saw them, up to now."""
        return self._turn.metrics()

    @property
    def silent_s(self) -> float:
        """For how long nothing has come, not even a heartbeat."""
        return self._turn.silent_s()

    @property
    def connection(self) -> Connection:
        return self._turn.session.connection

    @property
    def stream_id(self) -> str | None:
        """The id to resume or cancel by; known as soon as the relay has answered."""
        return self._turn.session.stream_id

    @property
    def last_seq(self) -> int:
        """The last event that was handed out: `resume` goes on behind it."""
        return max(self.reply.last_seq, self._turn.plan.after)

    @property
    def idempotency_key(self) -> str:
        return self._turn.plan.key

    @property
    def receipt(self) -> Receipt | None:
        """What `stop` returned, once it has."""
        return self._turn.receipt


class ClientBase:
    """Where the relay is, how to read from it, and the making of plans."""

    def __init__(self, address: Address, port: Port, transport: Transport, retry: Policy | None) -> None:
        self._transport: Transport = transport
        self._calls = Calls(port, address.base_url, retry or Policy())

    def _turn(
        self,
        messages: Messages,
        model: str | None,
        fields: RequestFields,
        *,
        key: str | None,
        retry: Policy | None = None,
        stop_on_exit: bool = False,
        on_connection: OnConnection | None = None,
    ) -> Turn:
        plan = Plan(
            body=asks.chat_body(messages, model, fields),
            key=key or str(uuid.uuid4()),
            policy=retry or self._calls.policy,
            transport=self._transport,
            stop_on_exit=stop_on_exit,
            on_connection=on_connection,
        )
        return Turn(self._calls, plan)

    def _rest(self, stream_id: str, after: int, *, retry: Policy | None, stop_on_exit: bool, on_connection: OnConnection | None) -> Turn:
        plan = Plan(
            stream_id=stream_id,
            after=after,
            policy=retry or self._calls.policy,
            transport=self._transport,
            stop_on_exit=stop_on_exit,
            on_connection=on_connection,
        )
        return Turn(self._calls, plan)
