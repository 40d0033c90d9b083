"""The client for asyncio."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Self, Unpack

import httpx2

from headrace.client import asks
from headrace.client.answers import Receipt, Reply, StreamState
from headrace.client.asks import Messages, RequestFields
from headrace.client.frames import Transport
from headrace.client.port import Address, AsyncPort, Port, Timeouts
from headrace.client.recovery import Policy
from headrace.client.surface import ClientBase, OnConnection, StreamBase
from headrace.protocol.events import Event


class AsyncStream(StreamBase):
    """One answer, event by event. Enter it with `async with`, read it with `async for`, and never from two tasks at once.

    The request is sent by the first read. Leaving early only disconnects: the relay lets the generation run for its grace time, so
    that it can be resumed, and cancels it then (or does as the request's `on_disconnect` says). `stop` stops it at once.
    """

    async def stop(self) -> Receipt:
        """Stop the generation, in whatever phase it is, and return what that did. Safe from another task, and to repeat.

        Reading then ends, as a rule with `stream_end` and the finish reason `cancelled`, which is not an error.

        Raises:
            HeadraceError: the relay did not confirm. Reading ends all the same.
        """
        return await self._turn.stop()

    async def collect(self) -> Reply:
        """Read the rest and return the whole reply. A stopped answer is returned like any other.

        Raises:
            IncompleteStream: it broke off, and could not be resumed.
            HeadraceError: it ended with an `error` event, as the class of that error's code. `error.reply` has what came.
        """
        await self._turn.collect()
        return self.reply

    async def aclose(self) -> None:
        """Leave; `async with` does it."""
        await self._turn.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        event = await self._turn.next()
        if event is None:
            raise StopAsyncIteration
        return event

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()


class AsyncClient(ClientBase):
    """A client of one relay. It resumes by itself what a network drops, and never has an answer made twice.

    Args:
        base_url: the relay; a path in it is kept.
        api_key: sent as a bearer token, to this address only: redirects are not followed.
        http: your own client, for proxies, certificates or tests. It stays yours to close.
        transport: how events are framed on the wire.
        retry: how long to keep trying.
        timeouts: how long to wait for what.
        headers: more headers for every request.
        port: the network and the clock, for tests.
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8080",
        api_key: str | None = None,
        *,
        http: httpx2.AsyncClient | None = None,
        transport: Transport = "sse",
        retry: Policy | None = None,
        timeouts: Timeouts | None = None,
        headers: Mapping[str, str] | None = None,
        port: Port | None = None,
    ) -> None:
        address = Address(base_url, api_key, headers, timeouts or Timeouts())
        super().__init__(address, port or AsyncPort(address, http), transport, retry)

    def stream(
        self,
        messages: Messages,
        *,
        model: str | None = None,
        idempotency_key: str | None = None,
        stop_on_exit: bool = False,
        on_connection: OnConnection | None = None,
        retry: Policy | None = None,
        **fields: Unpack[RequestFields],
    ) -> AsyncStream:
        """Return an answer to `messages`, to be entered and read. A string is one user message.

        Args:
            idempotency_key: names this turn, so that sending it again joins it; without it a new one is made up.
            stop_on_exit: leaving the `async with` before the end stops the generation.
            on_connection: called when the connection changes its state.
        """
        return AsyncStream(
            self._turn(messages, model, fields, key=idempotency_key, retry=retry, stop_on_exit=stop_on_exit, on_connection=on_connection)
        )

    async def complete(
        self, messages: Messages, *, model: str | None = None, idempotency_key: str | None = None, **fields: Unpack[RequestFields]
    ) -> Reply:
        """Return the whole answer. Being cancelled meanwhile stops the generation.

        Raises:
            HeadraceError: as `AsyncStream.collect`.
        """
        async with AsyncStream(self._turn(messages, model, fields, key=idempotency_key, stop_on_exit=True)) as stream:
            return await stream.collect()

    def resume(
        self,
        stream_id: str,
        after: int = 0,
        *,
        stop_on_exit: bool = False,
        on_connection: OnConnection | None = None,
        retry: Policy | None = None,
    ) -> AsyncStream:
        """Return an answer that was begun before or elsewhere, from behind event `after` on."""
        return AsyncStream(self._rest(stream_id, after, retry=retry, stop_on_exit=stop_on_exit, on_connection=on_connection))

    async def cancel(self, stream_id: str) -> Receipt:
        """Stop a stream by its id.

        Raises:
            UnknownStream, ExpiredStream: there is nothing to stop any more.
        """
        return await self._calls.cancel(asks.cancel(stream_id))

    async def cancel_by_key(self, idempotency_key: str) -> Receipt:
        """Stop the turn of this key, also one that the relay has not seen yet."""
        return await self._calls.cancel(asks.cancel_by_key(idempotency_key))

    async def state(self, stream_id: str) -> StreamState:
        """Return how a stream stands, and what it has said so far.

        Raises:
            UnknownStream, ExpiredStream: the relay does not have it.
        """
        return await self._calls.state(stream_id)

    async def aclose(self) -> None:
        await self._calls.port.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()
