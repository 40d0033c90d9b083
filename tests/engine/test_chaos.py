"""Everything at once, in any order. One seed is one run, and what is asserted holds for every run."""

import random
from typing import Any

import pytest

from engine.guards import turns, until
from engine.peers import CHUNKED, LAST_CHUNK, Peer, chunk, head, sized
from engine.rig import TERMINAL, Clock, FakeSink, Rig
from engine.wires import WIRES
from headrace.engine.stream import Stream
from headrace.errors import QueueFull
from headrace.policy.admission import Line
from headrace.policy.retry import RetryPolicy

SEEDS = 400
STEPS = 40


class Answer:
    """One stream of a run: its readers, and the provider's side of it once it has come."""

    def __init__(self, stream: Stream, dialect: str, dice: random.Random) -> None:
        self.stream = stream
        self.wire = WIRES[dialect]
        self.texts = [f"t{n} " + "x" * dice.choice([0, 5, 3000]) for n in range(dice.randint(1, 12))]
        self.sinks: list[tuple[FakeSink, int]] = []
        self.restart()

    def restart(self) -> None:
        """A new attempt begins from the beginning."""
        self.pieces = [head(CHUNKED), *map(chunk, self.wire.pieces(*self.texts)), LAST_CHUNK]
        self.peer: Peer | None = None
        self.sent_text = 0

    def send_next(self) -> None:
        if self.peer is None or self.peer.left.is_set() or not self.pieces:
            return
        self.peer.send(self.pieces.pop(0))


class Run:
    """One run: an act is drawn, done, and followed by a few turns of the loop."""

    def __init__(self, rig: Rig, clock: Clock, seed: int) -> None:
        self.rig = rig
        self.clock = clock
        self.dice = random.Random(seed)
        self.providers = {dialect: rig.provider(dialect, name=dialect, line=Line(2, 3)) for dialect in WIRES}
        self.answers: list[Answer] = []
        rig.set(
            high_water_bytes=4000,
            low_water_bytes=1000,
            detached_bytes_max=8000,
            log_bytes_max=self.dice.choice([6000, 1 << 20]),
            slow_reader=self.dice.choice(["pause", "gap"]),
            retry=RetryPolicy(attempts_max=self.dice.choice([1, 2]), backoff_s=0.0),
        )

    async def go(self) -> None:
        self.begin()
        acts = [
            self.begin,
            self.provide,
            self.provide,
            self.provide,
            self.fail,
            self.read,
            self.leave,
            self.hold,
            self.drain,
            self.jump,
            self.stop,
        ]
        weights = [2, 9, 9, 9, 1, 4, 2, 3, 4, 2, 1]
        for _ in range(STEPS):
            done: Any = self.dice.choices(acts, weights)[0]()
            if done is not None:
                await done
            await turns(self.dice.choice([0, 1, 5]))
            self.look_for_requests()
        await self.finish()

    def begin(self) -> None:
        dialect = self.dice.choice(list(WIRES))
        wish = self.dice.choice([None, "cancel", "continue", 3.0])
        number = len(self.answers)
        if len(self.providers[dialect].line.waiting) == 3:
            with pytest.raises(QueueFull):
                self.rig.ask(self.providers[dialect])
            return
        stream = self.rig.ask(self.providers[dialect], text=f"<{number}>", on_disconnect=wish)
        self.answers.append(Answer(stream, dialect, self.dice))
        self.attach(self.answers[-1], 0)

    def look_for_requests(self) -> None:
        """Take whole requests off the connections, new or kept."""
        for peer in self.rig.listener.peers:
            whole = peer._whole_request()
            if whole is None or peer.left.is_set():
                continue
            request = bytes(peer.received[:whole])
            del peer.received[:whole]
            number = int(request.partition(b"<")[2].partition(b">")[0])
            self.answers[number].restart()
            self.answers[number].peer = peer

    def provide(self) -> None:
        answer = self.dice.choice(self.answers)
        for _ in range(self.dice.choice([1, 1, 3])):
            answer.send_next()

    def fail(self) -> None:
        answer = self.dice.choice(self.answers)
        if answer.peer is None or answer.peer.left.is_set():
            return
        how = self.dice.choice(["fin", "rst", "529", "garbage"])
        if how in ("fin", "rst"):
            getattr(answer.peer, how)()
        elif len(answer.pieces) > len(answer.texts) + 2 and how == "529":
            answer.peer.send(sized(b"{}", status=529))
        else:
            answer.peer.send(b"\x00garbage\r\n")
        answer.peer = None

    def attach(self, answer: Answer, after: int) -> None:
        sink = FakeSink(room=self.dice.choice([None, None, 2000]))
        self.rig.read(answer.stream, after, sink=sink)
        answer.sinks.append((sink, after))

    def read(self) -> None:
        answer = self.dice.choice(self.answers)
        self.attach(answer, self.dice.randint(0, answer.stream.log.last_seq))

    def some_sink(self) -> tuple[Answer, FakeSink] | None:
        answer = self.dice.choice(self.answers)
        return (answer, self.dice.choice(answer.sinks)[0]) if answer.sinks else None

    def leave(self) -> None:
        if chosen := self.some_sink():
            answer, sink = chosen
            assert sink.reader is not None
            answer.stream.detach(sink.reader, "disconnected")

    def hold(self) -> None:
        if chosen := self.some_sink():
            chosen[1].hold(self.dice.randint(1, 5000))

    def drain(self) -> None:
        if chosen := self.some_sink():
            chosen[1].drain()

    async def jump(self) -> None:
        await self.clock.jump(self.dice.choice([0.5, 4.0, 11.0, 31.0, 61.0, 200.0]))

    def stop(self) -> None:
        self.dice.choice(self.answers).stream.cancel("user")

    async def finish(self) -> None:
        """Let the providers say the rest, then stop what is left, and let every reader take what it has not."""
        for _ in range(60):
            for answer in self.answers:
                answer.send_next()
            await turns(3)
            self.look_for_requests()
        for answer in self.answers:
            answer.stream.cancel("user")
            await until(lambda answer=answer: answer.stream.ended)
            for sink, after in answer.sinks:
                while sink.full:
                    sink.drain()
                self.check(answer, sink, after)

    def check(self, answer: Answer, sink: FakeSink, after: int) -> None:
        sink.assert_gapless(after)
        assert sink.frames is not None
        said = [event for event in sink.events if event["type"] in TERMINAL]
        assert len(said) <= 1
        if said:
            assert sink.events[-1] is said[0] or sink.events[-1] == said[0]
        assert sink.reader is not None
        if sink.reader.closed.done() and sink.reader.closed.result() == "complete":
            assert said or after == answer.stream.log.last_seq
        if "gap" not in sink.types and after == 0 and "reset" not in sink.types:
            assert "".join(answer.texts).startswith(sink.text)
        if said and said[0].get("finish_reason") == "stop" and after == 0 and "gap" not in sink.types:
            assert sink.text == "".join(answer.texts)


@pytest.mark.parametrize("first", range(0, SEEDS, 20))
async def test_any_order_of_events(rig: Rig, clock: Clock, first: int) -> None:
    for seed in range(first, first + 20):
        try:
            await Run(rig, clock, seed).go()
        except BaseException:
            print(f"seed {seed}")
            raise
