"""Scripts in which something goes wrong: statuses, broken streams, wrong framing."""

import re
from collections.abc import Iterator
from email.utils import formatdate
from itertools import chain
from time import time
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from headrace.simulator.ask import Rejected
from headrace.simulator.scripts import answers, tools
from headrace.simulator.scripts.base import FOREVER, Count, Rate, Reply, Scene, Script, Seconds
from headrace.simulator.steps import Die, Done, ErrorShape, Fail, Finish, HangUp, Ping, Raw, Step, Wait, token_number, up_to_token

_EVENT = re.compile(rb".+?(?:\r\n\r\n|\n\n|\r\r|\Z)", re.DOTALL)  # with the blank line that ends it; joined, the body again
_NEVER_SENT = 1000  # bytes that a dying answer's `Content-Length` promises beyond its end
_MESSAGES = {
    401: "Incorrect API key provided.",
    403: "This key may not use this model.",
    404: "The model does not exist.",
    429: "Rate limit reached for requests.",
    503: "The engine is currently overloaded, please try again later.",
    529: "Overloaded",
}


class Error(answers.Quick, frozen=True, kw_only=True):
    """An HTTP status instead of an answer. With `times`, only the first requests with this `key` get it."""

    name: ClassVar[str] = "error_<status>"
    status: int = 500
    retry_after: Annotated[float, Meta(ge=-1, le=86_400)] = -1
    retry_after_form: Literal["seconds", "ms", "date"] = "seconds"
    times: Count = 0
    key: str = ""

    def play(self, scene: Scene) -> list[Step] | Reply:  # type: ignore[override]  # Quick's list, or a status instead
        if self.times and scene.attempt(f"{self.status} {self.key or scene.ask.model}") > self.times:
            return super().play(scene)
        message = _MESSAGES.get(self.status, f"The simulator was asked for status {self.status}.")
        body = scene.dialect.error(self.status, message, scene.ask.serial)
        return Reply(self.status, "application/json", [Raw(body)], self._retry_after(), refused=True)

    def _retry_after(self) -> tuple[tuple[str, str], ...]:
        if self.retry_after < 0:
            return ()
        match self.retry_after_form:
            case "ms":
                return (("retry-after-ms", f"{self.retry_after * 1000:.0f}"),)
            case "date":
                return (("retry-after", formatdate(time() + self.retry_after, usegmt=True)),)
            case _:
                return (("retry-after", f"{self.retry_after:g}"),)


class _Interrupted(Script, frozen=True, kw_only=True):
    """A script that begins as another one, `of`, and goes wrong after `after` tokens."""

    of: Literal["quick", "story", "markdown", "thinking", "tool", "tools"] = "story"
    after: Count = 20

    def whole(self, scene: Scene) -> list[Step]:
        """Return the steps of the script that is interrupted, at this one's pace."""
        options = {name: getattr(self, name) for name in Script.__struct_fields__ if name != "cut"}
        script: Script = msgspec.convert(options, _INTERRUPTIBLE[self.of])
        steps = script.play(scene)
        assert isinstance(steps, list)
        return steps

    def begun(self, scene: Scene) -> list[Step]:
        return list(up_to_token(self.whole(scene), self.after))


class StreamError(_Interrupted, frozen=True, kw_only=True):
    """An error inside a 200, in one of the shapes that providers really use."""

    name: ClassVar[str] = "stream_error"
    shape: ErrorShape | Literal["default"] = "default"

    def play(self, scene: Scene) -> list[Step]:
        shapes = scene.dialect.error_shapes
        shape = shapes[0] if self.shape == "default" else self.shape
        if shape not in shapes:
            raise Rejected(400, f"`stream_error`: this dialect's shapes are {', '.join(shapes)}.")
        return [*self.begun(scene), Fail(msgspec.convert(shape, ErrorShape))]


class DieScript(_Interrupted, frozen=True, kw_only=True):
    """The connection ends: after `after` tokens, after `at_byte` bytes of the body, or (`headers=0`) instead of headers."""

    name: ClassVar[str] = "die"
    at_byte: Annotated[int, Meta(ge=-1)] = -1
    how: HangUp = "fin"
    headers: bool = True

    def play(self, scene: Scene) -> list[Step]:
        if not self.headers:
            return [Die(self.how)]
        steps = self.whole(scene)
        if self.at_byte >= 0:
            return steps
        return [*up_to_token(steps, self.after), Die(self.how, token_number(steps, self.after))]

    @property
    def sends_head(self) -> bool:
        return self.headers

    @property
    def cut_off(self) -> int | None:
        return self.at_byte if self.at_byte >= 0 else None

    @property
    def hang_up(self) -> HangUp:
        return self.how

    @property
    def length_error(self) -> int:
        return 0 if self.at_byte >= 0 else _NEVER_SENT


class Stall(_Interrupted, frozen=True, kw_only=True):
    """Silence after `after` tokens, for ever, on an open socket; with `ping_s` the pings go on."""

    name: ClassVar[str] = "stall"

    def play(self, scene: Scene) -> Iterator[Step]:
        return chain(self.begun(scene), self._silence())

    def _silence(self) -> Iterator[Step]:
        while self.ping_s:
            yield Wait(self.ping_s)
            yield Ping()
        yield Wait(FOREVER)


class NoDone(_Interrupted, frozen=True, kw_only=True):
    """A clean end with a finish reason but without the terminator (`[DONE]`, `message_stop`)."""

    name: ClassVar[str] = "no_done"

    def play(self, scene: Scene) -> list[Step]:
        return [step for step in self.whole(scene) if not isinstance(step, Done)]


class NoFinish(_Interrupted, frozen=True, kw_only=True):
    """A clean end of the body with neither finish reason nor terminator."""

    name: ClassVar[str] = "no_finish"

    def play(self, scene: Scene) -> list[Step]:
        return [step for step in self.whole(scene) if not isinstance(step, Done | Finish)]


class WrongLength(answers.Quick, frozen=True, kw_only=True):
    """A `Content-Length` that is `by` bytes more than the body has, or (negative) fewer."""

    name: ClassVar[str] = "wrong_length"
    framing: Literal["chunked", "length", "close"] = "length"
    by: int = 10

    @property
    def length_error(self) -> int:
        return self.by


class SlowHeaders(answers.Quick, frozen=True, kw_only=True):
    """Nothing, not even a status, for `headers_s`."""

    name: ClassVar[str] = "slow_headers"
    headers_s: Seconds = 5.0


class CloseDelimited(answers.Quick, frozen=True, kw_only=True):
    """An HTTP/1.0 response: the body ends where the connection ends."""

    name: ClassVar[str] = "close_delimited"
    framing: Literal["chunked", "length", "close"] = "close"


class CRLF(answers.Quick, frozen=True, kw_only=True):
    """Lines end with CR LF."""

    name: ClassVar[str] = "crlf"
    newline: Literal["lf", "crlf", "cr"] = "crlf"


class Gzip(answers.Quick, frozen=True, kw_only=True):
    """A compressed body, whatever the request accepts; `flush=0` holds it all back until the end."""

    name: ClassVar[str] = "gzip"
    encoding: Literal["identity", "gzip"] = "gzip"


class HTML(Script, frozen=True, kw_only=True):
    """A 200 with a web page, as some gateways answer when they are down."""

    name: ClassVar[str] = "html"

    def play(self, scene: Scene) -> Reply:
        page = "<!doctype html>\n<html><head><title>502 Bad Gateway</title></head><body><h1>Bad Gateway</h1></body></html>\n"
        return Reply(200, "text/html; charset=utf-8", [Raw(page.encode())])


class JSONError200(Script, frozen=True, kw_only=True):
    """A 200 whose body is an error."""

    name: ClassVar[str] = "json_error_200"

    def play(self, scene: Scene) -> Reply:
        body = scene.dialect.error(500, "The model produced no answer.", scene.ask.serial)
        return Reply(200, "application/json", [Raw(body)])


class Empty(Script, frozen=True, kw_only=True):
    """A 200 without a body."""

    name: ClassVar[str] = "empty"

    def play(self, scene: Scene) -> Reply:
        return Reply(200, "text/event-stream; charset=utf-8", [])


class Replay(Script, frozen=True, kw_only=True):
    """A recorded body, `file`, byte for byte; its events are paced like tokens, at once unless `tokens_per_s` is set."""

    name: ClassVar[str] = "replay"
    file: str
    first_token_s: Seconds = 0.0
    tokens_per_s: Rate = 0.0

    def play(self, scene: Scene) -> Reply:
        recording = scene.recording(self.file)
        if recording is None:
            raise Rejected(404, f"`replay`: there is no recording {self.file!r}.")
        events = (Raw(event, tokens=1) for event in _EVENT.findall(recording.body))
        return Reply(200, recording.content_type, [Wait(self.first_token_s), *events], streamed=True)


_INTERRUPTIBLE: dict[str, type[Script]] = {
    script.name: script for script in (answers.Quick, answers.Story, answers.Markdown, answers.Thinking, tools.Tool, tools.Tools)
}
SCRIPTS = (
    Error,
    StreamError,
    DieScript,
    Stall,
    NoDone,
    NoFinish,
    WrongLength,
    SlowHeaders,
    CloseDelimited,
    CRLF,
    Gzip,
    HTML,
    JSONError200,
    Empty,
    Replay,
)
