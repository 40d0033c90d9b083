"""The Responses API, spoken to clients: OpenAI's SDKs, its agents, and what is built on them."""

from __future__ import annotations

from headrace.protocol.dialects.openai_chat.surface import error_reply
from headrace.protocol.dialects.openai_responses.encode import ResponsesEncoding
from headrace.protocol.dialects.openai_responses.parse import parse
from headrace.protocol.dialects.openai_responses.reply import ResponsesReply
from headrace.protocol.surface import Surface

SURFACE = Surface(
    name="openai_responses",
    parse=parse,
    new_stream=ResponsesEncoding,
    new_reply=ResponsesReply,
    error=error_reply,
    headers=("openai-beta",),
)
