"""The OpenAI Responses dialect: numbered events, items with parts that open and close, and the whole response at the end."""

import time
from collections.abc import Iterable
from typing import Any

import msgspec

from headrace.simulator import steps as s
from headrace.simulator.ask import (
    Ask,
    Rejected,
    count_input,
    last_user_text,
    optional_flag,
    required_model,
)
from headrace.simulator.openai_chat import OpenAIChat

_CHAT = OpenAIChat()
_FAILURE = "The server had an error while processing your request."
_SEALED = "Z0FBQUFBQnNpbXVsYXRvci1yZWFzb25pbmct" * 4
_dumps = msgspec.json.encode


class OpenAIResponses:
    """`POST /v1/responses`."""

    name = "openai_responses"
    error_shapes: tuple[str, ...] = ("responses", "failed", "openai")

    def request_id(self, serial: int) -> tuple[str, str]:
        return "x-request-id", f"req_sim{serial:012d}"

    def read(self, body: dict[str, Any], serial: int) -> Ask:
        messages = _messages(body)
        return Ask(
            serial=serial,
            model=required_model(body),
            stream=optional_flag(body, "stream"),
            last_user_text=last_user_text(messages),
            input_tokens=count_input(messages, body.get("instructions")),
        )

    def encoder(self, ask: Ask) -> "OpenAIResponsesEncoder":
        return OpenAIResponsesEncoder(ask)

    def whole(self, ask: Ask, steps: Iterable[s.Step]) -> bytes:
        """Return the answer to a request that did not ask for a stream."""
        message = s.fold(steps)
        output = [_whole_item(_item_id(block.kind, ask, position), block) for position, block in enumerate(message.blocks)]
        usage = _usage(ask, message.output_tokens, message.reasoning_tokens)
        return _dumps({**_response(ask), **_ended(message.reason), "output": output, "usage": usage})

    def error(self, status: int, message: str, serial: int) -> bytes:
        return _CHAT.error(status, message, serial)

    def models(self, names: Iterable[str]) -> bytes:
        return _CHAT.models(names)


class OpenAIResponsesEncoder:
    """Encode one answer, opening and closing items as their kind changes.

    A delta is spliced together from constant pieces, because it is most of the work.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._created = int(time.time())
        self._number = 0
        self._output: list[dict[str, Any]] = []
        self._open: object = None  # the kind of the open item, or the index of a tool call
        self._block = s.Block("text")
        self._id = ""
        self._pieces: list[str] = []
        self._head = self._tail = b""
        self._tokens = 0
        self._reasoning = 0
        self._reason: s.FinishReason = "stop"

    def encode(self, step: s.Step) -> bytes:
        self._tokens += step.tokens
        match step:
            case s.Text(piece):
                return self._enter("text", s.Block("text")) + self._delta(piece)
            case s.Think(piece):
                self._reasoning += 1
                return self._enter("thinking", s.Block("thinking")) + self._delta(piece)
            case s.Refuse(piece):
                return self._enter("refusal", s.Block("refusal")) + self._delta(piece)
            case s.ToolArgs(_, fragment):
                return self._delta(fragment)
            case s.ToolStart(index, call_id, name):
                return self._enter(("tool", index), s.Block("tool", "", call_id, name))
            case s.Sealed():
                return self._enter("redacted", s.Block("redacted")) + self._close()
            case s.Open():
                response = self._response(status="in_progress")
                return self._event("response.created", response=response) + self._event("response.in_progress", response=response)
            case s.Finish(reason):
                self._reason = reason
                return self._close(incomplete=reason == "length")
            case s.Done():
                return self._end()
            case s.Ping():
                return b": keep-alive\n\n"
            case s.Noise(kind):
                return self._noise(kind)
            case s.Fail(shape):
                return self._fail(shape)
            case s.Raw(data):
                return data
            case _:
                return b""

    def _event(self, name: str, **fields: Any) -> bytes:
        number, self._number = self._number, self._number + 1
        return b"event: " + name.encode() + b"\ndata: " + _dumps({"type": name, "sequence_number": number, **fields}) + b"\n\n"

    def _response(self, **fields: Any) -> dict[str, Any]:
        return {**_response(self._ask), "created_at": self._created, **fields}

    # --- items -----------------------------------------------------------------------------------------------------

    @property
    def _place(self) -> dict[str, Any]:
        """What every event of the open part names."""
        place: dict[str, Any] = {"item_id": self._id, "output_index": len(self._output)}
        if self._block.kind != "tool":
            place["summary_index" if self._block.kind == "thinking" else "content_index"] = 0
        return place

    def _enter(self, what: object, block: s.Block) -> bytes:
        """Open an item, unless the one that is open is the same."""
        if self._open == what:
            return b""
        closed = self._close()
        self._open, self._block = what, block
        self._id = _item_id(block.kind, self._ask, len(self._output))
        self._pieces = []
        opened = self._event("response.output_item.added", output_index=len(self._output), item=_begun_item(self._id, block))
        if (part := _part(block.kind, "")) is not None:
            opened += self._event(f"response.{_PART_NAMES[block.kind]}.added", **self._place, part=part)
        self._splice()
        return closed + opened

    def _splice(self) -> None:
        if self._block.kind == "redacted":
            return
        name = f"response.{_DELTA_NAMES[self._block.kind]}.delta"
        fields = {"type": name, **self._place, **({"logprobs": []} if self._block.kind == "text" else {})}
        self._head = b"event: %b\ndata: %b" % (name.encode(), _dumps(fields)[:-1])
        self._tail = b"}\n\n"

    def _delta(self, piece: str) -> bytes:
        number, self._number = self._number, self._number + 1
        self._pieces.append(piece)
        return b'%b,"sequence_number":%d,"delta":%b%b' % (self._head, number, _dumps(piece), self._tail)

    def _close(self, *, incomplete: bool = False) -> bytes:
        """Close the open item, first its part."""
        if self._open is None:
            return b""
        block = self._block
        block.text = "".join(self._pieces)
        closed = b""
        if block.kind != "redacted":
            closed = self._event(f"response.{_DELTA_NAMES[block.kind]}.done", **self._place, **_whole_delta(block))
        if (part := _part(block.kind, block.text)) is not None:
            closed += self._event(f"response.{_PART_NAMES[block.kind]}.done", **self._place, part=part)
        item = _whole_item(self._id, block)
        if incomplete:
            item["status"] = "incomplete"
        closed += self._event("response.output_item.done", output_index=len(self._output), item=item)
        self._output.append(item)
        self._open = None
        return closed

    # --- the end, and what is no answer ----------------------------------------------------------------------------

    def _end(self) -> bytes:
        ended = _ended(self._reason)
        usage = _usage(self._ask, self._tokens, self._reasoning)
        response = self._response(**ended, output=self._output, usage=usage)
        return self._event(f"response.{ended['status']}", response=response)

    def _fail(self, shape: s.ErrorShape) -> bytes:
        failed = self._response(status="failed", error={"code": "server_error", "message": _FAILURE}, output=self._output)
        match shape:
            case "openai":
                error = {"type": "server_error", "code": "server_error", "message": _FAILURE, "param": None}
                return self._event("error", error=error)
            case "failed":
                return self._event("response.failed", response=failed)
            case _:
                told = self._event("error", code="server_error", message=_FAILURE, param=None)
                return told + self._event("response.failed", response=failed)

    def _noise(self, kind: int) -> bytes:
        kinds = (
            lambda: b": SIMULATOR PROCESSING\n\n",
            lambda: self._event("response.vendor_telemetry", load=0.7, nested={"output_index": 99}),
            lambda: b"retry: 3000\ncolour: blue\na field without a colon\n" + self._event("keepalive"),
            lambda: self._event("response.in_progress", response=self._response(status="in_progress", vendor_sparkle=[1, 2, 3])),
        )
        return kinds[kind % len(kinds)]()


_DELTA_NAMES = {
    "text": "output_text",
    "refusal": "refusal",
    "thinking": "reasoning_summary_text",
    "tool": "function_call_arguments",
}
_PART_NAMES = {"text": "content_part", "refusal": "content_part", "thinking": "reasoning_summary_part"}
_PREFIXES = {"text": "msg", "refusal": "msg", "thinking": "rs", "redacted": "rs", "tool": "fc"}


def _messages(body: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the messages among the input's items; a string is one message."""
    items = body.get("input")
    if isinstance(items, str) and items:
        return [{"role": "user", "content": items}]
    if not isinstance(items, list) or not items:
        raise Rejected(400, "input: a string, or a list with at least one item, is required.")
    for position, item in enumerate(items):
        if not isinstance(item, dict) or not isinstance(item.get("role", item.get("type")), str):
            raise Rejected(400, f"input[{position}]: an object with a `role` or a `type` is required.")
    return [item for item in items if "role" in item]


def _item_id(kind: str, ask: Ask, position: int) -> str:
    return f"{_PREFIXES[kind]}_sim{ask.serial:012d}{position}"


def _part(kind: str, text: str) -> dict[str, Any] | None:
    match kind:
        case "text":
            return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        case "refusal":
            return {"type": "refusal", "refusal": text}
        case "thinking":
            return {"type": "summary_text", "text": text}
        case _:
            return None


def _whole_delta(block: s.Block) -> dict[str, Any]:
    """Return what the event says that ends a part's deltas."""
    match block.kind:
        case "tool":
            return {"arguments": block.text}
        case "refusal":
            return {"refusal": block.text}
        case "text":
            return {"text": block.text, "logprobs": []}
        case _:
            return {"text": block.text}


def _begun_item(id: str, block: s.Block) -> dict[str, Any]:
    item = {**_whole_item(id, block), "status": "in_progress"}
    if block.kind in ("text", "refusal"):
        item["content"] = []
    elif block.kind != "tool":
        item |= {"summary": [], "encrypted_content": _SEALED[:24]}  # whole only in the finished item
    return item


def _whole_item(id: str, block: s.Block) -> dict[str, Any]:
    part = _part(block.kind, block.text)
    match block.kind:
        case "tool":
            call = {"call_id": block.call_id, "name": block.name, "arguments": block.text}
            return {"type": "function_call", "id": id, "status": "completed", **call}
        case "thinking" | "redacted":
            return {"type": "reasoning", "id": id, "summary": [part] if part else [], "encrypted_content": _SEALED}
        case _:
            return {"type": "message", "id": id, "status": "completed", "role": "assistant", "content": [part]}


def _response(ask: Ask) -> dict[str, Any]:
    return {
        "id": f"resp_sim{ask.serial:012d}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "completed",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "metadata": {},
        "model": ask.resolved_model,
        "output": [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "service_tier": "default",
        "store": False,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": None,
    }


def _ended(reason: s.FinishReason) -> dict[str, Any]:
    if reason == "length":
        return {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    return {"status": "completed"}


def _usage(ask: Ask, output_tokens: int, reasoning_tokens: int) -> dict[str, Any]:
    return {
        "input_tokens": ask.input_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": reasoning_tokens},
        "total_tokens": ask.input_tokens + output_tokens,
    }
