"""What a provider writes, in both dialects, cut where a phase of the answer begins."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

PHASES = ("first_token", "thinking", "text", "tool_arguments", "after_last_token")


class Wire(NamedTuple):
    """One answer: `parts` by the phase that each brings, and what ends it. All together is a whole, honest answer."""

    dialect: str
    parts: dict[str, bytes]
    end: bytes
    terminator: bytes  # the last frame of `end`: before its JSON is complete nothing is a success

    @property
    def whole(self) -> bytes:
        return b"".join(self.parts.values()) + self.end

    def until(self, phase: str) -> bytes:
        """Return what brings the answer into `phase`."""
        return b"".join(self.parts[name] for name in PHASES[: PHASES.index(phase) + 1])

    def plain(self, *texts: str) -> bytes:
        """Return a whole answer of nothing but text."""
        return b"".join(self.pieces(*texts))

    def pieces(self, *texts: str) -> Iterator[bytes]:
        """Yield the same, one piece for each text and one for the beginning and the end."""
        if self.dialect == "openai_chat":
            yield chunk({"role": "assistant", "content": ""})
            for text in texts:
                yield chunk({"content": text})
            yield chunk({}, "stop") + DONE
        else:
            yield MESSAGE_START + _start(0, type="text", text="")
            for text in texts:
                yield _delta(0, type="text_delta", text=text)
            yield _stop(0) + MESSAGE_END


def data(value: object, event: str | None = None) -> bytes:
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
    return data({"id": "c1", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


def _message(kind: str, **fields: Any) -> bytes:
    return data({"type": kind, **fields}, kind)


def _start(index: int, **block: Any) -> bytes:
    return _message("content_block_start", index=index, content_block=block)


def _delta(index: int, **delta: Any) -> bytes:
    return _message("content_block_delta", index=index, delta=delta)


def _stop(index: int) -> bytes:
    return _message("content_block_stop", index=index)


def _call(**function: str) -> dict[str, Any]:
    return {"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": function}]}


DONE = b"data: [DONE]\n\n"
MESSAGE_START = _message(
    "message_start", message={"id": "m1", "role": "assistant", "content": [], "usage": {"input_tokens": 9, "output_tokens": 1}}
)
MESSAGE_END = _message("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 4}) + _message("message_stop")
ARGUMENTS = '{"ort": "Zürich 水"}'

OPENAI = Wire(
    "openai_chat",
    {
        "first_token": chunk({"role": "assistant", "content": ""}),
        "thinking": chunk({"reasoning_content": "Let me see 🌊. "}),
        "text": chunk({"content": "Für "}) + chunk({"content": "dich"}),
        "tool_arguments": chunk(_call(name="weather", arguments=ARGUMENTS[:7])) + chunk(_call(arguments=ARGUMENTS[7:])),
        "after_last_token": chunk({}, "tool_calls") + data({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 7}}),
    },
    DONE,
    chunk({}, "tool_calls"),
)
ANTHROPIC = Wire(
    "anthropic",
    {
        "first_token": MESSAGE_START + _message("ping"),
        "thinking": _start(0, type="thinking", thinking="", signature="") + _delta(0, type="thinking_delta", thinking="Let me see 🌊. "),
        "text": _delta(0, type="signature_delta", signature="c2ln")
        + _stop(0)
        + _start(1, type="text", text="")
        + _delta(1, type="text_delta", text="Für ")
        + _delta(1, type="text_delta", text="dich"),
        "tool_arguments": _stop(1)
        + _start(2, type="tool_use", id="call_1", name="weather", input={})
        + _delta(2, type="input_json_delta", partial_json=ARGUMENTS[:7])
        + _delta(2, type="input_json_delta", partial_json=ARGUMENTS[7:]),
        "after_last_token": _stop(2) + _message("message_delta", delta={"stop_reason": "tool_use"}, usage={"output_tokens": 7}),
    },
    _message("message_stop"),
    _message("message_stop"),
)
WIRES = {wire.dialect: wire for wire in (OPENAI, ANTHROPIC)}
