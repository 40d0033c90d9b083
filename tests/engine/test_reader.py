"""Readers of one stream: at once, later, again, from any place. Each has everything once, in order."""

from collections.abc import Iterator

import msgspec
import pytest

from engine.guards import turns, until
from engine.peers import CHUNKED, LAST_CHUNK, chunk, head
from engine.rig import FakeSink, Rig
from engine.wires import Wire
from headrace.protocol import events as ev
from headrace.protocol.accumulate import Accumulator
from headrace.protocol.native import NDJSON
from headrace.simulator import Simulator

TEXTS = ("The ", "quick ", "brún ", "狐 ", "jumps ", "🌊 ", "over.")
FAST = "first_token_s=0&tokens_per_s=0"


def reply(*parts: list[dict]) -> list[dict]:
    """Return the blocks that the events of `parts`, one behind the other, tell."""
    accumulator = Accumulator()
    for events in parts:
        for event in events:
            decoded = ev.decode(msgspec.json.encode(event))
            assert decoded is not None
            assert accumulator.feed(decoded), "twice"
    return [block.as_dict() for block in accumulator.blocks.values()]


def frames(wire: Wire) -> Iterator[bytes]:
    yield from wire.pieces(*TEXTS)


# --- a whole answer ----------------------------------------------------------------------------------------------------


async def test_an_answer_from_its_first_event_to_its_last(rig: Rig, wire: Wire) -> None:
    stream, sink, peer = await rig.begin(wire.dialect)
    peer.send(head(CHUNKED), chunk(wire.whole), LAST_CHUNK)
    await rig.ended(stream)

    start, *content, end = [event for event in sink.events if event["type"] not in ("usage", "notice")]
    assert start == {
        "type": "stream_start",
        "seq": 1,
        "stream_id": stream.id,
        "message_id": start["message_id"],
        "model": "m",
        "provider": "p",
        "protocol": 1,
        "resumable": True,
        "expires_at": start["expires_at"],
    }
    assert len(stream.id) == 3 + 32
    assert [block["kind"] for block in reply(content)] == ["thinking", "text", "tool_call"]
    assert reply(content)[2]["arguments"] == {"ort": "Zürich 水"}
    assert (end["finish_reason"], end["usage"]["output_tokens"], end["usage"]["source"]) == ("tool_calls", 7, "provider")
    assert end["metrics"]["attempts"] == 1
    assert stream.tool_calls == [("weather", 2, 1)]
    assert sink.end == end
    sink.assert_gapless()
    assert sink.reader is not None
    assert await sink.reader.closed == "complete"


@pytest.mark.parametrize(
    "script", ["echo", "echo?cut=1", "echo?cut=random&seed=3", "echo?newline=crlf", "echo?framing=close", "echo?encoding=gzip"]
)
@pytest.mark.parametrize("dialect", ["openai_chat", "anthropic"])
async def test_a_provider_of_somebody_else_s_making(rig: Rig, simulator: Simulator, dialect: str, script: str) -> None:
    text = 'Grüße aus 水力,\nmit "Zeichen" und 🌊, data: [DONE] und \u2028 dazwischen. ' * 5
    model = f"{script}{'&' if '?' in script else '?'}{FAST}"

    stream = rig.ask(rig.provider(dialect, simulator.base_url), model=model, text=text)
    sink = rig.read(stream)
    await rig.ended(stream)

    assert sink.text == text
    assert sink.end["finish_reason"] == "stop"
    sink.assert_gapless()


async def test_ndjson_has_the_same_events(rig: Rig, wire: Wire) -> None:
    stream, sse, peer = await rig.begin(wire.dialect)
    lines = rig.read(stream, encoding=NDJSON)
    peer.send(head(CHUNKED), chunk(wire.whole), LAST_CHUNK)
    await rig.ended(stream)

    assert [msgspec.json.decode(line) for line in bytes(lines.data).splitlines()] == sse.events
    assert lines.data.endswith(b"\n")
    assert lines.reader is not None
    assert await lines.reader.closed == "complete"


# --- several readers ---------------------------------------------------------------------------------------------------


async def test_two_readers_get_the_same_bytes(rig: Rig, wire: Wire) -> None:
    stream, first, peer = await rig.begin(wire.dialect)
    second = rig.read(stream)
    for piece in [head(CHUNKED), *map(chunk, frames(wire)), LAST_CHUNK]:
        peer.send(piece)
        await turns(3)
    await rig.ended(stream)

    assert first.data == second.data
    assert first.text == "".join(TEXTS)
    assert stream.readers_total == 2


async def test_a_reader_that_comes_late_is_told_everything_in_few_events(rig: Rig, wire: Wire) -> None:
    stream, first, peer = await rig.begin(wire.dialect)
    peer.send(head(CHUNKED), *map(chunk, frames(wire)), LAST_CHUNK)
    await rig.ended(stream)

    late = rig.read(stream)

    assert late.text == first.text == "".join(TEXTS)
    assert late.types.count("text") == 1
    assert late.end == first.end
    late.assert_gapless()
    assert late.reader is not None
    assert late.reader.closed.done()


async def test_a_reader_that_comes_in_the_middle_is_told_what_was_and_then_what_comes(rig: Rig, wire: Wire) -> None:
    stream, first, peer = await rig.begin(wire.dialect)
    peer.send(head(CHUNKED))
    late: list[FakeSink] = []
    for piece in frames(wire):
        peer.send(chunk(piece))
        got = stream.bytes_in
        await until(lambda got=got: stream.bytes_in > got)
        late.append(rig.read(stream))
    peer.send(LAST_CHUNK)
    await rig.ended(stream)

    for sink in [first, *late]:
        assert sink.text == "".join(TEXTS)
        sink.assert_gapless()
        assert sink.end == first.end


async def test_a_stream_is_taken_up_behind_every_event(rig: Rig, wire: Wire) -> None:
    stream, whole, peer = await rig.begin(wire.dialect)
    peer.send(head(CHUNKED), chunk(wire.whole), LAST_CHUNK)
    await rig.ended(stream)
    told = reply(whole.events)

    for after in range(stream.log.last_seq + 1):
        resumed = rig.read(stream, after)
        before = [event for event in whole.events if event["seq"] <= after]
        assert reply(before, resumed.events) == told
        resumed.assert_gapless(after)
        if after < stream.log.last_seq:
            assert resumed.end == whole.end
        else:
            assert resumed.frames == [b"data: [DONE]\n\n"]


async def test_a_reader_that_leaves_and_comes_back_misses_nothing(rig: Rig, wire: Wire) -> None:
    """At every event anew, while the answer goes on."""
    stream, sink, peer = await rig.begin(wire.dialect)
    peer.send(head(CHUNKED))
    parts: list[list[dict]] = []
    last = 0
    for piece in frames(wire):
        assert sink.reader is not None
        stream.detach(sink.reader, "disconnected")
        parts.append(sink.events)
        last = sink.events[-1]["seq"] if sink.events else last
        peer.send(chunk(piece))
        got = stream.bytes_in
        await until(lambda got=got: stream.bytes_in > got)
        sink = rig.read(stream, after=last)
    peer.send(LAST_CHUNK)
    await rig.ended(stream)

    (block,) = reply(*parts, sink.events)
    assert block["text"] == "".join(TEXTS)
    assert rig.observer.left == ["disconnected"] * len(parts)


async def test_a_reader_that_has_left_is_written_to_no_more(rig: Rig, wire: Wire) -> None:
    stream, sink, peer = await rig.begin(wire.dialect)
    other = rig.read(stream)
    assert sink.reader is not None
    stream.detach(sink.reader, "disconnected")
    before = bytes(sink.data)

    peer.send(head(CHUNKED), chunk(wire.whole), LAST_CHUNK)
    await rig.ended(stream)
    sink.drain()

    assert bytes(sink.data) == before
    assert await sink.reader.closed == "disconnected"
    assert other.end


async def test_a_reader_that_has_everything_has_not_merely_left(rig: Rig, wire: Wire) -> None:
    stream, sink, peer = await rig.begin(wire.dialect)
    peer.send(head(CHUNKED), chunk(wire.whole), LAST_CHUNK)
    await sink.ended()
    assert sink.reader is not None
    stream.detach(sink.reader, "disconnected")  # its connection is over too

    assert rig.observer.left == ["complete"]


async def test_leaving_twice_is_leaving_once(rig: Rig) -> None:
    stream, sink, _ = await rig.begin()
    assert sink.reader is not None

    stream.detach(sink.reader, "disconnected")
    stream.detach(sink.reader, "slow_consumer")

    assert rig.observer.left == ["disconnected"]
    assert await sink.reader.closed == "disconnected"


# --- full sinks --------------------------------------------------------------------------------------------------------


async def test_a_reader_that_was_full_gets_the_rest_when_it_drains(rig: Rig, wire: Wire) -> None:
    stream, sink, peer = await rig.begin(wire.dialect)
    other = rig.read(stream)
    pieces = [chunk(piece) for piece in frames(wire)]
    peer.send(head(CHUNKED), *pieces[:3])
    await until(lambda: sink.text == "".join(TEXTS[:2]))

    sink.hold()
    peer.send(*pieces[3:], LAST_CHUNK)
    await rig.ended(stream)
    assert sink.text == "".join(TEXTS[:2])
    assert sink.reader is not None
    assert not sink.reader.closed.done()

    sink.drain()
    assert sink.text == other.text == "".join(TEXTS)
    sink.assert_gapless()
    assert sink.end == other.end


@pytest.mark.parametrize("room", [1, 50, 400])
async def test_a_replay_is_written_as_fast_as_it_is_taken_and_no_faster(rig: Rig, wire: Wire, room: int) -> None:
    stream, whole, peer = await rig.begin(wire.dialect)
    long = ["word " * 200] * 100
    peer.send(head(CHUNKED), *(chunk(piece) for piece in wire.pieces(*long)), LAST_CHUNK)
    await rig.ended(stream)

    slow = rig.read(stream, sink=FakeSink(room=room))
    drains = 0
    while slow.reader is not None and not slow.reader.closed.done():
        assert slow.pending <= room + 64 * 1024
        slow.drain()
        drains += 1

    assert drains > 3
    assert slow.text == whole.text == "".join(long)
    slow.assert_gapless()


async def test_bytes_are_counted_for_every_reader(rig: Rig, wire: Wire) -> None:
    stream, sink, peer = await rig.begin(wire.dialect)
    gone = rig.read(stream)
    assert gone.reader is not None
    stream.detach(gone.reader, "disconnected")
    peer.send(head(CHUNKED), chunk(wire.whole), LAST_CHUNK)
    await rig.ended(stream)

    assert sink.reader is not None
    assert (sink.reader.bytes_out, stream.bytes_out) == (len(sink.data), len(gone.data))
    assert stream.bytes_in == len(wire.whole)
