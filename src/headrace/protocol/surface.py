"""A surface: a client's protocol, spoken to clients. The other half of a dialect, and the same for every route.

`dialects/<name>/surface.py` holds one `SURFACE`. Its parts are pure: a body to a `ChatRequest`, events to bytes, an error to a body.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from headrace.errors import HeadraceError
from headrace.protocol.encoding import Encoding, Reply
from headrace.protocol.request import ChatRequest, UpstreamRequest

if TYPE_CHECKING:
    from headrace.protocol.dialects import Dialect


class ErrorReply(NamedTuple):
    """An error before the first byte, in the surface's own shape."""

    status: int
    body: bytes
    content_type: str = "application/json"


class Surface(NamedTuple):
    """One client protocol.

    Attributes:
        name: of the surface, and of the provider dialect that needs no translation where there is one.
        parse: the request in our words. Raises `BadRequest` whose `field` is the name in the client's own body.
        new_stream: how the events of a streamed answer are said.
        new_reply: how a whole answer is said; None where the protocol only streams.
        error: an error before the first byte.
        headers: names of request headers that go on to a provider of the same dialect.
        bulky: members of the body that are not needed once the answer is over.
    """

    name: str
    parse: Callable[[dict[str, Any]], ChatRequest]
    new_stream: Callable[[SurfaceRequest], Encoding]
    new_reply: Callable[[SurfaceRequest], Reply] | None
    error: Callable[[HeadraceError], ErrorReply]
    headers: tuple[str, ...] = ()
    bulky: tuple[str, ...] = ("messages", "input")


class SurfaceRequest:
    """A request in a client's dialect.

    A provider of the same dialect gets the body as it came, with what must be different; for any other it is a `ChatRequest`, which is
    made when the first such provider is asked.

    Attributes:
        body: the JSON object that the client sent.
        headers: those of `Surface.headers` that it sent, names in lower case.
        created: Unix seconds, as a whole number, for protocols that tell when an answer was made.
        options: the configuration of the surface.
        keep_frames: whether a provider's frames are kept for a reader who comes back.
    """

    __slots__ = ("_chat", "body", "created", "headers", "keep_frames", "on_disconnect", "options", "slow_reader", "surface")

    def __init__(
        self,
        surface: Surface,
        body: dict[str, Any],
        *,
        created: int = 0,
        headers: Mapping[str, str] | None = None,
        options: Mapping[str, object] | None = None,
        on_disconnect: Literal["cancel", "grace", "continue"] = "cancel",
        keep_frames: bool = False,
    ) -> None:
        self.surface = surface
        self.body = body
        self.created = created
        self.headers = dict(headers or {})
        self.options = dict(options or {})
        self.keep_frames = keep_frames
        self.on_disconnect: Literal["cancel", "grace", "continue"] | float | None = on_disconnect
        # A gap has no place in these protocols: a slow reader holds up its provider.
        self.slow_reader: Literal["pause", "gap"] | None = "pause"
        self._chat: ChatRequest | None = None

    @property
    def dialect(self) -> str:
        """The provider dialect whose frames can be passed on."""
        return self.surface.name

    def chat(self) -> ChatRequest:
        """Return the request in our words.

        Raises:
            BadRequest: something in it cannot be said in our words; `field` names it.
        """
        if self._chat is None:
            self._chat = self.surface.parse(self.body)
        return self._chat

    def upstream(self, dialect: Dialect, model: str, quirks: Mapping[str, object]) -> UpstreamRequest:
        """Return what goes to a provider.

        Raises:
            BadRequest: this provider's dialect cannot say it; `field` names what.
        """
        if dialect.name != self.surface.name:
            return dialect.build_request(self.chat(), model, quirks)
        request = dialect.forward_request(self.body, model, quirks)
        for name, value in self.headers.items():
            own = request.headers.get(name) if name.endswith("-beta") else None
            request.headers[name] = _joined(own, value) if own else value
        return request

    def forget(self) -> None:
        """Let go of what is not needed once the answer is over: what is kept for late readers is the answer."""
        self._chat = None
        for name in self.surface.bulky:
            self.body.pop(name, None)


def _joined(*lists: str) -> str:
    """Return the members of all comma-separated lists, each once."""
    members = (member.strip() for value in lists for member in value.split(","))
    return ",".join(dict.fromkeys(member for member in members if member))
