"""Backpressure and slow readers: memory is bounded, the provider waits where it should, and nobody waits for somebody else's tab."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from engine.guards import turns, until
from engine.peers import CHUNKED, LAST_CHUNK, Peer, chunk, head
from engine.rig import Clock, FakeSink, Rig
from engine.wires import Wire
from headrace.engine.stream import Stream

PIECE = chunk(b'data: {"choices":[{"index":0,"delta":{"content":"' + b"x" * 1000 + b'"}}]}\n\n')
HIGH, LOW = 64 * 1024, 16 * 1024


class Flood:
    """A provider that sends as fast as it is read."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        peer.send(head(CHUNKED))
        self._task = asyncio.create_task(peer.pour(PIECE * 8))

    async def assert_flat(self) -> None:
        """The provider's own count of what it could write stands still."""
        await until(lambda: not self.peer._writable.is_set())
        before = self.peer.sent
        await turns(200)
        assert self.peer.sent == before

    async def assert_flows(self) -> None:
        before = self.peer.sent
        await until(lambda: self.peer.sent > before + 4_000_000)

    async def end(self) -> None:
        await self.peer.gone()
        await self._task


@pytest.fixture
async def flooded(rig: Rig, request: pytest.FixtureRequest) -> AsyncIterator[tuple[Stream, FakeSink, Flood]]:
    """A stream whose provider never stops, with one reader."""
    rig.set(high_water_bytes=HIGH, low_water_bytes=LOW, log_bytes_max=1024 * 1024, detached_bytes_max=4 * HIGH)
    stream, sink, peer = await rig.begin(**getattr(request, "param", {}))
    flood = Flood(peer)
    yield stream, sink, flood
    stream.cancel("user")
    await flood.end()


def lag(stream: Stream, sink: FakeSink) -> int:
    assert sink.reader is not None
    return stream.log.distance(sink.reader.cursor)


# --- pause ---------------------------------------------------------------------------------------------------------------


async def test_a_reader_that_takes_nothing_stops_the_provider(flooded: tuple[Stream, FakeSink, Flood]) -> None:
    stream, sink, flood = flooded
    sink.hold()
    await until(lambda: stream.paused)

    await flood.assert_flat()
    assert HIGH < lag(stream, sink) < HIGH + 512 * 1024  # one read of the socket may come on top
    held = stream.log.size
    await turns(200)
    assert stream.log.size == held


async def test_when_it_takes_again_the_provider_goes_on(flooded: tuple[Stream, FakeSink, Flood]) -> None:
    stream, sink, flood = flooded
    for _ in range(3):
        sink.hold()
        await until(lambda: stream.paused)
        await flood.assert_flat()
        sink.drain()
        assert not stream.paused
        await flood.assert_flows()
    sink.assert_gapless()


async def test_the_provider_goes_on_at_the_low_mark_and_not_before(rig: Rig) -> None:
    rig.set(high_water_bytes=HIGH, low_water_bytes=LOW)
    stream, sink, peer = await rig.begin()
    sink.hold()
    flood = Flood(peer)
    await until(lambda: stream.paused)

    sink.room, sink.held, sink.pending = 16 * 1024, False, 0
    assert sink.reader is not None
    sink.reader.drained()
    assert stream.paused
    assert lag(stream, sink) > LOW
    while stream.paused:
        before = lag(stream, sink)
        assert before > LOW
        sink.drain()

    assert lag(stream, sink) <= LOW
    stream.cancel("user")
    await flood.end()


async def test_nobody_is_held_up_by_somebody_else_s_stalled_tab(flooded: tuple[Stream, FakeSink, Flood], rig: Rig) -> None:
    stream, sink, flood = flooded
    stalled = rig.read(stream)
    stalled.hold()

    await flood.assert_flows()

    assert not stream.paused
    assert lag(stream, sink) == 0
    assert stream.log.size < 3 * 1024 * 1024


async def test_the_foremost_of_the_slow_ones_sets_the_pace(flooded: tuple[Stream, FakeSink, Flood], rig: Rig) -> None:
    stream, sink, flood = flooded
    other = rig.read(stream)
    sink.hold()
    other.hold()
    await until(lambda: stream.paused)

    other.drain()

    assert not stream.paused
    await flood.assert_flows()


async def test_when_the_fast_one_leaves_the_slow_one_is_waited_for(flooded: tuple[Stream, FakeSink, Flood], rig: Rig) -> None:
    stream, fast, flood = flooded
    slow = rig.read(stream)
    slow.hold()
    await flood.assert_flows()
    assert not stream.paused
    assert fast.reader is not None

    stream.detach(fast.reader, "disconnected")

    assert stream.paused
    await flood.assert_flat()


async def test_while_it_is_paused_the_provider_cannot_be_late(flooded: tuple[Stream, FakeSink, Flood], clock: Clock) -> None:
    stream, sink, _ = flooded
    sink.hold(pending=1000)
    await until(lambda: stream.paused)
    for left in range(900, 0, -100):
        await clock.jump(25)
        sink.take(1000 - left)  # it takes a little now and then, so it is not closed either
        assert not stream.ended
    assert not sink.aborted


async def test_after_a_pause_its_time_begins_anew(rig: Rig, clock: Clock) -> None:
    rig.set(high_water_bytes=500, low_water_bytes=100, slow_reader_s=1000.0)
    stream, sink, peer = await rig.begin()
    sink.hold()
    peer.send(head(CHUNKED), PIECE)
    await until(lambda: stream.paused)
    await clock.jump(300)

    sink.drain()
    await clock.jump(59)
    assert not stream.ended
    await clock.jump(1)
    assert sink.end["code"] == "upstream_idle"


async def test_the_end_comes_to_a_reader_that_held_the_stream_up(rig: Rig, wire: Wire) -> None:
    rig.set(high_water_bytes=1, low_water_bytes=0)
    stream, sink, peer = await rig.begin(wire.dialect)
    sink.hold()
    peer.send(head(CHUNKED))
    for piece in wire.pieces(*["word "] * 50):
        peer.send(chunk(piece))
    peer.send(LAST_CHUNK)
    await until(lambda: stream.paused)

    sink.drain()
    await rig.ended(stream)

    assert sink.text == "word " * 50
    assert sink.end["finish_reason"] == "stop"


# --- nobody attached ------------------------------------------------------------------------------------------------------


async def test_without_a_reader_so_much_is_read_and_no_more(flooded: tuple[Stream, FakeSink, Flood], rig: Rig) -> None:
    stream, sink, flood = flooded
    assert sink.reader is not None
    await until(lambda: stream.has_content)
    stream.detach(sink.reader, "disconnected")

    await until(lambda: stream.paused)
    await flood.assert_flat()
    assert stream.log.distance(sink.reader.cursor) < 4 * HIGH + 512 * 1024

    again = rig.read(stream, after=sink.reader.cursor)
    assert not stream.paused
    again.assert_gapless(sink.reader.cursor)


async def test_a_stream_that_was_never_read_is_bounded_too(rig: Rig) -> None:
    rig.set(high_water_bytes=HIGH, low_water_bytes=LOW, detached_bytes_max=4 * HIGH)
    stream = rig.ask()
    peer = await rig.listener.accept()
    await peer.request()
    flood = Flood(peer)

    await until(lambda: stream.paused)
    await flood.assert_flat()
    assert stream.log.total < 4 * HIGH + 512 * 1024
    stream.cancel("user")
    await flood.end()


# --- gap -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flooded", [{"slow_reader": "gap"}], indirect=True)
async def test_where_gaps_are_allowed_nobody_waits_and_memory_is_bounded_all_the_same(
    flooded: tuple[Stream, FakeSink, Flood],
) -> None:
    stream, sink, flood = flooded
    sink.hold()
    await flood.assert_flows()
    assert not stream.paused
    assert stream.log.size < 3 * 1024 * 1024
    last = sink.events[-1]["seq"]
    await until(lambda: stream.log.first_seq > last + 1)

    sink.drain()

    behind = [event for event in sink.events if event["seq"] > last]
    assert behind[0]["type"] == "gap"
    assert (behind[0]["from_seq"], behind[0]["seq"]) == (last + 1, behind[0]["to_seq"])
    assert behind[0]["recoverable"] is False
    assert sink.types.count("gap") == 1
    sink.assert_gapless()


@pytest.mark.parametrize("slow_reader", ["pause", "gap"])
async def test_the_settings_decide_where_the_request_does_not(rig: Rig, slow_reader: str) -> None:
    rig.set(high_water_bytes=HIGH, low_water_bytes=LOW, slow_reader=slow_reader)
    stream, sink, peer = await rig.begin()
    sink.hold()
    flood = Flood(peer)
    await until(lambda: stream.log.total > 8 * HIGH or stream.paused)

    assert stream.paused is (slow_reader == "pause")
    stream.cancel("user")
    await flood.end()


# --- slow consumers ---------------------------------------------------------------------------------------------------------


async def test_a_reader_that_takes_nothing_is_closed_and_the_stream_goes_on(rig: Rig, clock: Clock) -> None:
    stream, sink, _ = await rig.begin()
    other = rig.read(stream)
    sink.hold()

    await clock.jump(29.9)
    assert not sink.aborted
    await clock.jump(0.1)

    assert sink.aborted
    assert sink.reader is not None
    assert await sink.reader.closed == "slow_consumer"
    assert rig.observer.left == ["slow_consumer"]
    assert not stream.ended
    assert not other.aborted


async def test_a_reader_that_takes_a_little_is_slow_and_not_dead(rig: Rig, clock: Clock) -> None:
    rig.set(first_token_s=1000.0)
    _, sink, _ = await rig.begin()
    sink.hold(pending=1000)
    for _ in range(9):
        await clock.jump(29)
        sink.take(100)
        await clock.jump(1.5)
        assert not sink.aborted

    await clock.jump(31)
    assert sink.aborted


async def test_whoever_drains_in_time_is_forgiven(rig: Rig, clock: Clock) -> None:
    rig.set(first_token_s=1000.0)
    _, sink, _ = await rig.begin()
    for _ in range(4):
        sink.hold()
        await clock.jump(29)
        sink.drain()
        await clock.jump(5)
    assert not sink.aborted


async def test_a_reader_is_full_from_its_first_bytes_on(rig: Rig, clock: Clock) -> None:
    """A replay fills it before anybody can say that it is full."""
    _, _, _ = await rig.begin()
    (stream,) = rig.streams.live()

    late = rig.read(stream, sink=FakeSink(room=1))
    await clock.jump(30)

    assert late.aborted


async def test_a_reader_that_takes_nothing_of_a_stream_that_has_ended_is_closed_too(rig: Rig, clock: Clock, wire: Wire) -> None:
    stream, sink, peer = await rig.begin(wire.dialect)
    sink.hold()
    peer.send(head(CHUNKED), chunk(wire.whole), LAST_CHUNK)
    await rig.ended(stream)
    complete = rig.read(stream, sink=FakeSink(room=1))  # all is written, and nothing taken
    taking = rig.read(stream)

    await clock.jump(29)
    assert not sink.aborted
    await clock.jump(1)

    assert (sink.aborted, complete.aborted, taking.aborted) == (True, True, False)
    assert sink.reader is not None
    assert await sink.reader.closed == "slow_consumer"
