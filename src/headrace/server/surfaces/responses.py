"""`/v1/responses`: OpenAI's Responses, with `background`, resume and cancel on the stream's own log.

What a caller gets as `background` the relay does itself: the provider is asked for an ordinary stream, and the relay keeps it. So it is
there for every provider, and it holds as long as the relay keeps an answer (`stream.retention_s`).
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope

from headrace.engine.delivery import replay
from headrace.engine.reader import Nowhere
from headrace.engine.stream import Stream
from headrace.errors import BadRequest, ExpiredStream, HeadraceError, UnknownStream
from headrace.protocol import events as ev
from headrace.protocol.dialects.openai_responses.encode import ResponsesEncoding
from headrace.protocol.dialects.openai_responses.parse import with_items
from headrace.protocol.dialects.openai_responses.reply import ResponsesReply, response_id_of
from headrace.protocol.encoding import Encoding
from headrace.protocol.sse import SSEEvent
from headrace.protocol.surface import SurfaceRequest
from headrace.server.relay import Relay
from headrace.server.response import StreamResponse, failure, stream_headers
from headrace.server.surfaces.docs import path_item
from headrace.server.surfaces.endpoint import SurfaceEndpoint

IDS_MAX = 20_000
_BEFORE_THE_ANSWER = (ev.StreamStart, ev.Queue, ev.Notice, ev.Usage)
_OWN_ID = re.compile(r"resp_([0-9a-f]{32})")

router = APIRouter(tags=["openai"])


class Responses(SurfaceEndpoint):
    path = "/v1/responses"
    surface_name = "openai_responses"
    docs = path_item("openai", "Responses", "OpenAI's Responses, streamed, whole or in the background, in front of any provider.")

    def __init__(self, relay: Relay) -> None:
        super().__init__(relay)
        self._given: OrderedDict[tuple[str, str], str] = OrderedDict()

    async def respond(self, scope: Scope, receive: Receive) -> Response:
        request, stream = await self.begin(scope, receive)
        if not request.keep_frames or request.body.get("stream"):
            return self.answer(request, stream, scope)
        if not _is_translated(stream):
            await self._id_given(stream)
        error = failure(stream) if stream.ended and not stream.answered else None
        if error is not None:
            return self.refuse(error, scope, stream)
        response = JSONResponse(snapshot(stream, request))
        response.raw_headers += stream_headers(stream)
        return response

    def request(self, body: dict[str, Any], headers: Mapping[bytes, bytes], user: str, **options: Any) -> SurfaceRequest:
        background = body.get("background")
        if not isinstance(background, bool | None):
            raise BadRequest("background: true or false.", field="background")
        if background:
            options |= {"on_disconnect": "continue", "keep_frames": True}
        return super().request(with_items(body, partial(self._item, user)), headers, user, **options)

    def _item(self, user: str, response_id: str, item_id: str) -> dict[str, Any] | None:
        """Return an item of an answer that is still kept. Clients who take it that all are stored send back its id in its place."""
        own = _OWN_ID.fullmatch(response_id)
        try:
            stream = self.relay.streams.find(f"st_{own[1]}" if own else "", user)
        except (UnknownStream, ExpiredStream):
            return None
        request = stream.request
        if not isinstance(request, SurfaceRequest) or request.surface is not self.surface or stream.log.first_seq > 1:
            return None
        items: list[dict[str, Any]] = snapshot(stream, request)["output"]
        return next((item for item in items if item.get("id") == item_id), None)

    def encoding(self, request: SurfaceRequest, stream: Stream, after: int | None = None) -> Encoding:
        translated = _is_translated(stream)
        encoding: Encoding = ResponsesEncoding(request, after=after, translated=translated)
        if request.keep_frames and not translated:
            encoding = _Learning(encoding, partial(self._remember, stream))
        if not self.heartbeat:
            encoding.heartbeat = b""
        return encoding

    def find(self, response_id: str, user: str) -> tuple[Stream, SurfaceRequest]:
        """Return the stream of a response that was made in the background.

        Raises:
            UnknownStream, ExpiredStream: there is none, or none any more.
        """
        own = _OWN_ID.fullmatch(response_id)
        stream_id = self._given.get((user, response_id)) or (f"st_{own[1]}" if own else "")
        try:
            stream = self.relay.streams.find(stream_id, user)
        except UnknownStream:
            raise UnknownStream(
                f"There is no response {response_id[:100]!r}. The relay keeps those that are asked for in the background."
            ) from None
        request = stream.request
        if not isinstance(request, SurfaceRequest) or request.surface is not self.surface or not request.keep_frames:
            raise UnknownStream(f"The response {response_id[:100]!r} was not asked for in the background, so it is not kept.")
        return stream, request

    async def _id_given(self, stream: Stream) -> None:
        """Wait until the provider has given the response its id, or there will be none."""
        known: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def learn(response_id: str | None) -> None:
            self._remember(stream, response_id)
            if not known.done():
                known.set_result(None)

        reader = stream.attach(Nowhere(), _Learning(None, learn))
        await known
        stream.detach(reader, "complete")

    def _remember(self, stream: Stream, response_id: str | None) -> None:
        """Note the provider's own id of the response, by which its caller will ask for it."""
        if response_id is not None:
            self._given[stream.user, response_id] = stream.id
            while len(self._given) > IDS_MAX:
                self._given.popitem(last=False)


class _Learning(Encoding):
    """Another encoding, or none, and beside it the id that the provider gives the response: it is told once, or that there is none."""

    dialect = "openai_responses"
    compact = False

    def __init__(self, encoding: Encoding | None, learn: Callable[[str | None], None]) -> None:
        self._encoding = encoding
        self._learn: Callable[[str | None], None] | None = learn

    def encode(self, events: Sequence[ev.Event]) -> bytes:
        if self._learn is not None and any(type(event) not in _BEFORE_THE_ANSWER for event in events):
            self._tell(None)
        return self._encoding.encode(events) if self._encoding is not None else b""

    def forward(self, frames: Sequence[SSEEvent]) -> bytes:
        if self._learn is not None:
            self._tell(next(filter(None, map(response_id_of, frames)), None))
        return self._encoding.forward(frames) if self._encoding is not None else b""

    def _tell(self, response_id: str | None) -> None:
        learn, self._learn = self._learn, None
        if learn is not None:
            learn(response_id)


def _is_translated(stream: Stream) -> bool:
    """Whether no provider that may answer speaks this dialect itself."""
    return all(target.provider.dialect.name != stream.request.dialect for target in stream.targets)


def snapshot(stream: Stream, request: SurfaceRequest) -> dict[str, Any]:
    """Return the response as it is now.

    Raises:
        ExpiredStream: its beginning is no longer kept.
    """
    if stream.log.first_seq > 1 and (stream.wire is None or stream.wire.first > 0):
        raise ExpiredStream("This response is too long to be kept whole: its beginning is no longer there.")
    reply = ResponsesReply(request)
    replay(stream, reply)
    if stream.status == "cancelled":
        return reply.snapshot("cancelled")
    return reply.snapshot("queued" if stream.status == "queued" else None)


def _found(request: Request, response_id: str) -> tuple[Responses, Stream, SurfaceRequest]:
    endpoint: Responses = request.app.state.responses
    return endpoint, *endpoint.find(response_id, endpoint.relay.user(request.scope))


def _refusal(request: Request, error: HeadraceError) -> Response:
    endpoint: Responses = request.app.state.responses
    return endpoint.refuse(error, request.scope)


@router.get("/v1/responses/{response_id}", response_class=Response)
async def retrieve(request: Request, response_id: str) -> Response:
    """A background response as it is now; with `?stream=true` its events from the one behind `starting_after`, then live."""
    try:
        endpoint, stream, asked = _found(request, response_id)
        if request.query_params.get("stream") != "true":
            return JSONResponse(snapshot(stream, asked))
        after = _starting_after(request)
        if stream.log.first_seq > 1 or (stream.wire is not None and stream.wire.first > 0):
            raise ExpiredStream("This response is too long to be streamed from its beginning again: ask for it without stream.")
        return StreamResponse(stream, endpoint.encoding(asked, stream, after))
    except HeadraceError as error:
        return _refusal(request, error)


@router.post("/v1/responses/{response_id}/cancel")
async def cancel(request: Request, response_id: str) -> Response:
    """Stop a background response. Asking again gives the same response."""
    try:
        _, stream, asked = _found(request, response_id)
        stream.cancel("user")
        if not stream.ended:
            await stream.done
        return JSONResponse(snapshot(stream, asked))
    except HeadraceError as error:
        return _refusal(request, error)


def _starting_after(request: Request) -> int | None:
    value = request.query_params.get("starting_after")
    if not value:
        return None
    if not re.fullmatch(r"[0-9]{1,15}", value):
        raise BadRequest(f"starting_after: the sequence_number of an event, not {value[:40]!r}.", field="starting_after")
    return int(value)
