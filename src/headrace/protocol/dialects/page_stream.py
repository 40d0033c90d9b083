"""What the streams for pages do alike: the AI SDK's and AG-UI's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from headrace.protocol import events as ev
from headrace.protocol.encoding import Encoding

_encode = msgspec.json.Encoder().encode


class PageStream(Encoding):
    """Hands each event to who says it, but for the branch of nearly every event: text for an open block."""

    sayers: ClassVar[Mapping[type[ev.Event], Callable[[Any, Any], None]]]

    def __init__(self) -> None:
        self._deltas: dict[int, bytes] = {}  # what each delta of an open block begins with
        self._out: list[bytes] = []

    def encode(self, events: Sequence[ev.Event]) -> bytes:
        out, sayers = self._out, self.sayers
        for event in events:
            if event.__class__ is ev.Text:
                prefix = self._deltas.get(event.index)
                if prefix is not None:
                    out.append(b"%b%b}\n\n" % (prefix, _encode(event.text)))
                    continue
            say = sayers.get(event.__class__)
            if say is not None:
                say(self, event)
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        return data
