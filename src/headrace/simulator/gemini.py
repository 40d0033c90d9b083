"""The Gemini dialect: every event is a whole response with the parts that are new; a finish reason, but no end marker."""

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote

import msgspec

from headrace.simulator import steps as s
from headrace.simulator.ask import Ask, Rejected, count_input, last_user_text, required_model

STREAM_PATH = "/v1beta/models/{model}:streamGenerateContent"
WHOLE_PATH = "/v1beta/models/{model}:generateContent"
MODELS_PATH = "/v1beta/models"
# The version is the client's choice, and Vertex AI says more about where a model is.
_PATH = re.compile(
    r"/v1(?:beta1?)?(?:/projects/[^/]+/locations/[^/]+)?(?:/publishers/[^/]+)?/models/([^/]+):(streamGenerateContent|generateContent)"
)

_FINISH: dict[s.FinishReason, str] = {"stop": "STOP", "length": "MAX_TOKENS", "tool_calls": "STOP", "refusal": "SAFETY", "pause": "STOP"}
_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_SIGNATURE = "c2ltdWxhdG9yLXNpZ25hdHVyZS0x" * 6
_REFUSED = "The simulated model declined."
_dumps = msgspec.json.encode


def route(path: str) -> str:
    """Return the template that `path` fits, or `path` itself: in this dialect the model is part of the path."""
    match = _PATH.fullmatch(path)
    if match is None:
        return path
    return STREAM_PATH if match[2] == "streamGenerateContent" else WHOLE_PATH


def said_by_path(path: str, query: dict[str, str]) -> dict[str, Any]:
    """Return the fields that other dialects have in the body. A `;` stands for the `?` and the `&` of the
    model's options, which no client of the dialect lets through."""
    match = _PATH.fullmatch(path)
    if match is None:
        return {}
    stream = match[2] == "streamGenerateContent"
    if stream and query.get("alt") != "sse":
        raise Rejected(400, "alt: a stream is `sse` here.")
    return {"model": unquote(match[1]).replace(";", "?", 1).replace(";", "&"), "stream": stream}


class Gemini:
    """`POST /v1beta/models/{model}:streamGenerateContent?alt=sse`."""

    name = "gemini"
    error_shapes: tuple[str, ...] = ("gemini",)

    def request_id(self, serial: int) -> tuple[str, str]:
        return "x-goog-request-id", f"sim{serial:012d}"

    def read(self, body: dict[str, Any], serial: int) -> Ask:
        messages = _messages(body)
        system = body.get("systemInstruction")
        return Ask(
            serial=serial,
            model=required_model(body),
            stream=body.get("stream") is True,
            last_user_text=last_user_text(messages),
            input_tokens=count_input(messages, system.get("parts") if isinstance(system, dict) else None),
        )

    def encoder(self, ask: Ask) -> "GeminiEncoder":
        return GeminiEncoder(ask)

    def whole(self, ask: Ask, steps: Iterable[s.Step]) -> bytes:
        """Return the answer to a request that did not ask for a stream."""
        message = s.fold(steps)
        parts = [part for block in message.blocks if (part := _whole_part(block)) is not None]
        usage = _usage(ask, message.output_tokens, message.reasoning_tokens)
        return _dumps(_response(ask, parts, usage, message.reason))

    def error(self, status: int, message: str, serial: int) -> bytes:
        kind = _STATUSES.get(status, "FAILED_PRECONDITION" if status < 500 else "INTERNAL")
        return _dumps({"error": {"code": status, "message": message, "status": kind}})

    def models(self, names: Iterable[str]) -> bytes:
        methods = ["generateContent", "streamGenerateContent"]
        return _dumps(
            {"models": [{"name": f"models/{name}", "displayName": name, "supportedGenerationMethods": methods} for name in names]}
        )


class GeminiEncoder:
    """Encode one answer. A call has no fragments in this dialect: it is held back until it is whole, and lost if it never is."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._tokens = 0
        self._reasoning = 0
        self._unsigned = False
        self._call: s.Block | None = None

    def encode(self, step: s.Step) -> bytes:
        self._tokens += step.tokens
        match step:
            case s.Text(piece):
                return self._take_call() + self._parts({"text": piece})
            case s.Think(piece):
                self._reasoning += 1
                self._unsigned = True
                return self._take_call() + self._parts({"text": piece, "thought": True})
            case s.Sealed():
                self._unsigned = True
                return b""
            case s.ToolStart(_, call_id, name):
                held = self._take_call()
                self._call = s.Block("tool", "", call_id, name)
                return held
            case s.ToolArgs(_, fragment):
                if self._call is not None:
                    self._call.text += fragment
                return b""
            case s.Finish(reason):
                return self._take_call() + self._finish(reason)
            case s.Ping():
                return self._parts()
            case s.Noise(kind):
                return self._noise(kind)
            case s.Fail():
                error = {"code": 503, "message": "The model is overloaded. Please try again later.", "status": "UNAVAILABLE"}
                return _data({"error": error})
            case s.Raw(data):
                return data
            case _:  # nothing begins before its first part, nothing ends after the finish reason, and refused words are withheld
                return b""

    def _parts(self, *parts: dict[str, Any]) -> bytes:
        return _data(_response(self._ask, list(parts), self._usage()))

    def _usage(self) -> dict[str, int]:
        return _usage(self._ask, self._tokens, self._reasoning)

    def _take_call(self) -> bytes:
        call, self._call = self._call, None
        part = _whole_part(call) if call is not None else None
        return self._parts(self._signed(part)) if part is not None else b""

    def _signed(self, part: dict[str, Any]) -> dict[str, Any]:
        """The first part that is no thought carries the thoughts' signature if it is a call, and else the last one does."""
        unsigned, self._unsigned = self._unsigned, False
        return {**part, "thoughtSignature": _SIGNATURE} if unsigned else part

    def _finish(self, reason: s.FinishReason) -> bytes:
        parts = [self._signed({"text": ""})] if reason != "refusal" else []
        return _data(_response(self._ask, parts, self._usage(), reason))

    def _noise(self, kind: int) -> bytes:
        """Events, and nothing else: the provider's own SDKs take a comment for a broken answer."""
        identity = {"modelVersion": self._ask.resolved_model, "responseId": f"sim{self._ask.serial:012d}"}
        kinds = (
            _data({"candidates": [], "usageMetadata": self._usage(), **identity}),
            _data({"usageMetadata": {**self._usage(), "trafficType": "ON_DEMAND"}, **identity}),
            _data({**_response(self._ask, [{"text": ""}], self._usage()), "vendorSparkle": [1, 2, 3]}),
        )
        return kinds[kind % len(kinds)]


def _messages(body: dict[str, Any]) -> list[dict[str, Any]]:
    """Return `contents` as messages: their parts have the shape that is read there."""
    contents = body.get("contents")
    if not isinstance(contents, list) or not contents:
        raise Rejected(400, "contents: a list with at least one turn is required.")
    messages = []
    for position, turn in enumerate(contents):
        if not isinstance(turn, dict) or not isinstance(turn.get("parts"), list) or turn.get("role", "user") not in ("user", "model"):
            raise Rejected(400, f"contents.{position}: an object with `parts` and the role user or model is required.")
        messages.append({"role": turn.get("role", "user"), "content": turn["parts"]})
    return messages


def _data(value: object) -> bytes:
    return b"data: " + _dumps(value) + b"\r\n\r\n"


def _response(ask: Ask, parts: list[dict[str, Any]], usage: dict[str, int], reason: s.FinishReason | None = None) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}} if parts else {}
    if reason is not None:
        candidate["finishReason"] = _FINISH[reason]
    if reason == "refusal":
        candidate["finishMessage"] = _REFUSED
    candidate["index"] = 0
    identity = {"modelVersion": ask.resolved_model, "responseId": f"sim{ask.serial:012d}"}
    return {"candidates": [candidate], "usageMetadata": usage, **identity}


def _usage(ask: Ask, output_tokens: int, reasoning_tokens: int) -> dict[str, int]:
    usage = {"promptTokenCount": ask.input_tokens, "candidatesTokenCount": output_tokens - reasoning_tokens}
    if reasoning_tokens:
        usage["thoughtsTokenCount"] = reasoning_tokens
    return {**usage, "totalTokenCount": ask.input_tokens + output_tokens}


def _whole_part(block: s.Block) -> dict[str, Any] | None:
    match block.kind:
        case "text":
            return {"text": block.text}
        case "thinking":
            return {"text": block.text, "thought": True} if block.text else None
        case "tool":
            try:
                args = msgspec.json.decode(block.text) if block.text else {}
            except msgspec.DecodeError:
                return None
            return {"functionCall": {"id": block.call_id, "name": block.name, "args": args}}
        case _:
            return None
