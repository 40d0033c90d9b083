"""The Messages API of Anthropic."""

from __future__ import annotations

from headrace.protocol.dialects import Dialect
from headrace.protocol.dialects.anthropic.decode import AnthropicDecoder
from headrace.protocol.dialects.anthropic.request import QUIRKS, auth_headers, build_request, forward_request
from headrace.protocol.provider_error import body_message

DIALECT = Dialect(
    name="anthropic",
    build_request=build_request,
    new_decoder=AnthropicDecoder,
    auth_headers=auth_headers,
    error_message=body_message,
    forward_request=forward_request,
    quirks=QUIRKS,
)
