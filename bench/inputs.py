"""What a provider sends, as the reads of a socket: seeded, so that every run has the same, and different from token to token."""

from __future__ import annotations

import json
import random
from typing import Any

from bench.stage import Dialect

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n"
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def texts(count: int, seed: int) -> list[str]:
    """Return `count` tokens: short words with a space before them, now and then punctuation, a line's end or a letter beyond ASCII."""
    source = random.Random(seed)
    return [_token(source) for _ in range(count)]


def _token(source: random.Random) -> str:
    kind = source.random()
    if kind < 0.08:
        return source.choice((".", ",", "\n\n", ' "', "é", "—", " 東京"))
    return " " + "".join(source.choices(LETTERS, k=source.randint(1, 7)))


def openings(dialect: Dialect) -> list[bytes]:
    """Return the reads before the first token: the response's head, and what the dialect says first."""
    return [HEAD, _chunk(_OPENING[dialect])]


def reads(dialect: Dialect, tokens: list[str]) -> list[bytes]:
    """Return one read for each token: one event in one HTTP chunk, as providers write them."""
    return [_chunk(_EVENT[dialect](token)) for token in tokens]


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _openai_chat(delta: dict[str, str]) -> bytes:
    event = {
        "id": "chatcmpl-bench",
        "object": "chat.completion.chunk",
        "created": 1767225600,
        "model": "mock",
        "choices": [{"index": 0, "delta": delta, "finish_reason": None}],
    }
    return b"data: " + _json(event) + b"\n\n"


def _anthropic(event: dict[str, Any]) -> bytes:
    return f"event: {event['type']}\n".encode() + b"data: " + _json(event) + b"\n\n"


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


_MESSAGE: dict[str, Any] = {
    "id": "msg_bench",
    "type": "message",
    "role": "assistant",
    "model": "mock",
    "content": [],
    "stop_reason": None,
    "stop_sequence": None,
    "usage": {"input_tokens": 9, "output_tokens": 1},
}
_OPENING: dict[Dialect, bytes] = {
    "openai_chat": _openai_chat({"role": "assistant", "content": ""}),
    "anthropic": _anthropic({"type": "message_start", "message": _MESSAGE})
    + _anthropic({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
}
_EVENT: dict[Dialect, Any] = {
    "openai_chat": lambda token: _openai_chat({"content": token}),
    "anthropic": lambda token: _anthropic({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": token}}),
}
