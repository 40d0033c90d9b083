"""The OpenAI Chat Completions dialect: chunks of `chat.completion.chunk`, ended by `[DONE]`."""

import time
from collections.abc import Iterable
from typing import Any

import msgspec

from headrace.simulator import steps as s
from headrace.simulator.ask import (
    Ask,
    count_input,
    last_user_text,
    optional_flag,
    required_messages,
    required_model,
)

_FINISH: dict[s.FinishReason, str] = {"stop": "stop", "length": "length", "tool_calls": "tool_calls", "refusal": "stop", "pause": "stop"}
_ERRORS = {
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    403: ("invalid_request_error", "unsupported_country_region_territory"),
    404: ("invalid_request_error", "model_not_found"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
}
_FAILURE = "The server had an error while processing your request."
_dumps = msgspec.json.encode


class OpenAIChat:
    """`POST /v1/chat/completions`."""

    name = "openai_chat"
    error_shapes: tuple[str, ...] = ("openai", "groq", "openrouter", "llama_box")

    def request_id(self, serial: int) -> tuple[str, str]:
        return "x-request-id", f"req_sim{serial:012d}"

    def read(self, body: dict[str, Any], serial: int) -> Ask:
        messages = required_messages(body)
        options = body.get("stream_options")
        return Ask(
            serial=serial,
            model=required_model(body),
            stream=optional_flag(body, "stream"),
            last_user_text=last_user_text(messages),
            input_tokens=count_input(messages),
            include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        )

    def encoder(self, ask: Ask) -> "OpenAIChatEncoder":
        return OpenAIChatEncoder(ask)

    def whole(self, ask: Ask, steps: Iterable[s.Step]) -> bytes:
        """Return the answer to a request that did not ask for a stream."""
        message = s.fold(steps)
        choice = {"index": 0, "message": _whole_message(message), "logprobs": None, "finish_reason": _FINISH[message.reason]}
        usage = _usage(ask, message.output_tokens, message.reasoning_tokens)
        return _dumps({**_envelope(ask, "chat.completion"), "choices": [choice], "usage": usage})

    def error(self, status: int, message: str, serial: int) -> bytes:
        kind, code = _ERRORS.get(status, ("invalid_request_error" if status < 500 else "server_error", None))
        return _dumps({"error": {"message": message, "type": kind, "param": None, "code": code}})

    def models(self, names: Iterable[str]) -> bytes:
        data = [{"id": name, "object": "model", "created": 1_767_225_600, "owned_by": "headrace-simulator"} for name in names]
        return _dumps({"object": "list", "data": data})


class OpenAIChatEncoder:
    """Encode one answer. A text delta is spliced between two constant halves, because it is most of the work."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._envelope = _envelope(ask, "chat.completion.chunk")
        if ask.include_usage:
            self._envelope["usage"] = None
        self._tokens = 0
        self._reasoning = 0
        head, _, tail = self._delta({"@": 0}).partition(b'"@":0')
        self._head, self._tail = head, tail

    def encode(self, step: s.Step) -> bytes:
        self._tokens += step.tokens
        match step:
            case s.Text(piece):
                return self._field(b'"content":', piece)
            case s.Think(piece):
                self._reasoning += 1
                return self._field(b'"reasoning_content":', piece)
            case s.Refuse(piece):
                return self._field(b'"refusal":', piece)
            case s.ToolArgs(index, fragment):
                return self._delta({"tool_calls": [{"index": index, "function": {"arguments": fragment}}]})
            case s.ToolStart(index, call_id, name):
                function = {"name": name, "arguments": ""}
                return self._delta({"tool_calls": [{"index": index, "id": call_id, "type": "function", "function": function}]})
            case s.Open():
                return self._delta({"role": "assistant", "content": "", "refusal": None})
            case s.Finish(reason):
                return self._finish(reason)
            case s.Done():
                return b"data: [DONE]\n\n"
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

    def _field(self, name: bytes, piece: str) -> bytes:
        return b"".join((self._head, name, _dumps(piece), self._tail))

    def _delta(self, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return _data({**self._envelope, "choices": [choice]})

    def _finish(self, reason: s.FinishReason) -> bytes:
        last = self._delta({}, _FINISH[reason])
        if not self._ask.include_usage:
            return last
        return last + _data({**self._envelope, "choices": [], "usage": _usage(self._ask, self._tokens, self._reasoning)})

    def _fail(self, shape: s.ErrorShape) -> bytes:
        error = {"message": _FAILURE, "type": "server_error", "param": None, "code": None}
        match shape:
            case "groq":
                return b"event: error\n" + _data({"error": {**error, "status_code": 500}})
            case "openrouter":
                choice = {"index": 0, "delta": {"content": ""}, "finish_reason": "error"}
                failed = {**self._envelope, "choices": [choice], "error": {"code": 502, "message": _FAILURE}}
                return _data(failed) + b"data: [DONE]\n\n"
            case "llama_box":
                return b"error: " + _dumps({"code": 500, "message": _FAILURE, "type": "server_error"}) + b"\n\n"
            case _:
                return _data({"error": error})

    def _noise(self, kind: int) -> bytes:
        kinds = (
            b": SIMULATOR PROCESSING\n\n",
            _data({**self._envelope, "choices": [], "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {}}]}),
            b"event: vendor.telemetry\n" + _data({**self._envelope, "object": "vendor.telemetry", "choices": []}),
            b"retry: 3000\ncolour: blue\na field without a colon\n" + _data({**self._envelope, "choices": []}),
            self._delta({"vendor_sparkle": {"level": 3}}),
        )
        return kinds[kind % len(kinds)]


def _data(value: object) -> bytes:
    return b"data: " + _dumps(value) + b"\n\n"


def _envelope(ask: Ask, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-sim{ask.serial:012d}",
        "object": kind,
        "created": int(time.time()),
        "model": ask.resolved_model,
        "service_tier": "default",
        "system_fingerprint": "fp_simulator",
    }


def _usage(ask: Ask, output_tokens: int, reasoning_tokens: int) -> dict[str, Any]:
    return {
        "prompt_tokens": ask.input_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": ask.input_tokens + output_tokens,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": reasoning_tokens},
    }


def _whole_message(message: s.Message) -> dict[str, Any]:
    texts = {
        kind: "".join(block.text for block in message.blocks if block.kind == kind) or None for kind in ("text", "thinking", "refusal")
    }
    whole: dict[str, Any] = {"role": "assistant", "content": texts["text"], "refusal": texts["refusal"]}
    if texts["thinking"]:
        whole["reasoning_content"] = texts["thinking"]
    calls = [
        {"id": block.call_id, "type": "function", "function": {"name": block.name, "arguments": block.text}}
        for block in message.blocks
        if block.kind == "tool"
    ]
    if calls:
        whole["tool_calls"] = calls
    return whole
