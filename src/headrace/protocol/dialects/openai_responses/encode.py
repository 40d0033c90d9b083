"""Our events as a Responses stream, or a provider's own with what it lacks.

https://platform.openai.com/docs/api-reference/responses-streaming

1. Every event has a `sequence_number`, from 0 and without a hole, and a replay gives it the same one: nothing is ever merged here.
   A reader who resumes names the last that it saw (`starting_after`); all of them are numbered, and those after it are written.
2. Whether the provider's own frames will come is known when the first does, and only one of two may say `response.created`. So
   nothing is said until then, unless whoever makes the encoding knows that none will come (`translated`): then the response is
   created at once, and says that it is queued while it waits.
3. Open text may stand beside open calls: `output_index` tells them apart.
4. A user's Stop is `response.failed` whose response is `cancelled`: see `response.ending`.
5. The provider's frames are numbered by itself. Where it breaks off, the failure's number follows its last, and the failure keeps the
   object that the provider began with and the items that were finished. An `error` follows it, at which the SDK raises: a program that
   looks for text and `response.completed` only would take the cut for the end. Where the provider told its error itself, that is all.
6. A heartbeat is a comment with one line feed. After a blank line, the SDK would take it for an event without data.

Not said: `notice` but that of a refusal, `data`, the results of tools that ran here (`tool_result`), and costs. A `reset`, `gap` or
`snapshot` never comes to a reader that holds up its provider; if one does, the stream fails, since nothing that was said can be taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from headrace.protocol import events as ev
from headrace.protocol.dialects.openai_responses.forwarded import Forwarded, number_of
from headrace.protocol.dialects.openai_responses.response import Answer, Part, echo, ending, usage_json
from headrace.protocol.encoding import Encoding, frame
from headrace.protocol.sse import SSEEvent
from headrace.protocol.surface import SurfaceRequest

_json: Callable[[object], bytes] = msgspec.json.Encoder().encode


class FrameWriter:
    """Number events and write those after `after`."""

    __slots__ = ("after", "number", "out")

    def __init__(self, after: int) -> None:
        self.after = after
        self.number = 0
        self.out: list[bytes] = []

    def tell(self, kind: str, members: bytes) -> None:
        number = self.number
        self.number = number + 1
        if number > self.after:
            name = kind.encode()
            self.out.append(b'event: %b\ndata: {"type":"%b",%b,"sequence_number":%d}\n\n' % (name, name, members, number))

    def delta(self, part: Part, text: bytes) -> None:
        number = self.number
        self.number = number + 1
        if number > self.after:
            self.out.append(b"%b%b%b%d}\n\n" % (part.head, text, part.tail, number))

    def take(self) -> bytes:
        taken, self.out = b"".join(self.out), []
        return taken


class ResponsesEncoding(Encoding):
    """One reader's stream.

    `after` is the last `sequence_number` that the reader has. `translated` says that the provider speaks another dialect.
    """

    heartbeat = b": ping\n"
    dialect = "openai_responses"
    compact = False

    def __init__(self, request: SurfaceRequest, *, after: int | None = None, translated: bool = False) -> None:
        self._request = request
        self._after = -1 if after is None else after
        self._writer = FrameWriter(self._after)
        self._answer = Answer(request, self._writer, eager=translated)
        self._forwarded: Forwarded | None = None

    def encode(self, events: Sequence[ev.Event]) -> bytes:
        writer, texts = self._writer, self._answer.texts
        for event in events:
            # The branch of nearly every event: text for an open part.
            if event.__class__ is ev.Text and (part := texts.get(event.index)) is not None:
                escaped = _json(event.text)
                part.escaped += escaped[1:-1]
                writer.delta(part, escaped)
            elif self._forwarded is None:
                self._answer.take(event)
            elif isinstance(event, ev.StreamEnd | ev.Error):
                self._end_forwarded(self._forwarded, event)
        return writer.take()

    def forward(self, frames: Sequence[SSEEvent]) -> bytes:
        if self._forwarded is None:
            self._forwarded = Forwarded()
        self._forwarded.take(frames)
        if self._after < 0:
            return frame(frames[0]) if len(frames) == 1 else b"".join([frame(event) for event in frames])
        return b"".join([frame(event) for event in frames if self._is_new(event)])

    def _is_new(self, event: SSEEvent) -> bool:
        """Frames without a number are always new, and so is what comes after the first new number."""
        number = None if self._after < 0 else number_of(event)
        if number is not None:
            if number <= self._after:
                return False
            self._after = -1
        return True

    def _end_forwarded(self, forwarded: Forwarded, event: ev.StreamEnd | ev.Error) -> None:
        """Say the end that the provider did not (note 5)."""
        if forwarded.ended or (isinstance(event, ev.Error) and forwarded.said_error):
            return
        end = ending(event)
        shape: dict[str, Any] = echo(self._request) | {"id": self._answer.id, "model": self._answer.model}
        shape |= forwarded.response() | end.members()
        shape["usage"] = usage_json(event.usage) or shape.get("usage")
        self._writer.number = forwarded.next_number()
        self._writer.tell(end.kind, b'"response":%b' % _json(shape))
        if isinstance(event, ev.Error):
            told = {"code": event.code, "message": event.message, "param": None, "error": end.error}
            self._writer.tell("error", _json(told)[1:-1])
