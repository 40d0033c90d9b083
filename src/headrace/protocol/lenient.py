"""Reading JSON that others wrote carelessly: values of any type where one type was meant, and JSON that a strict parser refuses.

Halves of surrogate pairs are let in, because a vendor may cut a character between two deltas and `blocks` joins them again.
Everything else that leaves here can be encoded.
"""

from __future__ import annotations

import json
from math import isfinite
from typing import Any

import msgspec
from msgspec import Raw

# Encoders give up at a depth that depends on their caller's stack, so values that are passed on stay well below.
DEPTH_MAX = 100
_COUNT_MAX = 2**53
NO_RAW = Raw()  # the field is absent
NULL = Raw(b"null")


def loads(data: bytes | Raw) -> Any:
    """Parse JSON, also with halves of surrogate pairs, NaN, or control characters in strings.

    Raises:
        ValueError: not JSON at all.
    """
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return json.loads(bytes(data), strict=False)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def is_json(data: bytes) -> bool:
    try:
        loads(data)
    except ValueError:
        return False
    return True


def load_dict(data: bytes | Raw) -> dict[str, Any]:
    """Return the object that `data` is, or an empty one."""
    if data is NO_RAW:
        return {}
    value = loads(data)
    return value if isinstance(value, dict) else {}


def load_list(data: bytes | Raw) -> list[Any]:
    """Return the list that `data` is, or an empty one."""
    if data is NO_RAW:
        return []
    value = loads(data)
    return value if isinstance(value, list) else []


def raw(value: object) -> Raw:
    """The other way: a value as the JSON that it would have been."""
    try:
        return Raw(msgspec.json.encode(encodable(value)))
    except (TypeError, ValueError, RecursionError):
        return NO_RAW


def string(value: object) -> str:
    """Return `value` if it is a string, whole, and else an empty one."""
    return whole(value) if isinstance(value, str) else ""


def dicts(value: object) -> list[dict[str, Any]]:
    """Return the objects in a list, or the one object that stands in place of a list."""
    if isinstance(value, dict):
        return [value]
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def count(value: object, *names: str) -> int | None:
    """Return the first of `names` in the object `value` that is a count."""
    if isinstance(value, dict):
        for name in names:
            found = value.get(name)
            if isinstance(found, int | float) and not isinstance(found, bool) and 0 <= found < _COUNT_MAX:
                return int(found)
    return None


def whole(text: str) -> str:
    """Return `text` with surrogate pairs joined, and U+FFFD for halves that have no partner."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def encodable(value: Any, depth: int = 0) -> Any:
    """Return a copy of `value` that can be encoded: every string whole, every number finite, and nothing deeper than anybody means."""
    if isinstance(value, str):
        return whole(value)
    if depth >= DEPTH_MAX:
        return None
    if isinstance(value, list):
        return [encodable(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {whole(name): encodable(item, depth + 1) for name, item in value.items()}
    return None if isinstance(value, float) and not isfinite(value) else value
