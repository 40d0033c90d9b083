"""Stop, in every phase: the provider's socket is closed, one terminal event says `cancelled`, and everything is let go once."""

import asyncio

import pytest

from engine.guards import as_soon_as, turns, until
from engine.peers import CHUNKED, chunk, head, sized
from engine.rig import Clock, FakeSink, Rig
from engine.wires import PHASES, Wire
from headrace.engine.stream import Stream
from headrace.policy.admission import Line
from headrace.policy.retry import RetryPolicy
from headrace.protocol import events as ev


def assert_stopped(stream: Stream, sink: FakeSink, phase: str) -> None:
    assert stream.ended
    assert isinstance(stream.end, ev.StreamEnd)
    assert stream.end.finish_reason == stream.status == "cancelled"
    assert sink.end["finish_reason"] == "cancelled"
    sink.assert_gapless()
    assert stream.receipt is not None
    assert stream.receipt.phase == phase
    assert stream.receipt.already_ended is False
    assert stream.receipt.tokens_after == 0
    assert stream.receipt.tokens_before == stream.meter.ingress.tokens


@pytest.mark.parametrize("phase", PHASES)
async def test_stopped_while_the_provider_answers(rig: Rig, wire: Wire, phase: str) -> None:
    stream, sink, peer = await rig.begin(wire.dialect)
    peer.send(head(CHUNKED), chunk(wire.until(phase)))
    await until(lambda: stream.phase == phase)
    tokens = stream.meter.ingress.tokens

    stream.cancel("user")
    await rig.ended(stream)
    peer.send(chunk(wire.end))  # too late

    await peer.gone()
    assert_stopped(stream, sink, phase)
    assert stream.receipt is not None
    assert stream.receipt.tokens_before == tokens
    assert stream.receipt.cancel_ms is not None
    assert stream.receipt.upstream_closed_at is not None
    assert stream.receipt.upstream_closed_at >= stream.receipt.requested_at


async def test_stopped_while_the_provider_says_nothing(rig: Rig, wire: Wire) -> None:
    stream, sink, peer = await rig.begin(wire.dialect)
    assert stream.phase == "headers"

    stream.cancel("user")

    await peer.gone()
    assert_stopped(stream, sink, "headers")
    assert sink.types == ["stream_start", "stream_end"]


async def test_stopped_inside_an_event_and_a_character(rig: Rig, wire: Wire) -> None:
    stream, sink, peer = await rig.begin(wire.dialect)
    cut = wire.whole.index("🌊".encode()) + 2
    peer.send(head(CHUNKED), chunk(wire.whole[:cut]))
    await until(lambda: stream.bytes_in == cut)

    stream.cancel("user")

    await peer.gone()
    assert stream.end is not None
    assert_stopped(stream, sink, stream.receipt.phase if stream.receipt else "")


async def test_stopped_inside_arguments_leaves_a_call_that_says_so(rig: Rig, wire: Wire) -> None:
    stream, sink, peer = await rig.begin(wire.dialect)
    *begun, _, _ = wire.parts["tool_arguments"].split(b"\n\n")  # all frames but the one with the last fragment
    peer.send(head(CHUNKED), chunk(wire.until("text") + b"\n\n".join([*begun, b""])))
    await until(lambda: stream.phase == "tool_arguments")

    stream.cancel("user")

    await peer.gone()
    (call,) = [event for event in sink.events if event["type"] == "tool_call_complete"]
    assert call["valid"] is False
    assert call["arguments"] is None
    assert sink.types[-2:] == ["block_end", "stream_end"]


async def test_stopped_while_connecting(rig: Rig, deaf_port: int) -> None:
    stream = rig.ask(rig.provider(address=f"http://127.0.0.1:{deaf_port}"))
    sink = rig.read(stream)
    await until(lambda: stream.attempt is not None)
    assert stream.phase == "connecting"

    stream.cancel("user")
    await rig.ended(stream)

    assert_stopped(stream, sink, "connecting")
    assert stream.receipt is not None
    assert (stream.receipt.upstream_closed_at, stream.receipt.cancel_ms) == (None, None)


async def test_stopped_in_line(rig: Rig) -> None:
    line = Line(1)
    provider = rig.provider(line=line)
    running = rig.ask(provider)
    waiting, behind = rig.ask(provider), rig.ask(provider)
    sink, other = rig.read(waiting), rig.read(behind)
    await rig.listener.accept()
    assert (waiting.phase, waiting.status) == ("queued", "queued")

    waiting.cancel("user")
    await rig.ended(waiting)

    assert_stopped(waiting, sink, "queued")
    assert sink.types == ["stream_start", "queue", "stream_end"]
    assert other.events[-1]["type"] == "queue"
    assert (other.events[-1]["position"], other.events[-1]["depth"]) == (1, 1)
    assert (line.active, len(line.waiting)) == (1, 1)
    assert rig.listener.accepted == 1
    assert not running.ended


async def test_stopped_at_the_very_moment_of_its_turn(rig: Rig) -> None:
    provider = rig.provider(line=Line(1))
    running, waiting, third = (rig.ask(provider) for _ in range(3))
    sink = rig.read(waiting)

    running.cancel("user")  # the place is the second's, whose task has not noticed
    waiting.cancel("user")

    await rig.ended(waiting)
    assert_stopped(waiting, sink, "connecting")
    await rig.listener.accept()
    assert third.status in ("connecting", "waiting")


async def test_stopped_before_its_task_has_begun(rig: Rig) -> None:
    stream = rig.ask()
    sink = rig.read(stream)

    stream.cancel("user")

    await rig.ended(stream)
    assert_stopped(stream, sink, "connecting")
    await turns()
    assert rig.listener.accepted == 0


async def test_stopped_while_it_waits_to_try_again(rig: Rig) -> None:
    rig.set(retry=RetryPolicy(attempts_max=3, backoff_s=100.0, wait_s_max=1000.0))
    stream, sink, peer = await rig.begin()
    peer.send(sized(b"{}", status=529))
    await until(lambda: "notice" in sink.types)

    stream.cancel("user")

    await rig.ended(stream)
    assert_stopped(stream, sink, "connecting")
    assert rig.listener.accepted == 1


async def test_stopped_between_the_provider_s_refusal_and_what_follows_from_it(rig: Rig) -> None:
    """The attempt has failed, and its owner's task does not know yet."""
    rig.set(retry=RetryPolicy(attempts_max=3))
    stream, sink, peer = await rig.begin()
    peer.send(sized(b"{}", status=529))
    attempt = stream.attempt
    assert attempt is not None
    await as_soon_as(lambda: not attempt.connected)

    stream.cancel("user")

    await rig.ended(stream)
    assert sink.end["finish_reason"] == "cancelled"
    await turns()
    assert rig.listener.accepted == 1


async def test_stopped_while_it_is_paused(rig: Rig) -> None:
    rig.set(high_water_bytes=1000, low_water_bytes=500)
    stream, sink, peer = await rig.begin()
    sink.hold()
    peer.send(head(CHUNKED))
    pouring = asyncio.create_task(peer.pour(chunk(WIRE_TEXT)))
    await until(lambda: stream.paused)

    stream.cancel("user")

    await peer.gone()
    await pouring
    sink.drain()
    assert_stopped(stream, sink, "text")


WIRE_TEXT = b'data: {"choices":[{"index":0,"delta":{"content":"' + b"x" * 500 + b'"}}]}\n\n'


async def test_a_stop_after_the_end_changes_nothing(rig: Rig, wire: Wire) -> None:
    stream, sink, peer = await rig.begin(wire.dialect)
    peer.send(head(CHUNKED), chunk(wire.whole), b"0\r\n\r\n")
    await rig.ended(stream)
    before = bytes(sink.data)

    stream.cancel("user")
    stream.cancel("disconnect")

    assert (stream.receipt, stream.cancel_cause, bytes(sink.data)) == (None, None, before)
    assert sink.end["finish_reason"] == "tool_calls"
    await until(lambda: rig.pool.statistics()["idle"] == 1)


async def test_stopping_twice_is_stopping_once(rig: Rig) -> None:
    stream, sink, peer = await rig.begin()

    stream.cancel("user")
    receipt = stream.receipt
    stream.cancel("disconnect")
    stream.cancel("user")

    await peer.gone()
    assert stream.receipt == receipt
    assert stream.cancel_cause == "user"
    assert_stopped(stream, sink, "headers")


async def test_every_reader_hears_of_a_stop(rig: Rig) -> None:
    stream, first, peer = await rig.begin()
    second, slow = rig.read(stream), rig.read(stream)
    slow.hold()

    stream.cancel("user")
    late = rig.read(stream)
    slow.drain()

    for sink in (first, second, slow, late):
        await sink.ended()
        assert_stopped(stream, sink, "headers")
    await peer.gone()


async def test_a_stop_of_one_stream_is_no_stop_of_another(rig: Rig, wire: Wire) -> None:
    provider = rig.provider(wire.dialect)
    streams = [rig.ask(provider, text=f"<{n}>") for n in range(10)]
    sinks = [rig.read(stream) for stream in streams]
    peers = {}
    for _ in streams:
        peer = await rig.listener.accept()
        asked = await peer.request()
        (n,) = [n for n in range(10) if b"<%d>" % n in asked]
        peers[n] = peer
    for peer in peers.values():
        peer.send(head(CHUNKED), chunk(wire.until("text")))
    await until(lambda: all(stream.phase == "text" for stream in streams))

    for n in range(0, 10, 2):
        streams[n].cancel("user")
    for n in range(1, 10, 2):
        peers[n].send(chunk(wire.whole[len(wire.until("text")) :]), b"0\r\n\r\n")

    for n, (stream, sink) in enumerate(zip(streams, sinks, strict=True)):
        await rig.ended(stream)
        assert sink.end["finish_reason"] == ("tool_calls" if n % 2 else "cancelled")
        assert sink.text == "Für dich"
        if not n % 2:
            await peers[n].gone()


async def test_two_hundred_at_once(rig: Rig) -> None:
    provider = rig.provider()
    streams = [rig.ask(provider) for _ in range(200)]
    sinks = [rig.read(stream) for stream in streams]
    peers = [await rig.listener.accept() for _ in streams]
    for peer in peers:
        await peer.request()
        peer.send(head(CHUNKED), chunk(b'data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'))
    await until(lambda: all(stream.phase == "text" for stream in streams))

    for stream in streams:
        stream.cancel("user")

    for stream, sink, peer in zip(streams, sinks, peers, strict=True):
        await peer.gone()
        assert_stopped(stream, sink, "text")


async def test_a_connection_that_was_stopped_is_never_used_again(rig: Rig) -> None:
    provider = rig.provider()
    stream = rig.ask(provider)
    first = await rig.listener.accept()
    await first.request()
    first.send(head(CHUNKED), chunk(b'data: {"choices":[{"index":0,"delta":{"content":"secret of the first"}}]}\n\n'))
    await until(lambda: stream.phase == "text")
    stream.cancel("user")
    first.send(chunk(b'data: {"choices":[{"index":0,"delta":{"content":"more of the first"}}]}\n\n'))

    second = rig.ask(provider)
    sink = rig.read(second)
    peer = await rig.listener.accept()
    await peer.request()
    peer.send(
        sized(b'data: {"choices":[{"index":0,"delta":{"content":"of the second"}}]}\n\ndata: [DONE]\n\n', content_type="text/event-stream")
    )
    await rig.ended(second)

    assert sink.text == "of the second"
    assert rig.listener.accepted == 2


async def test_how_long_a_stop_took_is_told(rig: Rig, clock: Clock) -> None:
    stream, sink, peer = await rig.begin()
    peer.send(head(CHUNKED), chunk(b'data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'))
    await until(lambda: stream.phase == "text")

    stream.cancel("user")

    await peer.gone()
    assert sink.end["metrics"]["cancel_ms"] < 1000
    assert sink.end["usage"] == {"source": "estimated", "output_tokens": 1}
