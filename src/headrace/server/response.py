"""A streaming response that knows from the first moment whether anybody is still there.

Starlette's `StreamingResponse` pulls from a generator and learns of a disconnect between two items. Here nothing is pulled: the
stream's owner writes into a sink, and the response only waits until its reader is closed, by the stream's end or by the
client's.
"""

from __future__ import annotations

import asyncio
from collections import deque

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from headrace.engine.reader import Reader
from headrace.engine.stream import Stream
from headrace.protocol.encoding import Encoding
from headrace.server.direct import EXTENSION, DirectConnection

SINK_BYTES_MAX = 64 * 1024
LAST: Message = {"type": "http.response.body", "body": b"", "more_body": False}

STREAM_HEADERS = [
    (b"cache-control", b"no-cache, no-store, no-transform"),
    (b"x-accel-buffering", b"no"),
    (b"x-content-type-options", b"nosniff"),
]


class AsgiSink:
    """Hands bytes to one task that awaits `send`: for any ASGI server. Full is past `SINK_BYTES_MAX` of its own."""

    def __init__(self) -> None:
        self.pending = 0
        self.gone = asyncio.Event()
        self.reader: Reader | None = None
        self._pieces: deque[bytes] = deque()
        self._wake = asyncio.Event()

    @property
    def full(self) -> bool:
        return self.pending >= SINK_BYTES_MAX

    def write(self, data: bytes) -> None:
        was_full = self.full
        self._pieces.append(data)
        self.pending += len(data)
        self._wake.set()
        if self.full and not was_full and self.reader is not None:
            self.reader.filled()

    def abort(self) -> None:
        self.gone.set()

    def finish(self) -> None:
        self._wake.set()

    async def run(self, send: Send, closed: asyncio.Future[str]) -> None:
        """Send what is written until the reader is closed and nothing is left, then the end of the body."""
        while True:
            while self._pieces:
                body = b"".join(self._pieces) if len(self._pieces) > 1 else self._pieces[0]
                self._pieces.clear()
                await send({"type": "http.response.body", "body": body, "more_body": True})
                was_full = self.full
                self.pending -= len(body)
                if was_full and not self.full and self.reader is not None:
                    self.reader.drained()
            if closed.done() and not self._pieces:
                await send(LAST)
                return
            self._wake.clear()
            await self._wake.wait()


class StreamResponse(Response):
    """The response that carries one reader of `stream`, from `after` on."""

    background = None

    def __init__(self, stream: Stream, encoding: Encoding, *, after: int = 0) -> None:
        self.status_code = 200
        self.stream = stream
        self.encoding = encoding
        self.after = after
        self.raw_headers = self._stream_headers()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        direct: DirectConnection | None = (scope.get("extensions") or {}).get(EXTENSION)
        if direct is not None:
            direct.choose_framing()
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        if direct is not None:
            await self._run_direct(direct, send)
        else:
            await self._run_asgi(receive, send)

    def _stream_headers(self) -> list[tuple[bytes, bytes]]:
        stream_id = self.stream.id.encode()
        return [
            (b"content-type", self.encoding.content_type.encode()),
            *STREAM_HEADERS,
            (b"x-stream-id", stream_id),
            (b"x-request-id", self.stream.request_id.encode("latin-1", "replace")),
            (b"location", b"/v1/streams/" + stream_id + b"/events"),
        ]

    async def _run_direct(self, direct: DirectConnection, send: Send) -> None:
        direct.open()
        reader = self.stream.attach(direct, self.encoding, self.after)
        direct.on_drain = reader.drained
        direct.on_full = reader.filled
        direct.on_lost = lambda: self.stream.detach(reader, "disconnected")
        if direct.full:  # a replay filled it before it could say so
            reader.filled()
        try:
            if not direct.lost:
                await reader.closed
            direct.flush()
            await send(LAST)  # waits for a reader that is slow to the end, which therefore stays attached until it is over
        finally:
            direct.close()
            self.stream.detach(reader, "disconnected")

    async def _run_asgi(self, receive: Receive, send: Send) -> None:
        sink = AsgiSink()
        reader = sink.reader = self.stream.attach(sink, self.encoding, self.after)
        if sink.full:
            reader.filled()
        reader.closed.add_done_callback(lambda _: sink.finish())
        tasks = [asyncio.create_task(work) for work in (sink.run(send, reader.closed), _watch(receive), sink.gone.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            self.stream.detach(reader, "disconnected")
        for result in results:
            if isinstance(result, Exception) and not isinstance(result, OSError):
                raise result


async def _watch(receive: Receive) -> None:
    """Return when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
