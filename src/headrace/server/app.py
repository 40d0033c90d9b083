"""The ASGI application: routes, errors, CORS, lifespan."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

import headrace
from headrace.errors import HeadraceError
from headrace.server import native
from headrace.server.config import Config, load
from headrace.server.relay import Relay

_STATUS_CODES = {404: "not_found", 405: "method_not_allowed"}


class Application(FastAPI):
    """FastAPI, with a short way for the two requests that come in thousands: a chat stream and its Stop.

    They go to their endpoint without the layers that they have no use for. With a middleware in the application (CORS, or one of
    the embedder's own) they take the ordinary way like every other request.
    """

    _chat: native.ChatStream | None = None
    _cancel: native.Cancel | None = None

    def mount_short_way(self, chat: native.ChatStream, cancel: native.Cancel) -> None:
        self._chat, self._cancel = chat, cancel
        self.router.routes.append(Route(chat.path, chat, methods=["POST"]))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._short_way(scope) if scope["type"] == "http" and scope["method"] == "POST" else None
        if endpoint is not None and not self.user_middleware:
            await endpoint(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def _short_way(self, scope: Scope) -> ASGIApp | None:
        path = scope["path"]
        if path == native.ChatStream.path:
            return self._chat
        if path.startswith("/v1/streams/st_") and path.endswith("/cancel"):
            return self._cancel
        return None

    def openapi(self) -> dict[str, Any]:
        schema = super().openapi()
        schema["paths"].setdefault(native.ChatStream.path, native.ChatStream.docs)
        return schema


def create_app(config: Config | None = None) -> FastAPI:
    """Return the relay as an ASGI application; it starts and stops with the application's lifespan."""
    config = config or load()
    relay = Relay(config)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await relay.start()
        try:
            yield
        finally:
            await relay.aclose()

    app = Application(
        title="Headrace",
        version=headrace.__version__,
        summary="A streaming relay for language models.",
        lifespan=lifespan,
        redoc_url=None,
        redirect_slashes=False,  # every answer that is no success is JSON, and none is made of the caller's Host
    )
    app.state.relay = relay
    app.mount_short_way(native.ChatStream(relay), native.Cancel(relay))
    app.include_router(native.router)
    _add_operations(app, relay)
    _add_errors(app)
    if config.server.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.server.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "idempotency-key", "last-event-id", "x-request-id"],
            expose_headers=["x-stream-id", "x-request-id", "location", "retry-after"],
            max_age=600,
        )
    return app


def _add_operations(app: FastAPI, relay: Relay) -> None:
    @app.get("/healthz", tags=["operations"])
    async def healthz() -> Response:
        """Whether the process is alive."""
        return JSONResponse({"status": "ok"})

    @app.get("/readyz", tags=["operations"])
    async def readyz() -> Response:
        """Whether new streams are taken: 503 while draining."""
        return JSONResponse({"status": "ready"} if relay.ready else {"status": "draining"}, status_code=200 if relay.ready else 503)

    @app.get("/metrics", tags=["operations"])
    async def metrics() -> Response:
        """Prometheus text format."""
        return Response(relay.observatory.render(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(HeadraceError)
    async def headrace_error(request: Request, error: HeadraceError) -> Response:
        return native.error_response(error, request.scope)

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> Response:
        return native.internal_error(request.app.state.relay, error, request.scope)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        code = _STATUS_CODES.get(error.status_code, "http_error")
        message = f"{request.method} {request.url.path}: {error.detail}."
        return Response(
            native.error_body(code, message, retryable=False),
            error.status_code,
            headers=dict(error.headers or {}),
            media_type="application/json",
        )

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=499)
