"""What the surfaces share: a body in a client's dialect to a stream, and the stream to a response in that dialect."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope

from headrace.engine.stream import Stream
from headrace.errors import BadRequest, BodyTimeout, HeadraceError, UpstreamAuth, UpstreamError
from headrace.protocol.dialects import surface
from headrace.protocol.encoding import Encoding, Reply
from headrace.protocol.request import check_depth
from headrace.protocol.surface import ErrorReply, SurfaceRequest
from headrace.server.body import parse, read_body, request_id
from headrace.server.endpoint import Endpoint
from headrace.server.relay import Relay
from headrace.server.response import Headers, Refuse, ReplyResponse, StreamResponse

_decoder = msgspec.json.Decoder(dict[str, Any])
# Statuses at which the SDKs ask again by themselves, although it would change nothing.
_ASKED_AGAIN = frozenset({408, 409, 429})


class SurfaceEndpoint(Endpoint):
    """`POST` of one surface: a streamed or a whole answer, as its body asks.

    Its connection cannot be resumed, so its end is a Stop.

    Attributes:
        opens_at_once: whether a stream opens before the provider has answered. A page then sees how it waits; an SDK that asks again by
            itself would not see a status that tells it to.
    """

    surface_name: ClassVar[str]
    headers: ClassVar[Headers] = ()
    opens_at_once: ClassVar[bool] = False

    def __init__(self, relay: Relay) -> None:
        super().__init__(relay)
        self.surface = surface(self.surface_name)
        config = relay.config.surface(self.surface_name)
        self.options: dict[str, object] = msgspec.to_builtins(config)
        self.heartbeat = config.heartbeat

    async def respond(self, scope: Scope, receive: Receive) -> Response:
        request, stream = await self.begin(scope, receive)
        return self.answer(request, stream, scope)

    async def begin(self, scope: Scope, receive: Receive) -> tuple[SurfaceRequest, Stream]:
        """Read the request and start its stream."""
        received_at = time.monotonic()
        relay, headers = self.relay, dict(scope["headers"])
        server = relay.config.server
        data = await read_body(headers, receive, bytes_max=server.body_bytes_max, seconds_max=server.body_s_max)
        body = parse(_decoder, data)
        check_depth(body, "body")
        request = self.request(body, headers, relay.user(scope))
        stream = relay.streams.create(
            request,
            relay.catalogue.route(self.model(body), request.chat, request.dialect),
            user=relay.user(scope),
            request_id=request_id(headers),
            received_at=received_at,
        )
        return request, stream

    def request(self, body: dict[str, Any], headers: Mapping[bytes, bytes], user: str, **options: Any) -> SurfaceRequest:
        """Return the request that the body is."""
        if not isinstance(body.get("stream"), bool | None):
            raise BadRequest("stream: true or false.", field="stream")
        given = ((name, headers.get(name.encode())) for name in self.surface.headers)
        passed = {name: value.decode("latin-1") for name, value in given if value is not None}
        return SurfaceRequest(self.surface, body, created=int(time.time()), headers=passed, options=self.options, **options)

    def model(self, body: Mapping[str, Any]) -> str | None:
        """Return the name of the model that the body asks for."""
        model = body.get("model")
        if model is not None and (not isinstance(model, str) or not 0 < len(model) <= 512):
            raise BadRequest("model: the name of a model, of 1 to 512 characters.", field="model")
        return model

    def answer(self, request: SurfaceRequest, stream: Stream, scope: Scope) -> Response:
        """Return the response that carries the answer, or fails as the answer does."""
        if request.body.get("stream") or self.surface.new_reply is None:
            refuse = None if self.opens_at_once else self.refusal(scope, stream)
            return StreamResponse(stream, self.encoding(request, stream), headers=self.headers_of(stream), refuse=refuse)
        return ReplyResponse(stream, self.reply(request), headers=self.headers_of(stream), refuse=self.refusal(scope, stream))

    def encoding(self, request: SurfaceRequest, stream: Stream) -> Encoding:
        encoding = self.surface.new_stream(request)
        if not self.heartbeat:
            encoding.heartbeat = b""
        return encoding

    def reply(self, request: SurfaceRequest) -> Reply:
        assert self.surface.new_reply is not None
        return self.surface.new_reply(request)

    def headers_of(self, stream: Stream) -> Headers:
        return self.headers

    def refusal(self, scope: Scope, stream: Stream) -> Refuse:
        """Return how an answer of this stream is refused."""
        return lambda error: self.refuse(error, scope, stream)

    def refuse(self, error: HeadraceError, scope: Scope, stream: Stream | None = None) -> Response:
        status, body, content_type = _own_words(error, stream) or self.surface.error(error)
        headers = {"cache-control": "no-store"}
        if error.retry_after_s is not None:
            headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
        if not error.retryable and (status >= 500 or status in _ASKED_AGAIN):
            headers["x-should-retry"] = "false"
        if isinstance(error, BodyTimeout) and scope["http_version"].startswith("1"):
            headers["connection"] = "close"  # or a body that comes byte by byte would hold the connection for ever
        response = Response(body, status_code=status, media_type=content_type, headers=headers)
        if stream is not None:
            response.raw_headers += [(b"x-stream-id", stream.id.encode()), *self.headers_of(stream)]
            response.raw_headers.append((b"x-request-id", stream.request_id.encode("latin-1", "replace")))
        return response


def _own_words(error: HeadraceError, stream: Stream | None) -> ErrorReply | None:
    """Return the provider's own error where the caller speaks its dialect; not that the relay's credentials were refused."""
    if not isinstance(error, UpstreamError) or isinstance(error, UpstreamAuth) or stream is None:
        return None
    if error.provider_body is None or error.provider_status is None or stream.target.provider.dialect.name != stream.request.dialect:
        return None
    return ErrorReply(error.provider_status, error.provider_body)
