"""Chat Completions, spoken to clients: OpenAI's SDKs and the many programs that are built on them."""

from __future__ import annotations

import msgspec

from headrace.errors import HeadraceError
from headrace.protocol.dialects.openai_chat.encode import OpenAIChatStream, error_shape
from headrace.protocol.dialects.openai_chat.parse import parse
from headrace.protocol.dialects.openai_chat.reply import OpenAIChatReply
from headrace.protocol.surface import ErrorReply, Surface


def error_reply(error: HeadraceError) -> ErrorReply:
    """Return the error as the API says it. The status stays ours: SDKs make their exception of it, and ask again by it."""
    shape = error_shape(error.code, error.public_message, param=error.field, retry_after_s=error.retry_after_s)
    return ErrorReply(status=error.status, body=msgspec.json.encode(shape))


SURFACE = Surface(
    name="openai_chat",
    parse=parse,
    new_stream=OpenAIChatStream,
    new_reply=OpenAIChatReply,
    error=error_reply,
    bulky=("messages", "tools", "functions", "response_format", "prediction"),
)
