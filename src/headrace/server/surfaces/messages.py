"""`POST /v1/messages`: Anthropic's Messages."""

from __future__ import annotations

from headrace.engine.stream import Stream
from headrace.server.response import Headers
from headrace.server.surfaces.docs import path_item
from headrace.server.surfaces.endpoint import SurfaceEndpoint


class Messages(SurfaceEndpoint):
    path = "/v1/messages"
    surface_name = "anthropic"
    docs = path_item("anthropic", "Messages", "Anthropic's Messages, streamed or whole, in front of any provider.")

    def headers_of(self, stream: Stream) -> Headers:
        """The SDK looks for its `request-id`."""
        return [(b"request-id", stream.request_id.encode("latin-1", "replace"))]
