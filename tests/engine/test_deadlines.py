"""Deadlines: the table as a table, and each deadline on a running stream, with a clock that jumps."""

from math import inf
from types import SimpleNamespace
from typing import Any

import pytest

from engine.guards import turns, until
from engine.peers import CHUNKED, LAST_CHUNK, chunk, head, sized
from engine.rig import Clock, FakeSink, Rig
from engine.wires import OPENAI, WIRES, Wire
from headrace.engine.deadlines import expired, grace_over, next_due
from headrace.engine.streams import Settings
from headrace.errors import HeadraceError, QueueTimeout, StreamTooLong, UpstreamFirstTokenTimeout, UpstreamIdle
from headrace.policy.admission import Line
from headrace.policy.retry import RetryPolicy

T0 = 5000.0
SETTINGS = Settings(
    first_token_s=120, idle_s=60, total_s=1800, queue_wait_s_max=50, heartbeat_s=10, slow_reader_s=30, disconnect_grace_s=10
)
TEXT = b'data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'


def stream(
    *,
    phase: str | None = None,
    sent: float | None = None,
    heard: float = 0.0,
    has_content: bool = False,
    paused: bool = False,
    in_line: bool = False,
    detached: float | None = None,
    grace_s: float | None = 10.0,
    readers: tuple[Any, ...] = (),
    ended: bool = False,
) -> Any:
    """As much of a stream as the table looks at; times are seconds after its request."""
    return SimpleNamespace(
        settings=SETTINGS,
        meter=SimpleNamespace(start=T0, sent_at=None if sent is None else T0 + sent),
        attempt=None if phase is None else SimpleNamespace(phase=phase, heard_at=T0 + heard),
        has_content=has_content,
        paused=paused,
        in_line=in_line,
        queued_at=T0,
        detached_at=None if detached is None else T0 + detached,
        grace_s=grace_s,
        readers=list(readers),
        ended=ended,
    )


def reader(*, wrote: float = 0.0, blocked: float | None = None) -> Any:
    blocked_at = None if blocked is None else T0 + blocked
    return SimpleNamespace(wrote_at=T0 + wrote, heard_at=T0 + wrote, blocked_at=blocked_at)


@pytest.mark.parametrize(
    ("state", "due_s", "error"),
    [
        (stream(), 1800, StreamTooLong),
        (stream(in_line=True), 50, QueueTimeout),
        (stream(phase="connecting"), 1800, StreamTooLong),  # connecting has its deadline in the pool
        (stream(phase="connecting", sent=3), 1800, StreamTooLong),  # an attempt after the first
        (stream(phase="headers", sent=3), 123, UpstreamFirstTokenTimeout),
        (stream(phase="first_token", sent=3, heard=100), 123, UpstreamFirstTokenTimeout),  # pings are no tokens
        (stream(phase="first_token", sent=3, heard=100, has_content=True), 160, UpstreamIdle),
        (stream(phase="first_token", sent=3, heard=1790, has_content=True), 1800, StreamTooLong),
        (stream(phase="first_token", sent=1790), 1800, StreamTooLong),
        (stream(phase="first_token", sent=3, heard=100, has_content=True, paused=True), 1800, StreamTooLong),  # we do not read
    ],
)
def test_what_ends_a_stream_and_when(state: Any, due_s: float, error: type[HeadraceError]) -> None:
    assert next_due(state) == T0 + due_s
    assert expired(state, T0 + due_s - 0.01) is None
    assert isinstance(expired(state, T0 + due_s), error)


@pytest.mark.parametrize(
    ("state", "due_s"),
    [
        (stream(readers=(reader(wrote=7),)), 17),  # a heartbeat
        (stream(readers=(reader(wrote=7), reader(wrote=3))), 13),
        (stream(readers=(reader(wrote=7, blocked=8),)), 38),  # no heartbeat to one that takes nothing, but its end
        (stream(readers=(reader(wrote=7, blocked=8), reader(wrote=60))), 38),
        (stream(detached=4), 14),
        (stream(detached=4, grace_s=0.0), 4),
        (stream(detached=4, grace_s=None), 1800),
        (stream(detached=4, grace_s=3600.0), 1800),
        (stream(detached=48, in_line=True), 50),
        (stream(detached=30, in_line=True), 40),
        (stream(ended=True, readers=(reader(wrote=7),)), inf),  # nothing is left to say
        (stream(ended=True, readers=(reader(wrote=7), reader(wrote=7, blocked=40))), 70),
        (stream(ended=True, detached=4), inf),
    ],
)
def test_what_else_is_due(state: Any, due_s: float) -> None:
    assert next_due(state) == T0 + due_s
    assert expired(state, T0 + min(due_s, 49)) is None


@pytest.mark.parametrize(
    ("detached", "grace_s", "at", "over"),
    [
        (None, 10.0, 1000, False),
        (4, 10.0, 13.9, False),
        (4, 10.0, 14, True),
        (4, None, 1799, False),
        (4, 0.0, 4, True),
    ],
)
def test_when_the_grace_time_is_over(detached: float | None, grace_s: float | None, at: float, over: bool) -> None:
    assert grace_over(stream(detached=detached, grace_s=grace_s), T0 + at) is over


# --- running streams ----------------------------------------------------------------------------------------------------


def assert_failed(sink: FakeSink, code: str, *, retryable: bool, partial: bool) -> None:
    end = sink.end
    assert (end["type"], end["code"], end["retryable"], end["partial"]) == ("error", code, retryable, partial)
    sink.assert_gapless()


@pytest.mark.parametrize("so_far", ["nothing", "head", "ping"])
async def test_no_first_token(rig: Rig, clock: Clock, wire: Wire, so_far: str) -> None:
    stream, sink, peer = await rig.begin(wire.dialect)
    if so_far != "nothing":
        peer.send(head(CHUNKED), chunk(wire.until("first_token")))
        await until(lambda: stream.phase == "first_token")
    for _ in range(11):
        await clock.jump(10)
        if so_far == "ping":
            got = stream.bytes_in
            peer.send(chunk(b": ping\n\n"))
            await until(lambda got=got: stream.bytes_in > got)
    assert not stream.ended

    await clock.jump(10)

    assert_failed(sink, "upstream_first_token_timeout", retryable=True, partial=False)
    await peer.gone()


async def test_silence_in_the_middle(rig: Rig, clock: Clock, wire: Wire) -> None:
    stream, sink, peer = await rig.begin(wire.dialect)
    peer.send(head(CHUNKED), chunk(wire.until("text")))
    await until(lambda: stream.phase == "text")

    await clock.jump(59)
    assert not stream.ended
    peer.send(chunk(b": still here\n\n"))  # the provider is alive, whatever it says
    got = stream.bytes_in
    await until(lambda: stream.bytes_in > got)
    await clock.jump(59)
    assert not stream.ended
    await clock.jump(1)

    assert_failed(sink, "upstream_idle", retryable=True, partial=True)
    assert sink.text == "Für dich"
    await peer.gone()


async def test_silence_behind_a_finish_reason_is_an_end(rig: Rig, clock: Clock) -> None:
    """Some vendors never send `[DONE]`, and keep the connection."""
    stream, sink, peer = await rig.begin()
    peer.send(head(CHUNKED), chunk(OPENAI.until("after_last_token")))
    await until(lambda: stream.phase == "after_last_token")

    await clock.jump(60)

    assert sink.end["finish_reason"] == "tool_calls"
    await peer.gone()


async def test_silence_before_the_terminator_is_no_end(rig: Rig, clock: Clock) -> None:
    stream, sink, peer = await rig.begin("anthropic")
    peer.send(head(CHUNKED), chunk(WIRES["anthropic"].until("after_last_token")))
    await until(lambda: stream.phase == "after_last_token")

    await clock.jump(60)

    assert_failed(sink, "upstream_idle", retryable=True, partial=True)


async def test_too_long_in_all(rig: Rig, clock: Clock) -> None:
    stream, sink, peer = await rig.begin()
    peer.send(head(CHUNKED))
    for _ in range(36):
        peer.send(chunk(TEXT))
        got = stream.bytes_in
        await until(lambda got=got: stream.bytes_in > got)
        assert not stream.ended
        await clock.jump(50)

    assert_failed(sink, "stream_too_long", retryable=False, partial=True)
    assert sink.text == "x" * 36
    await peer.gone()


async def test_too_long_in_line(rig: Rig, clock: Clock) -> None:
    provider = rig.provider(line=Line(1))
    running = rig.ask(provider)
    rig.read(running)
    waiting = rig.ask(provider)
    sink = rig.read(waiting)

    await clock.jump(59)
    assert not waiting.ended
    await clock.jump(1)

    assert_failed(sink, "queue_timeout", retryable=True, partial=False)
    assert not running.ended
    assert provider.line.waiting == []


async def test_each_attempt_has_its_own_time_for_the_first_token(rig: Rig, clock: Clock) -> None:
    rig.set(retry=RetryPolicy(attempts_max=2, backoff_s=0.0))
    stream, sink, peer = await rig.begin()
    await clock.jump(100)
    peer.send(sized(b"{}", status=529))
    await (await peer_again(rig, peer)).request()
    await until(lambda: stream.phase == "headers")

    await clock.jump(100)
    assert not stream.ended
    await clock.jump(20)
    assert_failed(sink, "upstream_first_token_timeout", retryable=True, partial=False)


async def peer_again(rig: Rig, peer: Any) -> Any:
    """Return where the next request comes: on the connection that is kept, or on a new one."""
    await until(lambda: peer.received or rig.listener.accepted > 1)
    return peer if peer.received else await rig.listener.accept()


async def test_no_deadline_outlives_its_stream(rig: Rig, clock: Clock, wire: Wire) -> None:
    stream, sink, peer = await rig.begin(wire.dialect)
    peer.send(head(CHUNKED), chunk(wire.whole), LAST_CHUNK)
    await rig.ended(stream)
    before = bytes(sink.data)

    await clock.jump(500)
    assert bytes(sink.data) == before
    assert stream.end is not None
    assert stream.status == "completed"


# --- heartbeats ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["queued", "headers", "first_token", "text", "tool_arguments"])
async def test_a_reader_hears_something_every_ten_seconds_from_the_first_moment(rig: Rig, clock: Clock, wire: Wire, phase: str) -> None:
    rig.set(queue_wait_s_max=1000.0, first_token_s=1000.0, idle_s=1000.0)
    provider = rig.provider(wire.dialect, line=Line(1))
    stream = rig.ask(provider)
    rig.read(stream)
    if phase == "queued":
        stream = rig.ask(provider)
    sink = rig.read(stream)
    peer = await rig.listener.accept()
    await peer.request()
    if phase not in ("queued", "headers"):
        peer.send(head(CHUNKED), chunk(wire.until(phase)))
        await until(lambda: stream.phase == phase)
    before = len(sink.events)

    for beats in range(1, 6):
        await clock.jump(9.9)
        assert sink.heartbeats == beats - 1
        await clock.jump(0.1)
        assert sink.heartbeats == beats
    assert len(sink.events) == before


async def test_tokens_are_heartbeats_enough(rig: Rig, clock: Clock) -> None:
    _, sink, peer = await rig.begin()
    peer.send(head(CHUNKED))
    for n in range(1, 20):
        await clock.jump(9.5)
        peer.send(chunk(TEXT))
        await until(lambda n=n: sink.text == "x" * n)

    assert sink.heartbeats == 0


async def test_heartbeats_do_not_keep_a_silent_provider_alive(rig: Rig, clock: Clock) -> None:
    _, sink, peer = await rig.begin()
    peer.send(head(CHUNKED), chunk(TEXT))
    await until(lambda: sink.text)
    for _ in range(6):
        await clock.jump(10)

    assert sink.heartbeats >= 5
    assert_failed(sink, "upstream_idle", retryable=True, partial=True)


async def test_a_heartbeat_never_stands_inside_a_frame(rig: Rig, clock: Clock, wire: Wire) -> None:
    """Whatever the provider's cuts: `frames` fails where something is no frame."""
    rig.set(first_token_s=1000.0)
    stream, sink, peer = await rig.begin(wire.dialect)
    peer.send(head(CHUNKED))
    for at in range(0, len(wire.whole), 40):
        peer.send(chunk(wire.whole[at : at + 40]))
        await until(lambda at=at: stream.bytes_in > at)
        await clock.jump(10)
    peer.send(LAST_CHUNK)
    await rig.ended(stream)

    assert sink.heartbeats > 10
    assert sink.frames
    sink.assert_gapless()
    assert sink.text == "Für dich"


async def test_a_reader_that_is_full_gets_no_heartbeat(rig: Rig, clock: Clock) -> None:
    stream, sink, _ = await rig.begin()
    other = rig.read(stream)
    sink.hold()
    await clock.jump(10)
    await clock.jump(10)

    assert (sink.heartbeats, other.heartbeats) == (0, 2)
    sink.drain()
    await turns()
    assert not sink.aborted
