"""The legal order of events, as one table.

                 stream_start            content                 terminal
        ┌─────┐ ────────────▶ ┌───────┐ ─────────▶ ┌─────────┐ ───────────▶ ┌───────┐
        │ new │               │waiting│            │streaming│              │ ended │
        └─────┘               └───────┘ ◀───────── └─────────┘              └───────┘
                               queue, notice, …      reset

Beside the table, blocks nest: content belongs to an open block of its kind, a tool call is completed once before its block
ends, and nothing is open when the stream ends. A breach is a `LocalProtocolError`: whoever made the event is at fault,
so decoders must turn whatever a provider sends into a legal order first.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from headrace.errors import LocalProtocolError
from headrace.protocol import events as ev

State: TypeAlias = Literal["new", "waiting", "streaming", "ended"]

_CONTENT: dict[type[ev.Event], State] = dict.fromkeys(
    (ev.Text, ev.Thinking, ev.ToolCallStart, ev.ToolCallDelta, ev.ToolCallComplete, ev.BlockEnd, ev.Source), "streaming"
)
_END: dict[type[ev.Event], State] = {ev.StreamEnd: "ended", ev.Error: "ended"}

TABLE: dict[State, dict[type[ev.Event], State]] = {
    "new": {ev.StreamStart: "waiting"},
    "waiting": {
        **dict.fromkeys((ev.Queue, ev.Usage, ev.Notice, ev.Data), "waiting"),
        **_CONTENT,
        **_END,
    },
    "streaming": {
        **dict.fromkeys((ev.Usage, ev.Notice, ev.Data, ev.ToolResult), "streaming"),
        ev.Reset: "waiting",
        **_CONTENT,
        **_END,
    },
    "ended": {},
}


class Lifecycle:
    """Follow one stream's events; raise at the first that may not come now."""

    __slots__ = ("_calls", "_complete", "_ended", "_open", "state")

    def __init__(self) -> None:
        self.state: State = "new"
        self._open: dict[int, ev.BlockKind] = {}
        self._ended: set[int] = set()
        self._calls: dict[str, int] = {}  # the block of each call
        self._complete: set[int] = set()  # blocks whose call is complete

    def step(self, event: ev.Event) -> None:
        """Take `event` as the next one.

        Raises:
            LocalProtocolError: it may not come now; the state is as before.
        """
        cls = type(event)
        following = TABLE[self.state].get(cls)
        if following is None:
            raise LocalProtocolError(detail=f"{cls.__name__} while {self.state}")
        self._check_blocks(event)
        self.state = following

    def open_blocks(self) -> list[tuple[int, ev.BlockKind, str | None]]:
        """Return index and kind of every open block, and for a tool call that is not complete its id."""
        calls = {index: call for call, index in self._calls.items() if index not in self._complete}
        return [(index, kind, calls.get(index)) for index, kind in self._open.items()]

    def _check_blocks(self, event: ev.Event) -> None:
        match event:
            case ev.Text(index=index):
                self._enter(index, "text")
            case ev.Thinking(index=index):
                self._enter(index, "thinking")
            case ev.ToolCallDelta(tool_call_id=call):
                self._check_call(event, call)
            case ev.ToolCallStart(index=index, tool_call_id=call):
                self._start_call(index, call)
            case ev.ToolCallComplete(tool_call_id=call):
                self._complete.add(self._check_call(event, call))
            case ev.BlockEnd(index=index, kind=kind):
                self._leave(index, kind)
            case ev.StreamEnd() | ev.Error() if self._open:
                raise LocalProtocolError(detail=f"the stream ends with open blocks {sorted(self._open)}")
            case ev.Reset():
                self._open.clear()
                self._ended.clear()
                self._calls.clear()
                self._complete.clear()
            case _:
                pass

    def _enter(self, index: int, kind: ev.BlockKind) -> None:
        if index in self._ended:
            raise LocalProtocolError(detail=f"{kind} for block {index}, which has ended")
        if self._open.setdefault(index, kind) != kind:
            raise LocalProtocolError(detail=f"{kind} for block {index}, which is {self._open[index]}")

    def _start_call(self, index: int, call: str) -> None:
        if call in self._calls:
            raise LocalProtocolError(detail=f"tool call {call!r} starts twice")
        if index in self._open:
            raise LocalProtocolError(detail=f"block {index} is open already")
        self._enter(index, "tool_call")
        self._calls[call] = index

    def _check_call(self, event: ev.Event, call: str) -> int:
        """Return the block of `call`, which must be open and still without its end."""
        index = self._calls.get(call, -1)
        if index not in self._open or index in self._complete:
            raise LocalProtocolError(detail=f"{type(event).__name__} for tool call {call!r}, which is not open")
        return index

    def _leave(self, index: int, kind: ev.BlockKind) -> None:
        if self._open.get(index) != kind:
            raise LocalProtocolError(detail=f"end of {kind} block {index}, which is not open as such")
        if kind == "tool_call" and index not in self._complete:
            raise LocalProtocolError(detail=f"tool call block {index} ends before its call is complete")
        del self._open[index]
        self._ended.add(index)
