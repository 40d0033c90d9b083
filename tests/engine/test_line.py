"""The line in front of a provider: places are held, given on, and changed when another provider has to answer."""

import pytest

from engine.guards import turns, until
from engine.peers import Listener, Peer, chunked, sized
from engine.rig import Clock, FakeSink, Rig
from engine.wires import OPENAI
from headrace.engine.provider import Provider, Target
from headrace.engine.stream import Stream
from headrace.policy.admission import Line

HELLO = OPENAI.plain("Hello")
OVERLOADED = sized(b"{}", status=529)


def places(sink: FakeSink) -> list[tuple[int, int]]:
    return [(event["position"], event["depth"]) for event in sink.events if event["type"] == "queue"]


async def asked(listener: Listener) -> Peer:
    peer = await listener.accept()
    await peer.request()
    return peer


class Fallback:
    """Two providers with a line each; the place at the second is taken by `busy`."""

    def __init__(self, rig: Rig, *, depth_max: int = 10) -> None:
        self.rig = rig
        self.first: Provider = rig.provider(name="first", line=Line(1))
        self.second: Provider = rig.provider(name="second", line=Line(1, depth_max))

    async def waiting(self) -> tuple[Stream, Peer, Stream, FakeSink]:
        """Have a stream whose first provider failed wait in the second one's line."""
        busy = self.rig.ask(Target(self.second, "b"))
        self.rig.read(busy)
        at_second = await asked(self.rig.listener)
        stream = self.rig.ask([Target(self.first, "a"), Target(self.second, "b")])
        sink = self.rig.read(stream)
        (await asked(self.rig.listener)).send(OVERLOADED)
        await until(lambda: "notice" in sink.types)
        await turns()
        return busy, at_second, stream, sink


async def test_who_falls_back_stands_in_the_next_provider_s_line(rig: Rig) -> None:
    case = Fallback(rig)
    busy, at_second, stream, sink = await case.waiting()
    assert (stream.status, stream.phase) == ("queued", "queued")
    assert places(sink)[0] == (1, 1)
    assert (case.first.line.active, case.second.line.active, len(case.second.line.waiting)) == (0, 1, 1)

    at_second.send(chunked(HELLO))
    await rig.ended(busy)
    await at_second.request()
    at_second.send(chunked(OPENAI.plain("Salut")))
    await rig.ended(stream)

    assert sink.text == "Salut"
    assert sink.end["finish_reason"] == "stop"
    sink.assert_gapless()
    assert (case.second.line.active, case.second.line.waiting) == (0, [])


async def test_the_place_that_was_given_up_is_somebody_else_s_at_once(rig: Rig) -> None:
    case = Fallback(rig)
    _, _, stream, _ = await case.waiting()

    other = rig.ask(Target(case.first, "a"))

    assert not other.in_line
    assert stream.in_line


async def test_stopped_in_the_second_line(rig: Rig) -> None:
    case = Fallback(rig)
    _, _, stream, sink = await case.waiting()

    stream.cancel("user")

    assert sink.end["finish_reason"] == "cancelled"
    assert stream.receipt is not None
    assert stream.receipt.phase == "queued"
    assert case.second.line.waiting == []


async def test_too_long_in_the_second_line(rig: Rig, clock: Clock) -> None:
    """The wait there is counted from its own beginning."""
    case = Fallback(rig)
    busy = rig.ask(Target(case.second, "b"))
    rig.read(busy)
    await asked(rig.listener)
    stream = rig.ask([Target(case.first, "a"), Target(case.second, "b")])
    sink = rig.read(stream)
    peer = await asked(rig.listener)
    await clock.jump(50)
    peer.send(OVERLOADED)
    await until(lambda: stream.in_line)

    await clock.jump(59)
    assert not stream.ended
    await clock.jump(1)
    assert sink.end["code"] == "queue_timeout"
    assert case.second.line.waiting == []


async def test_a_second_line_that_is_full(rig: Rig) -> None:
    case = Fallback(rig, depth_max=0)
    _, _, stream, sink = await case.waiting()
    await rig.ended(stream)

    assert sink.end["code"] == "queue_full"
    assert case.first.line.active == 0


async def test_within_one_provider_the_place_is_kept(rig: Rig) -> None:
    provider = rig.provider(line=Line(1))
    stream = rig.ask([Target(provider, "big"), Target(provider, "small")])
    sink = rig.read(stream)
    behind = rig.ask(provider)
    peer = await asked(rig.listener)
    peer.send(OVERLOADED)
    await until(lambda: peer.received or rig.listener.accepted > 1)
    await peer.request()
    assert behind.in_line
    peer.send(chunked(HELLO))
    await rig.ended(stream)

    assert sink.text == "Hello"
    assert "queue" not in sink.types


@pytest.mark.parametrize("users", ["aaab", "abab"])
async def test_waiting_is_fair_between_users(rig: Rig, users: str) -> None:
    provider = rig.provider(line=Line(1))
    running = rig.ask(provider, user="z")
    peer = await asked(rig.listener)
    waiting = [rig.ask(provider, user=user) for user in users]
    served = []
    while running:
        peer.send(chunked(HELLO))
        await rig.ended(running)
        following = [stream for stream in waiting if not stream.ended and not stream.in_line]
        if not following:
            break
        (running,) = following
        served.append(running.user)
        await peer.request()

    assert "".join(served) == {"aaab": "abaa", "abab": "abab"}[users]
