"""Scripts that call tools, and the cutting of their arguments."""

import random
from collections.abc import Iterator
from itertools import zip_longest
from typing import Annotated, ClassVar

from msgspec import Meta

from headrace.simulator import texts
from headrace.simulator.scripts.base import Count, Cut, Scene, Script
from headrace.simulator.steps import Open, Step, ToolArgs, ToolStart, up_to_token

# Written out as a model writes it: escapes of every sort, raw non-ASCII, nesting, numbers and literals.
_REPORT = (
    r'{"station": "Wehr Nürnberg/Süd", "river": "Pegnitz", "units": ["m³/s", "cm"], "since": "2026-11-02T06:00:00+01:00",'
    r' "note": "the miller said: \"close the gate\",\nthen left by C:\\mill\\gate\\1\u2026 \ud842\udfb7\t\u6c34\/\u8eca",'
    r' "水位": {"low": 1.25, "high": 3.5e0, "alarm": null, "open": true, "trend": [-0.1, 0, 0.25]}, "empty": {}, "comment": ""}'
)
_CALLS = (
    ("get_river_level", r'{"station": "Ljusnäs övre", "unit": "cm"}'),
    ("get_rainfall", r'{"area": "Łódź \u2014 \"upper\" basin", "hours": 48}'),
    ("set_gate", r'{"gate": "Écluse n\u00ba 3", "opening": 0.4, "confirm": false}'),
    ("notify", r'{"who": ["miller", "水車小屋"], "text": "gate at 40 %\nno flood expected"}'),
)


def fragments(arguments: str, cut: str, seed: int) -> list[str]:
    """Cut JSON text into fragments of at most `cut` bytes of UTF-8, but never inside a character.

    A character longer than `cut` goes alone. Between any two characters a cut is possible, also inside an escape.
    """
    if cut == "none":
        return [arguments]
    sizes = random.Random(seed)
    pieces: list[str] = []
    limit = used = 0
    for character in arguments:
        size = len(character.encode())
        if not pieces or used + size > limit:
            pieces.append("")
            limit, used = sizes.randint(1, 12) if cut == "random" else int(cut), 0
        pieces[-1] += character
        used += size
    return pieces


class _ToolScript(Script, frozen=True, kw_only=True):
    """A script whose `cut` cuts the arguments; the network writes are cut by `net_cut`."""

    cut: Cut = "3"
    net_cut: Cut = "none"

    @property
    def write_cut(self) -> str:
        return self.net_cut

    def call(self, scene: Scene, index: int, name: str, arguments: str) -> list[Step]:
        prefix = "toolu_sim" if scene.dialect.name == "anthropic" else "call_sim"
        opened = ToolStart(index, f"{prefix}{scene.ask.serial:012d}{index}", name)
        return [opened, *(ToolArgs(index, piece) for piece in fragments(arguments, self.cut, self.seed + index))]


class Tool(_ToolScript, frozen=True, kw_only=True):
    """A sentence, then one call with sizable arguments."""

    name: ClassVar[str] = "tool"

    def play(self, scene: Scene) -> list[Step]:
        return self.answer(self.text(texts.LOOKING_UP), self.call(scene, 0, "file_report", _REPORT), reason="tool_calls")


class Tools(_ToolScript, frozen=True, kw_only=True):
    """Several calls at once. With `interleave=1` their fragments alternate, which only the OpenAI dialect can express."""

    name: ClassVar[str] = "tools"
    calls: Annotated[int, Meta(ge=2, le=4)] = 2
    interleave: bool = True

    def play(self, scene: Scene) -> list[Step]:
        calls = [self.call(scene, index, name, arguments) for index, (name, arguments) in enumerate(_CALLS[: self.calls])]
        if self.interleave and scene.dialect.name == "openai_chat":
            return self.answer(_alternate(calls), reason="tool_calls")
        return self.answer(*calls, reason="tool_calls")


class ToolEmpty(_ToolScript, frozen=True, kw_only=True):
    """One call whose arguments are the empty string."""

    name: ClassVar[str] = "tool_empty"

    def play(self, scene: Scene) -> list[Step]:
        return self.answer(self.text(texts.LOOKING_UP), self.call(scene, 0, "list_gates", ""), reason="tool_calls")


class MaxTokensInTool(_ToolScript, frozen=True, kw_only=True):
    """The token limit stops the answer inside a call's arguments, after `after` fragments."""

    name: ClassVar[str] = "max_tokens_in_tool"
    after: Count = 20

    def play(self, scene: Scene) -> list[Step]:
        return self.answer(up_to_token(self.call(scene, 0, "file_report", _REPORT), self.after), reason="length")


class Spliced(_ToolScript, frozen=True, kw_only=True):
    """In the middle of a call's arguments a second message begins, with its own `message_start` and block 0."""

    name: ClassVar[str] = "spliced"
    dialects: ClassVar[frozenset[str]] = frozenset({"anthropic"})
    after: Count = 10

    def play(self, scene: Scene) -> list[Step]:
        interrupted = up_to_token(self.call(scene, 0, "file_report", _REPORT), self.after)
        return [*self.opening(), *interrupted, Open(), *self.text(texts.QUICK), *self.closing("stop")]


def _alternate(calls: list[list[Step]]) -> Iterator[Step]:
    """Yield the calls' openings, then one fragment of each in turn."""
    for turn in zip_longest(*calls):
        yield from (step for step in turn if step is not None)


SCRIPTS = (Tool, Tools, ToolEmpty, MaxTokensInTool, Spliced)
