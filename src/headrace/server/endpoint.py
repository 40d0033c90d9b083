"""An endpoint as a plain ASGI application, past the layers of the framework: what a request costs there is shared by few tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from headrace.errors import HeadraceError
from headrace.server.relay import Relay


class Endpoint(ABC):
    """One path and method. What it raises becomes a response in its own dialect.

    Attributes:
        path: as a route pattern.
        docs: its OpenAPI path item.
    """

    path: ClassVar[str]
    docs: ClassVar[dict[str, Any]]

    def __init__(self, relay: Relay) -> None:
        self.relay = relay

    @abstractmethod
    async def respond(self, scope: Scope, receive: Receive) -> Response:
        """Return the response."""

    @abstractmethod
    def refuse(self, error: HeadraceError, scope: Scope) -> Response:
        """Return an error before the first byte."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await self.respond(scope, receive)
        except HeadraceError as error:
            response = self.refuse(error, scope)
        except ClientDisconnect:
            response = Response(status_code=499)
        except Exception as bug:
            self.relay.observatory.request_failed(scope["method"], scope["path"], bug)
            response = self.refuse(HeadraceError(), scope)
        await response(scope, receive, send)
