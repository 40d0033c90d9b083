"""The ASGI application: routes, errors, CORS, lifespan."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
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
from headrace.server.endpoint import Endpoint
from headrace.server.relay import Relay
from headrace.server.surfaces import models, responses, ui_chat
from headrace.server.surfaces.ag_ui import AGUI
from headrace.server.surfaces.chat_completions import ChatCompletions
from headrace.server.surfaces.messages import Messages

_STATUS_CODES = {404: "not_found", 405: "method_not_allowed"}


class Application(FastAPI):
    """FastAPI, with a short way for the requests that come in thousands: those for an answer, and their Stop.

    They go to their endpoint without the layers that they have no use for. With a middleware in the application (CORS, or one of
    the embedder's own) they take the ordinary way like every other request.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._short_ways: dict[str, Endpoint] = {}
        self._cancel: native.Cancel | None = None

    def mount_short_ways(self, endpoints: Sequence[Endpoint], cancel: native.Cancel) -> None:
        self._cancel = cancel
        for endpoint in endpoints:
            self._short_ways[endpoint.path] = endpoint
            self.router.routes.append(Route(endpoint.path, endpoint, methods=["POST"]))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._short_way(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if endpoint is not None and not self.user_middleware:
            await endpoint(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def _short_way(self, path: str) -> ASGIApp | None:
        if path.startswith("/v1/streams/st_") and path.endswith("/cancel"):
            return self._cancel
        return self._short_ways.get(path)

    def openapi(self) -> dict[str, Any]:
        schema = super().openapi()
        for path, endpoint in self._short_ways.items():
            schema["paths"].setdefault(path, endpoint.docs)
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
    app.state.ui_chat, app.state.responses = ui_chat.UIChat(relay), responses.Responses(relay)
    endpoints = [native.ChatStream(relay), ChatCompletions(relay), Messages(relay), app.state.responses, app.state.ui_chat, AGUI(relay)]
    app.mount_short_ways(endpoints, native.Cancel(relay))
    for router in (native.router, models.router, responses.router, ui_chat.router):
        app.include_router(router)
    _add_operations(app, relay)
    _add_errors(app)
    if config.server.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.server.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],  # the SDKs send many of their own
            expose_headers=["x-stream-id", "x-request-id", "request-id", "location", "retry-after", "x-should-retry"],
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
        relay: Relay = request.app.state.relay
        relay.observatory.request_failed(request.method, request.url.path, error)
        return native.error_response(HeadraceError(), request.scope)

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
