"""The client for programs without an event loop. The same methods as the asynchronous one, without `await`."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Self, Unpack

import httpx2

from headrace.client import asks
from headrace.client.answers import Receipt, Reply, StreamState
from headrace.client.asks import Messages, RequestFields
from headrace.client.frames import Transport
from headrace.client.port import Address, BlockingPort, Port, Timeouts, run
from headrace.client.recovery import Policy
from headrace.client.surface import ClientBase, OnConnection, StreamBase
from headrace.protocol.events import Event


class Stream(StreamBase):
    """One answer, event by event. Enter it with `with` and read it with `for`, in one thread.

    Leaving early only disconnects, as with `AsyncStream`; `stop` stops the generation, and may be called from another thread.
    """

    def stop(self) -> Receipt:
        """Stop the generation; see `AsyncStream.stop`. The reading thread is woken by what the relay then sends."""
        return run(self._turn.stop())

    def collect(self) -> Reply:
        """Read the rest and return the whole reply; see `AsyncStream.collect`."""
        run(self._turn.collect())
        return self.reply

    def close(self) -> None:
        """Leave; `with` does it."""
        run(self._turn.aclose())

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        event = run(self._turn.next())
        if event is None:
            raise StopIteration
        return event

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Client(ClientBase):
    """A client of one relay; see `AsyncClient`, whose arguments it takes. It may be shared by threads."""

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8080",
        api_key: str | None = None,
        *,
        http: httpx2.Client | None = None,
        transport: Transport = "sse",
        retry: Policy | None = None,
        timeouts: Timeouts | None = None,
        headers: Mapping[str, str] | None = None,
        port: Port | None = None,
    ) -> None:
        address = Address(base_url, api_key, headers, timeouts or Timeouts())
        super().__init__(address, port or BlockingPort(address, http), transport, retry)

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
    ) -> Stream:
        """Return an answer to `messages`, to be entered and read; see `AsyncClient.stream`."""
        return Stream(
            self._turn(messages, model, fields, key=idempotency_key, retry=retry, stop_on_exit=stop_on_exit, on_connection=on_connection)
        )

    def complete(
        self, messages: Messages, *, model: str | None = None, idempotency_key: str | None = None, **fields: Unpack[RequestFields]
    ) -> Reply:
        """Return the whole answer. An exception meanwhile, such as KeyboardInterrupt, stops the generation."""
        with Stream(self._turn(messages, model, fields, key=idempotency_key, stop_on_exit=True)) as stream:
            return stream.collect()

    def resume(
        self,
        stream_id: str,
        after: int = 0,
        *,
        stop_on_exit: bool = False,
        on_connection: OnConnection | None = None,
        retry: Policy | None = None,
    ) -> Stream:
        """Return an answer that was begun before or elsewhere, from behind event `after` on."""
        return Stream(self._rest(stream_id, after, retry=retry, stop_on_exit=stop_on_exit, on_connection=on_connection))

    def cancel(self, stream_id: str) -> Receipt:
        """Stop a stream by its id."""
        return run(self._calls.cancel(asks.cancel(stream_id)))

    def cancel_by_key(self, idempotency_key: str) -> Receipt:
        """Stop the turn of this key, also one that the relay has not seen yet."""
        return run(self._calls.cancel(asks.cancel_by_key(idempotency_key)))

    def state(self, stream_id: str) -> StreamState:
        """Return how a stream stands, and what it has said so far."""
        return run(self._calls.state(stream_id))

    def close(self) -> None:
        run(self._calls.port.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
