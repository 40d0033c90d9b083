"""One answer as the Responses API tells it: items that grow, and the `response` object around them, at any time.

https://platform.openai.com/docs/api-reference/responses/object

An `Answer` takes our events. What each changes is told to a writer at once (frames of a stream, or nothing at all), and the whole
object can be had whenever somebody asks.

1. A run of text blocks is one message with a part for each. Readers take the last message for the answer, and some providers begin a
   block at every citation. A message therefore ends when something else begins, or with the answer.
2. Text is kept as the inside of a JSON string: each delta is encoded once, for its own frame and for every later one that repeats it.
3. A source stands at the place that its text had reached; one that comes before any text is held for the next. One that no text
   follows is not told, and neither is one without an address.
4. `encrypted_content` carries the signature of reasoning. Sealed reasoning stands there behind `redacted:`, because the two go back to
   a provider in different ways, and clients do not send back all else that could tell them apart.
5. `ResponseError.code` is a closed list, so ours goes into `type`.
6. Raw reasoning is `reasoning_text` and a summary is `summary_text`. Some clients (the AI SDK, Codex) show and send back summaries only;
   the surface's option `reasoning` = "summary" tells all of it as summaries.
7. A model that paused (`pause`) gave an `incomplete` response without a reason: the protocol has none for it. A refusal that came
   without words is `incomplete` for `content_filter`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import msgspec
from msgspec import Raw

from headrace.errors import QueueFull, QueueTimeout, TooManyStreams, UpstreamRateLimited, UpstreamRejected
from headrace.protocol import events as ev
from headrace.protocol.dialects.openai_responses.namespaces import grouped_names
from headrace.protocol.lenient import dicts
from headrace.protocol.surface import SurfaceRequest

Status: TypeAlias = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
ItemKind: TypeAlias = Literal["message", "reasoning", "function_call"]

OVER: frozenset[Status | None] = frozenset({"completed", "incomplete", "failed", "cancelled"})
REDACTED = "redacted:"
STOPPED = "The answer was stopped."

_LOST = ev.Error(
    code="upstream_error", message="Part of this answer cannot be told in this protocol. Ask again.", retryable=True, partial=True
)

_json: Callable[[object], bytes] = msgspec.json.Encoder().encode
_parse = msgspec.json.Decoder().decode
_PREFIXES: dict[ItemKind, str] = {"message": "msg", "reasoning": "rs", "function_call": "fc"}
_RATE_LIMITS = frozenset(cls.code for cls in (UpstreamRateLimited, TooManyStreams, QueueFull, QueueTimeout))
_ECHOED: dict[str, tuple[type, ...]] = {
    "background": (bool,),
    "instructions": (str,),
    "max_output_tokens": (int,),
    "max_tool_calls": (int,),
    "parallel_tool_calls": (bool,),
    "prompt_cache_key": (str,),
    "safety_identifier": (str,),
    "store": (bool,),
    "temperature": (int, float),
    "top_logprobs": (int,),
    "top_p": (int, float),
    "user": (str,),
}
_DEFAULTS = {"background": False, "parallel_tool_calls": True, "store": False}  # the relay keeps what is asked for in the background


class PartKind(NamedTuple):
    """How a stretch of text is told. `part` is the event of its beginning and end, where it has one beside those of its text."""

    text: str
    field: str
    part: str | None
    place: str | None
    tail: bytes = b""


KINDS = {
    "output_text": PartKind("response.output_text", "text", "response.content_part", "content_index", b',"logprobs":[]'),
    "refusal": PartKind("response.refusal", "refusal", "response.content_part", "content_index"),
    "reasoning_text": PartKind("response.reasoning_text", "text", "response.content_part", "content_index"),
    "summary_text": PartKind("response.reasoning_summary_text", "text", "response.reasoning_summary_part", "summary_index"),
    "arguments": PartKind("response.function_call_arguments", "arguments", None, None),
}


class Part:
    """One stretch of text in an item.

    Attributes:
        escaped: what has come of it, as the inside of a JSON string.
        head: the frame of one of its deltas, up to the text; `tail` is what stands between the text and the frame's number.
    """

    __slots__ = ("_length", "_measured", "annotations", "escaped", "head", "kind", "open", "tail", "where")

    def __init__(self, item: Item, kind: str) -> None:
        self.kind = kind
        self.open = True
        self.escaped = bytearray()
        self.annotations: list[bytes] = []
        self._length = self._measured = 0
        shape = KINDS[kind]
        place = "" if shape.place is None else f',"{shape.place}":{sum(part.place == shape.place for part in item.parts)}'
        self.where = b'"item_id":"%b","output_index":%d%b' % (item.id.encode(), item.index, place.encode())
        name = f"{shape.text}.delta".encode()
        self.head = b'event: %b\ndata: {"type":"%b",%b,"delta":' % (name, name, self.where)
        self.tail = shape.tail + b',"sequence_number":'

    @property
    def place(self) -> str | None:
        return KINDS[self.kind].place

    @property
    def characters(self) -> int:
        """How much text has come. It is counted when it is asked for, since sources are rare."""
        if self._measured != len(self.escaped):
            new = bytes(self.escaped[self._measured :])
            self._length, self._measured = self._length + len(_parse(b'"%b"' % new)), len(self.escaped)
        return self._length

    def as_json(self, *, empty: bool = False) -> bytes:
        """Return the part as it stands in its item; `empty`: as it was when it began."""
        text = b"" if empty else bytes(self.escaped)
        shape = b'{"type":"%b","%b":"%b"' % (self.kind.encode(), KINDS[self.kind].field.encode(), text)
        if self.kind == "output_text":
            shape += b',"annotations":[%b],"logprobs":[]' % (b"" if empty else b",".join(self.annotations))
        return shape + b"}"


class Item:
    """One item of the output: a message, reasoning, or a call."""

    __slots__ = ("call_id", "id", "index", "kind", "name", "namespace", "parts", "sealed", "status")

    def __init__(self, kind: ItemKind, index: int, stem: str) -> None:
        self.kind: ItemKind = kind
        self.index = index
        self.id = f"{_PREFIXES[kind]}_{stem}_{index}"
        self.status: Literal["in_progress", "completed", "incomplete"] = "in_progress"
        self.parts: list[Part] = []
        self.sealed: str | None = None
        self.call_id = ""
        self.name = ""
        self.namespace: str | None = None

    @property
    def busy(self) -> bool:
        return any(part.open for part in self.parts)

    def as_json(self, *, over: bool = False) -> bytes:
        """Return the item as it is now. `over`: nothing more of it will come."""
        status = "incomplete" if over and self.status == "in_progress" else self.status
        shape: dict[str, object] = {"id": self.id, "type": self.kind, "status": status}
        match self.kind:
            case "message":
                shape |= {"role": "assistant", "content": self._list("content_index")}
            case "reasoning":
                shape["summary"] = self._list("summary_index")
                if any(part.place == "content_index" for part in self.parts):
                    shape["content"] = self._list("content_index")
                if self.sealed is not None:
                    shape["encrypted_content"] = self.sealed
            case "function_call":
                arguments = b"".join(part.escaped for part in self.parts)
                shape |= {"call_id": self.call_id, "name": self.name, "arguments": Raw(b'"%b"' % arguments)}
                if self.namespace is not None:
                    shape["namespace"] = self.namespace
        return _json(shape)

    def _list(self, place: str) -> list[Raw]:
        return [Raw(part.as_json()) for part in self.parts if part.place == place]


class Writer(Protocol):
    """Who is told what an answer becomes."""

    def tell(self, kind: str, members: bytes) -> None:
        """Say an event of type `kind`, whose other members but its number are `members`."""
        ...

    def delta(self, part: Part, text: bytes) -> None:
        """Say that `text`, a JSON string, came for `part`."""
        ...


class Ending(NamedTuple):
    """How a stream's end is said: the type of the last event, and what is new in its `response`."""

    kind: str
    status: Status
    error: dict[str, Any] | None = None
    reason: str | None = None

    def members(self) -> dict[str, Any]:
        return {
            "status": self.status,
            "error": self.error,
            "incomplete_details": {"reason": self.reason} if self.reason else None,
        }


def ending(event: ev.Event, *, refused: bool = False) -> Ending:
    """Return how the terminal event is said. `refused`: the answer holds the words of a refusal.

    There is no event for a cancelled response. `response.failed` is the one that no reader takes for an answer: some take
    `response.incomplete` without a reason for a normal end.
    """
    if isinstance(event, ev.Error):
        return Ending("response.failed", "failed", _error(event))
    reason = event.finish_reason if isinstance(event, ev.StreamEnd) else "stop"
    match reason:
        case "cancelled":
            return Ending("response.failed", "cancelled", _error_shape("server_error", STOPPED, "cancelled"))
        case "length":
            return Ending("response.incomplete", "incomplete", reason="max_output_tokens")
        case "content_filter":
            return Ending("response.incomplete", "incomplete", reason="content_filter")
        case "refusal" if not refused:
            return Ending("response.incomplete", "incomplete", reason="content_filter")
        case "pause":
            return Ending("response.incomplete", "incomplete")
        case _:
            return Ending("response.completed", "completed")


def usage_json(usage: ev.UsageTotals | ev.Usage | None) -> dict[str, Any] | None:
    if usage is None or (usage.input_tokens is None and usage.output_tokens is None):
        return None
    inputs, outputs = usage.input_tokens or 0, usage.output_tokens or 0
    return {
        "input_tokens": inputs,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens or 0, "cache_write_tokens": 0},
        "output_tokens": outputs,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
        "total_tokens": inputs + outputs,
    }


def completed_at(created: int, event: ev.Event) -> int | None:
    """Return when the answer ended, where its measures tell."""
    metrics = event.metrics if isinstance(event, ev.StreamEnd) else None
    return None if metrics is None or metrics.duration_ms is None else created + round(metrics.duration_ms / 1000)


def echo(request: SurfaceRequest) -> dict[str, Any]:
    """Return what a `response` object repeats of its request, whatever the request's types are, with nothing that is not known yet."""
    body = request.body
    shape: dict[str, Any] = {"object": "response", "created_at": request.created, "completed_at": None}
    for name, types in _ECHOED.items():
        value = body.get(name)
        usable = isinstance(value, types) and (bool in types or not isinstance(value, bool))
        shape[name] = value if usable else _DEFAULTS.get(name)
    metadata, reasoning, text, choice = body.get("metadata"), body.get("reasoning"), body.get("text"), body.get("tool_choice")
    reasoning = reasoning if isinstance(reasoning, dict) else {}
    shape |= {
        "metadata": {k: v for k, v in metadata.items() if isinstance(v, str)} if isinstance(metadata, dict) else {},
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "text": {"format": {"type": "text"}} | (text if isinstance(text, dict) else {}),
        "tool_choice": choice if isinstance(choice, str | dict) and choice else "auto",
        "tools": [_tool(tool) for tool in dicts(body.get("tools"))],
        "truncation": body["truncation"] if body.get("truncation") in ("auto", "disabled") else "disabled",
        "previous_response_id": None,
    }
    return shape


class Answer:
    """The response that a stream's events make.

    Attributes:
        texts: the open part of each text block.
        status: as it is now.
    """

    __slots__ = (
        "_calls",
        "_ending",
        "_grouped",
        "_held",
        "_message",
        "_queued",
        "_refused",
        "_request",
        "_shell",
        "_summaries",
        "_thoughts",
        "_told",
        "_usage",
        "_writer",
        "completed_at",
        "eager",
        "items",
        "model",
        "status",
        "stem",
        "texts",
    )

    def __init__(self, request: SurfaceRequest, writer: Writer, *, eager: bool = False) -> None:
        self.items: list[Item] = []
        self.texts: dict[int, Part] = {}
        self.status: Status = "in_progress"
        self.stem = ""
        self.model = ""
        self.eager = eager
        self.completed_at: int | None = None
        self._request = request
        self._shell = echo(request)
        self._grouped = grouped_names(request.body.get("tools"))
        self._summaries = request.options.get("reasoning") == "summary"
        self._writer = writer
        self._told: set[str] = set()
        self._queued = False
        self._message: Item | None = None
        self._thoughts: dict[int, Item] = {}
        self._calls: dict[str, Item] = {}
        self._held: list[ev.Source] = []
        self._refused = False
        self._usage: dict[str, Any] | None = None
        self._ending: Ending | None = None

    @property
    def id(self) -> str:
        return f"resp_{self.stem}"

    def take(self, event: ev.Event) -> None:
        """Take the stream's next event. There is none after the end."""
        taker = _TAKERS.get(event.__class__)
        if taker is not None and self._ending is None:
            taker(self, event)

    def as_json(self, status: Status | None = None) -> bytes:
        """Return the whole `response` object as it is now."""
        end = self._ending
        over = end is not None or status in OVER
        shape = self._shell | {
            "id": self.id,
            "model": self.model,
            "output": [Raw(item.as_json(over=over)) for item in self.items],
            "usage": self._usage,
            "completed_at": self.completed_at,
            **(end.members() if end is not None else Ending("", self.status).members()),
        }
        if status is not None and status != shape["status"]:
            shape |= Ending("", status).members()
        return _json(shape)

    # --- the stream ------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Say that there is a response, that it waited if it did, and that it is under way: each once."""
        if "response.in_progress" in self._told:
            return
        self._tell_lifecycle("response.created", "in_progress")
        if self._queued:
            self._tell_lifecycle("response.queued", "queued")
        self._tell_lifecycle("response.in_progress", "in_progress")

    def _take_start(self, event: ev.StreamStart) -> None:
        self.stem = event.stream_id.removeprefix("st_")
        model = self._request.body.get("model")
        self.model = event.model or (model if isinstance(model, str) else "")
        if self.eager:
            self._tell_lifecycle("response.created", "in_progress")

    def _take_queue(self, event: ev.Queue) -> None:
        if "response.in_progress" in self._told:
            return
        self.status = "queued" if event.position else "in_progress"
        if event.position:
            self._queued = True
            if self.eager:
                self._tell_lifecycle("response.queued", "queued")
        elif self.eager:
            self.begin()

    def _take_usage(self, event: ev.Usage) -> None:
        self.begin()
        self._usage = usage_json(event)

    def _take_notice(self, event: ev.Notice) -> None:
        """The only notice that is part of the answer: the words of a refusal."""
        if event.code != "refusal" or not event.message:
            return
        self._refused = True
        part = self._begin_part(self._open_message(), "refusal")
        self._append(part, event.message)
        self._end_part(part)

    def _take_end(self, event: ev.StreamEnd | ev.Error) -> None:
        self.begin()
        end = self._ending = ending(event, refused=self._refused)
        self.status = end.status
        self.completed_at = completed_at(self._request.created, event) if end.status == "completed" else None
        self._usage = usage_json(event.usage) or self._usage
        for item in self.items:
            self._end_item(item, cut=end.status != "completed")
        self.texts.clear()
        self._writer.tell(end.kind, b'"response":%b' % self.as_json())

    def _take_loss(self, event: ev.Event) -> None:
        """Something of the answer was withdrawn or left out, and what was said cannot be taken back."""
        if self.items or not isinstance(event, ev.Reset):
            self._take_end(_LOST)

    def _tell_lifecycle(self, kind: str, status: Status) -> None:
        if kind not in self._told:
            self._told.add(kind)
            self.status = status
            self._writer.tell(kind, b'"response":%b' % self.as_json())

    # --- items and their parts -------------------------------------------------------------------------------------

    def _begin_item(self, kind: ItemKind) -> Item:
        self.begin()
        if kind != "message":
            self._leave_message()
        item = Item(kind, len(self.items), self.stem)
        self.items.append(item)
        return item

    def _tell_item(self, item: Item, step: Literal["added", "done"]) -> None:
        self._writer.tell(f"response.output_item.{step}", b'"output_index":%d,"item":%b' % (item.index, item.as_json()))

    def _end_item(self, item: Item, *, cut: bool = False) -> None:
        if item.status == "in_progress":
            for part in item.parts:
                self._end_part(part)
            item.status = "incomplete" if cut else "completed"
            self._tell_item(item, "done")

    def _begin_part(self, item: Item, kind: str) -> Part:
        part = Part(item, kind)
        item.parts.append(part)
        if name := KINDS[kind].part:
            self._writer.tell(f"{name}.added", b'%b,"part":%b' % (part.where, part.as_json(empty=True)))
        return part

    def _append(self, part: Part, text: str) -> None:
        if text:
            escaped = _json(text)
            part.escaped += escaped[1:-1]
            self._writer.delta(part, escaped)

    def _end_part(self, part: Part) -> None:
        if not part.open:
            return
        part.open = False
        kind = KINDS[part.kind]
        self._writer.tell(f"{kind.text}.done", b'%b,"%b":"%b"%b' % (part.where, kind.field.encode(), bytes(part.escaped), kind.tail))
        if kind.part:
            self._writer.tell(f"{kind.part}.done", b'%b,"part":%b' % (part.where, part.as_json()))

    # --- messages --------------------------------------------------------------------------------------------------

    def _take_text(self, event: ev.Text) -> None:
        part = self.texts.get(event.index)
        if part is None:
            part = self.texts[event.index] = self._begin_part(self._open_message(), "output_text")
            held, self._held = self._held, []
            for source in held:
                self._cite(part, source)
        self._append(part, event.text)

    def _open_message(self) -> Item:
        if self._message is None:
            self._message = self._begin_item("message")
            self._tell_item(self._message, "added")
        return self._message

    def _leave_message(self) -> None:
        """Something else begins. A message whose text still flows beside it ends with that text."""
        message, self._message = self._message, None
        if message is not None and not message.busy:
            self._end_item(message)

    def _take_source(self, event: ev.Source) -> None:
        if not event.url:
            return
        part = self.texts.get(event.index) if event.index is not None else None
        if part is None:
            part = next(reversed(self.texts.values()), None)
        if part is None:
            self._held.append(event)
        else:
            self._cite(part, event)

    def _cite(self, part: Part, source: ev.Source) -> None:
        place = part.characters
        annotation = _json(
            {"type": "url_citation", "start_index": place, "end_index": place, "url": source.url, "title": source.title or source.url}
        )
        members = b'%b,"annotation_index":%d,"annotation":%b' % (part.where, len(part.annotations), annotation)
        part.annotations.append(annotation)
        self._writer.tell("response.output_text.annotation.added", members)

    # --- reasoning and calls ---------------------------------------------------------------------------------------

    def _take_thinking(self, event: ev.Thinking) -> None:
        item = self._thoughts.get(event.index)
        if item is None:
            item = self._thoughts[event.index] = self._begin_item("reasoning")
            self._tell_item(item, "added")
        if event.text:
            kind = "summary_text" if self._summaries or event.kind == "summary" else "reasoning_text"
            part = item.parts[-1] if item.parts else None
            if part is None or part.kind != kind:
                if part is not None:
                    self._end_part(part)
                part = self._begin_part(item, kind)
            self._append(part, event.text)
        if event.signature is not None:
            item.sealed = event.signature
        elif event.redacted is not None:
            item.sealed = REDACTED + event.redacted

    def _take_call(self, event: ev.ToolCallStart) -> None:
        item = self._calls[event.tool_call_id] = self._begin_item("function_call")
        item.call_id = event.tool_call_id
        item.namespace, item.name = self._grouped.get(event.name, (None, event.name))
        self._tell_item(item, "added")
        self._begin_part(item, "arguments")

    def _take_arguments(self, event: ev.ToolCallDelta) -> None:
        item = self._calls.get(event.tool_call_id)
        if item is not None:
            self._append(item.parts[0], event.arguments_delta)

    def _take_call_end(self, event: ev.ToolCallComplete) -> None:
        item = self._calls.get(event.tool_call_id)
        if item is None:
            return
        if not item.parts[0].escaped:
            self._append(item.parts[0], event.arguments_raw or ("{}" if event.valid else ""))
        self._end_item(item, cut=not event.valid)

    def _take_block_end(self, event: ev.BlockEnd) -> None:
        if event.kind == "text" and (part := self.texts.pop(event.index, None)) is not None:
            self._end_part(part)
            item = next(item for item in reversed(self.items) if part in item.parts)
            if item is not self._message and not item.busy:
                self._end_item(item)
        elif event.kind == "thinking" and (thought := self._thoughts.pop(event.index, None)) is not None:
            self._end_item(thought)


_TAKERS: dict[type[ev.Event], Callable[[Answer, Any], None]] = {
    ev.Text: Answer._take_text,
    ev.Thinking: Answer._take_thinking,
    ev.ToolCallStart: Answer._take_call,
    ev.ToolCallDelta: Answer._take_arguments,
    ev.ToolCallComplete: Answer._take_call_end,
    ev.BlockEnd: Answer._take_block_end,
    ev.Source: Answer._take_source,
    ev.Usage: Answer._take_usage,
    ev.StreamStart: Answer._take_start,
    ev.Queue: Answer._take_queue,
    ev.Notice: Answer._take_notice,
    ev.Reset: Answer._take_loss,
    ev.Gap: Answer._take_loss,
    ev.Snapshot: Answer._take_loss,
    ev.StreamEnd: Answer._take_end,
    ev.Error: Answer._take_end,
}


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    return {"parameters": None, "strict": None} | tool if tool.get("type") == "function" else tool


def _error(event: ev.Error) -> dict[str, Any]:
    if event.code in _RATE_LIMITS:
        return _error_shape("rate_limit_exceeded", event.message, event.code)
    return _error_shape("invalid_prompt" if event.code == UpstreamRejected.code else "server_error", event.message, event.code)


def _error_shape(code: str, message: str, kind: str) -> dict[str, Any]:
    return {"code": code, "message": message, "type": kind, "param": None}
