"""Readers of the provider's own frames: what they get, what is held back, and what is kept."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest

from engine.guards import turns, until
from engine.peers import CHUNKED, LAST_CHUNK, Peer, chunk, head
from engine.rig import Clock, FakeSink, Rig
from engine.wires import ANTHROPIC, DONE, OPENAI, data
from engine.wires import chunk as openai_chunk
from headrace.engine.provider import Target
from headrace.engine.reader import Reader
from headrace.engine.stream import Stream
from headrace.errors import BadRequest, HeadraceError
from headrace.policy.retry import RetryPolicy
from headrace.protocol import events as ev
from headrace.protocol.encoding import Encoding, frame
from headrace.protocol.request import ChatRequest, Message
from headrace.protocol.sse import SSEEvent
from headrace.protocol.surface import ErrorReply, Surface, SurfaceRequest


class Plain(Encoding):
    """Says what it was given: frames as they came, events by their type in angle brackets."""

    dialect = "openai_chat"
    heartbeat = b": ping\n"

    def encode(self, events: Sequence[ev.Event]) -> bytes:
        return b"".join(b"<%b>" % type(event).__name__.encode() for event in events)

    def forward(self, frames: Sequence[SSEEvent]) -> bytes:
        return b"".join(map(frame, frames))


class RawSink(FakeSink):
    @property
    def frames(self) -> list[bytes]:
        return [bytes(self.data)]


SURFACE = Surface(
    name="openai_chat",
    parse=lambda body: ChatRequest(messages=[Message(role="user", content=body["messages"][0]["content"])], max_tokens=10),
    new_stream=lambda _: Plain(),
    new_reply=None,
    error=lambda error: ErrorReply(error.status, b"{}"),
)
ROLE = openai_chunk({"role": "assistant", "content": ""})
HELLO = data({"id": "c1", "odd": {"kept": [1]}, "choices": [{"index": 0, "delta": {"content": "Hello"}}]})
END = openai_chunk({}, "stop") + DONE


def ask(rig: Rig, *targets: Target, **options: Any) -> Stream:
    body = {"messages": [{"role": "user", "content": "hi"}], "seed": 7}
    request = SurfaceRequest(SURFACE, body, **options)
    chosen = list(targets) or [Target(rig.provider(), "m")]
    return rig.streams.create(request, chosen, user="u", request_id="req_test", received_at=time.monotonic())


def read(stream: Stream, *, held: bool = False, sink: RawSink | None = None) -> tuple[RawSink, Reader]:
    sink = sink or RawSink()
    sink.reader = stream.attach(sink, Plain(), held=held)
    return sink, sink.reader


async def begin(rig: Rig, **options: Any) -> tuple[Stream, RawSink, Peer]:
    stream = ask(rig, **options)
    sink, _ = read(stream)
    peer = await rig.listener.accept()
    await peer.request()
    peer.send(head(CHUNKED))
    return stream, sink, peer


async def test_frames_pass_as_they_came(rig: Rig) -> None:
    _, sink, peer = await begin(rig)
    peer.send(chunk(ROLE + HELLO + END), LAST_CHUNK)
    await sink.ended()

    assert sink.data == b"<StreamStart>" + ROLE + HELLO + END + b"<StreamEnd>"


async def test_the_caller_s_own_body_goes_to_a_provider_of_its_dialect(rig: Rig) -> None:
    stream = ask(rig)
    sink, _ = read(stream)
    peer = await rig.listener.accept()
    request = await peer.request()

    assert b'"seed":7' in request
    assert b'"include_usage":true' in request
    stream.cancel("user")
    await sink.ended()


async def test_any_other_provider_s_answer_comes_as_events(rig: Rig) -> None:
    stream = ask(rig, Target(rig.provider("anthropic"), "m"))
    sink, _ = read(stream)
    peer = await rig.listener.accept()
    assert b"seed" not in await peer.request()
    peer.send(head(CHUNKED), chunk(ANTHROPIC.plain("Für", " dich")), LAST_CHUNK)
    await sink.ended()

    assert sink.data.startswith(b"<StreamStart><Usage><Text><Text><BlockEnd>")
    assert sink.data.endswith(b"<StreamEnd>")


async def test_the_log_has_what_the_frames_mean(rig: Rig) -> None:
    stream, sink, peer = await begin(rig)
    native = rig.read(stream)
    peer.send(chunk(OPENAI.whole), LAST_CHUNK)
    await sink.ended()
    await native.ended()

    assert native.text == "Für dich"
    native.assert_gapless()
    assert bytes(sink.data).count(b"data: ") == OPENAI.whole.count(b"data: ")


async def test_the_greeting_is_held_back_until_the_answer_begins(rig: Rig) -> None:
    stream, sink, peer = await begin(rig)
    peer.send(chunk(ROLE))
    await until(lambda: stream.bytes_in > 0)
    await turns()
    assert sink.data == b"<StreamStart>"

    peer.send(chunk(HELLO))
    await until(lambda: HELLO in sink.data)
    assert sink.data == b"<StreamStart>" + ROLE + HELLO


async def test_an_attempt_that_failed_before_its_answer_leaves_no_trace(rig: Rig) -> None:
    rig.set(retry=RetryPolicy(attempts_max=1))
    other = rig.provider("anthropic", name="other")
    stream = ask(rig, Target(rig.provider(), "m"), Target(other, "m2"))
    sink, _ = read(stream)
    first = await rig.listener.accept()
    await first.request()
    first.send(head(CHUNKED), chunk(ROLE + data({"error": {"message": "overloaded", "type": "overloaded_error"}})))
    second = await rig.listener.accept()
    await second.request()
    second.send(head(CHUNKED), chunk(ANTHROPIC.plain("other")), LAST_CHUNK)
    await sink.ended()

    assert ROLE not in sink.data
    assert b"overloaded" not in sink.data
    assert b"<Text>" in sink.data


async def test_where_there_is_no_other_attempt_the_provider_s_error_is_passed_on_with_what_came_before(rig: Rig) -> None:
    _, sink, peer = await begin(rig)
    error = data({"error": {"message": "overloaded", "type": "overloaded_error"}})
    peer.send(chunk(ROLE + error), LAST_CHUNK)
    await sink.ended()

    assert sink.data == b"<StreamStart>" + ROLE + error + b"<Error>"


async def test_a_provider_s_error_frame_does_not_carry_the_relay_s_key(rig: Rig) -> None:
    _, sink, peer = await begin(rig)
    peer.send(chunk(HELLO + data({"error": {"message": "odd request with sk-canary-0123456789", "type": "server_error"}})), LAST_CHUNK)
    await sink.ended()

    assert b"odd request with [masked]" in sink.data
    assert b"sk-canary" not in sink.data


async def test_after_a_tool_of_the_provider_s_own_has_begun_there_is_no_other_attempt(rig: Rig) -> None:
    class Anthropic(Plain):
        dialect = "anthropic"

    rig.set(retry=RetryPolicy(attempts_max=3, backoff_s=0))
    surface = SURFACE._replace(name="anthropic")
    request = SurfaceRequest(surface, {"messages": []})
    target = Target(rig.provider("anthropic"), "m")
    stream = rig.streams.create(request, [target], user="u", request_id="r", received_at=time.monotonic())
    sink = RawSink()
    sink.reader = stream.attach(sink, Anthropic())
    peer = await rig.listener.accept()
    await peer.request()
    start = data({"type": "message_start", "message": {"content": []}}, "message_start")
    tool = data({"type": "content_block_start", "index": 0, "content_block": {"type": "server_tool_use"}}, "content_block_start")
    peer.send(head(CHUNKED), chunk(start + tool))
    await until(lambda: tool in sink.data)
    error = data({"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}, "error")
    peer.send(chunk(error), LAST_CHUNK)
    await sink.ended()

    assert stream.meter.attempts == 1
    assert sink.data == b"<StreamStart>" + start + tool + error + b"<Error>"


async def test_a_reader_that_was_full_gets_every_frame_in_order(rig: Rig) -> None:
    stream, sink, peer = await begin(rig)
    peer.send(chunk(HELLO))
    await until(lambda: HELLO in sink.data)
    sink.hold()
    peer.send(chunk(HELLO * 3))
    await until(lambda: stream.wire is not None and stream.wire.size > 0)
    peer.send(chunk(END), LAST_CHUNK)
    await rig.ended(stream)
    sink.drain()
    await sink.ended()

    assert sink.data == b"<StreamStart>" + HELLO * 4 + END + b"<StreamEnd>"
    assert stream.wire is not None
    assert stream.wire.size == 0, "what everybody has is not kept"


async def test_a_slow_reader_of_frames_holds_the_provider_up(rig: Rig) -> None:
    rig.set(high_water_bytes=64 * 1024, low_water_bytes=16 * 1024)
    stream, sink, peer = await begin(rig)
    sink.hold()
    task = asyncio.create_task(peer.pour(chunk(HELLO * 100)))
    await until(lambda: stream.paused)
    await turns(50)
    assert stream.wire is not None
    assert stream.wire.size < 64 * 1024 + 600 * 1024

    before = len(sink.data)
    sink.drain()
    await until(lambda: len(sink.data) > before + 200_000)
    stream.cancel("user")
    await peer.gone()
    await task


async def test_a_stalled_reader_of_events_keeps_no_frames(rig: Rig) -> None:
    stream, sink, peer = await begin(rig)
    rig.read(stream).hold()
    peer.send(chunk(HELLO * 3))
    await until(lambda: sink.data.count(HELLO) == 3)

    assert stream.wire is not None
    assert stream.wire.size == 0
    stream.cancel("user")


async def test_frames_are_kept_for_a_caller_who_comes_back(rig: Rig) -> None:
    stream, sink, peer = await begin(rig, keep_frames=True, on_disconnect="continue")
    peer.send(chunk(HELLO))
    await until(lambda: HELLO in sink.data)
    assert sink.reader is not None
    stream.detach(sink.reader, "disconnected")
    peer.send(chunk(HELLO + END), LAST_CHUNK)
    await rig.ended(stream)

    again, _ = read(stream)
    await again.ended()
    assert again.data == b"<StreamStart>" + HELLO * 2 + END + b"<StreamEnd>"
    assert stream.size > stream.log.size


async def test_kept_frames_have_a_bound(rig: Rig) -> None:
    rig.set(log_bytes_max=200 * 1024)
    stream, sink, peer = await begin(rig, keep_frames=True)
    peer.send(*(chunk(HELLO * 100) for _ in range(40)))
    await until(lambda: sink.data.count(HELLO) == 4000)

    assert stream.wire is not None
    assert stream.wire.size <= 200 * 1024
    assert stream.wire.first > 0
    stream.cancel("user")


async def test_a_stop_in_the_middle_ends_the_frames_with_the_end(rig: Rig) -> None:
    stream, sink, peer = await begin(rig)
    peer.send(chunk(HELLO))
    await until(lambda: HELLO in sink.data)
    stream.cancel("user")
    await sink.ended()
    await peer.gone()

    assert sink.data == b"<StreamStart>" + HELLO + b"<StreamEnd>"


# --- responses that are opened when it is known how ----------------------------------------------------------------------


async def test_a_held_reader_is_opened_by_the_provider_s_answer_and_written_to_when_it_is_released(rig: Rig) -> None:
    stream = ask(rig)
    sink, reader = read(stream, held=True)
    peer = await rig.listener.accept()
    await peer.request()
    await turns()
    assert reader.opening is not None
    assert not reader.opening.done()

    peer.send(head(CHUNKED), chunk(HELLO))
    await asyncio.wait_for(reader.opening, 5)
    await until(lambda: stream.has_content)
    assert sink.data == b""

    reader.release()
    assert sink.data == b"<StreamStart>" + HELLO
    stream.cancel("user")


async def test_a_held_reader_is_opened_when_a_heartbeat_is_due(rig: Rig, clock: Clock) -> None:
    stream = ask(rig)
    sink, reader = read(stream, held=True)
    peer = await rig.listener.accept()
    await peer.request()
    await clock.jump(10.1)
    stream._on_timer()
    assert reader.opening is not None
    await asyncio.wait_for(reader.opening, 5)
    assert sink.data == b""
    reader.release()

    await clock.jump(10.1)
    stream._on_timer()
    assert sink.data == b"<StreamStart>: ping\n"
    stream.cancel("user")


async def test_a_held_reader_is_opened_by_the_end(rig: Rig) -> None:
    stream = ask(rig)
    _, reader = read(stream, held=True)
    peer = await rig.listener.accept()
    await peer.request()
    peer.send(
        b"HTTP/1.1 429 Too Many Requests\r\ncontent-type: application/json\r\ncontent-length: 24\r\n\r\n", b'{"error":{"message":"x"}}'[:24]
    )
    assert reader.opening is not None
    await asyncio.wait_for(reader.opening, 5)

    assert isinstance(stream.failure, HeadraceError)
    assert stream.failure.code == "upstream_rate_limited"
    assert not stream.answered


@pytest.mark.parametrize("dialect", ["openai_chat", "anthropic"])
async def test_leaving_while_held_stops_the_provider(rig: Rig, dialect: str) -> None:
    stream = ask(rig, Target(rig.provider(dialect), "m"))
    _, reader = read(stream, held=True)
    peer = await rig.listener.accept()
    await peer.request()
    stream.detach(reader, "disconnected")

    await peer.gone()
    assert stream.cancel_cause == "disconnect"


async def test_a_reader_that_is_told_nothing_of_a_token_still_gets_its_heartbeats(rig: Rig, clock: Clock) -> None:
    class Mute(Plain):
        dialect = None

        def encode(self, events: Sequence[ev.Event]) -> bytes:
            return b""

    stream = ask(rig)
    sink = RawSink()
    sink.reader = stream.attach(sink, Mute())
    peer = await rig.listener.accept()
    await peer.request()
    await clock.jump(9.0)
    peer.send(head(CHUNKED), chunk(openai_chunk({"reasoning_content": "hm"})))
    await until(lambda: stream.has_content)
    await clock.jump(2.0)
    stream._on_timer()

    assert sink.data == b": ping\n"
    stream.cancel("user")


async def test_a_fallback_that_cannot_be_asked_this_leaves_the_first_one_s_error(rig: Rig) -> None:
    def refuse(body: dict[str, Any]) -> ChatRequest:
        raise BadRequest("n: only 1.", field="n")

    request = SurfaceRequest(SURFACE._replace(parse=refuse), {"messages": [], "n": 2})
    targets = [Target(rig.provider(), "m"), Target(rig.provider("anthropic", name="b"), "m")]
    stream = rig.streams.create(request, targets, user="u", request_id="r", received_at=time.monotonic())
    read(stream)
    peer = await rig.listener.accept()
    await peer.request()
    peer.send(b"HTTP/1.1 503 No\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")
    end = await rig.ended(stream)

    assert isinstance(end, ev.Error)
    assert end.code == "upstream_overloaded"


async def test_a_target_that_cannot_be_asked_this_is_left_out(rig: Rig) -> None:
    def refuse(body: dict[str, Any]) -> ChatRequest:
        raise BadRequest("n: only 1.", field="n")

    request = SurfaceRequest(SURFACE._replace(parse=refuse), {"messages": [], "n": 2})
    cannot, can = rig.provider("anthropic", name="cannot"), rig.provider(name="can")
    targets = [Target(cannot, "a"), Target(can, "b"), Target(cannot, "c"), Target(can, "d")]
    stream = rig.streams.create(request, targets, user="u", request_id="r", received_at=time.monotonic())
    read(stream)
    peer = await rig.listener.accept()
    assert b'"model":"b"' in await peer.request()
    peer.send(b"HTTP/1.1 503 No\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")
    assert b'"model":"d"' in await peer.request()
    stream.cancel("user")

    with pytest.raises(BadRequest, match=r"n: only 1\."):
        rig.streams.create(request, targets[:1], user="u", request_id="r", received_at=time.monotonic())
