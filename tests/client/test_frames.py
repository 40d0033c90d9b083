"""From bytes to new events: both framings, any cut, nothing twice."""

import pytest

from headrace.client.frames import LINE_BYTES_MAX, Batch, EventReader, Transport
from headrace.protocol import events as ev
from headrace.protocol.native import NDJSON, SSE

from .fake_relay import story

BODIES: dict[Transport, bytes] = {
    "sse": SSE.heartbeat + SSE.encode(story()[:3]) + SSE.heartbeat + SSE.encode(story()[3:]) + SSE.end_marker,
    "ndjson": NDJSON.heartbeat + NDJSON.encode(story()[:3]) + NDJSON.heartbeat + NDJSON.encode(story()[3:]),
}


def frame(transport: Transport, payload: bytes) -> bytes:
    return b"data: " + payload + b"\n\n" if transport == "sse" else payload + b"\n"


@pytest.mark.parametrize("transport", ["sse", "ndjson"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000, 100_000])
def test_cuts_change_nothing(transport: Transport, size: int) -> None:
    body = BODIES[transport]
    reader = EventReader(transport, 0)
    events = [event for at in range(0, len(body), size) for event in reader.feed(body[at : at + size]).events]
    assert events == story()
    assert reader.ended
    assert reader.finish().fault is None


@pytest.mark.parametrize("transport", ["sse", "ndjson"])
def test_the_end_of_a_body_without_a_terminal_event_is_a_fault(transport: Transport) -> None:
    reader = EventReader(transport, 0)
    assert reader.feed(BODIES[transport][:400]).fault is None
    fault = reader.finish().fault
    assert fault is not None
    assert fault.reason == "ended_early"


def test_a_last_line_without_its_end_counts_if_it_is_whole() -> None:
    reader = EventReader("ndjson", 0)
    reader.feed(BODIES["ndjson"].removesuffix(b"\n"))
    batch = reader.finish()
    assert batch == Batch([story()[-1]], 12, None)


@pytest.mark.parametrize("transport", ["sse", "ndjson"])
def test_what_was_seen_is_dropped(transport: Transport) -> None:
    reader = EventReader(transport, 5)
    assert reader.feed(BODIES[transport]).events == story()[5:]


@pytest.mark.parametrize("transport", ["sse", "ndjson"])
def test_types_and_fields_that_are_unknown_are_skipped_and_still_numbered(transport: Transport) -> None:
    reader = EventReader(transport, 0)
    batch = reader.feed(
        frame(transport, b'{"type":"hologram","seq":1,"depth":3}')
        + frame(transport, b'{"type":"text","seq":2,"index":0,"text":"a","hue":1}')
    )
    assert batch == Batch([ev.Text(seq=2, index=0, text="a")], 2, None)


@pytest.mark.parametrize("transport", ["sse", "ndjson"])
@pytest.mark.parametrize(
    "payload",
    [b"{", b"[]", b"7", b'"text"', b'{"type":"text","seq":"one"}', b'{"type":"text","seq":2}', b'{"seq":2}', b"[" * 100_000],
)
def test_what_came_before_a_bad_frame_counts(transport: Transport, payload: bytes) -> None:
    good = frame(transport, b'{"type":"text","seq":1,"index":0,"text":"a"}')
    reader = EventReader(transport, 0)
    batch = reader.feed(good + frame(transport, payload))
    assert batch.events == [ev.Text(seq=1, index=0, text="a")]
    assert batch.last_seq == 1
    if payload == b'{"seq":2}':
        return
    assert batch.fault is not None
    assert batch.fault.reason == "garbled"


@pytest.mark.parametrize("transport", ["sse", "ndjson"])
def test_a_line_without_end_is_a_fault_and_not_endless_memory(transport: Transport) -> None:
    reader = EventReader(transport, 0)
    fault = None
    for _ in range(0, 2 * LINE_BYTES_MAX, 1 << 20):
        fault = reader.feed(b"data: " + b"x" * (1 << 20)).fault
        if fault is not None:
            break
    assert fault is not None
    assert fault.reason == "garbled"


def test_a_replay_that_overlaps_is_not_shown_twice() -> None:
    reader = EventReader("ndjson", 4)
    batch = reader.feed(b'{"type":"text","seq":6,"from_seq":3,"index":0,"text":"abcd"}\n')
    assert batch.events == []
    assert batch.fault is not None
    assert "overlap" in str(batch.fault)


@pytest.mark.parametrize(
    "event",
    [
        ev.Text(seq=6, from_seq=5, index=0, text="ab"),
        ev.Reset(seq=5, from_seq=2, reason="retry"),
        ev.Gap(seq=9, from_seq=5, to_seq=9, reason="slow_reader", recoverable=False),
        ev.Snapshot(seq=9, through_seq=9, blocks=[]),
    ],
)
def test_one_event_may_stand_for_many(event: ev.Event) -> None:
    reader = EventReader("ndjson", 4)
    assert reader.feed(NDJSON.encode([event])) == Batch([event], event.seq, None)
