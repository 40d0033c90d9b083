"""The parser against 180 cases of the public conformance suites, each cut in every way that a network may cut it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace.protocol.sse import SSEEvent, SSEParser

VECTORS: list[dict[str, Any]] = json.loads(Path(__file__).with_name("sse_vectors.json").read_text("utf-8"))["vectors"]
SPLIT_EVERYWHERE_BELOW = 200  # bytes: every split of a longer case costs more than it can show


def parse(chunks: list[bytes]) -> tuple[list[SSEEvent], SSEParser]:
    parser = SSEParser()
    events = [event for chunk in chunks for event in parser.feed(chunk)]
    return events + parser.finish(), parser


def cuts(chunks: list[bytes]) -> Iterator[tuple[str, list[bytes]]]:
    whole = b"".join(chunks)
    yield "as recorded", chunks
    yield "whole", [whole]
    yield "byte by byte", [whole[i : i + 1] for i in range(len(whole))]
    yield "two bytes at a time", [whole[i : i + 2] for i in range(0, len(whole), 2)]
    yield "with empty chunks", [part for i in range(len(whole)) for part in (b"", whole[i : i + 1], b"")]
    if len(whole) < SPLIT_EVERYWHERE_BELOW:
        for i in range(len(whole) + 1):
            yield f"split at {i}", [whole[:i], whole[i:]]


def test_the_file_holds_every_case_once() -> None:
    assert len({vector["id"] for vector in VECTORS}) == len(VECTORS) == 180


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["id"] for vector in VECTORS])
def test_case_gives_the_same_events_however_it_is_cut(vector: dict[str, Any]) -> None:
    for cut, chunks in cuts([bytes.fromhex(chunk) for chunk in vector["chunks_hex"]]):
        events, parser = parse(chunks)
        assert len(events) == len(vector["expect"]), cut
        for event, expected in zip(events, vector["expect"], strict=True):
            got = {"data": event.text, "event": event.event, "id": event.id}
            assert {key: got[key] for key in expected} == expected, cut
        if "retry" in vector:
            assert parser.retry_ms == vector["retry"], cut


def test_every_case_gives_the_same_events_after_a_stream_that_was_already_running() -> None:
    """With no byte order mark to wait for, whole chunks may take the fast path."""
    for vector in VECTORS:
        chunks = [bytes.fromhex(chunk) for chunk in vector["chunks_hex"]]
        if b"".join(chunks).startswith(b"\xef"):
            continue
        expected, _ = parse(chunks)
        assert parse([b"\n", b"".join(chunks)])[0] == expected, vector["id"]
