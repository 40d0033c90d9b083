"""The Chat Completions API, in the wide sense: whatever its many vendors send."""

from __future__ import annotations

from headrace.protocol.dialects import Dialect
from headrace.protocol.dialects.openai_chat.decode import OpenAIChatDecoder
from headrace.protocol.dialects.openai_chat.request import QUIRKS, VENDORS, auth_headers, build_request, forward_request
from headrace.protocol.provider_error import body_message

DIALECT = Dialect(
    name="openai_chat",
    build_request=build_request,
    new_decoder=OpenAIChatDecoder,
    auth_headers=auth_headers,
    error_message=body_message,
    forward_request=forward_request,
    quirks=QUIRKS,
    vendors=VENDORS,
)
