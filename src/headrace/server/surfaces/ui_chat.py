"""`/api/chat`: the UI message stream of the AI SDK, with resume and Stop working together.

A chat's connection may end at any time: the answer lives on for its grace time, and whoever asks for `/api/chat/{id}/stream` gets all of it
from its first word. A Stop is a request of its own, and ends the answer wherever it is being read.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope

from headrace.engine.stream import Stream
from headrace.errors import BadRequest, ExpiredStream, UnknownStream
from headrace.protocol.dialects.ai_sdk.surface import HEADERS
from headrace.protocol.surface import SurfaceRequest
from headrace.server import native
from headrace.server.relay import Relay
from headrace.server.response import StreamResponse
from headrace.server.surfaces.docs import path_item
from headrace.server.surfaces.endpoint import SurfaceEndpoint

CHATS_MAX = 20_000
_ID_CHARACTERS_MAX = 255

router = APIRouter(tags=["ai sdk"])


class UIChat(SurfaceEndpoint):
    path = "/api/chat"
    surface_name = "ai_sdk"
    opens_at_once = True
    headers = HEADERS
    docs = path_item("ai sdk", "UI Chat", "A turn of `useChat`, as a UI message stream.")

    def __init__(self, relay: Relay) -> None:
        super().__init__(relay)
        self._newest: OrderedDict[tuple[str, str], str] = OrderedDict()

    async def respond(self, scope: Scope, receive: Receive) -> Response:
        request, stream = await self.begin(scope, receive)
        chat_id = request.body.get("id")
        if isinstance(chat_id, str):
            self._newest[stream.user, chat_id] = stream.id
            self._newest.move_to_end((stream.user, chat_id))
            while len(self._newest) > CHATS_MAX:
                self._newest.popitem(last=False)
        return self.answer(request, stream, scope)

    def request(self, body: dict[str, Any], headers: Mapping[bytes, bytes], user: str, **options: Any) -> SurfaceRequest:
        chat_id = body.get("id")
        if chat_id is not None and (not isinstance(chat_id, str) or not 0 < len(chat_id) <= _ID_CHARACTERS_MAX):
            raise BadRequest(f"id: the chat's id, of 1 to {_ID_CHARACTERS_MAX} characters.", field="id")
        body["stream"] = True
        return super().request(body, headers, user, on_disconnect="grace", **options)

    def newest(self, chat_id: str, user: str) -> Stream:
        """Return the chat's newest answer.

        Raises:
            UnknownStream, ExpiredStream: there is none, or none any more.
        """
        stream_id = self._newest.get((user, chat_id))
        if stream_id is None:
            raise UnknownStream("There is no answer in this chat.")
        return self.relay.streams.find(stream_id, user)


def _endpoint(request: Request) -> UIChat:
    endpoint: UIChat = request.app.state.ui_chat
    return endpoint


@router.get("/api/chat/{chat_id}/stream", response_class=Response)
async def resume(request: Request, chat_id: str) -> Response:
    """The chat's answer from its first word; 204 if nobody is waiting for one: there is none, or it was read to its end."""
    endpoint = _endpoint(request)
    try:
        stream = endpoint.newest(chat_id, endpoint.relay.user(request.scope))
    except (UnknownStream, ExpiredStream):
        return Response(status_code=204)
    asked = stream.request
    if (stream.ended and stream.delivered) or not isinstance(asked, SurfaceRequest):
        return Response(status_code=204)
    return StreamResponse(stream, endpoint.encoding(asked, stream), headers=HEADERS)


@router.post("/api/chat/{chat_id}/stop")
async def stop(request: Request, chat_id: str) -> Response:
    """Stop the chat's answer, wherever it is being read. Asking again gives the same receipt."""
    endpoint = _endpoint(request)
    return await native.cancelled(endpoint.newest(chat_id, endpoint.relay.user(request.scope)))
