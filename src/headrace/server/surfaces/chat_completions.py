"""`POST /v1/chat/completions`: OpenAI's Chat Completions."""

from __future__ import annotations

from headrace.server.surfaces.docs import path_item
from headrace.server.surfaces.endpoint import SurfaceEndpoint


class ChatCompletions(SurfaceEndpoint):
    path = "/v1/chat/completions"
    surface_name = "openai_chat"
    docs = path_item("openai", "Chat Completions", "OpenAI's Chat Completions, streamed or whole, in front of any provider.")
