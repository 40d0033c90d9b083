"""A disconnect is not a Stop: what happens to a stream that nobody reads."""

import pytest

from engine.guards import turns, until
from engine.peers import CHUNKED, LAST_CHUNK, chunk, head
from engine.rig import Clock, FakeSink, Rig
from engine.wires import Wire
from headrace.engine.stream import Stream
from headrace.policy.admission import Line
from headrace.protocol import events as ev


def leave(stream: Stream, sink: FakeSink, reason: str = "disconnected") -> None:
    assert sink.reader is not None
    stream.detach(sink.reader, reason)


def cause(stream: Stream) -> str | None:
    """Why the stream was stopped, or None if it was not."""
    if not stream.ended:
        return None
    assert isinstance(stream.end, ev.StreamEnd)
    assert stream.end.finish_reason == "cancelled"
    return stream.cancel_cause


@pytest.mark.parametrize(
    ("on_disconnect", "lives_s", "dies_s"),
    [
        (None, 9.9, 10.0),
        ("grace", 9.9, 10.0),
        ("cancel", None, 0.0),
        (0.0, None, 0.0),
        (3.0, 2.9, 3.0),
        (45.0, 44.9, 45.0),
        ("continue", 55.0, None),
    ],
)
async def test_how_long_a_stream_waits_for_a_reader(
    rig: Rig, clock: Clock, on_disconnect: str | float | None, lives_s: float | None, dies_s: float | None
) -> None:
    stream, sink, peer = await rig.begin(on_disconnect=on_disconnect)
    await clock.jump(5)
    leave(stream, sink)
    if lives_s is not None:
        await clock.jump(lives_s)
        assert cause(stream) is None
    if dies_s is not None:
        await clock.jump(dies_s - (lives_s or 0))
        assert cause(stream) == "disconnect"
        await peer.gone()


@pytest.mark.parametrize("phase", ["queued", "headers", "first_token", "thinking", "text", "tool_arguments", "after_last_token"])
async def test_nobody_comes_back_in_any_phase(rig: Rig, clock: Clock, wire: Wire, phase: str) -> None:
    provider = rig.provider(wire.dialect, line=Line(1))
    stream = rig.ask(provider, on_disconnect="continue")
    if phase == "queued":
        stream = rig.ask(provider)
    else:
        stream.request.on_disconnect = None
    sink = rig.read(stream)
    peer = await rig.listener.accept()
    await peer.request()
    if phase not in ("queued", "headers"):
        peer.send(head(CHUNKED), chunk(wire.until(phase)))
    await until(lambda: stream.phase == phase)

    leave(stream, sink)
    await clock.jump(10)

    assert cause(stream) == "disconnect"
    assert stream.receipt is not None
    assert stream.receipt.phase == phase
    if phase != "queued":
        await peer.gone()


async def test_a_stream_that_nobody_ever_read(rig: Rig, clock: Clock) -> None:
    stream = rig.ask()
    await clock.jump(9)
    assert cause(stream) is None
    await clock.jump(1)
    assert cause(stream) == "disconnect"


async def test_whoever_comes_back_in_time_finds_it_running(rig: Rig, clock: Clock, wire: Wire) -> None:
    stream, sink, peer = await rig.begin(wire.dialect)
    peer.send(head(CHUNKED), chunk(wire.until("text")))
    await until(lambda: stream.phase == "text")
    leave(stream, sink)
    await clock.jump(9)

    again = rig.read(stream, after=sink.events[-1]["seq"])
    await clock.jump(30)  # the grace time is forgotten
    assert cause(stream) is None
    peer.send(chunk(wire.whole[len(wire.until("text")) :]), LAST_CHUNK)
    await rig.ended(stream)

    assert sink.text + again.text == "Für dich"
    again.assert_gapless(sink.events[-1]["seq"])
    assert again.end["finish_reason"] == "tool_calls"


async def test_every_leaving_has_its_own_grace(rig: Rig, clock: Clock) -> None:
    stream, sink, _ = await rig.begin()
    for _ in range(3):
        leave(stream, sink)
        await clock.jump(6)
        assert cause(stream) is None
        sink = rig.read(stream)
        await clock.jump(6)

    leave(stream, sink)
    await clock.jump(10)
    assert cause(stream) == "disconnect"


async def test_as_long_as_one_reader_stays_nobody_has_left(rig: Rig, clock: Clock) -> None:
    stream, first, _ = await rig.begin(on_disconnect="cancel")
    second = rig.read(stream)

    leave(stream, first)
    await clock.jump(20)
    assert cause(stream) is None

    leave(stream, second)
    assert cause(stream) == "disconnect"


async def test_what_comes_while_nobody_reads_is_kept(rig: Rig, wire: Wire) -> None:
    stream, sink, peer = await rig.begin(wire.dialect)
    leave(stream, sink)
    peer.send(head(CHUNKED), chunk(wire.whole), LAST_CHUNK)
    await rig.ended(stream)

    late = rig.read(stream, after=sink.events[-1]["seq"])
    assert late.text == "Für dich"
    assert late.end["finish_reason"] == "tool_calls"


async def test_leaving_after_the_end_is_no_stop(rig: Rig, clock: Clock, wire: Wire) -> None:
    stream, sink, peer = await rig.begin(wire.dialect, on_disconnect="cancel")
    peer.send(head(CHUNKED), chunk(wire.whole), LAST_CHUNK)
    await rig.ended(stream)

    leave(stream, sink)
    await clock.jump(60)

    assert stream.cancel_cause is None
    assert stream.status == "completed"


async def test_a_reader_that_is_closed_for_being_slow_has_left_too(rig: Rig, clock: Clock) -> None:
    stream, sink, peer = await rig.begin()
    sink.hold()
    await clock.jump(30)
    assert sink.aborted
    assert cause(stream) is None

    await clock.jump(10)

    assert cause(stream) == "disconnect"
    assert rig.observer.left == ["slow_consumer"]
    await peer.gone()


async def test_a_stop_in_the_grace_time_is_the_user_s(rig: Rig, clock: Clock) -> None:
    stream, sink, _ = await rig.begin()
    leave(stream, sink)
    await clock.jump(5)
    stream.cancel("user")
    await clock.jump(10)
    await turns()

    assert cause(stream) == "user"
