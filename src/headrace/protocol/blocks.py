"""What every decoder writes into: content by the dialect's own keys in, events in legal order out.

A dialect says "text for this key", "arguments for that call", "this block is over"; the writer gives blocks their index,
opens and closes them, keeps call ids unique, joins fragments of a character that were cut apart, and parses each call's
arguments exactly once, when its block stops.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import msgspec

from headrace.protocol import events as ev
from headrace.protocol.lenient import DEPTH_MAX, whole

_parse_json = msgspec.json.Decoder().decode
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKETS = re.compile(rb"[\[\]{}]")


class ToolArguments:
    """A call's arguments as they come: bytes, joined, parsed once by `complete`.

    `parses` and `fragments` are counted where they happen, so that a log line can show that nothing was parsed on the way.
    """

    __slots__ = ("fragments", "parses", "raw")

    def __init__(self) -> None:
        self.raw = bytearray()
        self.fragments = 0
        self.parses = 0

    def append(self, fragment: str) -> None:
        self.raw += fragment.encode("utf-8", "replace")
        self.fragments += 1

    def complete(self, *, truncated: bool) -> tuple[dict[str, Any] | None, str | None]:
        """Parse and return `(arguments, error)`, of which one is None. Empty arguments are `{}`; nothing is ever repaired.

        `truncated` says that the provider stopped in the middle of its answer. An object that closed before that is whole;
        nothing at all is then not "no arguments" but arguments that never came.
        """
        if not self.raw.strip():
            return ({}, None) if not truncated else (None, "the arguments were cut off")
        self.parses += 1
        try:
            value = _parse_json(self.raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return None, f"the arguments were cut off: {error}" if truncated else str(error)
        if not isinstance(value, dict):
            return None, f"the arguments are not an object but {type(value).__name__}"
        if _too_deep(self.raw):
            return None, f"the arguments are nested deeper than {DEPTH_MAX} levels"
        return value, None


class Block:
    """One open block."""

    __slots__ = ("arguments", "index", "kind", "name", "pending", "started", "surrogate", "thinking_kind", "tool_call_id")

    def __init__(self, index: int, kind: ev.BlockKind) -> None:
        self.index = index
        self.kind: ev.BlockKind = kind
        self.surrogate = ""
        self.thinking_kind: ev.ThinkingKind = "raw"
        self.tool_call_id = ""
        self.name = ""
        self.started = False
        self.pending: list[str] = []
        self.arguments: ToolArguments | None = None


class BlockWriter:
    """Build the events of one stream's content; `take` hands over what has come since the last call."""

    __slots__ = ("_call_ids", "_next_index", "events", "finished_calls", "open")

    def __init__(self) -> None:
        self.events: list[ev.Event] = []
        self.open: dict[Hashable, Block] = {}
        self.finished_calls: list[tuple[str, ToolArguments]] = []
        self._next_index = 0
        self._call_ids: set[str] = set()

    @property
    def begun(self) -> bool:
        """Whether there has been any content."""
        return self._next_index > 0

    def take(self) -> list[ev.Event]:
        taken, self.events = self.events, []
        return taken

    def text(self, key: Hashable, text: str) -> None:
        block = self.open.get(key)
        if block is None:
            if not text:
                return
            block = self._begin(key, "text")
        if block.surrogate or not text.isprintable():
            text = _whole_characters(block, text)
        if text:
            self.events.append(ev.Text(index=block.index, text=text))

    def thinking(
        self, key: Hashable, text: str, kind: ev.ThinkingKind = "raw", *, signature: str | None = None, redacted: str | None = None
    ) -> None:
        block = self.open.get(key)
        if block is None:
            if not text and signature is None and redacted is None:
                return
            block = self._begin(key, "thinking")
        block.thinking_kind = kind
        if block.surrogate or not text.isprintable():
            text = _whole_characters(block, text)
        if text or signature is not None or redacted is not None:
            self.events.append(ev.Thinking(index=block.index, text=text, kind=kind, signature=signature, redacted=redacted))

    def tool_call(self, key: Hashable, tool_call_id: str | None, name: str | None) -> None:
        """Open the call for `key`, or add the name or id that a provider sends late. It starts once its name is known."""
        block = self.open.get(key) or self._begin(key, "tool_call")
        if block.started:
            return
        block.tool_call_id = block.tool_call_id or tool_call_id or ""
        block.name = block.name or name or ""
        if block.name:
            self._start_call(block)

    def arguments(self, key: Hashable, fragment: str) -> None:
        block = self.open.get(key) or self._begin(key, "tool_call")
        if block.surrogate or not fragment.isprintable():
            fragment = _whole_characters(block, fragment)
        if not fragment:
            return
        if not block.started:
            block.pending.append(fragment)
            return
        assert block.arguments is not None
        block.arguments.append(fragment)
        self.events.append(ev.ToolCallDelta(tool_call_id=block.tool_call_id, arguments_delta=fragment))

    def end(self, key: Hashable, *, truncated: bool = False) -> None:
        """Close the block of `key` if it is open. `truncated`: the provider stopped in the middle of it."""
        block = self.open.pop(key, None)
        if block is None:
            return
        if block.surrogate:
            self._flush_surrogate(key, block)
        if block.kind == "tool_call":
            self._complete_call(block, truncated=truncated)
        self.events.append(ev.BlockEnd(index=block.index, kind=block.kind))

    def end_all(self, *, truncated: bool = False, last_truncated: bool = False) -> None:
        """Close what is open. A limit on the answer's length cuts only the block that was begun last: `last_truncated`."""
        for key in list(self.open):
            self.end(key, truncated=truncated or (last_truncated and len(self.open) == 1))

    def _begin(self, key: Hashable, kind: ev.BlockKind) -> Block:
        block = self.open[key] = Block(self._next_index, kind)
        self._next_index += 1
        if kind == "tool_call":
            block.arguments = ToolArguments()
        return block

    def _start_call(self, block: Block) -> None:
        block.started = True
        block.tool_call_id = self._unique(block.tool_call_id or f"call_{block.index}")
        self.events.append(ev.ToolCallStart(index=block.index, tool_call_id=block.tool_call_id, name=block.name))
        assert block.arguments is not None
        for fragment in block.pending:
            block.arguments.append(fragment)
            self.events.append(ev.ToolCallDelta(tool_call_id=block.tool_call_id, arguments_delta=fragment))
        block.pending.clear()

    def _complete_call(self, block: Block, *, truncated: bool) -> None:
        if not block.started:
            self._start_call(block)
        arguments = block.arguments
        assert arguments is not None
        value, error = arguments.complete(truncated=truncated)
        if not block.name:
            value, error = None, "the call has no name"
        self.finished_calls.append((block.name, arguments))
        self.events.append(
            ev.ToolCallComplete(
                tool_call_id=block.tool_call_id,
                name=block.name,
                arguments=value,
                arguments_raw=arguments.raw.decode(),
                valid=error is None,
                error=error,
            )
        )

    def _unique(self, tool_call_id: str) -> str:
        """Some providers reuse ids within one answer; here an id names one call."""
        candidate, n = tool_call_id, 1
        while candidate in self._call_ids:
            n += 1
            candidate = f"{tool_call_id}-{n}"
        self._call_ids.add(candidate)
        return candidate

    def _flush_surrogate(self, key: Hashable, block: Block) -> None:
        block.surrogate = ""
        self.open[key] = block
        match block.kind:
            case "text":
                self.text(key, "�")
            case "thinking":
                self.thinking(key, "�", block.thinking_kind)
            case "tool_call":
                self.arguments(key, "�")
        del self.open[key]


def _too_deep(raw: bytearray) -> bool:
    if raw.count(b"{") + raw.count(b"[") <= DEPTH_MAX:
        return False
    depth = deepest = 0
    for bracket in _BRACKETS.findall(_STRINGS.sub(b"", raw)):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest > DEPTH_MAX


def _whole_characters(block: Block, text: str) -> str:
    """Join a surrogate pair that the provider cut between two deltas; replace halves that have no partner.

    JSON can carry half of a pair (`"\\ud83d"`), UTF-8 cannot. A high half at the end waits for the next delta.
    """
    text = block.surrogate + text
    block.surrogate = ""
    if text and "\ud800" <= text[-1] <= "\udbff":
        block.surrogate, text = text[-1], text[:-1]
    return whole(text)
