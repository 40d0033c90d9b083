"""From events to the reply that they tell: for a client that wants the whole answer, and for a stream's state as JSON.

Fragments are kept in lists and joined when somebody looks, so that a long answer costs what it weighs, once. Tool arguments
are taken from `tool_call_complete`; fragments are only joined, never parsed.
"""

from __future__ import annotations

from typing import Any

from headrace.protocol import events as ev


class ReplyBlock:
    """One block of a reply: text, thinking, or a tool call with its arguments and result."""

    __slots__ = (
        "_parts",
        "_seqs",
        "arguments",
        "ended",
        "error",
        "index",
        "kind",
        "name",
        "redacted",
        "result",
        "signature",
        "skipped",
        "thinking_kind",
        "tool_call_id",
        "valid",
    )

    def __init__(self, index: int, kind: ev.BlockKind) -> None:
        self.index = index
        self.kind: ev.BlockKind = kind
        self.ended = False
        self.skipped = False
        self.signature: str | None = None
        self.redacted: str | None = None
        self.thinking_kind: ev.ThinkingKind | None = None
        self.tool_call_id: str | None = None
        self.name: str | None = None
        self.arguments: dict[str, Any] | None = None
        self.valid: bool | None = None
        self.error: str | None = None
        self.result: ev.ToolResult | None = None
        self._parts: list[str] = []
        self._seqs: list[int] = []

    @property
    def text(self) -> str:
        """The block's text; for a tool call, its arguments as they were sent."""
        return "".join(self._parts)

    def append(self, seq: int, text: str) -> None:
        self._parts.append(text)
        self._seqs.append(seq)

    def withdraw(self, from_seq: int) -> bool:
        """Drop what came from `from_seq` on; return whether anything is left."""
        while self._seqs and self._seqs[-1] >= from_seq:
            self._seqs.pop()
            self._parts.pop()
        return bool(self._seqs)

    def as_dict(self) -> dict[str, Any]:
        """Return the block as the JSON of `GET /v1/streams/{id}` and of `snapshot`."""
        shape: dict[str, Any] = {"index": self.index, "kind": self.kind, "ended": self.ended}
        if self.kind == "tool_call":
            shape |= {"tool_call_id": self.tool_call_id, "name": self.name, "arguments_raw": self.text, "valid": self.valid}
            if self.valid is not None:
                shape["arguments"] = self.arguments
            result = self.result
            optional: dict[str, Any] = {
                "error": self.error,
                "result": result and {"ok": result.ok, "content": result.content, "duration_ms": result.duration_ms},
            }
        else:
            shape["text"] = self.text
            optional = {"thinking_kind": self.thinking_kind, "signature": self.signature, "redacted": self.redacted}
        optional["skipped"] = self.skipped or None
        return shape | {key: value for key, value in optional.items() if value is not None}

    @classmethod
    def from_dict(cls, shape: dict[str, Any], seq: int) -> ReplyBlock:
        block = cls(shape["index"], shape["kind"])
        block.append(seq, shape.get("arguments_raw") or shape.get("text") or "")
        for name in ("ended", "skipped", "signature", "redacted", "thinking_kind", "tool_call_id", "name", "arguments", "valid", "error"):
            if name in shape:
                setattr(block, name, shape[name])
        if block.tool_call_id is not None and (result := shape.get("result")):
            block.result = ev.ToolResult(tool_call_id=block.tool_call_id, seq=seq, **result)
        return block


class Accumulator:
    """Build a reply from events, in any of the forms in which a reader may get them (live, replayed, after a gap).

    Events with a `seq` that was seen before are dropped, so feeding a replay twice changes nothing.
    """

    def __init__(self) -> None:
        self.last_seq = 0
        self.blocks: dict[int, ReplyBlock] = {}
        self.start: ev.StreamStart | None = None
        self.queue: ev.Queue | None = None
        self.usage: ev.Usage | None = None
        self.end: ev.StreamEnd | ev.Error | None = None
        self.sources: list[ev.Source] = []
        self.notices: list[ev.Notice] = []
        self.data: list[ev.Data] = []
        self.gaps: list[ev.Gap] = []
        self._calls: dict[str, ReplyBlock] = {}

    @property
    def text(self) -> str:
        return "".join(block.text for block in self.blocks.values() if block.kind == "text")

    @property
    def thinking(self) -> str:
        return "".join(block.text for block in self.blocks.values() if block.kind == "thinking")

    @property
    def tool_calls(self) -> list[ReplyBlock]:
        return [block for block in self.blocks.values() if block.kind == "tool_call"]

    @property
    def complete(self) -> bool:
        """Whether the provider said that this is its whole answer, and all of it came."""
        return isinstance(self.end, ev.StreamEnd) and self.end.finish_reason != "cancelled" and not self.gaps

    def feed(self, event: ev.Event) -> bool:
        """Take one event; return False where it was seen before."""
        if event.seq:
            if event.seq <= self.last_seq:
                return False
            self.last_seq = event.seq
        self._take(event)
        return True

    def _take(self, event: ev.Event) -> None:
        match event:
            case ev.Text(index=index, text=text):
                self._block(index, "text").append(event.seq, text)
            case ev.Thinking():
                self._take_thinking(event)
            case ev.ToolCallDelta(tool_call_id=call, arguments_delta=fragment):
                if block := self._calls.get(call):
                    block.append(event.seq, fragment)
            case ev.ToolCallStart(index=index, tool_call_id=call, name=name):
                block = self._calls[call] = self._block(index, "tool_call")
                block.tool_call_id, block.name = call, name
                block.append(event.seq, "")
            case ev.ToolCallComplete():
                self._complete_call(event)
            case ev.ToolResult(tool_call_id=call):
                if block := self._calls.get(call):
                    block.result = event
            case ev.BlockEnd(index=index, kind=kind):
                self._block(index, kind).ended = True
            case ev.Reset(from_seq=from_seq):
                self._withdraw(from_seq)
            case ev.Gap():
                self.gaps.append(event)
                for block in self.blocks.values():
                    block.skipped = block.skipped or not block.ended
            case ev.Snapshot(blocks=blocks):
                self._restore(blocks, event.seq)
            case _:
                self._take_rest(event)

    def _take_rest(self, event: ev.Event) -> None:
        match event:
            case ev.StreamStart():
                self.start = event
            case ev.Queue():
                self.queue = event
            case ev.Usage():
                self.usage = event
            case ev.Source():
                self.sources.append(event)
            case ev.Notice():
                self.notices.append(event)
            case ev.Data():
                self.data.append(event)
            case ev.StreamEnd() | ev.Error():
                self.end = event
            case _:
                pass

    def _block(self, index: int, kind: ev.BlockKind) -> ReplyBlock:
        block = self.blocks.get(index)
        if block is None:
            block = self.blocks[index] = ReplyBlock(index, kind)
        return block

    def _take_thinking(self, event: ev.Thinking) -> None:
        block = self._block(event.index, "thinking")
        block.append(event.seq, event.text)
        block.thinking_kind = event.kind
        block.signature = event.signature or block.signature
        block.redacted = event.redacted or block.redacted

    def _complete_call(self, event: ev.ToolCallComplete) -> None:
        block = self._calls.get(event.tool_call_id)
        if block is None:
            return
        block.name, block.arguments, block.valid, block.error = event.name, event.arguments, event.valid, event.error
        block.withdraw(0)
        block.append(event.seq, event.arguments_raw)

    def _withdraw(self, from_seq: int) -> None:
        self.blocks = {index: block for index, block in self.blocks.items() if block.withdraw(from_seq)}
        kept = {id(block) for block in self.blocks.values()}
        self._calls = {call: block for call, block in self._calls.items() if id(block) in kept}
        self.sources = [source for source in self.sources if source.seq < from_seq]
        self.data = [data for data in self.data if data.seq < from_seq]

    def _restore(self, blocks: list[dict[str, Any]], seq: int) -> None:
        self.blocks = {shape["index"]: ReplyBlock.from_dict(shape, seq) for shape in blocks}
        self._calls = {block.tool_call_id: block for block in self.blocks.values() if block.tool_call_id}
        self.gaps.clear()
