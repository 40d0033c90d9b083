"""The AI SDK's chat protocol towards clients: `POST /api/chat`, and the same stream again for whoever resumes.

`useChat` makes the whole body of a failed response the message of its error, and applications show that message. So an error's body is
the sentence itself, as it is in the stream's own `error` chunk, and not JSON around it. Its kind is in the status, which the AI SDK
has in `error.statusCode` from version 7 on. The stream opens at once, so these are only the relay's own refusals.
"""

from __future__ import annotations

from headrace.errors import HeadraceError
from headrace.protocol.dialects.ai_sdk.encode import UIMessageStream
from headrace.protocol.dialects.ai_sdk.parse import parse
from headrace.protocol.surface import ErrorReply, Surface

HEADERS = ((b"x-vercel-ai-ui-message-stream", b"v1"),)
"""What says that a stream is one of UI messages."""


def error(failure: HeadraceError) -> ErrorReply:
    message = failure.public_message
    if failure.field is not None and failure.field not in message:
        message = f"{failure.field}: {message}"
    return ErrorReply(failure.status, message.encode("utf-8", "replace"), "text/plain; charset=utf-8")


SURFACE = Surface(name="ai_sdk", parse=parse, new_stream=UIMessageStream, new_reply=None, error=error)
