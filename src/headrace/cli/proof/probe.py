"""Reading a stream for its times: every event and heartbeat with the moment at which it could be read."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import httpx2

from headrace.cli.proof.results import Kind, Mark, Trace
from headrace.protocol import events as ev
from headrace.protocol.sse import SSEParser

monotonic = time.monotonic
TIMEOUT_S = 60.0

_KINDS: dict[type[ev.Event], Kind] = {ev.Text: "text", ev.Thinking: "thinking", ev.ToolCallDelta: "tool"}


class Reading:
    """One stream as one reader saw it.

    Attributes:
        began: the zero of its times, by the monotonic clock.
        opened: set when the head of the answer has come, and with it the stream's id.
        tokens: the moment of each token.
    """

    def __init__(self, began: float | None = None) -> None:
        self.began = monotonic() if began is None else began
        self.opened = asyncio.Event()
        self.sent_at = 0.0
        self.ended_at = 0.0
        self.status = 0
        self.stream_id = ""
        self.request_id = ""
        self.events: list[ev.AnyEvent] = []
        self.marks: list[Mark] = []
        self.tokens: list[float] = []
        self._parser = SSEParser()
        self._line = b""

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, ev.Text))

    @property
    def end(self) -> ev.StreamEnd | ev.Error | None:
        last = self.events[-1] if self.events else None
        return last if isinstance(last, ev.TERMINAL) else None

    @property
    def ttft_s(self) -> float:
        return self.tokens[0] - self.sent_at

    @property
    def tpot_s(self) -> float:
        return (self.tokens[-1] - self.tokens[0]) / (len(self.tokens) - 1)

    def feed(self, chunk: bytes, now: float) -> None:
        """Take what one read brought."""
        *lines, self._line = (self._line + chunk).split(b"\n")
        signs = sum(line.startswith(b":") for line in lines)  # a comment, which the parser drops
        self.marks += [self._mark(now, "life", 0)] * signs
        for frame in self._parser.feed(chunk):
            event = ev.decode(frame.data) if frame.data and frame.data != b"[DONE]" else None
            if event is not None:
                self._take(event, now)

    def _take(self, event: ev.AnyEvent, now: float) -> None:
        self.events.append(event)
        kind = _KINDS.get(type(event))
        if kind is None:
            self.marks.append(self._mark(now, "life", 0))
            return
        self.tokens.append(now)
        self.marks.append(self._mark(now, kind, 1))

    def _mark(self, now: float, kind: Kind, tokens: int) -> Mark:
        return Mark(round(now - self.began, 4), kind, tokens)

    def trace(self, label: str) -> Trace:
        """Return what arrived, for the report."""
        stopped = isinstance(self.end, ev.StreamEnd) and self.end.finish_reason == "cancelled"
        end = self.end
        ending = "open" if end is None else "failed" if isinstance(end, ev.Error) else "stopped" if stopped else "complete"
        return Trace(label=label, marks=self.marks, ended_s=round(self.ended_at - self.began, 4), end=ending)  # type: ignore[arg-type]


def ask(model: str, words: str = "How does the mill work?") -> dict[str, object]:
    return {"model": f"simulator/{model}", "messages": [{"role": "user", "content": words}]}


async def read(
    http: httpx2.AsyncClient, url: str, model: str, reading: Reading | None = None, *, watch: Callable[[Reading], object] = bool
) -> Reading:
    """Read the stream of `model` at the relay's address `url` to its end. `watch` is called after each piece."""
    reading = reading or Reading()
    reading.sent_at = monotonic()
    async with http.stream("POST", f"{url}/v1/chat/stream", json=ask(model)) as response:
        reading.status = response.status_code
        reading.stream_id = response.headers.get("x-stream-id", "")
        reading.request_id = response.headers.get("x-request-id", "")
        reading.opened.set()
        async for chunk in response.aiter_raw():
            reading.feed(chunk, monotonic())
            watch(reading)
    reading.ended_at = monotonic()
    return reading


def client() -> httpx2.AsyncClient:
    """Return a client that goes straight to loopback, whatever proxy the environment names."""
    return httpx2.AsyncClient(timeout=TIMEOUT_S, trust_env=False, limits=httpx2.Limits(max_connections=None))
