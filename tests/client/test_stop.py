"""Stop, from the first millisecond to after the end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import msgspec
import pytest

from headrace.client import AsyncClient, Client, Receipt, Timeouts
from headrace.client.port import Address, AsyncPort
from headrace.errors import ExpiredStream, RelayUnreachable, RemoteProtocolError
from headrace.protocol import events as ev

from .fake_relay import STREAM_ID, URL, Clock, FakeRelay, Fate, refuse, story

CANCEL = f"POST /v1/streams/{STREAM_ID}/cancel"
CANCEL_BY_KEY = "POST /v1/streams/cancel"
REFUSED = httpx2.ConnectError("connection refused")


def cancelled(relay: FakeRelay) -> None:
    """Let the relay's answer end as a stopped one does."""
    relay.events = [*story()[:6], ev.BlockEnd(seq=7, index=1, kind="text"), ev.StreamEnd(seq=8, finish_reason="cancelled")]


async def test_a_stop_in_the_middle_gives_a_receipt_and_ends_the_reading(make_client: Any, relay: FakeRelay) -> None:
    cancelled(relay)
    relay.fates = [Fate(piece=100)]
    async with make_client().stream("Hi") as stream:
        await anext(stream)
        receipt = await stream.stop()
        rest = [event async for event in stream]
    assert receipt == Receipt(
        status="cancelled",
        stream_id=STREAM_ID,
        finish_reason="cancelled",
        requested_at=1.0,
        upstream_closed_at=1.008,
        cancel_ms=8.0,
        phase="text",
        tokens_before=5,
        tokens_after=3,
        usage=ev.UsageTotals(source="estimated", output_tokens=8),
    )
    assert rest[-1] == relay.events[-1]
    assert relay.paths[1:] == [CANCEL]
    assert stream.reply.finish_reason == "cancelled"
    assert not stream.reply.complete


async def test_stopping_twice_is_stopping_once(make_client: Any, relay: FakeRelay) -> None:
    cancelled(relay)
    async with make_client().stream("Hi") as stream:
        await anext(stream)
        assert await stream.stop() is await stream.stop() is stream.receipt
    assert relay.paths.count(CANCEL) == 1


async def test_a_stop_before_anything_was_sent_sends_nothing(make_client: Any, relay: FakeRelay) -> None:
    async with make_client().stream("Hi") as stream:
        assert await stream.stop() == Receipt(status="not_started")
        assert [event async for event in stream] == []
    assert relay.paths == []


async def test_a_stop_after_the_end_says_so(make_client: Any, relay: FakeRelay) -> None:
    relay.receipt = {"stream_id": STREAM_ID, "status": "completed", "finish_reason": "stop", "receipt": {"already_ended": True}}
    stream = make_client().stream("Hi")
    reply = await stream.collect()
    receipt = await stream.stop()
    assert (receipt.status, receipt.already_ended, receipt.usage) == ("completed", True, None)
    assert reply.complete


async def test_a_drop_after_a_stop_is_not_repaired(make_client: Any, relay: FakeRelay, clock: Clock) -> None:
    relay.fates = [Fate(cut=400, piece=100, how=httpx2.ReadError("reset"))]
    async with make_client().stream("Hi") as stream:
        await anext(stream)
        await stream.stop()
        async for _ in stream:
            pass
    assert len(relay.requests) == 2
    assert clock.slept == []
    assert stream.reply.end is None


async def test_a_collected_stop_is_a_reply_and_no_error(make_client: Any, relay: FakeRelay) -> None:
    cancelled(relay)
    async with make_client().stream("Hi") as stream:
        await anext(stream)
        await stream.stop()
        reply = await stream.collect()
    assert (reply.finish_reason, reply.complete, reply.text) == ("cancelled", False, "The water is ")


async def test_a_stop_that_does_not_get_through_is_asked_again(make_client: Any, relay: FakeRelay, clock: Clock) -> None:
    relay.cancels = [Fate(connect=REFUSED), refuse(503)]
    async with make_client().stream("Hi") as stream:
        await anext(stream)
        assert (await stream.stop()).status == "cancelled"
    assert clock.slept == [0.25, 0.5]


async def test_a_stop_that_never_gets_through_raises_and_still_ends_the_reading(make_client: Any, relay: FakeRelay) -> None:
    relay.cancels = [Fate(connect=REFUSED)] * 9
    relay.fates = [Fate(cut=400, piece=100, how=httpx2.ReadError("reset"))]
    async with make_client().stream("Hi") as stream:
        await anext(stream)
        with pytest.raises(RelayUnreachable):
            await stream.stop()
        async for _ in stream:
            pass
    assert relay.paths.count("POST /v1/chat/stream") == 1


async def test_a_stop_by_the_streams_id_or_the_turns_key(make_client: Any, relay: FakeRelay) -> None:
    client = make_client()
    assert (await client.cancel(STREAM_ID)).cancel_ms == 8.0
    relay.receipt = {"status": "not_started"}
    relay.cancels = [Fate(status=202)]
    assert await client.cancel_by_key("turn-7") == Receipt(status="not_started")
    assert relay.paths == [CANCEL, CANCEL_BY_KEY]
    assert msgspec.json.decode(relay.requests[-1].content) == {"idempotency_key": "turn-7"}


async def test_a_stop_of_what_is_gone_is_an_error(make_client: Any, relay: FakeRelay) -> None:
    relay.cancels = [Fate(status=410, body=b'{"error":{"code":"expired_stream","message":"Gone."}}')]
    with pytest.raises(ExpiredStream, match="Gone"):
        await make_client().cancel(STREAM_ID)


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"status":"cancelled","receipt":7}', b'{"receipt":{}}'])
async def test_an_answer_that_is_no_receipt_is_the_relays_mistake(make_client: Any, relay: FakeRelay, body: bytes) -> None:
    relay.cancels = [Fate(body=body)]
    with pytest.raises(RemoteProtocolError):
        await make_client().cancel(STREAM_ID)


# --- from another task ---------------------------------------------------------------------------------------------------


class Held(httpx2.AsyncBaseTransport):
    """A relay whose streams wait for a word: before the head, or in the middle of the body."""

    def __init__(self, relay: FakeRelay, *, head: bool = False) -> None:
        self.relay = relay
        self.gate = asyncio.Event()
        self.reached = asyncio.Event()
        self.given_up = False
        self._head = head

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if "cancel" in request.url.path or not self._head:
            response = await self.relay.handle_async_request(request)
            if "cancel" not in request.url.path:
                response.stream = self._body(response.stream)
            return response
        await self._wait()
        return await self.relay.handle_async_request(request)

    def _body(self, stream: Any) -> Any:
        held = self

        class Body(httpx2.AsyncByteStream):
            async def __aiter__(self) -> AsyncIterator[bytes]:
                async for piece in stream:
                    yield piece
                    await held._wait()

        return Body()

    async def _wait(self) -> None:
        self.reached.set()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.given_up = True
            raise


def client_of(transport: httpx2.AsyncBaseTransport, **timing: Any) -> AsyncClient:
    address = Address(URL, None, None, Timeouts())
    return AsyncClient(URL, port=AsyncPort(address, httpx2.AsyncClient(transport=transport), **timing))


async def test_before_the_relay_has_answered_the_key_is_what_is_stopped(relay: FakeRelay) -> None:
    held = Held(relay, head=True)
    relay.receipt = {"status": "not_started"}
    stream = client_of(held).stream("Hi")
    reading = asyncio.create_task(stream.collect())
    await held.reached.wait()
    receipt = await stream.stop()
    await reading
    assert receipt.status == "not_started"
    assert held.given_up, "the request that is under way is not waited for"
    assert relay.paths == [CANCEL_BY_KEY]
    assert msgspec.json.decode(relay.requests[0].content) == {"idempotency_key": stream.idempotency_key}


async def test_a_request_that_comes_in_after_all_is_read_to_its_end(relay: FakeRelay) -> None:
    held = Held(relay, head=True)
    cancelled(relay)
    stream = client_of(held).stream("Hi")
    reading = asyncio.create_task(stream.collect())
    await held.reached.wait()
    receipt = await stream.stop()
    held.gate.set()
    reply = await reading
    assert receipt.status == "cancelled"
    assert reply.finish_reason == "cancelled"


async def test_a_stop_between_two_attempts_does_not_wait_for_the_next(relay: FakeRelay) -> None:
    asleep = asyncio.Event()

    async def sleep(seconds: float) -> None:
        asleep.set()
        await asyncio.Event().wait()

    relay.fates = [Fate(cut=400)]
    stream = client_of(relay, sleep=sleep).stream("Hi")
    reading = asyncio.create_task(stream.collect())
    await asleep.wait()
    assert (await stream.stop()).status == "cancelled"
    reply = await reading
    assert reply.end is None
    assert reply.text
    assert relay.paths == ["POST /v1/chat/stream", CANCEL]


async def test_a_connection_that_is_dead_does_not_hold_up_a_stop(relay: FakeRelay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.client.turn.LAST_WORD_S", 0.01)
    held = Held(relay)
    relay.fates = [Fate(cut=400)]
    stream = client_of(held).stream("Hi")
    reading = asyncio.create_task(stream.collect())
    await held.reached.wait()
    await stream.stop()
    await reading
    assert held.given_up


async def test_a_reader_that_is_cancelled_may_go_on_reading(relay: FakeRelay) -> None:
    held = Held(relay)
    relay.fates = [Fate(cut=400)]
    stream = client_of(held).stream("Hi")
    reading = asyncio.create_task(stream.collect())
    await held.reached.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    held.gate.set()
    assert (await stream.collect()).complete
    assert relay.paths[1].startswith("GET")


def test_a_thread_that_waits_for_its_next_attempt_is_woken_by_a_stop(relay: FakeRelay) -> None:
    waiting = threading.Event()

    def heard(connection: Any) -> None:
        if connection.state == "reconnecting":
            waiting.set()

    relay.fates = [Fate(cut=400), *[Fate(connect=REFUSED)] * 8]
    with Client(URL, http=httpx2.Client(transport=relay)) as client:
        stream = client.stream("Hi", on_connection=heard)
        reading = threading.Thread(target=stream.collect)
        reading.start()
        assert waiting.wait(10)
        assert stream.stop().status == "cancelled"
        reading.join(10)
        assert not reading.is_alive()
    assert stream.reply.text
