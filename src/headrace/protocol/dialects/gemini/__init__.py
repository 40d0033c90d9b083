"""The Gemini API of Google, as its developer API and Vertex AI speak it. Providers only: no client speaks it to us."""

from __future__ import annotations

from headrace.protocol.dialects import Dialect
from headrace.protocol.dialects.gemini.decode import GeminiDecoder
from headrace.protocol.dialects.gemini.request import QUIRKS, auth_headers, build_request, forward_request
from headrace.protocol.provider_error import body_message

DIALECT = Dialect(
    name="gemini",
    build_request=build_request,
    new_decoder=GeminiDecoder,
    auth_headers=auth_headers,
    error_message=body_message,
    forward_request=forward_request,
    quirks=QUIRKS,
)
