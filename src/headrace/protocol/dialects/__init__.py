"""One folder a language. Towards providers it has `request` (our request → its bytes) and `decode` (its stream → our events), and
exports `DIALECT`; towards clients it has `parse` (its request → ours), `encode` and `reply` (our events → its stream, or its whole answer),
and exports `SURFACE` in its module `surface`.

Both halves are looked up by name; adding one adds a folder and a line here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NamedTuple, Protocol

from headrace.protocol import events as ev
from headrace.protocol.blocks import ToolArguments
from headrace.protocol.request import ChatRequest, UpstreamRequest
from headrace.protocol.sse import SSEEvent
from headrace.protocol.surface import Surface

PROVIDERS = ("anthropic", "gemini", "openai_chat", "openai_responses")
CLIENTS = ("ag_ui", "ai_sdk", "anthropic", "openai_chat", "openai_responses")


class Decoder(Protocol):
    """Turn one provider's stream into events: legal order, `seq` 0, exactly one terminal event.

    The terminal event is the last one that `feed` or `finish` ever returns; it comes without `metrics` and without `usage`,
    which its owner adds. After it both return nothing.

    Attributes:
        frames: the events of the body as they came, for a reader who speaks the dialect itself; None where nobody wants them. Whoever
            does takes them out. The one that ended the stream is the last.
    """

    frames: list[SSEEvent] | None

    @property
    def finished(self) -> bool:
        """Whether the terminal event has been returned."""
        ...

    @property
    def begun(self) -> bool:
        """Whether anything of the answer itself has come. Before that, another provider can be asked without anybody's noticing."""
        ...

    @property
    def finished_calls(self) -> list[tuple[str, ToolArguments]]:
        """Name and arguments of each completed tool call, for the log line's counts."""
        ...

    def feed(self, chunk: bytes) -> list[ev.Event]:
        """Return the events that `chunk` of the response body completes.

        Whatever the bytes are, this returns events; a stream that breaks its protocol ends with an `error` event.
        """
        ...

    def finish(self) -> list[ev.Event]:
        """Return what the end of the body means: nothing after a terminator, `error/upstream_truncated` without one."""
        ...


class Dialect(NamedTuple):
    """The half that is spoken to providers.

    Attributes:
        build_request: `(request, model, quirks)` to what is sent. Raises `BadRequest`, whose `field` is in our words.
        forward_request: the same from a body that is in this dialect already, which keeps whatever we do not know.
        quirks: the names of all that vendors may want differently.
        vendors: the quirks of vendors that are known.
        new_decoder: a decoder for one answer.
        auth_headers: the headers that carry the provider's key.
        error_message: what a body that is no stream says, fit to be shown.
    """

    name: str
    build_request: Callable[[ChatRequest, str, Mapping[str, object]], UpstreamRequest]
    new_decoder: Callable[[Mapping[str, object]], Decoder]
    auth_headers: Callable[[str], dict[str, str]]
    error_message: Callable[[bytes], str | None]
    forward_request: Callable[[dict[str, Any], str, Mapping[str, object]], UpstreamRequest]
    quirks: frozenset[str]
    vendors: Mapping[str, Mapping[str, object]] = {}


def load(name: str) -> Dialect:
    """Return the dialect of that name.

    Raises:
        KeyError: there is none; the error's argument lists those that exist.
    """
    if name not in PROVIDERS:
        raise KeyError(f"{name!r} is no dialect; there are {', '.join(PROVIDERS)}")
    dialect: Dialect = import_module(f"{__name__}.{name}").DIALECT
    return dialect


def surface(name: str) -> Surface:
    """Return the surface of that name, one of `CLIENTS`."""
    found: Surface = import_module(f"{__name__}.{name}.surface").SURFACE
    return found
