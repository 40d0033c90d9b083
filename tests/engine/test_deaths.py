"""A provider that dies at every byte of its answer, in every way: one honest ending each time."""

import asyncio
import re
from collections.abc import Callable

import pytest

from engine.guards import turns
from engine.peers import CHUNKED, LAST_CHUNK, Peer, chunk, head
from engine.rig import FakeSink, Rig
from engine.wires import Wire

AT_ONCE = 40


def in_one_chunk(body: bytes) -> bytes:
    """Chunked framing that promises more: every death is inside a chunk."""
    return head(CHUNKED) + b"%x\r\n" % (len(body) + 1000) + body


def in_whole_chunks(body: bytes) -> bytes:
    return head(CHUNKED) + (chunk(body) if body else b"")


def without_a_length(body: bytes) -> bytes:
    """The end of the body is the end of the connection: only the dialect's terminator tells."""
    return head(version="1.0") + body


def with_a_length(body: bytes) -> bytes:
    return head("content-length: 100000") + body


def ended_in_order(body: bytes) -> bytes:
    """A proxy that hides its provider's death: the framing says that all is well."""
    return in_whole_chunks(body) + LAST_CHUNK


def terminator(wire: Wire) -> tuple[int, int]:
    """Return where the JSON of the terminator is complete, and where its event is: before the first there is no success."""
    start = wire.whole.index(wire.terminator)
    return start + len(wire.terminator.rstrip(b"\n")), start + len(wire.terminator)


async def die(rig: Rig, wire: Wire, at: int, frame: Callable[[bytes], bytes], how: str) -> FakeSink:
    """Run one stream whose provider writes `at` bytes of its body and dies."""
    stream = rig.ask(wire.dialect, text=f"<{at}>")
    sink = rig.read(stream)
    peer: Peer = await rig.listener.accept()
    asked = re.search(rb"<(\d+)>", await peer.request())  # of those that run at once it may be another's
    assert asked is not None
    peer.send(frame(wire.whole[: int(asked[1])]))
    if how == "rst":
        await turns(1 + at % 4)  # sometimes before it was read
        peer.rst()
    else:
        peer.fin()
    await rig.ended(stream)
    return sink


def assert_honest(sink: FakeSink, wire: Wire, at: int, *, all_arrived: bool) -> None:
    end = sink.end
    sink.assert_gapless()
    complete, whole = terminator(wire)
    if end["type"] == "stream_end":
        assert at >= complete, f"a success {complete - at} bytes before the terminator"
        assert end["finish_reason"] == "tool_calls"
    else:
        assert at < whole or not all_arrived, "an error although the terminator came"
        assert end["code"] in ("upstream_truncated", "upstream_connect")
        assert end["retryable"] is True
        assert end["partial"] is any(kind in ("text", "thinking", "tool_call_start") for kind in sink.types)
    for event in sink.events:
        if event["type"] == "tool_call_complete":
            assert event["valid"] is (event["arguments"] is not None)
            assert not event["valid"] or event["arguments"] == {"ort": "Zürich 水"}
    assert "Für dich".startswith(sink.text)
    opened = [event["index"] for event in sink.events if event["type"] in ("text", "thinking", "tool_call_start")]
    assert set(opened) == {event["index"] for event in sink.events if event["type"] == "block_end"}


async def die_everywhere(rig: Rig, wire: Wire, frame: Callable[[bytes], bytes], how: str, step: int = 1) -> None:
    places = range(0, len(wire.whole) + 1, step)
    for first in range(0, len(places), AT_ONCE):
        some = places[first : first + AT_ONCE]
        for at, sink in zip(some, await asyncio.gather(*(die(rig, wire, at, frame, how) for at in some)), strict=True):
            assert_honest(sink, wire, at, all_arrived=how == "fin")


@pytest.mark.parametrize("frame", [in_one_chunk, ended_in_order])
async def test_a_fin_at_every_byte(rig: Rig, wire: Wire, frame: Callable[[bytes], bytes]) -> None:
    await die_everywhere(rig, wire, frame, "fin")


@pytest.mark.parametrize("frame", [in_whole_chunks, without_a_length, with_a_length])
async def test_a_fin_in_every_framing(rig: Rig, wire: Wire, frame: Callable[[bytes], bytes]) -> None:
    await die_everywhere(rig, wire, frame, "fin", step=7)


async def test_a_reset_at_every_byte(rig: Rig, wire: Wire) -> None:
    await die_everywhere(rig, wire, in_whole_chunks, "rst")


async def test_what_was_sent_is_what_is_told_up_to_the_death(rig: Rig, wire: Wire) -> None:
    """No event is lost that came whole, and none is told that did not."""
    texts = [f"t{n} " for n in range(30)]
    pieces = list(wire.pieces(*texts))
    for count in range(1, len(pieces)):
        stream, sink, peer = await rig.begin(wire.dialect)
        peer.send(head(CHUNKED), chunk(b"".join(pieces[:count]) + pieces[count][:-5]))
        peer.fin()
        await rig.ended(stream)
        assert sink.text in ("".join(texts[: count - 1]), "".join(texts[:count]))  # JSON that is whole counts without its blank line
