"""`GET /v1/models`: one list that the SDKs of OpenAI and of Anthropic both read."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from headrace.server.relay import Relay

router = APIRouter(tags=["models"])
_started = int(time.time())


@router.get("/v1/models")
async def models(request: Request) -> Response:
    """The models that can be named as they are. A provider with passthrough takes any name behind `provider/`."""
    relay: Relay = request.app.state.relay
    listed = [_shape(name, owner) for name, owner in relay.catalogue.listed()]
    ends = {"first_id": listed[0]["id"], "last_id": listed[-1]["id"]} if listed else {"first_id": None, "last_id": None}
    return JSONResponse({"object": "list", "data": listed, "has_more": False, **ends})


@router.get("/v1/models/{name:path}")
async def model(request: Request, name: str) -> Response:
    """One model, if requests may name it."""
    relay: Relay = request.app.state.relay
    return JSONResponse(_shape(name, relay.catalogue.owner(name)))


def _shape(name: str, owner: str) -> dict[str, Any]:
    """Return a model with the members of both protocols; when it was made nobody knows, so it is the relay's start."""
    return {
        "id": name,
        "object": "model",
        "created": _started,
        "owned_by": owner,
        "type": "model",
        "display_name": name,
        "created_at": datetime.fromtimestamp(_started, UTC).isoformat().replace("+00:00", "Z"),
    }
