"""A client of the native surface on a bare socket: it sees every byte, and leaves in every way."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

PATIENCE_S = 15.0
STREAM = "/v1/chat/stream"
DONE = "[DONE]"
_MERGED = frozenset({"text", "thinking", "tool_call_delta"})
_TERMINAL = frozenset({"stream_end", "error"})


def ask(model: str, **body: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Tell me about the river."}], **body}


def request(method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: relay", *(f"{name}: {value}" for name, value in (headers or {}).items())]
    if body is not None:
        lines += ["content-type: application/json", f"content-length: {len(body)}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + (body or b"")


class Answer(NamedTuple):
    """A whole response. `sent_at` and `came_at` are on the monotonic clock, which all processes of a machine share."""

    status: int
    headers: dict[str, str]
    body: bytes
    sent_at: float
    came_at: float

    def json(self) -> Any:
        return json.loads(self.body)


class Connection:
    """One connection to the relay."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.status = 0
        self.headers: dict[str, str] = {}
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):  # it may have been reset
            await self.writer.wait_closed()

    async def connect(self) -> None:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)

    async def head(self) -> None:
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        self.status = int(lines[0].split(" ")[1])
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:-2])}

    async def chunk(self) -> bytes:
        """Return the body's next chunk; an empty one is its end."""
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        return (await self.reader.readexactly(size + 2))[:-2]

    async def call(self, method: str, path: str, body: bytes | None = None) -> Answer:
        """Send a request and return the answer; the connection stays."""
        async with asyncio.timeout(PATIENCE_S):
            sent_at = time.monotonic()
            self.writer.write(request(method, path, body))
            await self.head()
            data = await self.reader.readexactly(int(self.headers.get("content-length", 0)))
        return Answer(self.status, self.headers, data, sent_at, time.monotonic())

    def leave(self, how: str = "fin") -> None:
        """Close: `rst` as a process that is killed with unread data."""
        if how == "rst":
            sock: socket.socket = self.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.writer.transport.abort()
        else:
            self.writer.close()


class NativeStream(Connection):
    """One stream of the native surface, over SSE.

    Attributes:
        events: all that have come; each with its time of arrival as `at`.
        done: whether the end marker has come, and nothing after it.
    """

    def __init__(self, port: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        super().__init__(port)
        self.body = json.dumps(body).encode()
        self.sent_headers = dict(headers or {})
        self.events: list[dict[str, Any]] = []
        self.done = False
        self._rest = b""

    async def connect(self) -> None:
        await super().connect()
        self.writer.write(request("POST", STREAM, self.body, {"accept": "text/event-stream", **self.sent_headers}))
        async with asyncio.timeout(PATIENCE_S):
            await self.head()
        assert self.status == 200, (self.status, await self.reader.read(2000))

    @property
    def id(self) -> str:
        return self.headers["x-stream-id"]

    @property
    def kinds(self) -> list[str]:
        return [event["type"] for event in self.events]

    def text(self, kind: str = "text", field: str = "text") -> str:
        return "".join(event[field] for event in self.events if event["type"] == kind)

    async def batches(self) -> AsyncIterator[list[dict[str, Any]]]:
        """Yield the events of each chunk until the body ends."""
        while piece := await self.chunk():
            yield self._feed(piece)

    async def until(self, condition: Callable[[dict[str, Any]], bool], within_s: float = PATIENCE_S) -> dict[str, Any]:
        """Read until an event fulfils `condition`, and return it."""
        async with asyncio.timeout(within_s):
            async for batch in self.batches():
                for event in batch:
                    if condition(event):
                        return event
        raise AssertionError(f"the stream ended before that: {self.events[-3:]}")

    async def to_end(self, within_s: float = PATIENCE_S) -> dict[str, Any]:
        """Read to the end of the body, check what holds for every stream, and return the terminal event."""
        async with asyncio.timeout(within_s):
            async for _ in self.batches():
                pass
        return self.check()

    def check(self) -> dict[str, Any]:
        """`seq` without a hole from 1 on, exactly one terminal event as the last, then the end marker. Return the terminal event."""
        expected = 1
        for event in self.events:
            first = event.get("from_seq", event["seq"]) if event["type"] in _MERGED else event["seq"]
            assert first == expected, f"seq {first} where {expected} is due: {event}"
            expected = event["seq"] + 1
        assert [kind in _TERMINAL for kind in self.kinds] == [False] * (len(self.events) - 1) + [True], self.kinds[-5:]
        assert self.done, "no end marker"
        assert not self._rest
        return self.events[-1]

    def _feed(self, piece: bytes) -> list[dict[str, Any]]:
        self._rest += piece
        *blocks, self._rest = self._rest.split(b"\n\n")
        now, batch = time.monotonic(), []
        for block in blocks:
            data = [line[6:] for line in block.split(b"\n") if line.startswith(b"data: ")]
            if not data:
                continue
            assert not self.done, f"after the end marker: {block!r}"
            if data == [DONE.encode()]:
                self.done = True
                continue
            event = json.loads(b"\n".join(data))
            event["at"] = now
            batch.append(event)
        self.events += batch
        return batch


@contextlib.asynccontextmanager
async def all_open(streams: Sequence[NativeStream]) -> AsyncIterator[None]:
    """Connect all of them; close all of them at the end of the block."""
    opened: list[NativeStream] = []
    try:
        for at in range(0, len(streams), 50):
            group = streams[at : at + 50]
            opened += group
            await asyncio.gather(*(stream.connect() for stream in group))
        yield
    finally:
        await asyncio.gather(*(stream.aclose() for stream in opened if hasattr(stream, "writer")))


async def call(port: int, method: str, path: str, body: bytes | None = None) -> Answer:
    async with Connection(port) as connection:
        return await connection.call(method, path, body)


async def stop(port: int, stream_id: str) -> Answer:
    return await call(port, "POST", f"/v1/streams/{stream_id}/cancel", b"")


async def until(condition: Callable[[], object], what: str, within_s: float = PATIENCE_S) -> None:
    """Return as soon as `condition` holds, asking off the event loop, since it may ask a server."""
    deadline = time.monotonic() + within_s
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        await asyncio.sleep(0.01)
