"""What every script has: the common options, and the two ways to answer."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct

from headrace.simulator import texts
from headrace.simulator.ask import Ask, Dialect
from headrace.simulator.steps import Done, Finish, FinishReason, HangUp, Open, Ping, Step, Text, Wait

Seconds = Annotated[float, Meta(ge=0, le=86_400)]
Count = Annotated[int, Meta(ge=0, le=10_000_000)]
Rate = Annotated[float, Meta(ge=0, le=1_000_000)]
Cut = Annotated[str, Meta(pattern=r"^(none|random|[1-9][0-9]{0,6})$")]
FOREVER = float("inf")
ALL = frozenset({"openai_chat", "openai_responses", "anthropic", "gemini"})


class Recording(Struct, frozen=True):
    """A body that somebody recorded, to be played again."""

    content_type: str
    body: bytes


class Scene(Struct, frozen=True):
    """What a script may know of the world: the request, its dialect, the recordings, and how often a key was seen."""

    ask: Ask
    dialect: Dialect
    attempt: Callable[[str], int]
    recording: Callable[[str], Recording | None]


class Reply(Struct, frozen=True):
    """An answer that is no stream of the dialect; `refused` if it is the refusal of a request."""

    status: int
    content_type: str
    steps: list[Step]
    headers: tuple[tuple[str, str], ...] = ()
    streamed: bool = False
    refused: bool = False


class Script(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A behaviour. Its fields are its options, its docstring says what it does."""

    name: ClassVar[str] = ""
    dialects: ClassVar[frozenset[str]] = ALL

    headers_s: Seconds = 0.0
    first_token_s: Seconds = 0.2
    tokens_per_s: Rate = 50.0
    tokens: Count = 0
    finish_s: Seconds = 0.0
    progress: bool = True
    ping_s: Seconds = 0.0
    cut: Cut = "none"
    seed: int = 0
    gap_ms: Annotated[float, Meta(ge=0, le=60_000)] = 0.0
    framing: Literal["chunked", "length", "close"] = "chunked"
    newline: Literal["lf", "crlf", "cr"] = "lf"
    encoding: Literal["identity", "gzip"] = "identity"
    flush: bool = True

    def play(self, scene: Scene) -> list[Step] | Iterator[Step] | Reply:
        """Return what happens, in order: a list if it ends, an iterator if nobody can say when."""
        raise NotImplementedError

    @property
    def write_cut(self) -> str:
        """How the body is cut into writes."""
        return self.cut

    @property
    def hang_up(self) -> HangUp | None:
        """How the connection ends when `cut_off` is reached, or at the end of the body."""
        return None

    @property
    def cut_off(self) -> int | None:
        """After how many bytes of the body the connection ends."""
        return None

    @property
    def sends_head(self) -> bool:
        """Whether the answer has a status and headers at all."""
        return True

    @property
    def length_error(self) -> int:
        """By how much the `Content-Length` is wrong."""
        return 0

    def opening(self) -> Iterator[Step]:
        """Yield what comes before the first token. Without `progress`, that is silence."""
        if not self.progress:
            yield Wait(self.first_token_s)
            yield Open()
            return
        yield Open()
        yield from self.waiting(self.first_token_s)

    def waiting(self, seconds: float) -> Iterator[Step]:
        """Yield a wait of `seconds`, with a ping every `ping_s`."""
        left = seconds
        while self.ping_s and left > self.ping_s:
            yield Wait(self.ping_s)
            yield Ping()
            left -= self.ping_s
        yield Wait(left)

    def closing(self, reason: FinishReason) -> Iterator[Step]:
        yield Wait(self.finish_s)
        yield Finish(reason)
        yield Done()

    def text(self, text: str) -> list[Step]:
        """Return `text` as steps, cut or repeated to `tokens` if that is set."""
        return [Text(piece) for piece in texts.of_length(texts.tokenise(text), self.tokens)]

    def answer(self, *parts: Iterable[Step], reason: FinishReason = "stop") -> list[Step]:
        """Return a whole answer: opening, `parts`, closing."""
        return list(chain(self.opening(), *parts, self.closing(reason)))
