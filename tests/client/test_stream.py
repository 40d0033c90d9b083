"""Reading an answer over a network that fails in every way: the same suite for both clients."""

from __future__ import annotations

from typing import Any

import httpx2
import msgspec
import pytest

from headrace.client import Connection, Policy, RelayFailure, Timeouts, reply_of
from headrace.errors import (
    ConfigError,
    ExpiredStream,
    IncompleteStream,
    RelayUnreachable,
    RemoteProtocolError,
    TooManyStreams,
    UnknownStream,
    UpstreamOverloaded,
)
from headrace.protocol import events as ev

from .fake_relay import ANSWER, STREAM_ID, Clock, FakeRelay, Fate, refuse, story

RESET = httpx2.ReadError("[Errno 104] Connection reset by peer")
REFUSED = httpx2.ConnectError("All connection attempts failed")
POST = "POST /v1/chat/stream"


def resumed(after: int) -> str:
    return f"GET /v1/streams/{STREAM_ID}/events?after={after}"


async def events_of(stream: Any) -> list[ev.Event]:
    async with stream:
        return [event async for event in stream]


async def test_an_answer_comes_whole(make_client: Any, relay: FakeRelay, transport: str) -> None:
    stream = make_client(transport=transport).stream("Is it level?", model="m", temperature=0.2, system=None)
    assert await events_of(stream) == story()
    assert stream.reply.text == ANSWER
    assert stream.reply.thinking == "Hm."
    assert stream.reply.complete
    assert stream.reply.finish_reason == "stop"
    assert stream.stream_id == stream.reply.stream_id == STREAM_ID
    assert relay.paths == [POST]


async def test_the_request_says_what_was_asked_and_who_asks(make_client: Any, relay: FakeRelay) -> None:
    await events_of(make_client(headers={"x-team": "blue"}).stream("Is it level?", model="m", temperature=0.2, system=None))
    (request,) = relay.requests
    assert msgspec.json.decode(request.content) == {
        "messages": [{"role": "user", "content": "Is it level?"}],
        "model": "m",
        "temperature": 0.2,
    }
    assert str(request.url) == "http://relay.test/prefix/v1/chat/stream"
    assert request.headers["authorization"] == "Bearer secret"
    assert request.headers["accept"] == "text/event-stream"
    assert request.headers["accept-encoding"] == "identity"
    assert request.headers["x-team"] == "blue"
    assert len(request.headers["idempotency-key"]) == 36


async def test_a_key_of_the_callers_own_is_kept(make_client: Any, relay: FakeRelay) -> None:
    stream = make_client().stream("Hi", idempotency_key="turn-7")
    await events_of(stream)
    assert relay.requests[0].headers["idempotency-key"] == stream.idempotency_key == "turn-7"


@pytest.mark.parametrize("how", [None, RESET], ids=["a clean end", "a reset"])
async def test_a_drop_at_any_byte_loses_and_repeats_nothing(
    make_client: Any, relay: FakeRelay, transport: str, how: Exception | None
) -> None:
    client = make_client(transport=transport)
    await events_of(client.stream("Hi"))
    length = len(relay.bodies[0]._data)
    for cut in range(length):
        relay.fates = [Fate(cut=cut, how=how)]
        assert await events_of(client.stream("Hi")) == story(), f"cut after {cut} bytes"
    assert length > 500


async def test_drop_upon_drop_comes_to_the_end_if_each_connection_brings_one_event(
    make_client: Any, relay: FakeRelay, clock: Clock
) -> None:
    frames = [len(b"id: %d\ndata: %b\n\n" % (event.seq, ev.encode(event))) for event in story()]
    relay.fates = [Fate(cut=len(b": ping\n") + frame, how=RESET) for frame in frames[:-1]]
    client = make_client(retry=Policy(attempts_max=1))
    assert await events_of(client.stream("Hi")) == story()
    assert relay.paths == [POST, *(resumed(seq) for seq in range(1, len(frames)))]
    assert set(clock.slept) == {0.25}, "progress gives all attempts back"


async def test_the_first_event_decides_between_sending_again_and_resuming(make_client: Any, relay: FakeRelay) -> None:
    relay.fates = [Fate(cut=20, how=RESET), Fate(cut=400, how=RESET)]
    await events_of(make_client().stream("Hi"))
    assert relay.paths[:2] == [POST, POST]
    assert relay.paths[2].startswith("GET")
    first, second = relay.requests[:2]
    assert first.content == second.content
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]


async def test_a_busy_relay_is_asked_again_when_it_said(make_client: Any, relay: FakeRelay, clock: Clock) -> None:
    relay.fates = [
        refuse(429, "too_many_streams", retryable=True, retry_after="3"),
        refuse(503, "queue_full", retryable=True),
        refuse(502),
        Fate(connect=REFUSED),
    ]
    assert await events_of(make_client().stream("Hi")) == story()
    assert clock.slept == [3.0, 0.5, 1.0, 2.0]
    assert relay.paths == [POST] * 5


async def test_a_resume_that_is_refused_for_now_is_made_again(make_client: Any, relay: FakeRelay, clock: Clock) -> None:
    relay.fates = [Fate(cut=400), refuse(503, retry_after="2"), Fate(connect=REFUSED)]
    assert await events_of(make_client().stream("Hi")) == story()
    assert clock.slept == [0.25, 2.0, 1.0]


@pytest.mark.parametrize(("status", "code", "error"), [(410, "expired_stream", ExpiredStream), (404, "unknown_stream", UnknownStream)])
async def test_an_answer_that_the_relay_has_no_longer_leaves_what_came(
    make_client: Any, relay: FakeRelay, status: int, code: str, error: type[Exception]
) -> None:
    relay.fates = [Fate(cut=600, how=RESET), refuse(status, code, retryable=False)]
    stream = make_client().stream("Hi")
    with pytest.raises(error) as caught:
        await events_of(stream)
    assert stream.reply.text.startswith("The ")
    assert reply_of(caught.value) is stream.reply
    assert stream.reply.end is None
    assert not stream.reply.complete


async def test_attempts_come_to_an_end(make_client: Any, relay: FakeRelay, clock: Clock) -> None:
    relay.fates = [Fate(cut=600), *[Fate(cut=5)] * 20]
    stream = make_client().stream("Hi")
    with pytest.raises(IncompleteStream) as caught:
        await events_of(stream)
    assert len(relay.requests) == 1 + 8
    assert clock.slept == [0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 5.0]
    assert reply_of(caught.value) is stream.reply
    assert stream.reply.text
    assert [event async for event in stream] == [], "it stays over"


async def test_a_relay_that_is_not_there_says_so(make_client: Any, relay: FakeRelay) -> None:
    relay.fates = [Fate(connect=REFUSED)] * 9
    with pytest.raises(RelayUnreachable, match="all connection attempts failed"):
        await make_client().complete("Hi")


async def test_silence_is_a_drop(make_client: Any, relay: FakeRelay) -> None:
    relay.fates = [Fate(cut=400, how=httpx2.ReadTimeout(""))]
    stream = make_client(timeouts=Timeouts(silence_s=0.5)).stream("Hi")
    assert await events_of(stream) == story()
    assert relay.requests[0].extensions["timeout"]["read"] == 0.5


async def test_an_error_event_is_the_last_event_and_raised_by_collect(make_client: Any, relay: FakeRelay) -> None:
    relay.events = [*story()[:5], ev.Error(seq=6, code="upstream_overloaded", message="Full.", retryable=True, partial=True)]
    client = make_client()
    assert (await events_of(client.stream("Hi")))[-1] == relay.events[-1]
    with pytest.raises(UpstreamOverloaded, match=r"Full\.") as caught:
        await client.complete("Hi")
    partial = reply_of(caught.value)
    assert partial is not None
    assert partial.text == "The water "
    assert relay.paths == [POST, POST], "nothing that costs money happens by itself"


async def test_an_error_of_a_later_version_keeps_its_code(make_client: Any, relay: FakeRelay) -> None:
    relay.events = [story()[0], ev.Error(seq=2, code="from_the_future", message="Hm.", retryable=True, partial=False)]
    with pytest.raises(RelayFailure) as caught:
        await make_client().complete("Hi")
    assert (caught.value.code, caught.value.retryable, caught.value.public_message) == ("from_the_future", True, "Hm.")


async def test_the_end_needs_no_more_than_the_terminal_event(make_client: Any, relay: FakeRelay) -> None:
    relay.fates = [Fate(how=RESET)]
    assert await events_of(make_client().stream("Hi")) == story()
    assert relay.paths == [POST]


async def test_what_comes_behind_the_terminal_event_is_not_the_answers(make_client: Any, relay: FakeRelay) -> None:
    relay.events = [*story(), ev.Text(seq=13, index=1, text="more")]
    assert await events_of(make_client().stream("Hi")) == story()


async def test_a_resume_from_elsewhere_begins_where_it_is_told(make_client: Any, relay: FakeRelay) -> None:
    relay.fates = [Fate(connect=REFUSED)]
    stream = make_client().resume(STREAM_ID, after=6)
    assert await events_of(stream) == story()[6:]
    assert relay.paths == [resumed(6)] * 2
    assert stream.reply.text == "level, då."


async def test_leaving_early_disconnects_and_asks_for_nothing(make_client: Any, relay: FakeRelay) -> None:
    relay.fates = [Fate(piece=100)]
    async with make_client().stream("Hi") as stream:
        async for _ in stream:
            break
    assert relay.paths == [POST]
    assert relay.bodies[0].closed
    assert stream.last_seq == 1
    assert [event async for event in stream] == []


async def test_leaving_early_stops_the_generation_where_that_was_agreed(make_client: Any, relay: FakeRelay) -> None:
    relay.fates = [Fate(piece=100)]
    async with make_client().stream("Hi", stop_on_exit=True) as stream:
        async for _ in stream:
            break
    assert relay.paths == [POST, f"POST /v1/streams/{STREAM_ID}/cancel"]
    assert stream.receipt is not None
    await events_of(make_client().stream("Hi", stop_on_exit=True))
    assert relay.paths[2:] == [POST], "an answer that is over needs no Stop"


async def test_complete_stops_what_it_leaves(make_client: Any, relay: FakeRelay) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    relay.fates = [Fate(cut=400, then=interrupt)]
    with pytest.raises(KeyboardInterrupt):
        await make_client().complete("Hi")
    assert relay.paths[-1].endswith("/cancel")


async def test_a_relay_that_does_not_confirm_is_no_second_error_at_the_exit(make_client: Any, relay: FakeRelay) -> None:
    relay.fates = [Fate(piece=100)]
    relay.cancels = [Fate(connect=REFUSED)] * 9
    async with make_client().stream("Hi", stop_on_exit=True) as stream:
        await anext(stream)
    assert len(relay.requests) == 1 + 3
    assert stream.receipt is None


async def test_a_redirect_is_not_followed(make_client: Any, relay: FakeRelay) -> None:
    relay.fates = [refuse(308, location="https://elsewhere.test/v1/chat/stream")]
    with pytest.raises(RelayFailure, match=r"elsewhere\.test.*not followed") as caught:
        await make_client().complete("Hi")
    assert caught.value.code == "redirected"
    assert len(relay.requests) == 1


async def test_a_page_that_is_no_stream_is_not_read_as_one(make_client: Any, relay: FakeRelay) -> None:
    relay.fates = [Fate(body=b"<html>Sign in</html>", headers={"content-type": "text/html"})]
    with pytest.raises(RemoteProtocolError, match="text/html"):
        await make_client().complete("Hi")
    assert relay.bodies[0].closed


async def test_a_request_that_the_relay_refuses_is_not_repeated(make_client: Any, relay: FakeRelay) -> None:
    relay.fates = [refuse(429, "too_many_streams", retryable=False)]
    with pytest.raises(TooManyStreams, match=r"It said too_many_streams\."):
        await make_client().complete("Hi")
    assert len(relay.requests) == 1


async def test_a_user_interface_hears_how_the_connection_stands(make_client: Any, relay: FakeRelay) -> None:
    relay.fates = [Fate(connect=REFUSED), Fate(cut=600, how=RESET), Fate(connect=REFUSED)]
    heard: list[Connection] = []
    stream = make_client().stream("Hi", on_connection=heard.append)
    await events_of(stream)
    left = len(story()) - int(relay.requests[-1].url.params["after"])
    assert heard == [
        Connection(state="connecting"),
        Connection(state="connecting", attempt=2, delay_s=0.25, reason="unreachable"),
        Connection(state="live"),
        Connection(state="reconnecting", attempt=1, delay_s=0.25, reason="lost"),
        Connection(state="reconnecting", attempt=2, delay_s=0.5, reason="unreachable"),
        Connection(state="live"),
        Connection(state="resumed", replayed=left),
        Connection(state="ended"),
    ]
    assert stream.connection == heard[-1]


async def test_metrics_are_there_at_any_moment(make_client: Any, relay: FakeRelay) -> None:
    relay.fates = [Fate(piece=100), Fate(cut=600)]
    client = make_client()
    async with client.stream("Hi") as stream:
        assert stream.metrics.ttft_ms is None
        assert await stream.collect() is stream.reply
    assert stream.metrics == stream.reply.metrics
    assert stream.metrics.tokens == 7
    assert stream.metrics.headers_ms is not None
    assert stream.metrics.ttft_ms is not None
    assert stream.metrics.ttft_ms > stream.metrics.headers_ms
    reply = await client.complete("Hi")
    assert (reply.metrics.tokens, reply.metrics.reconnects) == (7, 1)
    assert reply.metrics.replayed > 0


async def test_the_state_of_a_stream(make_client: Any, relay: FakeRelay) -> None:
    relay.fates = []
    state = await make_client().state("st/../1")
    assert (state.status, state.last_seq, state.blocks, state.metrics) == ("streaming", 4, [], ev.Metrics())
    assert relay.paths == ["GET /v1/streams/st%2F..%2F1"]


@pytest.mark.parametrize("url", ["", "relay.test", "ftp://relay.test", "http://", "http://[::1", "/v1"])
def test_an_address_that_cannot_be_is_refused_at_once(url: str) -> None:
    from headrace.client import AsyncClient, Client

    for cls in (AsyncClient, Client):
        with pytest.raises(ConfigError, match="base_url"):
            cls(url)
