"""What will happen to one request, decided before anything is sent."""

import math
import zlib
from collections.abc import Callable, Iterable
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from headrace.simulator.ask import Dialect, Encoder, Rejected
from headrace.simulator.scripts import parse
from headrace.simulator.scripts.base import Reply, Scene, Script
from headrace.simulator.steps import Die, Fail, HangUp, Raw, Step, Wait

_EVENT_STREAM = "text/event-stream; charset=utf-8"
_JSON = "application/json"
_NEWLINES = {"lf": b"\n", "crlf": b"\r\n", "cr": b"\r"}
Framing = Literal["chunked", "length", "close"]


class Wire(Struct, frozen=True):
    """How the bytes of a body become bytes on a socket."""

    framing: Framing = "length"
    newline: Literal["lf", "crlf", "cr"] = "lf"
    gzip: bool = False
    flush: bool = True
    cut: str = "none"
    seed: int = 0
    gap_s: float = 0.0
    cut_off: int | None = None
    hang_up: HangUp | None = None
    length_error: int = 0


class Performance(Struct, frozen=True):
    """One answer: its head, its steps, its pace, its wire."""

    status: int
    content_type: str
    steps: Iterable[Step]
    encoder: Callable[[], Encoder] | None = None  # none: the steps are raw bytes
    headers: tuple[tuple[str, str], ...] = ()
    headers_s: float = 0.0
    sends_head: bool = True
    interval_s: float = 0.0
    tokens_total: int | None = 0
    end: Literal["finished", "refused", "died"] = "finished"
    wire: Wire = Wire()

    def body(self) -> "Body":
        return Body(self.encoder() if self.encoder else None, self.wire)

    def length(self) -> int:
        """Return the `Content-Length` to announce, which for `wrong_length` is not the body's."""
        body = self.body()
        length = sum(len(body.encode(step)) for step in self.steps) + len(body.finish())
        return max(0, length + self.wire.length_error)

    @property
    def closes(self) -> bool:
        """Whether the connection cannot be used again."""
        return self.wire.framing == "close" or self.wire.length_error != 0

    def close_delimited(self) -> "Performance":
        """Return this performance for a client that knows no chunks."""
        return replace(self, wire=replace(self.wire, framing="close")) if self.wire.framing == "chunked" else self


class Body:
    """The bytes of a body before any framing: encoded, with the wanted line ends, compressed."""

    def __init__(self, encoder: Encoder | None, wire: Wire) -> None:
        self._encoder = encoder
        self._newline = _NEWLINES[wire.newline] if encoder else b"\n"
        self._gzip = zlib.compressobj(wbits=31) if wire.gzip else None
        self._flush = wire.flush

    def encode(self, step: Step) -> bytes:
        raw = step.data if isinstance(step, Raw) else b""
        data = raw if self._encoder is None else self._encoder.encode(step)
        if self._newline != b"\n":
            data = data.replace(b"\r\n", b"\n").replace(b"\n", self._newline)
        if self._gzip is None or not data:
            return data
        return self._gzip.compress(data) + (self._gzip.flush(zlib.Z_SYNC_FLUSH) if self._flush else b"")

    def finish(self) -> bytes:
        return self._gzip.flush() if self._gzip else b""


def stage(scene: Scene) -> Performance:
    """Return the performance that the request's model name asks for.

    Raises:
        Rejected: the name, an option, or the combination with this dialect does not exist.
    """
    script = parse(scene.ask.model)
    if scene.dialect.name not in script.dialects:
        raise Rejected(400, f"`{script.name}` exists only in the dialect {', '.join(sorted(script.dialects))}.")
    played = script.play(scene)
    if isinstance(played, Reply):
        return _reply(script, played)
    if scene.ask.stream:
        return _stream(script, scene, played)
    if not isinstance(played, list):  # nobody sees the end of an answer that has none
        return Performance(200, _JSON, [], headers_s=math.inf, tokens_total=None)
    return _whole(script, scene, played)


def rejection(dialect: Dialect, serial: int, rejected: Rejected) -> Performance:
    """Return the answer to a request that cannot be played."""
    return Performance(rejected.status, _JSON, [Raw(dialect.error(rejected.status, rejected.message, serial))], end="refused")


def _reply(script: Script, reply: Reply) -> Performance:
    return Performance(
        status=reply.status,
        content_type=reply.content_type,
        steps=reply.steps,
        headers=reply.headers,
        headers_s=script.headers_s,
        interval_s=_interval(script) if reply.streamed else 0.0,
        tokens_total=sum(step.tokens for step in reply.steps),
        end="refused" if reply.refused else "finished",
        wire=_wire(script, script.framing if reply.streamed else "length"),
    )


def _stream(script: Script, scene: Scene, played: Iterable[Step]) -> Performance:
    steps = played if isinstance(played, list) else None
    if steps is None and script.framing == "length":
        raise Rejected(400, f"`{script.name}` has no end, and so no `Content-Length`.")
    return Performance(
        status=200,
        content_type=_EVENT_STREAM,
        steps=played,
        encoder=lambda: scene.dialect.encoder(scene.ask),
        headers=(("cache-control", "no-cache"),),
        headers_s=script.headers_s,
        sends_head=script.sends_head,
        interval_s=_interval(script),
        tokens_total=None if steps is None else sum(step.tokens for step in steps),
        end="died" if script.hang_up or (steps and isinstance(steps[-1], Fail)) else "finished",
        wire=_wire(script, script.framing),
    )


def _whole(script: Script, scene: Scene, steps: list[Step]) -> Performance:
    """Return the answer in one piece, after the time that its stream would have taken."""
    tokens = sum(step.tokens for step in steps)
    waits = sum(step.seconds for step in steps if isinstance(step, Wait))
    failed, died = (any(isinstance(step, kind) for step in steps) for kind in (Fail, Die))
    if failed:
        body = scene.dialect.error(500, "The server had an error while processing your request.", scene.ask.serial)
    else:
        body = scene.dialect.whole(scene.ask, steps)
    return Performance(
        status=500 if failed else 200,
        content_type=_JSON,
        steps=[Raw(body, 0 if failed else tokens)],
        headers_s=script.headers_s + waits + tokens * _interval(script),
        sends_head=not died,
        tokens_total=tokens,
        end="died" if failed or died or script.hang_up else "finished",
        wire=_wire(script, "length" if script.framing == "chunked" else script.framing),
    )


def _interval(script: Script) -> float:
    return 1 / script.tokens_per_s if script.tokens_per_s else 0.0


def _wire(script: Script, framing: Framing) -> Wire:
    return Wire(
        framing=framing,
        newline=script.newline,
        gzip=script.encoding == "gzip",
        flush=script.flush,
        cut=script.write_cut,
        seed=script.seed,
        gap_s=script.gap_ms / 1000,
        cut_off=script.cut_off,
        hang_up=script.hang_up,
        length_error=script.length_error,
    )
