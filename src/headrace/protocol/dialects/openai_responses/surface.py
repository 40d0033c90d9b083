"""The Responses API of OpenAI, spoken to clients.

https://platform.openai.com/docs/api-reference/responses
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from headrace.errors import BadRequest, HeadraceError
from headrace.protocol.dialects.openai_responses.encode import ResponsesEncoding
from headrace.protocol.dialects.openai_responses.parse import parse
from headrace.protocol.dialects.openai_responses.reply import ResponsesReply
from headrace.protocol.surface import ErrorReply, Surface

_json: Callable[[object], bytes] = msgspec.json.Encoder().encode
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def error(problem: HeadraceError) -> ErrorReply:
    """Return an error in the shape that OpenAI's SDKs read."""
    kind = _TYPES.get(problem.status)
    if kind is None:
        kind = "invalid_request_error" if isinstance(problem, BadRequest) or problem.status < 500 else "server_error"
    shape = {"message": problem.public_message, "type": kind, "param": problem.field, "code": problem.code}
    return ErrorReply(problem.status, _json({"error": shape}))


SURFACE = Surface(
    name="openai_responses",
    parse=parse,
    new_stream=ResponsesEncoding,
    new_reply=ResponsesReply,
    error=error,
    headers=("openai-beta",),
)
