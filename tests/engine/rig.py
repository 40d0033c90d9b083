"""A whole engine in a test's hand: real sockets to a provider that the test plays, sinks that it fills and drains, a clock that jumps."""

import asyncio
import json
import re
import sys
import time
from typing import Any

import pytest

from engine.guards import turns, until
from engine.peers import Listener, Peer
from headrace.engine.provider import Provider, Target
from headrace.engine.reader import Reader
from headrace.engine.stream import Stream
from headrace.engine.streams import Settings, Streams
from headrace.engine.upstream.pool import Pool, parse_base_url
from headrace.policy.admission import Line
from headrace.policy.retry import RetryPolicy
from headrace.protocol import dialects
from headrace.protocol import events as ev
from headrace.protocol.encoding import Encoding
from headrace.protocol.native import SSE
from headrace.protocol.request import ChatRequest, Message

FRAMES = re.compile(rb"(?:id: (\d+)\ndata: ([^\n]*)\n\n|: ping\n|data: \[DONE\]\n\n)")
TERMINAL = ("stream_end", "error")
DONE = b"data: [DONE]\n\n"


class Clock:
    """Monotonic time, which a test can let jump: everything that is due is due at once."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        real = time.monotonic
        self._ahead = 0.0
        self._patch = patch
        patch.setattr(time, "monotonic", lambda: real() + self._ahead)
        for name, module in list(sys.modules.items()):
            if name.startswith("headrace.") and getattr(module, "monotonic", None) is real:
                patch.setattr(module, "monotonic", time.monotonic)

    async def jump(self, seconds: float) -> None:
        self._ahead += seconds
        await turns()


class FakeSink:
    """Where a reader's bytes go. It is full when the test says so, or after `room` bytes."""

    def __init__(self, room: int | None = None) -> None:
        self.room = room
        self.data = bytearray()
        self.pending = 0
        self.aborted = False
        self.held = False
        self.reader: Reader | None = None

    @property
    def full(self) -> bool:
        return self.held or (self.room is not None and self.pending >= self.room)

    def write(self, data: bytes) -> None:
        assert data, "an empty write would end a chunked body"
        assert not self.full or data == DONE, "a full sink is not written to"  # the end marker goes with the last event
        self.data += data
        if self.room is not None:
            self.pending += len(data)
        if self.full and self.reader is not None:
            self.reader.filled()

    def abort(self) -> None:
        self.aborted = True

    def hold(self, pending: int = 1000) -> None:
        """Take nothing any more; `pending` bytes lie here."""
        self.held, self.pending = True, pending
        assert self.reader is not None
        self.reader.filled()

    def take(self, size: int) -> None:
        """Take a little, and stay full."""
        self.pending -= size

    def drain(self) -> None:
        self.held, self.pending = False, 0
        assert self.reader is not None
        self.reader.drained()

    @property
    def frames(self) -> list[bytes]:
        """Every frame that was written; fails where something is no frame."""
        frames = [match[0] for match in FRAMES.finditer(self.data)]
        assert b"".join(frames) == self.data, "cut inside a frame"
        return frames

    @property
    def events(self) -> list[dict[str, Any]]:
        found = []
        for seq, payload in FRAMES.findall(self.data):
            if payload:
                event = json.loads(payload)
                assert event["seq"] == int(seq)
                found.append(event)
        return found

    @property
    def heartbeats(self) -> int:
        return self.frames.count(b": ping\n")

    @property
    def types(self) -> list[str]:
        return [event["type"] for event in self.events]

    @property
    def text(self) -> str:
        return "".join(event["text"] for event in self.events if event["type"] == "text")

    @property
    def end(self) -> dict[str, Any]:
        """The terminal event, behind which there is nothing but the end marker."""
        ends = [event for event in self.events if event["type"] in TERMINAL]
        assert len(ends) == 1, f"{len(ends)} terminal events: {self.types}"
        assert self.events[-1] is not None
        assert self.events[-1]["type"] in TERMINAL
        assert self.frames[-1] == DONE
        assert self.frames.count(DONE) == 1
        return ends[0]

    def assert_gapless(self, after: int = 0) -> None:
        last = after
        for event in self.events:
            first = event.get("from_seq", event["seq"]) if event["type"] != "reset" else event["seq"]
            assert first == last + 1, f"{first} behind {last}"
            last = event["seq"]

    async def ended(self) -> "FakeSink":
        assert self.reader is not None
        async with asyncio.timeout(10):
            await asyncio.shield(self.reader.closed)
        return self


class Recorder:
    """The engine's observer: remembers who it was told of."""

    def __init__(self) -> None:
        self.started: list[Stream] = []
        self.ended: list[Stream] = []
        self.left: list[str] = []
        self.errors: list[Exception] = []

    def stream_started(self, stream: Stream) -> None:
        self.started.append(stream)

    def stream_ended(self, stream: Stream) -> None:
        self.ended.append(stream)

    def reader_closed(self, stream: Stream, reason: str) -> None:
        self.left.append(reason)

    def internal_error(self, stream: Stream, error: Exception) -> None:
        self.errors.append(error)


class Rig:
    """Streams, their pool, and providers behind it. What it asserts at its end holds for every test."""

    def __init__(self, listener: Listener, **settings: Any) -> None:
        self.listener = listener
        self.observer = Recorder()
        self.pool = Pool(connect_s=5.0)
        self.settings = Settings(retry=RetryPolicy(attempts_max=1))._replace(**settings)
        self.streams = Streams(self.settings, self.pool, self.observer)
        self.providers: list[Provider] = []

    def set(self, **settings: Any) -> None:
        """Change settings for streams to come."""
        self.settings = self.streams.settings = self.settings._replace(**settings)

    def provider(self, dialect: str = "openai_chat", address: str | None = None, *, name: str = "p", line: Line | None = None) -> Provider:
        path = "/v1" if dialect == "openai_chat" else ""
        origin, prefix = parse_base_url((address or self.listener.address) + path)
        provider = Provider(name, dialects.load(dialect), origin, prefix, api_key="sk-canary-0123456789", line=line)
        self.providers.append(provider)
        return provider

    def ask(
        self,
        target: Target | list[Target] | Provider | str = "openai_chat",
        *,
        model: str = "m",
        text: str = "hi",
        user: str = "u",
        key: str | None = None,
        **request: Any,
    ) -> Stream:
        """Start a stream."""
        if isinstance(target, str):
            target = self.provider(target)
        if isinstance(target, Provider):
            target = Target(target, model)
        targets = [target] if isinstance(target, Target) else target
        body = text.encode() if key is not None else b""
        # `max_tokens`, because one of the dialects cannot do without
        asked = ChatRequest(messages=[Message(role="user", content=text)], max_tokens=100, **request)
        return self.streams.create(asked, targets, user=user, request_id="req_test", received_at=time.monotonic(), key=key, body=body)

    def read(self, stream: Stream, after: int = 0, *, sink: FakeSink | None = None, encoding: Encoding = SSE) -> FakeSink:
        """Attach a reader."""
        sink = sink or FakeSink()
        sink.reader = stream.attach(sink, encoding, after)
        if sink.full:
            sink.reader.filled()
        return sink

    async def begin(self, dialect: str = "openai_chat", **request: Any) -> tuple[Stream, FakeSink, Peer]:
        """Start a stream with one reader; return both and the provider's end, which has taken the request."""
        stream = self.ask(dialect, **request)
        sink = self.read(stream)
        peer = await self.listener.accept()
        await peer.request()
        return stream, sink, peer

    async def ended(self, stream: Stream) -> ev.StreamEnd | ev.Error:
        async with asyncio.timeout(10):
            await asyncio.shield(stream.done)
        assert stream.end is not None
        return stream.end

    async def aclose(self) -> None:
        for stream in self.streams.live():
            stream.cancel("user")
        await until(lambda: all(stream.task is None or stream.task.done() for stream in self.observer.started), "every task over")
        self.assert_whole()
        await until(lambda: self.pool.statistics()["open"] == self.pool.statistics()["idle"], "nothing but idle connections")
        await self.streams.aclose()
        await until(lambda: self.pool.statistics()["open"] == 0, "every connection closed")

    def assert_whole(self) -> None:
        assert self.streams.running == 0
        assert sorted(map(id, self.observer.ended)) == sorted(map(id, self.observer.started)), "each ends once"
        assert self.observer.errors == []
        for provider in self.providers:
            assert (provider.line.active, provider.line.waiting) == (0, [])
        for stream in self.observer.started:
            assert_log_is_honest(stream)


def assert_log_is_honest(stream: Stream) -> None:
    events: list[ev.Event] = []
    after = stream.log.first_seq - 1
    while after < stream.log.last_seq:
        events += stream.log.read(after, 1 << 20, compact=False)[0]
        after = events[-1].seq
    assert [event.seq for event in events] == list(range(stream.log.first_seq, stream.log.last_seq + 1))
    assert [event for event in events if isinstance(event, ev.TERMINAL)] == [events[-1]]
    assert events[-1] is stream.end
