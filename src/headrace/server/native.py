"""The native surface: `POST /v1/chat/stream`, resume, state, Stop."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope

from headrace.engine.ending import Receipt
from headrace.engine.stream import Stream
from headrace.errors import BadRequest, BodyTimeout, HeadraceError
from headrace.protocol import events as ev
from headrace.protocol.accumulate import Accumulator
from headrace.protocol.encoding import Encoding
from headrace.protocol.lenient import DEPTH_MAX
from headrace.protocol.native import NDJSON, SSE
from headrace.protocol.request import ChatRequest, ToolCallPart, check_depth
from headrace.server.body import NAME, parse, read_body, request_id
from headrace.server.endpoint import Endpoint
from headrace.server.relay import Relay
from headrace.server.response import StreamResponse

router = APIRouter(tags=["native"])

_chat_decoder = msgspec.json.Decoder(ChatRequest)


class CancelByKey(msgspec.Struct, forbid_unknown_fields=True):
    idempotency_key: str


_cancel_decoder = msgspec.json.Decoder(CancelByKey)


def _body_docs(cls: type[msgspec.Struct]) -> dict[str, Any]:
    _, components = msgspec.json.schema_components([cls], ref_template="#/components/schemas/{name}")
    schema = components[cls.__name__]
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": _inline(schema, components)}}}}


def _inline(schema: Any, components: dict[str, Any]) -> Any:
    """Put referenced schemas in place, since OpenAPI knows only those that FastAPI made."""
    if isinstance(schema, dict):
        reference = schema.get("$ref")
        if reference is not None:
            return _inline(components[reference.rpartition("/")[2]], components)
        return {key: _inline(value, components) for key, value in schema.items() if key != "discriminator"}
    if isinstance(schema, list):
        return [_inline(value, components) for value in schema]
    return schema


_STREAM_DOCS: dict[int | str, dict[str, Any]] = {
    200: {"description": "The stream's events.", "content": {"text/event-stream": {}, "application/x-ndjson": {}}},
}


class ChatStream(Endpoint):
    """`POST /v1/chat/stream`."""

    path = "/v1/chat/stream"
    docs: ClassVar[dict[str, Any]] = {
        "post": {
            "tags": ["native"],
            "summary": "Chat Stream",
            "description": "Start a generation and read it. SSE, or NDJSON by `Accept: application/x-ndjson`.",
            "operationId": "chat_stream",
            **_body_docs(ChatRequest),
            "responses": _STREAM_DOCS,
        }
    }

    async def respond(self, scope: Scope, receive: Receive) -> Response:
        received_at = time.monotonic()
        relay, headers = self.relay, dict(scope["headers"])
        server = relay.config.server
        body = await read_body(headers, receive, bytes_max=server.body_bytes_max, seconds_max=server.body_s_max)
        encoding = NDJSON if b"application/x-ndjson" in headers.get(b"accept", b"") else SSE
        user, key = relay.user(scope), _idempotency_key(headers)
        if key is not None:
            joined = relay.streams.claimed(user, key, body)
            if joined is not None:
                return StreamResponse(joined, encoding)
        chat = parse(_chat_decoder, body)
        if body.count(b"{") + body.count(b"[") > DEPTH_MAX:
            _check_depths(chat)
        stream = relay.streams.create(
            chat,
            relay.catalogue.route(chat.model, lambda: chat),
            user=user,
            request_id=request_id(headers),
            received_at=received_at,
            key=key,
            body=body,
        )
        return StreamResponse(stream, encoding)

    def refuse(self, error: HeadraceError, scope: Scope) -> Response:
        return error_response(error, scope)


def _check_depths(chat: ChatRequest) -> None:
    """Look into the fields that may hold anything. The rest of a request is as deep as its type."""
    check_depth(chat.metadata, "metadata")
    for at, tool in enumerate(chat.tools or ()):
        check_depth(tool.parameters, f"tools[{at}].parameters")
    for at, message in enumerate(chat.messages):
        for number, part in enumerate(message.content if isinstance(message.content, list) else ()):
            if isinstance(part, ToolCallPart):
                check_depth(part.arguments, f"messages[{at}].content[{number}].arguments")


@router.get("/v1/streams/{stream_id}")
async def stream_state(request: Request, stream_id: str) -> Response:
    """The state of a stream: what has come so far, and how it stands."""
    relay: Relay = request.app.state.relay
    return JSONResponse(state(relay.streams.find(stream_id, relay.user(request.scope))))


@router.get("/v1/streams/{stream_id}/events", responses=_STREAM_DOCS, response_class=Response)
async def resume(request: Request, stream_id: str) -> Response:
    """Read a stream from behind `Last-Event-ID`, `?after=` or `?starting_after=`: a compacted replay, then live."""
    relay: Relay = request.app.state.relay
    stream = relay.streams.find(stream_id, relay.user(request.scope))
    return StreamResponse(stream, _encoding(request), after=_cursor(request, stream))


@router.post("/v1/streams/cancel", openapi_extra=_body_docs(CancelByKey))
async def cancel_by_key(request: Request) -> Response:
    """Stop the request that carries this idempotency key, also one that has not come yet."""
    relay: Relay = request.app.state.relay
    seconds_max = relay.config.server.body_s_max
    body = await read_body(dict(request.scope["headers"]), request.receive, bytes_max=64 * 1024, seconds_max=seconds_max)
    key = parse(_cancel_decoder, body).idempotency_key
    if not NAME.fullmatch(key):
        raise BadRequest("idempotency_key: 1 to 255 visible ASCII characters.", field="idempotency_key")
    stream = relay.streams.cancel_by_key(relay.user(request.scope), key)
    if stream is None:
        return JSONResponse({"status": "not_started"}, status_code=202)
    return await cancelled(stream)


@router.post("/v1/streams/{stream_id}/cancel")
async def cancel(request: Request, stream_id: str) -> Response:
    """Stop: the provider's connection is closed at once, in every phase. Asking again gives the same answer."""
    relay: Relay = request.app.state.relay
    return await cancelled(relay.streams.find(stream_id, relay.user(request.scope)))


class Cancel(Endpoint):
    """The same past the framework: when many streams are stopped at once, the last of them waits for all the others' requests."""

    async def respond(self, scope: Scope, receive: Receive) -> Response:
        stream_id = scope["path"].removeprefix("/v1/streams/").removesuffix("/cancel")
        return await cancelled(self.relay.streams.find(stream_id, self.relay.user(scope)))

    def refuse(self, error: HeadraceError, scope: Scope) -> Response:
        return error_response(error, scope)


async def cancelled(stream: Stream) -> Response:
    """Stop the stream and return its state and receipt."""
    asked_at = time.time()
    already = stream.ended and stream.receipt is None
    stream.cancel("user")
    if not stream.ended:
        await stream.done
    receipt = stream.receipt
    if receipt is None or already:
        tokens = stream.meter.ingress.tokens
        receipt = Receipt(asked_at, None, None, "ended", tokens, 0, already_ended=True)
    shape = _ending(stream)
    usage = shape.pop("usage", None)
    answer = {"stream_id": stream.id, **shape, "receipt": {**receipt._asdict(), "usage": usage}}
    return Response(msgspec.json.encode(answer), media_type="application/json")


def state(stream: Stream) -> dict[str, Any]:
    """Return a stream's state as the JSON of `GET /v1/streams/{id}`."""
    reply = Accumulator()
    after = 0
    while after < stream.log.last_seq:
        events, _ = stream.log.read(after, 1 << 30, compact=True)
        for event in events:
            reply.feed(event)
        after = events[-1].seq
    now = time.monotonic()
    shape = {
        "stream_id": stream.id,
        "model": stream.target.model,
        "provider": stream.target.provider.name,
        "last_seq": stream.log.last_seq,
        "created_at": round(stream.created_at, 3),
        "expires_at": round(stream.expires_at, 3),
        "readers": len(stream.readers),
        "blocks": [block.as_dict() for block in reply.blocks.values()],
        "usage": msgspec.to_builtins(stream.usage) if stream.usage else None,
        "metrics": msgspec.to_builtins(stream.meter.metrics(now, None)),
    }
    return shape | _ending(stream)


def _ending(stream: Stream) -> dict[str, Any]:
    shape: dict[str, Any] = {"status": stream.status}
    end = stream.end
    if end is None:
        return shape
    if isinstance(end, ev.StreamEnd):
        shape["finish_reason"] = end.finish_reason
    else:
        shape["error"] = {"code": end.code, "message": end.message, "retryable": end.retryable, "partial": end.partial}
    shape["usage"] = msgspec.to_builtins(end.usage) if end.usage else None
    shape["metrics"] = msgspec.to_builtins(end.metrics)
    return shape


def _encoding(request: Request) -> Encoding:
    return NDJSON if "application/x-ndjson" in request.headers.get("accept", "") else SSE


def _cursor(request: Request, stream: Stream) -> int:
    for name, value in (
        ("after", request.query_params.get("after")),
        ("starting_after", request.query_params.get("starting_after")),
        ("Last-Event-ID", request.headers.get("last-event-id")),
    ):
        if value:
            if not re.fullmatch(r"[0-9]{1,15}", value) or int(value) > stream.log.last_seq:
                raise BadRequest(f"{name}: a seq of this stream, from 0 to {stream.log.last_seq}, not {value[:40]!r}.", field=name)
            return int(value)
    return 0


def _idempotency_key(headers: Mapping[bytes, bytes]) -> str | None:
    given = headers.get(b"idempotency-key")
    if given is None:
        return None
    key = given.decode("latin-1")
    if not NAME.fullmatch(key):
        raise BadRequest("Idempotency-Key: 1 to 255 visible ASCII characters.", field="Idempotency-Key")
    return key


def error_response(error: HeadraceError, scope: Scope) -> Response:
    """Return an error before the stream: its status, and JSON in the native shape."""
    headers = {"cache-control": "no-store"}
    if isinstance(error, BodyTimeout) and scope["http_version"].startswith("1"):
        headers["connection"] = "close"  # or a body that comes byte by byte would hold the connection for ever
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    message = error.public_message
    if error.field is not None and error.field not in message:
        message = f"{error.field}: {message}"  # many show the message alone
    body = error_body(error.code, message, retryable=error.retryable, field=error.field, retry_after_s=error.retry_after_s)
    return Response(body, status_code=error.status, media_type="application/json", headers=headers)


def error_body(code: str, message: str, *, retryable: bool, field: str | None = None, retry_after_s: float | None = None) -> bytes:
    """Return an error before the stream as JSON in the native shape."""
    error: dict[str, Any] = {"code": code, "message": message, "retryable": retryable}
    if field is not None:
        error["field"] = field
    if retry_after_s is not None:
        error["retry_after_seconds"] = retry_after_s
    return json.dumps({"error": error}, ensure_ascii=False).encode("utf-8", "replace")
