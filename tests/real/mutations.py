"""Requests that are wrong, made from good ones by a seeded die: each with the field at fault where there is one to name."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

STREAM = "/v1/chat/stream"
CANCEL = "/v1/streams/cancel"
MODEL = "sim/quick?tokens=1&first_token_s=0&tokens_per_s=0"
DEEP = 100_000


class Bad(NamedTuple):
    """One request. `field` is what the error must name; `may_pass` if the die may have made something that is valid."""

    what: str
    body: bytes
    field: str | None = None
    may_pass: bool = False
    path: str = STREAM
    headers: Mapping[str, str] = {}


def good() -> dict[str, Any]:
    """A request that uses every field that this provider has, and is right."""
    call = {"type": "tool_call", "tool_call_id": "c1", "name": "level", "arguments": {"at": "Wehr"}}
    return {
        "model": MODEL,
        "system": "Be brief. 水車",
        "max_tokens": 100,
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": ["END"],
        "tools": [{"name": "level", "description": "of the river", "parameters": {"type": "object"}}],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "answer_format": {"type": "json_object"},
        "metadata": {"case": "7"},
        "on_disconnect": "cancel",
        "messages": [
            {"role": "user", "content": "How high is the “river”?\n"},
            {"role": "assistant", "content": [{"type": "text", "text": "I look."}, call]},
            {"role": "tool", "content": [{"type": "tool_result", "tool_call_id": "c1", "content": "120 cm"}]},
            {"role": "user", "content": [{"type": "text", "text": "And now?"}]},
        ],
    }


WRONG_TYPES = (None, True, 3, -1.5, "x", [], {}, [[]], {"": None}, 10**40)
# Where, and what is right there; every wrong type that is not of these is a mistake at that place.
PLACES: tuple[tuple[tuple[str | int, ...], tuple[type, ...]], ...] = (
    (("messages",), ()),
    (("messages", 0), ()),
    (("messages", 0, "role"), ()),
    (("messages", 0, "content"), (str, list)),
    (("messages", 1, "content", 0, "type"), ()),
    (("messages", 1, "content", 0, "text"), (str,)),
    (("messages", 1, "content", 1, "name"), (str,)),
    (("messages", 1, "content", 1, "arguments"), (dict,)),
    (("messages", 2, "content", 0, "tool_call_id"), (str,)),
    (("messages", 2, "content", 0, "content"), (str, list)),
    (("model",), (str, type(None))),
    (("system",), (str, type(None))),
    (("max_tokens",), (int, type(None))),
    (("temperature",), (int, float, type(None))),
    (("top_p",), (int, float, type(None))),
    (("top_k",), (int, type(None))),
    (("parallel_tool_calls",), (bool, type(None))),
    (("answer_format",), (type(None),)),
    (("stop",), (list, type(None))),
    (("stop", 0), (str,)),
    (("tools",), (list, type(None))),
    (("tools", 0), ()),
    (("tools", 0, "name"), (str,)),
    (("tools", 0, "parameters"), (dict,)),
    (("tool_choice",), (str, type(None))),
    (("thinking",), (bool, dict, type(None))),
    (("on_disconnect",), (int, float, type(None))),
    (("slow_reader",), (type(None),)),
    (("metadata",), (dict, type(None))),
    (("stream",), (bool, type(None))),
)
# What is of the right type and wrong all the same.
WRONG_VALUES: tuple[tuple[tuple[str | int, ...], Any], ...] = (
    (("messages",), []),
    (("messages", 0, "role"), "wizard"),
    (("messages", 0, "role"), "User"),
    (("messages", 0, "content"), [{"type": "hologram"}]),
    (("messages", 0, "content"), [{"type": "image"}]),
    (("messages", 0, "content"), [{"type": "tool_result", "tool_call_id": "c", "content": ""}, {"type": "nothing"}]),
    (("messages", 2, "content", 0, "content"), [[]]),
    (("messages", 2, "content", 0, "content"), [3]),
    (("messages", 2, "content", 0, "content"), [{"type": "thinking", "text": "x"}]),
    (("top_k",), 0),
    (("answer_format",), {"type": "haiku"}),
    (("model",), ""),
    (("model",), "m" * 600),
    (("model",), "nobody/has-this"),
    (("max_tokens",), 0),
    (("max_tokens",), 1.5),
    (("temperature",), -0.1),
    (("top_p",), 1.1),
    (("tools", 0, "name"), ""),
    (("tool_choice",), "no such tool"),
    (("thinking",), {"effort": "heroic"}),
    (("thinking",), {"budget_tokens": 0}),
    (("on_disconnect",), "forget"),
    (("on_disconnect",), 1e9),
    (("slow_reader",), "wait"),
    (("stream",), False),
)
RAW: tuple[tuple[str, bytes], ...] = (
    ("nothing", b""),
    ("blanks", b" \r\n\t"),
    ("a mark of byte order", b"\xef\xbb\xbf{}"),
    ("another encoding", json.dumps({"model": "x"}).encode("utf-16")),
    ("zeros", bytes(1000)),
    ("no object", b"[1, 2]"),
    ("a string", b'"messages"'),
    ("null", b"null"),
    ("not a number", b'{"temperature": NaN}'),
    ("infinity", b'{"temperature": -Infinity, "messages": []}'),
    ("single quotes", b"{'model': 'x'}"),
    ("a comma too many", b'{"messages": [],}'),
    ("two values", b"{}{}"),
    ("a form", b"model=x&messages=hi"),
    ("deep lists", b'{"metadata": {"a": ' + b"[" * DEEP + b"]" * DEEP + b"}}"),
    ("deep objects", b'{"a":' * DEEP + b"1" + b"}" * DEEP),
    ("deep and never closed", b"[" * DEEP),
    ("half a surrogate", rb'{"messages": [{"role": "user", "content": "\ud83c"}]}'),
    ("half a surrogate, encoded", b'{"messages": [{"role": "user", "content": "\xed\xa0\x80"}]}'),
    ("overlong", b'{"messages": [{"role": "user", "content": "\xc0\xaf"}]}'),
    ("a control character", b'{"messages": [{"role": "user", "content": "\x00"}]}'),
    ("a huge integer", b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": ' + b"9" * 5000 + b"}"),
    ("a huge exponent", b'{"messages": [{"role": "user", "content": "x"}], "temperature": 1e99999}'),
)


def put(body: dict[str, Any], path: tuple[str | int, ...], value: Any) -> None:
    *way, last = path
    place: Any = body
    for step in way:
        place = place[step]
    place[last] = value


def name_of(path: tuple[str | int, ...]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")


def encode(body: object) -> bytes:
    return json.dumps(body, ensure_ascii=False).encode()


def certain() -> Iterator[Bad]:
    """Yield what is wrong without any doubt."""
    for path, right in PLACES:
        for value in WRONG_TYPES:
            if type(value) not in right:
                body = good()
                put(body, path, value)
                yield Bad(f"{name_of(path)} = {value!r}", encode(body), path[0])
    for path, value in WRONG_VALUES:
        body = good()
        put(body, path, value)
        yield Bad(f"{name_of(path)} = {str(value)[:40]}", encode(body), path[0])
    for field in ("messages",):
        body = good()
        del body[field]
        yield Bad(f"no {field}", encode(body), field)
    for typo in ("temprature", "Model", "message", "max-tokens", "\u202e", "a" * 300, ""):
        yield Bad(f"unknown field {typo[:20]!r}", encode({**good(), typo: 1}), typo[:200] or None)
    for what, body_bytes in RAW:
        yield Bad(what, body_bytes)
        yield Bad(f"{what}, to cancel", body_bytes, path=CANCEL)
    for kind in ("text/plain", "multipart/form-data; boundary=x", "application/xml", "application/jsonp", "x" * 3000):
        yield Bad(f"content-type {kind[:20]}", encode(good()), headers={"content-type": kind})
    yield Bad("compressed", encode(good()), headers={"content-encoding": "gzip"})
    for key in ("", "ä", "two words", "k" * 256):
        yield Bad(f"key {key[:9]!r}", encode(good()), "Idempotency-Key", headers={"idempotency-key": key})
        yield Bad(f"key {key[:9]!r}, to cancel", encode({"idempotency_key": key}), "idempotency_key", path=CANCEL)


def by_chance(seed: int, count: int) -> Iterator[Bad]:
    """Yield `count` good bodies with one to four accidents each; a few of them survive."""
    dice = random.Random(seed)
    whole = encode(good())
    accidents: tuple[Callable[[random.Random, bytearray], None], ...] = (_flip, _drop, _insert, _cut, _repeat, _double_key)
    for number in range(count):
        body = bytearray(whole)
        for _ in range(dice.randint(1, 4)):
            dice.choice(accidents)(dice, body)
        yield Bad(f"accident {number} of seed {seed}", bytes(body), may_pass=True)


def _place(dice: random.Random, body: bytearray) -> int:
    return dice.randrange(len(body)) if body else 0


def _flip(dice: random.Random, body: bytearray) -> None:
    if body:
        body[_place(dice, body)] ^= 1 << dice.randrange(8)


def _drop(dice: random.Random, body: bytearray) -> None:
    at = _place(dice, body)
    del body[at : at + dice.randint(1, 40)]


def _insert(dice: random.Random, body: bytearray) -> None:
    at = _place(dice, body)
    body[at:at] = dice.choice(
        (dice.randbytes(dice.randint(1, 8)), b"\\ud800", b"\x00", b"\xff\xfe", b'"', b"{", b"[" * 2000, b"1e309", b"\r\n\r\n")
    )


def _cut(dice: random.Random, body: bytearray) -> None:
    del body[_place(dice, body) :]


def _repeat(dice: random.Random, body: bytearray) -> None:
    at = _place(dice, body)
    body[at:at] = body[at : at + dice.randint(1, 200)]


def _double_key(dice: random.Random, body: bytearray) -> None:
    body[1:1] = dice.choice((b'"model":7,', b'"messages":[],', b'"messages":"x","messages":{},', b'"stop":["x"],'))
