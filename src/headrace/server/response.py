"""A streaming response that knows from the first moment whether anybody is still there.

Starlette's `StreamingResponse` pulls from a generator and learns of a disconnect between two items. Here nothing is pulled: the
stream's owner writes into a sink, and the response only waits until its reader is closed, by the stream's end or by the
client's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from headrace.engine.ending import as_failure
from headrace.engine.reader import Nowhere, Reader
from headrace.engine.stream import Stream
from headrace.errors import Cancelled, HeadraceError
from headrace.protocol import events as ev
from headrace.protocol.encoding import Encoding, Reply
from headrace.server.direct import EXTENSION, DirectConnection

Headers: TypeAlias = Sequence[tuple[bytes, bytes]]
Refuse: TypeAlias = Callable[[HeadraceError], Response]

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
        if not data:
            return
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
    """The response that carries one reader of `stream`, from `after` on.

    With `refuse` it is opened only when the provider's status is known, or a heartbeat is due: an answer that has failed by then is the
    response that `refuse` makes of its error.
    """

    background = None

    def __init__(
        self,
        stream: Stream,
        encoding: Encoding,
        *,
        after: int = 0,
        headers: Headers = (),
        refuse: Refuse | None = None,
    ) -> None:
        self.status_code = 200
        self.stream = stream
        self.encoding = encoding
        self.after = after
        self.refuse = refuse
        self.raw_headers = [(b"content-type", encoding.content_type.encode()), *STREAM_HEADERS, *headers, *stream_headers(stream)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        direct: DirectConnection | None = (scope.get("extensions") or {}).get(EXTENSION)
        if direct is not None:
            await self._run_direct(direct, scope, receive, send)
        else:
            await self._run_asgi(scope, receive, send)

    async def _run_direct(self, direct: DirectConnection, scope: Scope, receive: Receive, send: Send) -> None:
        held = self.refuse is not None
        if not held:
            await self._open_direct(direct, send)
        reader = self.stream.attach(direct, self.encoding, self.after, held=held)
        direct.on_drain = reader.drained
        direct.on_full = reader.filled
        direct.on_lost = lambda: self.stream.detach(reader, "disconnected")
        try:
            if reader.opening is not None and not direct.lost:
                await reader.opening
                refusal = None if direct.lost else self._refusal()
                if refusal is not None:
                    reader.close("refused")
                    await refusal(scope, receive, send)
                    return
                await self._open_direct(direct, send)
                reader.release()
            if direct.full:  # a replay filled it before it could say so
                reader.filled()
            if not direct.lost:
                await reader.closed
            direct.flush()
            await send(LAST)  # waits for a reader that is slow to the end, which therefore stays attached until it is over
        finally:
            direct.close()
            self.stream.detach(reader, "disconnected")

    async def _open_direct(self, direct: DirectConnection, send: Send) -> None:
        direct.choose_framing()
        await self._open(send)
        direct.open()

    async def _open(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})

    def _refusal(self) -> Response | None:
        """Return the response to an answer that failed before there was anything of it."""
        error = failure(self.stream) if self.stream.ended and not self.stream.answered else None
        return None if error is None or self.refuse is None else self.refuse(error)

    async def _run_asgi(self, scope: Scope, receive: Receive, send: Send) -> None:
        held = self.refuse is not None
        if not held:
            await self._open(send)
        sink = AsgiSink()
        reader = sink.reader = self.stream.attach(sink, self.encoding, self.after, held=held)
        watch = asyncio.create_task(_watch(receive))
        tasks: list[asyncio.Task[Any]] = [watch]
        try:
            if reader.opening is not None:
                await _either(reader.opening, watch)
                refusal = self._refusal()
                if watch.done() or refusal is not None:
                    reader.close("refused")
                    if refusal is not None and not watch.done():
                        await refusal(scope, receive, send)
                    return
                await self._open(send)
                reader.release()
            if sink.full:
                reader.filled()
            reader.closed.add_done_callback(lambda _: sink.finish())
            tasks += [asyncio.create_task(sink.run(send, reader.closed)), asyncio.create_task(sink.gone.wait())]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            self.stream.detach(reader, "disconnected")
        for result in results:
            if isinstance(result, Exception) and not isinstance(result, OSError):
                raise result


class ReplyResponse(Response):
    """The whole answer of a caller who asked for no stream. Its connection's end is its Stop, as everywhere."""

    background = None

    def __init__(self, stream: Stream, reply: Reply, *, refuse: Refuse, headers: Headers = ()) -> None:
        self.status_code = 200
        self.stream = stream
        self.reply = reply
        self.refuse = refuse
        self.raw_headers = [*headers, *stream_headers(stream)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.stream.bytes_in_max = self.stream.settings.reply_bytes_max
        reader = self.stream.attach(Nowhere(), self.reply)
        watch = asyncio.create_task(_watch(receive))
        try:
            await _either(reader.closed, watch)
        finally:
            self.stream.detach(reader, "disconnected")
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
        if self.stream.ended:
            await self._answer()(scope, receive, send)

    def _answer(self) -> Response:
        error = failure(self.stream)
        if error is not None:
            return self.refuse(error)
        response = Response(self.reply.body(), media_type=self.reply.content_type)
        response.raw_headers += self.raw_headers
        return response


def stream_headers(stream: Stream) -> list[tuple[bytes, bytes]]:
    """Return what tells a caller where the stream is to be found."""
    stream_id = stream.id.encode()
    return [
        (b"x-stream-id", stream_id),
        (b"x-request-id", stream.request_id.encode("latin-1", "replace")),
        (b"location", b"/v1/streams/" + stream_id + b"/events"),
    ]


def failure(stream: Stream) -> HeadraceError | None:
    """Return why the stream that has ended gave no whole answer, or None if it did."""
    end = stream.end
    if isinstance(end, ev.Error):
        return stream.failure or as_failure(end)
    return Cancelled() if end is not None and end.finish_reason == "cancelled" else None


async def _either(this: asyncio.Future[Any], that: asyncio.Future[Any]) -> None:
    await asyncio.wait([this, that], return_when=asyncio.FIRST_COMPLETED)


async def _watch(receive: Receive) -> None:
    """Return when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
