"""Who is tried, and in front of which providers."""

from __future__ import annotations

import pytest

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
PROVIDERS = ["simulator", "simulator-anthropic", "simulator-responses", "simulator-gemini"]

# One provider that speaks the client's own dialect, whose frames are passed on as they are, and one whose answers are translated.
OWN = {"openai_chat": "simulator", "anthropic": "simulator-anthropic", "openai_responses": "simulator-responses"}
OTHER = {"openai_chat": "simulator-anthropic", "anthropic": "simulator", "openai_responses": "simulator-anthropic"}

CELLS = [(client, provider) for client in CLIENTS for provider in (OWN[client.surface], OTHER[client.surface])]
ALL_CELLS = [(client, provider) for client in CLIENTS for provider in PROVIDERS]


def _named(cells: list[tuple[Client, str]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("client", "provider"), cells, ids=[f"{client.name}-{provider}" for client, provider in cells])


each_cell = _named(CELLS)
every_cell = _named(ALL_CELLS)
each_client = pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)


def model_of(provider: str, script: str) -> str:
    """Return the model's name; Gemini's clients put it into a path, where the simulator takes `;` for what parts a script's options."""
    return f"{provider}/{script.replace('?', ';').replace('&', ';') if provider == 'simulator-gemini' else script}"
