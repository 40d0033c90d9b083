"""NDJSON framing: where lines begin and end, whatever the cut."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import LocalProtocolError, RemoteProtocolError
from headrace.protocol.ndjson import NDJSONParser, encode_line
from headrace.protocol.sse import LineTooLong

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)
STREAMS = st.lists(
    st.sampled_from([b'{"a":1}', b"[]", b"\n", b"\r\n", b"\r", b" ", b"\t", b"\xff", b"x" * 30]) | st.binary(max_size=4)
).map(b"".join)


def outcome(chunks: Iterable[bytes], line_bytes_max: int = 1024) -> tuple[list[bytes], type[RemoteProtocolError] | None]:
    parser = NDJSONParser(line_bytes_max)
    lines: list[bytes] = []
    try:
        for chunk in chunks:
            lines += parser.feed(chunk)
        lines += parser.finish()
    except RemoteProtocolError as error:
        return lines, type(error)
    return lines, None


def cut(stream: bytes, points: list[int]) -> list[bytes]:
    edges = [0, *sorted(point % (len(stream) + 1) for point in points), len(stream)]
    return [stream[start:end] for start, end in pairwise(edges)]


@pytest.mark.parametrize(
    ("stream", "lines"),
    [
        (b'{"a":1}\n{"b":2}\n', [b'{"a":1}', b'{"b":2}']),
        (b'{"a":1}\r\n{"b":2}\r\n', [b'{"a":1}', b'{"b":2}']),
        (b'\n\r\n \n\t\n{"a":1}\n\n\n', [b'{"a":1}']),
        (b'{"a":"\x0b\x0c\x85 \xe2\x80\xa8"}\n', [b'{"a":"\x0b\x0c\x85 \xe2\x80\xa8"}']),
        (b"1\r2\n", [b"1\r2"]),
        (b"1\r\r\n", [b"1\r"]),
        (b"", []),
    ],
    ids=["lf", "crlf", "blank lines", "not line ends", "bare cr is no line end", "one cr dropped", "empty"],
)
def test_lines_are_split_at_lf_and_blank_ones_skipped(stream: bytes, lines: list[bytes]) -> None:
    assert outcome([stream]) == (lines, None)
    assert outcome([stream[i : i + 1] for i in range(len(stream))]) == (lines, None)


@pytest.mark.parametrize("end", [b"", b"\r"])
def test_finish_delivers_a_last_line_that_came_without_its_end(end: bytes) -> None:
    parser = NDJSONParser()
    assert parser.feed(b'{"a":1}\n{"b":2}' + end) == [b'{"a":1}']
    assert parser.finish() == [b'{"b":2}']
    assert parser.finish() == []


def test_finish_delivers_nothing_for_a_blank_rest() -> None:
    parser = NDJSONParser()
    assert parser.feed(b"1\n \r") == [b"1"]
    assert parser.finish() == []


def test_feeding_a_finished_parser_is_our_own_mistake() -> None:
    parser = NDJSONParser()
    parser.finish()
    with pytest.raises(LocalProtocolError):
        parser.feed(b"1\n")


def test_a_line_of_the_limit_passes_and_one_byte_more_does_not() -> None:
    assert outcome([b"x" * 10 + b"\n"], 10) == ([b"x" * 10], None)
    assert outcome([b"x" * 11 + b"\n"], 10) == ([], LineTooLong)
    assert outcome([b"x" * 11], 10) == ([], LineTooLong)


def test_lines_before_a_line_too_long_are_delivered_and_then_the_error() -> None:
    parser = NDJSONParser(10)
    assert parser.feed(b"1\n2\n" + b"x" * 11) == [b"1", b"2"]
    with pytest.raises(LineTooLong):
        parser.feed(b"3\n")
    with pytest.raises(LocalProtocolError):
        parser.feed(b"3\n")
    assert parser.finish() == []


def test_finish_raises_the_error_that_feed_held_back() -> None:
    parser = NDJSONParser(10)
    parser.feed(b"1\n" + b"x" * 11)
    with pytest.raises(LineTooLong):
        parser.finish()


def test_an_endless_line_raises_early_in_bounded_memory() -> None:
    chunk = b"x" * 64 * 1024
    fed = 0

    def endless() -> Iterable[bytes]:
        nonlocal fed
        while fed < 64 * 1024 * 1024:
            fed += len(chunk)
            yield chunk

    tracemalloc.start()
    try:
        result = outcome(endless(), 256 * 1024)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert result == ([], LineTooLong)
    assert fed == 5 * len(chunk)
    assert peak < 1024 * 1024


@settings(deadline=None)
@given(STREAMS, st.lists(st.integers(0)), st.integers(1, 40))
def test_a_cut_never_changes_the_result(stream: bytes, points: list[int], line_bytes_max: int) -> None:
    whole = outcome([stream], line_bytes_max)
    assert outcome(cut(stream, points), line_bytes_max) == whole
    assert outcome([stream[i : i + 1] for i in range(len(stream))], line_bytes_max) == whole


@settings(deadline=None)
@given(st.lists(JSON, max_size=5))
def test_what_is_encoded_is_decoded_to_the_same(values: list[object]) -> None:
    lines = [json.dumps(value, ensure_ascii=False).encode() for value in values]
    assert outcome([b"".join(map(encode_line, lines))], 1 << 20) == (lines, None)


@pytest.mark.parametrize("value", [b'{\n"a":1}', b"1\r", b"1\n", b"", b"  "])
def test_encode_refuses_what_would_not_be_one_line(value: bytes) -> None:
    with pytest.raises(LocalProtocolError):
        encode_line(value)
