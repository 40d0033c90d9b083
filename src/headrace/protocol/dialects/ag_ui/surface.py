"""AG-UI towards clients: one `POST` with a `RunAgentInput`, answered by the events of one run."""

from __future__ import annotations

from typing import Any

import msgspec

from headrace.errors import HeadraceError
from headrace.protocol.dialects.ag_ui.encode import RunEvents
from headrace.protocol.dialects.ag_ui.parse import parse
from headrace.protocol.surface import ErrorReply, Surface


def error(failure: HeadraceError) -> ErrorReply:
    """Return the error as JSON, which `HttpAgent` reads and hands on as the `payload` of its own."""
    shape: dict[str, Any] = {"code": failure.code, "message": failure.public_message, "retryable": failure.retryable}
    if failure.field is not None:
        shape["field"] = failure.field
    if failure.retry_after_s is not None:
        shape["retryAfterSeconds"] = failure.retry_after_s
    return ErrorReply(failure.status, msgspec.json.encode({"error": shape}))


SURFACE = Surface(name="ag_ui", parse=parse, new_stream=RunEvents, new_reply=None, error=error)
