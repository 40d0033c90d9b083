"""The Anthropic Messages dialect: named events, content blocks that open and stop, cumulative usage."""

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
    required_messages,
    required_model,
)

_STOP: dict[s.FinishReason, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "refusal": "refusal",
    "pause": "pause_turn",
}
_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_SIGNATURE = "c2ltdWxhdG9yLXNpZ25hdHVyZS0" * 6
_REFUSED = {"type": "refusal", "category": None, "explanation": "The simulated model declined."}
_dumps = msgspec.json.encode


class Anthropic:
    """`POST /v1/messages`."""

    name = "anthropic"
    error_shapes: tuple[str, ...] = ("anthropic",)

    def request_id(self, serial: int) -> tuple[str, str]:
        return "request-id", f"req_sim{serial:012d}"

    def read(self, body: dict[str, Any], serial: int) -> Ask:
        messages = required_messages(body)
        limit = body.get("max_tokens")
        if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
            raise Rejected(400, "max_tokens: a whole number of at least 1 is required.")
        return Ask(
            serial=serial,
            model=required_model(body),
            stream=optional_flag(body, "stream"),
            last_user_text=last_user_text(messages),
            input_tokens=count_input(messages, body.get("system")),
        )

    def encoder(self, ask: Ask) -> "AnthropicEncoder":
        return AnthropicEncoder(ask)

    def whole(self, ask: Ask, steps: Iterable[s.Step]) -> bytes:
        """Return the answer to a request that did not ask for a stream."""
        message = s.fold(steps)
        return _dumps(
            {
                **_message(ask, ask.serial),
                "content": [_whole_block(block) for block in message.blocks],
                **_stopped(message.reason),
                "usage": _usage(ask, message.output_tokens),
            }
        )

    def error(self, status: int, message: str, serial: int) -> bytes:
        kind = _ERRORS.get(status, "invalid_request_error" if status < 500 else "api_error")
        return _dumps({"type": "error", "error": {"type": kind, "message": message}, "request_id": f"req_sim{serial:012d}"})

    def models(self, names: Iterable[str]) -> bytes:
        data = [{"type": "model", "id": name, "display_name": name, "created_at": "2026-01-01T00:00:00Z"} for name in names]
        return _dumps({"data": data, "has_more": False, "first_id": data[0]["id"], "last_id": data[-1]["id"]})


class AnthropicEncoder:
    """Encode one answer, opening and stopping blocks as their kind changes; they never overlap in this dialect."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._openings = 0
        self._begin()

    def _begin(self) -> None:
        self._index = -1
        self._open: object = None  # "text", "thinking", or the index of a tool call
        self._tokens = 0
        self._half = b""

    def encode(self, step: s.Step) -> bytes:
        self._tokens += step.tokens
        match step:
            case s.Text(piece) | s.Refuse(piece):
                return self._enter("text", {"type": "text", "text": ""}) + self._piece(piece)
            case s.Think(piece):
                opened = self._enter("thinking", {"type": "thinking", "thinking": "", "signature": ""})
                return opened + self._delta({"type": "thinking_delta", "thinking": piece})
            case s.Sealed(data):
                return self._sealed(data)
            case s.ToolStart(index, call_id, name, by_server):
                kind = "server_tool_use" if by_server else "tool_use"
                opened = self._enter(index, {"type": kind, "id": call_id, "name": name, "input": {}})
                return opened + self._delta({"type": "input_json_delta", "partial_json": ""})
            case s.ToolArgs(_, fragment):
                return self._delta({"type": "input_json_delta", "partial_json": fragment})
            case s.Open():
                return self._start()
            case s.Finish(reason):
                return self._stop() + _event("message_delta", {"delta": _stopped(reason), "usage": {"output_tokens": self._tokens}})
            case s.Done():
                return _event("message_stop", {})
            case s.Ping():
                return _event("ping", {})
            case s.Noise(kind):
                return self._noise(kind)
            case s.Fail():
                return _event("error", {"error": {"type": "overloaded_error", "message": "Overloaded"}, "request_id": None})
            case s.Raw(data):
                return data
            case _:
                return b""

    def _start(self) -> bytes:
        """Begin a message; a second one in the same stream (`spliced`) has its own id and starts at block 0."""
        self._begin()
        message = _message(self._ask, self._ask.serial + 10**11 * self._openings)
        self._openings += 1
        return _event("message_start", {"message": {**message, **_UNSTOPPED, "usage": _usage(self._ask, 1)}}) + _event("ping", {})

    def _enter(self, what: object, block: dict[str, Any]) -> bytes:
        """Open a block, unless the block that is open is the same one."""
        if self._open == what:
            return b""
        stopped = self._stop()
        self._open = what
        self._index += 1
        self._half = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":' % self._index
        return stopped + _event("content_block_start", {"index": self._index, "content_block": block})

    def _stop(self) -> bytes:
        """Stop the open block, a thinking block with its signature."""
        if self._open is None:
            return b""
        signature = self._delta({"type": "signature_delta", "signature": _SIGNATURE}) if self._open == "thinking" else b""
        self._open = None
        return signature + _event("content_block_stop", {"index": self._index})

    def _sealed(self, data: str) -> bytes:
        if data:
            return self._enter("redacted", {"type": "redacted_thinking", "data": data}) + self._stop()
        return self._enter("thinking", {"type": "thinking", "thinking": "", "signature": ""}) + self._stop()

    def _piece(self, piece: str) -> bytes:
        return b"".join((self._half, b'{"type":"text_delta","text":', _dumps(piece), b"}}\n\n"))

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return b"".join((self._half, _dumps(delta), b"}\n\n"))

    def _noise(self, kind: int) -> bytes:
        kinds = (
            b": simulator was here\n\n",
            _event("vendor_telemetry", {"load": 0.7, "nested": {"index": 99}}),
            b"retry: 3000\nid: 17\ncolour: blue\na field without a colon\n\n",
            _event("ping", {"vendor_sparkle": [1, 2, 3]}),
        )
        return kinds[kind % len(kinds)]


_UNSTOPPED: dict[str, Any] = {"content": [], "stop_reason": None, "stop_sequence": None}


def _event(name: str, fields: dict[str, Any]) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + _dumps({"type": name, **fields}) + b"\n\n"


def _message(ask: Ask, number: int) -> dict[str, Any]:
    return {"id": f"msg_sim{number:012d}", "type": "message", "role": "assistant", "model": ask.resolved_model}


def _usage(ask: Ask, output_tokens: int) -> dict[str, Any]:
    return {
        "input_tokens": ask.input_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": output_tokens,
        "service_tier": "standard",
    }


def _stopped(reason: s.FinishReason) -> dict[str, Any]:
    stopped: dict[str, Any] = {"stop_reason": _STOP[reason], "stop_sequence": None}
    if reason == "refusal":
        stopped["stop_details"] = _REFUSED
    return stopped


def _whole_block(block: s.Block) -> dict[str, Any]:
    match block.kind:
        case "thinking":
            return {"type": "thinking", "thinking": block.text, "signature": _SIGNATURE}
        case "redacted":
            return {"type": "redacted_thinking", "data": block.text}
        case "tool":
            kind = "server_tool_use" if block.by_server else "tool_use"
            return {"type": kind, "id": block.call_id, "name": block.name, "input": _whole_arguments(block.text)}
        case _:
            return {"type": "text", "text": block.text}


def _whole_arguments(text: str) -> Any:
    """Return the call's input; arguments that were cut by `max_tokens` cannot be an object, and then none is claimed."""
    try:
        return msgspec.json.decode(text) if text else {}
    except msgspec.DecodeError:
        return {}
