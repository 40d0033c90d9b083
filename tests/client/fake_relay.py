"""A relay in the process that breaks off where a test says, and both clients behind one face."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import parse_qs

import httpx2
import msgspec

from headrace.client import Client
from headrace.protocol import events as ev
from headrace.protocol.native import NDJSON, SSE

URL = "http://relay.test/prefix"
STREAM_ID = "st_1"
ANSWER = "The water is level, då."


def story() -> list[ev.Event]:
    """A whole answer, numbered as a log numbers it."""
    events: list[ev.Event] = [
        ev.StreamStart(
            stream_id=STREAM_ID, message_id="msg_1", model="m", provider="p", protocol=1, resumable=True, expires_at=2_000_000_000.0
        ),
        ev.Thinking(index=0, text="Hm.", kind="raw"),
        ev.BlockEnd(index=0, kind="thinking"),
        *(ev.Text(index=1, text=piece) for piece in ("The ", "water ", "is ", "level, ", "då", ".")),
        ev.BlockEnd(index=1, kind="text"),
        ev.Usage(source="provider", input_tokens=3, output_tokens=7),
        ev.StreamEnd(finish_reason="stop", usage=ev.UsageTotals(source="provider", input_tokens=3, output_tokens=7)),
    ]
    for seq, event in enumerate(events, 1):
        event.seq = seq
    return events


@dataclass
class Fate:
    """What becomes of one request: a refusal by `status`, a failure to connect, or a stream that breaks off.

    `cut` is how many bytes of the body arrive before `how`; None is all of them. `then` runs when they have.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    connect: Exception | None = None
    cut: int | None = None
    how: Exception | None = None
    piece: int = 1 << 20
    then: Callable[[], None] | None = None


def refuse(status: int, code: str = "", *, retryable: bool | None = None, **headers: str) -> Fate:
    body = b"<html>a proxy's own page</html>"
    if code:
        error: dict[str, Any] = {"code": code, "message": f"It said {code}."}
        if retryable is not None:
            error["retryable"] = retryable
        body = msgspec.json.encode({"error": error})
    return Fate(status=status, body=body, headers={name.replace("_", "-"): value for name, value in headers.items()})


class Pieces(httpx2.AsyncByteStream, httpx2.SyncByteStream):
    """A body that comes in pieces and may end in an exception."""

    def __init__(self, data: bytes, fate: Fate) -> None:
        self._data = data
        self._fate = fate
        self.closed = False

    def __iter__(self) -> Iterator[bytes]:
        fate = self._fate
        data = self._data[: fate.cut]
        for start in range(0, len(data), fate.piece):
            yield data[start : start + fate.piece]
        if fate.then is not None:
            fate.then()
        if fate.how is not None:
            raise fate.how

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.closed = True


class FakeRelay(httpx2.AsyncBaseTransport, httpx2.BaseTransport):
    """Has one answer and gives it to whoever asks, from where they ask, with the next of `fates`; after the last all goes well."""

    def __init__(self, events: list[ev.Event] | None = None) -> None:
        self.events = story() if events is None else events
        self.fates: list[Fate] = []
        self.cancels: list[Fate] = []
        self.requests: list[httpx2.Request] = []
        self.bodies: list[Pieces] = []
        self.receipt: dict[str, Any] = {
            "stream_id": STREAM_ID,
            "status": "cancelled",
            "finish_reason": "cancelled",
            "receipt": {
                "requested_at": 1.0,
                "upstream_closed_at": 1.008,
                "cancel_ms": 8.0,
                "phase": "text",
                "tokens_before": 5,
                "tokens_after": 3,
                "usage": {"source": "estimated", "output_tokens": 8},
                "already_ended": False,
            },
        }

    @property
    def paths(self) -> list[str]:
        """What was asked for, in short."""
        return [f"{r.method} {r.url.raw_path.decode().removeprefix('/prefix')}" for r in self.requests]

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        request.read()
        return self._respond(request)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        await request.aread()
        return self._respond(request)

    def _respond(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        path = request.url.path.removeprefix("/prefix")
        if path.endswith("/cancel"):
            return self._cancel(request)
        if path == "/v1/chat/stream" or path.endswith("/events"):
            return self._stream(request)
        state = {"stream_id": STREAM_ID, "status": "streaming", "model": "m", "provider": "p", "last_seq": 4, "created_at": 1.0}
        return self._json(Fate(), state | {"expires_at": 2.0, "blocks": [], "usage": None, "metrics": {}, "later": "addition"})

    def _stream(self, request: httpx2.Request) -> httpx2.Response:
        fate = self.fates.pop(0) if self.fates else Fate()
        if fate.connect is not None:
            raise fate.connect
        if fate.status != 200 or fate.body:
            return self._plain(fate, fate.body)
        after = int(parse_qs(request.url.query.decode()).get("after", ["0"])[0])
        encoding = NDJSON if request.headers["accept"] == "application/x-ndjson" else SSE
        data = encoding.heartbeat + encoding.encode([event for event in self.events if event.seq > after]) + encoding.end_marker
        headers = {"content-type": encoding.content_type, "x-stream-id": STREAM_ID}
        return self._response(200, headers | fate.headers, Pieces(data, fate))

    def _cancel(self, request: httpx2.Request) -> httpx2.Response:
        fate = self.cancels.pop(0) if self.cancels else Fate()
        if fate.connect is not None:
            raise fate.connect
        return self._json(fate, self.receipt)

    def _json(self, fate: Fate, shape: dict[str, Any]) -> httpx2.Response:
        fate.headers.setdefault("content-type", "application/json")
        return self._plain(fate, fate.body or msgspec.json.encode(shape))

    def _plain(self, fate: Fate, body: bytes) -> httpx2.Response:
        return self._response(fate.status, fate.headers, Pieces(body, Fate()))

    def _response(self, status: int, headers: dict[str, str], body: Pieces) -> httpx2.Response:
        self.bodies.append(body)
        return httpx2.Response(status, headers=headers, stream=body)


class Clock:
    """Time that passes only by sleeping, and a little at every look."""

    def __init__(self) -> None:
        self.at = 1000.0
        self.slept: list[float] = []

    def now(self) -> float:
        self.at += 0.001
        return self.at

    async def sleep(self, seconds: float) -> None:
        self.block(seconds)

    def block(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.at += seconds


class AwaitedStream:
    """A blocking stream with the methods of the asynchronous one."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def stop(self) -> Any:
        return self._stream.stop()

    async def collect(self) -> Any:
        return self._stream.collect()

    async def aclose(self) -> None:
        self._stream.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            return next(self._stream)
        except StopIteration:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> Self:
        self._stream.__enter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        self._stream.__exit__(*error)


class AwaitedClient:
    """A blocking client with the methods of the asynchronous one, so that one suite tests both."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def stream(self, *args: Any, **fields: Any) -> AwaitedStream:
        return AwaitedStream(self._client.stream(*args, **fields))

    def resume(self, *args: Any, **fields: Any) -> AwaitedStream:
        return AwaitedStream(self._client.resume(*args, **fields))

    async def aclose(self) -> None:
        self._client.close()

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any, **fields: Any) -> Any:
            return getattr(self._client, name)(*args, **fields)

        return call
