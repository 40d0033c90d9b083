"""Scripts in which everything goes well, or stops for a reason that the dialect has a name for."""

from collections.abc import Iterator
from itertools import chain, count, cycle, repeat
from typing import ClassVar

from headrace.simulator import texts
from headrace.simulator.scripts.base import Count, Rate, Scene, Script, Seconds
from headrace.simulator.steps import Noise, Open, Refuse, Sealed, Step, Text, Think, ToolArgs, ToolStart


class Quick(Script, frozen=True, kw_only=True):
    """About 40 tokens, soon and fast."""

    name: ClassVar[str] = "quick"
    first_token_s: Seconds = 0.15
    tokens_per_s: Rate = 120.0

    def play(self, scene: Scene) -> list[Step]:
        return self.answer(self.text(texts.QUICK))


class Story(Script, frozen=True, kw_only=True):
    """About 500 tokens in Markdown, at 50 a second."""

    name: ClassVar[str] = "story"

    def play(self, scene: Scene) -> list[Step]:
        return self.answer(self.text(texts.STORY))


class Markdown(Script, frozen=True, kw_only=True):
    """Code, a table, lists, a quotation and formulas."""

    name: ClassVar[str] = "markdown"

    def play(self, scene: Scene) -> list[Step]:
        return self.answer(self.text(texts.MARKDOWN))


class Thinking(Script, frozen=True, kw_only=True):
    """Reasoning, then an answer. With `progress=0` nothing at all is sent before the answer's first token."""

    name: ClassVar[str] = "thinking"
    first_token_s: Seconds = 2.0
    thinking_s: Seconds = 3.0

    def play(self, scene: Scene) -> list[Step]:
        if not self.progress:
            return self.answer([Sealed()] if scene.dialect.name == "anthropic" else [], self.text(texts.CONCLUSION))
        return self.answer(self._reasoning(), self.text(texts.CONCLUSION))

    def _reasoning(self) -> list[Step]:
        pieces = texts.tokenise(texts.REASONING)
        tokens = round(self.thinking_s * self.tokens_per_s) if self.tokens_per_s else len(pieces)
        return [Think(piece) for piece in texts.of_length(pieces, max(1, tokens))]


class Redacted(Script, frozen=True, kw_only=True):
    """Reasoning that arrives encrypted (`redacted_thinking`, `encrypted_content`), then an answer."""

    name: ClassVar[str] = "redacted"
    dialects: ClassVar[frozenset[str]] = frozenset({"anthropic", "openai_responses"})

    def play(self, scene: Scene) -> list[Step]:
        return self.answer([Sealed("RW5jcnlwdGVkIHJlYXNvbmluZyBvZiBhIHNpbXVsYXRlZCBtb2RlbC4" * 3)], self.text(texts.CONCLUSION))


class Refusal(Script, frozen=True, kw_only=True):
    """The model declines."""

    name: ClassVar[str] = "refusal"

    def play(self, scene: Scene) -> list[Step]:
        pieces = texts.of_length(texts.tokenise(texts.REFUSAL), self.tokens)
        return self.answer([Refuse(piece) for piece in pieces], reason="refusal")


class PauseTurn(Script, frozen=True, kw_only=True):
    """A long turn with a tool that the provider runs itself is paused, to be continued by the next request."""

    name: ClassVar[str] = "pause_turn"
    dialects: ClassVar[frozenset[str]] = frozenset({"anthropic"})

    def play(self, scene: Scene) -> list[Step]:
        call = ToolStart(0, f"srvtoolu_sim{scene.ask.serial:012d}", "web_search", by_server=True)
        arguments = [ToolArgs(0, piece) for piece in ('{"que', 'ry": "hea', "drace wa", 'ter level"}')]
        return self.answer(self.text(texts.LOOKING_UP), [call], arguments, reason="pause")


class MaxTokens(Script, frozen=True, kw_only=True):
    """The token limit stops the answer inside its text."""

    name: ClassVar[str] = "max_tokens"
    tokens: Count = 60

    def play(self, scene: Scene) -> list[Step]:
        return self.answer(self.text(texts.STORY), reason="length")


class Endless(Script, frozen=True, kw_only=True):
    """An answer without an end; `tokens_per_s=0` is as fast as the socket takes it, `token_bytes` the size of each token."""

    name: ClassVar[str] = "endless"
    token_bytes: Count = 0

    def play(self, scene: Scene) -> Iterator[Step]:
        return chain(self.opening(), self._tokens())

    def _tokens(self) -> Iterator[Step]:
        if self.token_bytes:
            filler = (" the river passes the mill" * (self.token_bytes // 26 + 1))[: self.token_bytes]
            return repeat(Text(filler))
        return cycle([Text(piece) for piece in texts.tokenise(texts.ENDLESS)])


class Echo(Script, frozen=True, kw_only=True):
    """The last user message, streamed back."""

    name: ClassVar[str] = "echo"

    def play(self, scene: Scene) -> list[Step]:
        return self.answer(self.text(scene.ask.last_user_text))


class UnknownEvents(Script, frozen=True, kw_only=True):
    """An answer sprinkled with comments, fields and events that no reader has heard of; a reader skips them."""

    name: ClassVar[str] = "unknown_events"
    tokens: Count = 30

    def play(self, scene: Scene) -> list[Step]:
        kinds = count()
        return self.answer(chain.from_iterable((Noise(next(kinds)), step) for step in self.text(texts.STORY)))


class DuplicateStart(Script, frozen=True, kw_only=True):
    """The beginning of the message is sent twice."""

    name: ClassVar[str] = "duplicate_start"

    def play(self, scene: Scene) -> list[Step]:
        return [Open(), *self.answer(self.text(texts.QUICK))]


SCRIPTS = (Quick, Story, Markdown, Thinking, Redacted, Refusal, PauseTurn, MaxTokens, Endless, Echo, UnknownEvents, DuplicateStart)
