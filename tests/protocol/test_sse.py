"""SSE framing: fields, limits, memory, the fast path, and the encoder. The public suites' cases are in test_sse_conformance.py."""

from __future__ import annotations

import json
import re
import tracemalloc
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headrace.errors import LocalProtocolError, RemoteProtocolError
from headrace.protocol.sse import DONE, HEARTBEAT, RETRY_MS_MAX, EventTooLong, LineTooLong, SSEEvent, SSEParser, encode_event

KIB = 1024
MIB = 1024 * KIB

# Streams of the pieces that matter: fields in every spelling, every line end, marks, bytes that are no UTF-8, and noise.
FIELDS = [b"data: ", b"data:", b"data", b"event: ", b"event:", b"id: ", b"id", b"retry: ", b"retry:", b":", b": ", b" ", b"7", b"0099"]
ENDS = [b"\n", b"\n\n", b"\r", b"\r\n", b"\r\n\r\n"]
NOISE = [b"\0", b"\xef\xbb\xbf", b"\xef\xbb", b"\xff", b"\xe2\x82", b"\xed\xa0\x80", "é\u2028\x85".encode(), b"\x0b\x0c\x1c", b"x" * 20]
WHOLE = [b"data: a\n\n", b"event: b\ndata: c\n\n", b"id: d\n\n", b": ping\n"]
NAME = st.sampled_from([b"message", b"", b"delta", b" spaced", b"\xc3\xa9", b"\xff", b"a:b"])
VALUE = st.sampled_from([b"", b" ", b"{}", b"\xc3\xa9", b"\xff\xfe", b"\xed\xa0\x80", b"a: b", b"data: x", b"\0", b"x" * 20])
LINE = st.builds(bytes.__add__, st.sampled_from([b"data: ", b"data: ", b"event: ", b"id: ", b"data:", b": ", b"retry: "]), VALUE | NAME)
PIECES = st.sampled_from([*FIELDS, *ENDS, *ENDS, *NOISE, *WHOLE]) | LINE | st.binary(max_size=3)
STREAMS = st.lists(PIECES, max_size=30).map(b"".join)

# What servers really write, one block per token: most of these take the fast path, and some just miss it.
BLOCK = st.builds(
    lambda lines, end: b"".join(line + end for line in lines) + end,
    st.lists(LINE, max_size=4),
    st.sampled_from([b"\n", b"\n", b"\r\n", b"\r"]),
)
BLOCKS = st.lists(BLOCK, max_size=5).map(b"".join)
CHUNKS = st.lists(st.sampled_from(WHOLE) | BLOCKS | PIECES | STREAMS, max_size=8)
LIMIT = st.integers(1, 60) | st.just(MIB)

Outcome = tuple[list[SSEEvent], type[RemoteProtocolError] | None, str, int | None, int]


class SlowParser(SSEParser):
    """The rules alone."""

    def _whole_events(self, chunk: bytes) -> list[SSEEvent] | None:
        return None


class FastParser(SSEParser):
    """Fails where the fast path does not apply."""

    def _feed_pieces(self, chunk: bytes) -> list[SSEEvent]:
        assert not self._between_events, chunk
        return super()._feed_pieces(chunk)


def outcome(parser: SSEParser, chunks: Iterable[bytes]) -> Outcome:
    events: list[SSEEvent] = []
    error: type[RemoteProtocolError] | None = None
    try:
        for chunk in chunks:
            events += parser.feed(chunk)
        events += parser.finish()
    except RemoteProtocolError as raised:
        error = type(raised)
    return events, error, parser.last_event_id, parser.retry_ms, parser.comments


def parse(*chunks: bytes) -> list[SSEEvent]:
    events, error, *_ = outcome(SSEParser(), chunks)
    assert error is None
    return events


def single_bytes(stream: bytes) -> list[bytes]:
    return [stream[i : i + 1] for i in range(len(stream))]


def cut(stream: bytes, points: list[int]) -> list[bytes]:
    edges = [0, *sorted(point % (len(stream) + 1) for point in points), len(stream)]
    return [stream[start:end] for start, end in pairwise(edges)]


def interpret(stream: bytes) -> list[SSEEvent]:
    """WHATWG HTML 9.2.6 read aloud over a whole stream: slow, and too simple to be wrong in the same way as the parser."""
    lines = re.split("\r\n|\r|\n", stream.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace"))
    events: list[SSEEvent] = []
    data, name, last_id = "", "", ""
    for line in lines[:-1]:
        if line == "":
            if data != "":
                events.append(SSEEvent(data[:-1].encode(), name or "message", last_id, named=name == "message"))
            data, name = "", ""
            continue
        field, _, value = line.partition(":")
        if value[:1] == " ":
            value = value[1:]
        if field == "data":
            data += value + "\n"
        elif field == "event":
            name = value
        elif field == "id" and "\0" not in value:
            last_id = value
    return events


# --- fields ----------------------------------------------------------------------------------------------------------


def test_an_event_carries_its_data_as_bytes_and_as_text() -> None:
    (event,) = parse("event: greeting\nid: 7\ndata: grüß\ndata: dich\n\n".encode())
    assert event == SSEEvent(data="grüß\ndich".encode(), event="greeting", id="7")
    assert event.text == "grüß\ndich"


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        (b"\x80", "\ufffd"),
        (b"a\xffb", "a\ufffdb"),
        (b"\xe2\x82", "\ufffd"),
        (b"\xf0\x9f\x98x", "\ufffdx"),
        (b"\xc0\xaf", "\ufffd\ufffd"),
        (b"\xed\xa0\x80", "\ufffd\ufffd\ufffd"),
        (b"\xf4\x90\x80\x80", "\ufffd\ufffd\ufffd\ufffd"),
        ("a\u2028\x85\x0b\ufeffz".encode(), "a\u2028\x85\x0b\ufeffz"),
    ],
    ids=["continuation", "invalid", "truncated", "truncated then ascii", "overlong", "surrogate", "above U+10FFFF", "valid"],
)
@pytest.mark.parametrize("parser", [SSEParser, SlowParser])
def test_data_is_valid_utf8_whatever_the_peer_sent(parser: type[SSEParser], sent: bytes, text: str) -> None:
    events, *_ = outcome(parser(), [b"\n", b"data: " + sent + b"\n\n"])
    assert events == [SSEEvent(data=text.encode())]


def test_the_id_of_an_event_that_never_ended_is_not_the_one_to_resume_from() -> None:
    parser = SSEParser()
    assert [event.id for event in parser.feed(b"id: a\ndata: x\n\nid: b\ndata: y\n")] == ["a"]
    assert parser.last_event_id == "a"
    assert parser.finish() == []
    assert parser.last_event_id == "a"


def test_a_block_with_only_an_id_moves_the_resume_point_and_dispatches_nothing() -> None:
    parser = SSEParser()
    assert parser.feed(b"id: 9\n\n") == []
    assert parser.last_event_id == "9"
    assert parser.feed(b"data: x\n\n") == [SSEEvent(data=b"x", id="9")]


def test_an_event_that_ends_in_a_bare_cr_does_not_wait_for_more() -> None:
    parser = SSEParser()
    assert parser.feed(b"data: x\r\r") == [SSEEvent(data=b"x")]
    assert parser.feed(b"\ndata: y\r\r") == [SSEEvent(data=b"y")]
    assert parser.finish() == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"0", 0),
        (b"007", 7),
        (b"000", 0),
        (b"0" * 5000 + b"12", 12),
        (b"9" * 5000, RETRY_MS_MAX),
        (str(RETRY_MS_MAX).encode(), RETRY_MS_MAX),
        ("\u0661".encode(), None),
        (b"1e3", None),
        (b"1 ", None),
    ],
    ids=["zero", "leading zeros", "zeros", "many zeros", "saturates", "at the top", "other digits", "exponent", "space after"],
)
def test_retry_takes_ascii_digits_only_and_saturates(value: bytes, expected: int | None) -> None:
    parser = SSEParser()
    parser.feed(b"retry: " + value + b"\n")
    assert parser.retry_ms == expected


def test_comments_are_counted_as_soon_as_they_begin() -> None:
    parser = SSEParser()
    parser.feed(b": one\n:\r\n:three")
    assert parser.comments == 3
    parser.feed(b" goes on")
    parser.feed(b" and ends\n")
    assert parser.comments == 3
    assert parser.feed(b":\ndata: x\n\n") == [SSEEvent(data=b"x")]
    assert parser.comments == 4


def test_a_long_line_of_no_known_field_is_no_comment() -> None:
    parser = SSEParser()
    parser.feed(b"unknown" * 100)
    parser.feed(b":\n")
    assert parser.comments == 0


# --- the end, and misuse ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rest", [b"data: x", b"data: x\n", b"data: x\r", b"\xef\xbb", b"data: \xe2\x82", b": comment", b"event: x\n"])
def test_finish_discards_a_block_without_its_blank_line(rest: bytes) -> None:
    parser = SSEParser()
    assert parser.feed(rest) == []
    assert parser.finish() == []
    assert parser.finish() == []


def test_feeding_a_finished_parser_is_our_own_mistake() -> None:
    parser = SSEParser()
    parser.feed(b"data: x\n\n")
    parser.finish()
    with pytest.raises(LocalProtocolError):
        parser.feed(b"data: y\n\n")


# --- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", [b"data: ", b"data:", b"event: ", b"id: ", b"retry: "])
def test_a_line_of_the_limit_passes_and_one_byte_more_does_not(field: bytes) -> None:
    line = field.ljust(20, b"1")
    for end in (b"\n", b"\r\n", b""):
        for chunks in ([line + end], single_bytes(line + end)):
            assert outcome(SSEParser(line_bytes_max=20), chunks)[1] is None
            assert outcome(SSEParser(line_bytes_max=19), chunks)[1] is LineTooLong


def test_an_event_of_the_limit_passes_and_one_byte_more_does_not() -> None:
    stream = b"data: 12\ndata: 45\n\n"
    for chunks in ([stream], [b"\n", stream], single_bytes(stream)):
        assert outcome(SSEParser(event_bytes_max=17), chunks)[:2] == ([SSEEvent(data=b"12\n45")], None)
        assert outcome(SSEParser(event_bytes_max=16), chunks)[:2] == ([], EventTooLong)


@pytest.mark.parametrize("line", [b"event: 123456", b"id: 123456", b"retry: 123456"])
def test_the_limit_of_an_event_is_about_its_data(line: bytes) -> None:
    stream = line + b"\ndata: 1\n\n"
    for chunks in ([stream], [b"\n", stream], single_bytes(stream)):
        events, error, *_ = outcome(SSEParser(event_bytes_max=8), chunks)
        assert ([event.data for event in events], error) == ([b"1"], None)


def test_each_event_has_the_whole_limit_for_itself() -> None:
    assert len(outcome(SSEParser(event_bytes_max=8), [b"data: 1\n\n" * 50])[0]) == 50


@pytest.mark.parametrize("begin", [b":", b"unknown: ", b"dataset: ", b"data\0: ", b" data: ", b"no colon"])
def test_lines_that_are_ignored_have_no_limit(begin: bytes) -> None:
    stream = begin + b"x" * 1000 + b"\ndata: ok\n\n"
    for chunks in ([stream], single_bytes(stream)):
        assert outcome(SSEParser(line_bytes_max=8, event_bytes_max=8), chunks)[:2] == ([SSEEvent(data=b"ok")], None)


def test_events_before_a_broken_limit_are_delivered_and_then_the_error() -> None:
    parser = SSEParser(line_bytes_max=10)
    assert parser.feed(b"data: 1\n\ndata: 2\n\ndata: 34567\n\ndata: 8\n\n") == [SSEEvent(data=b"1"), SSEEvent(data=b"2")]
    with pytest.raises(LineTooLong):
        parser.feed(b"data: 9\n\n")
    with pytest.raises(LocalProtocolError):
        parser.feed(b"data: 9\n\n")
    assert parser.finish() == []


def test_finish_raises_the_error_that_feed_held_back() -> None:
    parser = SSEParser(line_bytes_max=10)
    assert len(parser.feed(b"data: 1\n\ndata: 34567")) == 1
    with pytest.raises(LineTooLong):
        parser.finish()
    assert parser.finish() == []


# --- size, memory, cost ----------------------------------------------------------------------------------------------


def peak_bytes(parser: SSEParser, chunks: Iterable[bytes]) -> tuple[int, Outcome]:
    tracemalloc.start()
    try:
        result = outcome(parser, chunks)
        return tracemalloc.get_traced_memory()[1], result
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("chunk_bytes", [64, 5000, 16 * MIB])
def test_an_event_of_5_mib_arrives_whole(chunk_bytes: int) -> None:
    payload = b"0123456789abcdef" * (5 * MIB // 16)
    stream = b"data: " + payload + b"\n\n"
    chunks = [stream[i : i + chunk_bytes] for i in range(0, len(stream), chunk_bytes)]
    events, error, *_ = outcome(SSEParser(line_bytes_max=6 * MIB), chunks)
    assert error is None
    assert [event.data for event in events] == [payload]


def test_ten_thousand_data_lines_are_one_event() -> None:
    stream = b"data: line\n" * 10_000 + b"\n"
    assert parse(stream) == parse(*cut(stream, list(range(0, len(stream), 777)))) == [SSEEvent(data=b"\n".join([b"line"] * 10_000))]


def test_two_thousand_events_in_one_chunk_come_in_order() -> None:
    stream = b"".join(b"data: %d\n\n" % i for i in range(2000))
    assert [int(event.data) for event in parse(stream)] == list(range(2000))
    assert [int(event.data) for event in parse(b"\n", stream)] == list(range(2000))


@pytest.mark.parametrize(
    "line", [b": a comment of some length\n", b"unknown: field of some length\n", b"event: renamed\n", b"id: 1\n", b"\r\n"]
)
def test_lines_without_data_take_no_memory_however_many(line: bytes) -> None:
    def repeated() -> Iterable[bytes]:
        for _ in range(10_000):
            yield line

    assert peak_bytes(SSEParser(), repeated())[0] < 8 * KIB


@pytest.mark.parametrize("begin", [b":", b"unknown: "])
def test_an_endless_ignored_line_takes_no_more_memory_than_its_chunk(begin: bytes) -> None:
    chunk = b"x" * 64 * KIB

    def endless() -> Iterable[bytes]:
        yield begin
        for _ in range(256):
            yield chunk
        yield b"\ndata: ok\n\n"

    peak, result = peak_bytes(SSEParser(), endless())
    assert result[:2] == ([SSEEvent(data=b"ok")], None)
    assert peak < 3 * 64 * KIB


def test_short_lines_in_one_huge_chunk_are_not_all_in_memory_at_once() -> None:
    peak, result = peak_bytes(SSEParser(), [b":\n" * (256 * KIB)])
    assert result[-1] == 256 * KIB
    assert peak < 4 * MIB


@pytest.mark.parametrize(
    ("begin", "unit", "error", "fed_at_most", "peak_at_most"),
    [(b"data: ", b"x", LineTooLong, MIB, 3 * MIB), (b"", b"data: " + b"x" * 57 + b"\n", EventTooLong, 8 * MIB, 12 * MIB)],
    ids=["line", "event"],
)
def test_64_mib_without_an_end_raise_early_in_bounded_memory(
    begin: bytes, unit: bytes, error: type[RemoteProtocolError], fed_at_most: int, peak_at_most: int
) -> None:
    chunk = unit * (64 * KIB // len(unit))
    fed = 0

    def endless() -> Iterable[bytes]:
        nonlocal fed
        yield begin
        while fed < 64 * MIB:
            fed += len(chunk)
            yield chunk

    peak, result = peak_bytes(SSEParser(), endless())
    assert result[:2] == ([], error)
    assert fed <= fed_at_most + len(chunk)
    assert peak < peak_at_most


def bytes_allocated(parser: SSEParser, chunks: Iterable[bytes]) -> int:
    """The sum over all calls of what each took while it ran: copying the pending part in every call makes it quadratic."""
    total = 0
    tracemalloc.start()
    try:
        for chunk in chunks:
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            parser.feed(chunk)
            total += tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    return total


@pytest.mark.parametrize("shape", ["one line", "many lines"])
def test_twice_the_bytes_one_by_one_allocate_twice_as_much_not_four_times(shape: str) -> None:
    def stream(size: int) -> bytes:
        body = b"data: " + b"x" * size if shape == "one line" else b"data: xx\n" * (size // 9)
        return body + b"\n\n"

    once, twice = (bytes_allocated(SSEParser(), single_bytes(stream(size))) for size in (16 * KIB, 32 * KIB))
    assert twice < 2.5 * once


def test_what_is_pending_is_never_searched_again() -> None:
    uses: Counter[str] = Counter()

    class Watched(bytearray):
        """Writes down every use but the two that cost nothing: asking for its start, and adding to its end."""

        def __getattribute__(self, name: str) -> Any:
            uses[name] += name != "startswith"
            return super().__getattribute__(name)

        def __contains__(self, key: Any) -> bool:
            uses["in"] += 1
            return super().__contains__(key)

        def __add__(self, other: Any) -> bytearray:
            uses["+"] += 1
            return super().__add__(other)

        def __getitem__(self, key: Any) -> Any:
            uses["[]"] += 1
            return super().__getitem__(key)

    parser = SSEParser()
    parser.feed(b"data: x\n\ndata: ")
    parser._line = Watched(parser._line)
    for _ in range(1000):
        parser.feed(b"x")
    assert +uses == {}
    parser.feed(b"x\n")
    assert +uses == {"+": 1, "clear": 1}


# --- properties ------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=500)
@given(STREAMS, st.lists(st.integers(0), max_size=8))
def test_a_cut_never_changes_the_result(stream: bytes, points: list[int]) -> None:
    whole = outcome(SSEParser(), [stream])
    assert outcome(SSEParser(), cut(stream, points)) == whole
    assert outcome(SSEParser(), single_bytes(stream)) == whole


@settings(deadline=None, max_examples=500)
@given(STREAMS, st.lists(st.integers(0), max_size=8), LIMIT, LIMIT)
def test_a_cut_never_changes_which_limit_breaks_and_what_came_before(stream: bytes, points: list[int], line: int, event: int) -> None:
    whole = outcome(SSEParser(line, event), [stream])
    assert outcome(SSEParser(line, event), cut(stream, points)) == whole
    assert outcome(SSEParser(line, event), single_bytes(stream)) == whole


@settings(deadline=None, max_examples=500)
@given(STREAMS | BLOCKS)
def test_the_events_are_those_of_the_standard(stream: bytes) -> None:
    assert parse(stream) == interpret(stream)


@settings(deadline=None, max_examples=500)
@given(st.binary() | STREAMS, LIMIT, LIMIT)
def test_garbage_gives_events_or_a_remote_protocol_error_and_nothing_else(stream: bytes, line: int, event: int) -> None:
    events, error, *_ = outcome(SSEParser(line, event), [stream])
    assert error in (None, LineTooLong, EventTooLong)
    for item in events:
        assert item.text.encode() == item.data
        assert item.event


# --- the fast path ---------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=500)
@given(CHUNKS, LIMIT, LIMIT)
@example([b"\n", b"event: a\ndata: 1\n\n", b"data: 2\n\n", b"event: a\ndata: 3\n\n"], MIB, MIB)
@example([b"\n", b"id: 1\ndata: 1\n\n", b"data: 2\n\n", b"id: 3\n", b"data: 3\n\n"], MIB, MIB)
@example([b"\n", b"id: 1\ndata: 1\n\n", b"data: 2\ndata: 2\n\n"], MIB, MIB)
@example([b"\n", b"id: 1\0\ndata: 1\n\n", b"data: 2\n\nid: 2\ndata: 2\n\n\n"], MIB, MIB)
@example([b"\n", b"event: a\n", b"data: 1\n\n", b": ping\n", b"data: 2\n\n", b"data: 3\r", b"\ndata: 4\n\n"], MIB, MIB)
@example([b"\n", b": not over", b"data: 1\n\n", b"unknown", b"data: 2\n\n", b"dat", b"data: 3\n\n"], MIB, MIB)
@example([b"\n", b"data: 123\n\n"], 8, MIB)
@example([b"\n", b"data: 123\n\n"], MIB, 8)
def test_the_fast_path_is_the_same_rules(chunks: list[bytes], line: int, event: int) -> None:
    assert outcome(SSEParser(line, event), chunks) == outcome(SlowParser(line, event), chunks)


@pytest.mark.parametrize(
    "chunk",
    [
        b"data: x\n\n",
        b"data: x\n\ndata: y\n\n",
        b"data: \n\n",
        b"data: \xff\n\n",
        b"event: a\ndata: x\n\n",
        b"event: a\ndata: x\n\nevent: \ndata: y\n\n",
        b"id: 1\ndata: x\n\n",
        b"event: a\nid: 1\ndata: x\n\ndata: y\n\n",
        b"data: x\r\n\r\n",
    ],
)
def test_whole_blocks_take_the_fast_path(chunk: bytes) -> None:
    chunks = [b"\n", chunk, chunk]
    assert outcome(FastParser(), chunks) == outcome(SlowParser(), chunks)


def test_a_heartbeat_does_not_end_the_fast_path() -> None:
    parser = FastParser()
    parser.feed(b"\n")
    parser.feed(b"data: 1\n\n")
    SSEParser._feed_pieces(parser, HEARTBEAT)
    assert parser.feed(b"data: 2\n\n") == [SSEEvent(data=b"2")]


# --- the encoder -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (encode_event(b"{}"), b"data: {}\n\n"),
        (encode_event("é"), "data: é\n\n".encode()),
        (encode_event(b""), b"data: \n\n"),
        (encode_event(b"a\r\nb\rc\nd"), b"data: a\ndata: b\ndata: c\ndata: d\n\n"),
        (encode_event(b"a\n"), b"data: a\ndata: \n\n"),
        (encode_event(b"{}", event="ping", id="7", retry_ms=3000), b"event: ping\nid: 7\nretry: 3000\ndata: {}\n\n"),
        (encode_event(b"{}", id=""), b"id: \ndata: {}\n\n"),
    ],
    ids=["bytes", "text", "empty", "every line end", "line end at the end", "every field", "an empty id forgets"],
)
def test_encode_writes_lf_framing_with_one_space(frame: bytes, expected: bytes) -> None:
    assert frame == expected


@pytest.mark.parametrize("bad", ["a\nb", "a\rb", "a\0b", "\n"])
@pytest.mark.parametrize("field", ["event", "id"])
def test_encode_refuses_a_name_or_id_that_could_forge_a_field(field: str, bad: str) -> None:
    fields: dict[str, Any] = {field: bad}
    with pytest.raises(LocalProtocolError):
        encode_event(b"{}", **fields)


def test_encode_refuses_a_negative_retry() -> None:
    with pytest.raises(LocalProtocolError):
        encode_event(b"{}", retry_ms=-1)


def test_encode_gives_utf8_for_text_with_surrogates() -> None:
    assert encode_event("a\ud800b") == "data: a\ufffdb\n\n".encode()
    assert encode_event("\ud83d\ude00") == "data: \U0001f600\n\n".encode()


FIELD_VALUE = st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]))


@settings(deadline=None)
@given(st.text() | st.binary(), st.none() | FIELD_VALUE, st.none() | FIELD_VALUE, st.none() | st.integers(0, RETRY_MS_MAX))
def test_what_is_encoded_is_decoded_with_line_ends_made_lf(
    data: str | bytes, event: str | None, id: str | None, retry_ms: int | None
) -> None:
    text = data if isinstance(data, str) else data.decode("utf-8", "replace")
    normal = re.sub("\r\n|\r", "\n", text)
    stream = encode_event(data, event=event, id=id, retry_ms=retry_ms)
    for parser, chunks in ((SSEParser(), [stream]), (SSEParser(), [b"\n", stream]), (SSEParser(), single_bytes(stream))):
        events, error, last_id, retry, comments = outcome(parser, chunks)
        assert events == [SSEEvent(data=normal.encode(), event=event or "message", id=id or "", named=event == "message")]
        assert (error, last_id, retry, comments) == (None, id or "", retry_ms, 0)


@pytest.mark.parametrize("text", ["\n\ndata: [DONE]\n\n", "\r\rdata: [DONE]", "\u2028data: [DONE]\u2029", "\x85\x85data: [DONE]"])
def test_text_of_a_model_cannot_end_the_stream(text: str) -> None:
    for ensure_ascii in (True, False):
        stream = encode_event(json.dumps({"text": text}, ensure_ascii=ensure_ascii)) + encode_event(text) + DONE
        written, raw, done = parse(stream)
        assert json.loads(written.data) == {"text": text}
        assert raw.text == re.sub("\r\n|\r", "\n", text)
        assert done.data == b"[DONE]"


def test_a_heartbeat_is_one_comment_line_and_no_blank_line() -> None:
    """Readers that dispatch at every blank line once they have an id must find none here."""
    assert HEARTBEAT == b": ping\n"
    parser = SSEParser()
    stream = encode_event(b"1", id="1") + HEARTBEAT * 3 + encode_event(b"2")
    assert parser.feed(stream) == [SSEEvent(data=b"1", id="1"), SSEEvent(data=b"2", id="1")]
    assert parser.comments == 3
