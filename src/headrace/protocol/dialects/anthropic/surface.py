"""The Messages API of Anthropic, spoken to clients: its SDKs, and programs that use them.

An error before the first byte has the status that the API itself would give, because SDKs decide by it whether to ask again.
"""

from __future__ import annotations

import msgspec

from headrace.errors import HeadraceError, UpstreamRejected
from headrace.protocol.dialects.anthropic.encode import AnthropicStream, error_shape
from headrace.protocol.dialects.anthropic.parse import parse
from headrace.protocol.dialects.anthropic.reply import AnthropicReply
from headrace.protocol.surface import ErrorReply, Surface

# The API's own status for what is overloaded, which its SDKs know by name.
_STATUSES = dict.fromkeys(("upstream_overloaded", "queue_full", "queue_timeout"), 529)
# What a provider refused keeps its status where the API has a type for it.
_REFUSED = {404: "not_found_error", 413: "request_too_large"}


def error_reply(error: HeadraceError) -> ErrorReply:
    """Return the error as the API says it."""
    status = _STATUSES.get(error.code, error.status)
    shape = error_shape(error.code, error.public_message)
    if isinstance(error, UpstreamRejected) and error.provider_status in _REFUSED:
        status = error.provider_status
        shape["error"]["type"] = _REFUSED[status]
    return ErrorReply(status=status, body=msgspec.json.encode(shape))


SURFACE = Surface(
    name="anthropic",
    parse=parse,
    new_stream=AnthropicStream,
    new_reply=AnthropicReply,
    error=error_reply,
    headers=("anthropic-beta", "anthropic-version"),
    bulky=("messages", "system", "tools"),
)
