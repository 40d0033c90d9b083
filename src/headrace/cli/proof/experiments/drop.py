"""(f) The network drops in the middle of an answer: the client comes back, and nothing is lost or doubled."""

from __future__ import annotations

import asyncio

from headrace.cli.proof.cutter import Cutter
from headrace.cli.proof.experiments.base import Experiment, Scene
from headrace.cli.proof.probe import ask, monotonic
from headrace.cli.proof.results import Curve, Kind, Mark, Trace
from headrace.client import AsyncClient, AsyncStream, Connection
from headrace.protocol import events as ev

MODEL = "story?tokens=400"
PACE = "&tokens_per_s=50&seed=6"
CUT_AFTER_TOKENS = 150
AWAY_S = 2.0
QUESTION = "How does the mill work?"


class Journey:
    """What the client lived through: its events with their times, and how its connection stood."""

    def __init__(self) -> None:
        self.began = monotonic()
        self.events: list[tuple[float, ev.Event]] = []
        self.states: list[tuple[float, Connection]] = []
        self.tokens = 0
        self.cut_s: float | None = None
        self.back_s: float | None = None

    def now(self) -> float:
        return round(monotonic() - self.began, 4)

    def heard(self, connection: Connection) -> None:
        self.states.append((self.now(), connection))
        if connection.state == "resumed":
            self.back_s = self.now()

    def took(self, event: ev.Event) -> None:
        self.events.append((self.now(), event))
        if isinstance(event, ev.Text):
            self.tokens += span(event)

    @property
    def replayed(self) -> int:
        return sum(connection.replayed for _, connection in self.states)


async def run(scene: Scene) -> None:
    whole: str = (await scene.witness.answer(MODEL))["content"]
    journey = Journey()
    port = scene.stage.nginx.ports["plain"]
    async with Cutter("127.0.0.1", port) as network, AsyncClient(network.url, http=scene.http) as client:
        model = str(ask(MODEL + PACE)["model"])
        async with client.stream(QUESTION, model=model, on_connection=journey.heard) as stream:
            await _travel(stream, journey, network)
            text, attempts = stream.reply.text, network.refused
    _note(scene, journey, attempts)
    _judge(scene, journey, text, whole)


async def _travel(stream: AsyncStream, journey: Journey, network: Cutter) -> None:
    """Read to the end; the network is cut on the way, and mended a while later."""
    mending: asyncio.Task[None] | None = None
    async for event in stream:
        journey.took(event)
        if journey.tokens >= CUT_AFTER_TOKENS and mending is None:
            network.cut()
            journey.cut_s = journey.now()
            mending = asyncio.create_task(_mend(network))
    if mending is not None:
        await mending


async def _mend(network: Cutter) -> None:
    await asyncio.sleep(AWAY_S)
    network.mend()


def _note(scene: Scene, journey: Journey, attempts: int) -> None:
    result = scene.result
    ended_s = journey.events[-1][0]
    away = [(journey.cut_s, journey.back_s)] if journey.cut_s is not None and journey.back_s is not None else []
    result.traces["client"] = Trace(label="What the client got", marks=_marks(journey), ended_s=ended_s, away=away)
    result.curves["received"] = _staircase(journey)
    lost, doubled = seams([event for _, event in journey.events])
    result.numbers.update(
        cut_s=journey.cut_s,
        back_s=journey.back_s,
        refused_attempts=attempts,
        replayed=journey.replayed,
        lost=lost,
        doubled=doubled,
        tokens=journey.tokens,
    )
    result.detail["connection"] = [
        {"at_s": at, "state": c.state, "attempt": c.attempt, "reason": c.reason, "replayed": c.replayed} for at, c in journey.states
    ]


def _judge(scene: Scene, journey: Journey, text: str, whole: str) -> None:
    numbers = scene.result.numbers
    scene.check(journey.back_s is not None, "the client did not come back")
    scene.check(not numbers["lost"] and not numbers["doubled"], f"{numbers['lost']} events were lost, {numbers['doubled']} doubled")
    scene.check(text == whole, "the text is not what the provider wrote")
    last = journey.events[-1][1]
    scene.check(isinstance(last, ev.StreamEnd) and last.finish_reason == "stop", "the answer did not end as the provider ended it")
    if journey.back_s is not None:
        scene.result.finding = (
            f"cut at {journey.cut_s:.1f} s, back at {journey.back_s:.1f} s, {numbers['lost']} lost, {numbers['doubled']} doubled"
        )


def span(event: ev.Event) -> int:
    """How many of the log's events this one stands for."""
    return event.seq - first_seq(event) + 1


def first_seq(event: ev.Event) -> int:
    if isinstance(event, ev.Text | ev.Thinking | ev.ToolCallDelta) and event.from_seq is not None:
        return event.from_seq
    return event.seq


def seams(events: list[ev.Event]) -> tuple[int, int]:
    """Return how many numbers are missing between the first event and the last, and how many came twice."""
    lost = doubled = 0
    expected = 1
    for event in events:
        first = first_seq(event)
        lost += max(0, first - expected)
        doubled += max(0, expected - first)
        expected = max(expected, event.seq + 1)
    return lost, doubled


def _marks(journey: Journey) -> list[Mark]:
    marks: list[Mark] = []
    for at, event in journey.events:
        tokens = span(event) if isinstance(event, ev.Text) else 0
        kind: Kind = "life" if not tokens else "replayed" if tokens > 1 else "text"
        marks.append(Mark(at, kind, tokens))
    return marks


def _staircase(journey: Journey) -> Curve:
    points, tokens = [(0.0, 0.0)], 0
    for mark in _marks(journey):
        tokens += mark.tokens
        points.append((mark.at_s, float(tokens)))
    return Curve(label="Tokens at the client", unit="tokens", points=points)


EXPERIMENT = Experiment(
    letter="f",
    key="drop",
    title="A drop loses nothing",
    promise="When the connection is cut in the middle of an answer, the client resumes it by itself; no token is lost, none comes twice.",
    turn=2,
    run=run,
)
