"""JSON that others wrote carelessly."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.protocol import lenient


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b'{"a": 1}', {"a": 1}),
        (b'"\\ud83d\\ude00"', "😀"),
        (b'"\\ud83d"', "\ud83d"),
        (b'"a\tb"', "a\tb"),
        (b"[Infinity]", [math.inf]),
        (b"[1e999]", [math.inf]),
    ],
)
def test_what_can_be_read_is_read(data: bytes, value: object) -> None:
    assert lenient.loads(data) == value


@pytest.mark.parametrize("data", [b"", b"{", b"nonsense", b"\xff", b"[" * 100_000, b"1" * 5000 + b"x", b"{'a': 1}"])
def test_what_is_no_json_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        lenient.loads(data)
    assert not lenient.is_json(data)


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5) | st.sampled_from(("\ud83d", "a\ude00")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.just("\ud83d"), inner, max_size=3),
)


@given(JSON)
def test_what_is_encodable_survives_its_encoding(value: object) -> None:
    plain = lenient.encodable(value)
    assert msgspec.json.decode(msgspec.json.encode(plain)) == plain


def test_what_is_too_deep_is_left_out() -> None:
    value: Any = 1
    for _ in range(900):
        value = [value]
    plain = lenient.encodable(value)
    assert msgspec.json.encode(plain).count(b"[") == lenient.DEPTH_MAX


@pytest.mark.parametrize(
    ("value", "count"),
    [
        ({"a": 3}, 3),
        ({"a": 3.0}, 3),
        ({"b": 4}, 4),
        ({"a": None, "b": 4}, 4),
        ({"a": -1}, None),
        ({"a": True}, None),
        ({"a": "3"}, None),
        ({"a": math.nan}, None),
        ({"a": math.inf}, None),
        ({"a": 10**30}, None),
        ([], None),
        (None, None),
    ],
)
def test_counts(value: object, count: int | None) -> None:
    assert lenient.count(value, "a", "b") == count
