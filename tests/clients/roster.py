"""Who is tried, and in front of which providers."""

from __future__ import annotations

from .node_clients import NodeClient, NodeResponses
from .outcome import Client
from .python_responses import OpenAIResponses
from .python_sdks import Anthropic, LangChain, OpenAIChat

CLIENTS: list[Client] = [
    OpenAIChat(),
    LangChain(),
    NodeClient("openai-node", "openai_chat", "openai_chat"),
    Anthropic(),
    NodeClient("anthropic-node", "anthropic", "anthropic"),
    OpenAIResponses(),
    NodeResponses(),
]
PROVIDERS = {"openai_chat": "simulator", "anthropic": "simulator-anthropic"}
