"""The Responses API of OpenAI, and of those who copy it."""

from __future__ import annotations

from headrace.protocol.dialects import Dialect
from headrace.protocol.dialects.openai_responses.decode import OpenAIResponsesDecoder
from headrace.protocol.dialects.openai_responses.request import QUIRKS, VENDORS, auth_headers, build_request, forward_request
from headrace.protocol.provider_error import body_message

DIALECT = Dialect(
    name="openai_responses",
    build_request=build_request,
    new_decoder=OpenAIResponsesDecoder,
    auth_headers=auth_headers,
    error_message=body_message,
    forward_request=forward_request,
    quirks=QUIRKS,
    vendors=VENDORS,
)
