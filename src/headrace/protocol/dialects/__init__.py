"""One folder a provider's language. Each has `request` (our request → its bytes) and `decode` (its stream → our events).

A dialect is looked up by the name that the configuration gives it; adding one adds a folder and a line here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from headrace.protocol import events as ev
from headrace.protocol.blocks import ToolArguments
from headrace.protocol.request import ChatRequest, UpstreamRequest


class Decoder(Protocol):
    """Turn one provider's stream into events: legal order, `seq` 0, exactly one terminal event.

    The terminal event is the last one that `feed` or `finish` ever returns; it comes without `metrics` and without `usage`,
    which its owner adds. After it both return nothing.
    """

    @property
    def finished(self) -> bool:
        """Whether the terminal event has been returned."""
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
    """`auth_header` makes the header that carries the provider's key. `build_request(request, model, quirks)`."""

    name: str
    build_request: Callable[[ChatRequest, str, Mapping[str, object]], UpstreamRequest]
    new_decoder: Callable[[Mapping[str, object]], Decoder]
    auth_headers: Callable[[str], dict[str, str]]
    error_message: Callable[[bytes], str | None]


def load(name: str) -> Dialect:
    """Return the dialect of that name.

    Raises:
        KeyError: there is none; the error's argument lists those that exist.
    """
    from headrace.protocol.dialects import anthropic, openai_chat

    known = {"anthropic": anthropic.DIALECT, "openai_chat": openai_chat.DIALECT}
    if name not in known:
        raise KeyError(f"{name!r} is no dialect; there are {', '.join(sorted(known))}")
    return known[name]
