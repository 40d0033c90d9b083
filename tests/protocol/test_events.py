"""The vocabulary on the wire."""

from __future__ import annotations

import json
import typing

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.protocol import events as ev

USAGE = ev.UsageTotals(source="provider", input_tokens=1)
METRICS = ev.Metrics(ttft_ms=1.5, arrivals=ev.Arrivals(slice_ms=100, ingress=[1], egress=[1]))
EVENTS: list[ev.Event] = [
    ev.StreamStart(stream_id="s", message_id="m", model="x", provider="p", protocol=1, resumable=True, expires_at=1.5),
    ev.Queue(position=1, depth=2, reason="provider", eta_seconds=0.5),
    ev.Text(index=0, text="é\u2028"),
    ev.Thinking(index=0, text="", kind="raw", signature="s"),
    ev.ToolCallStart(index=0, tool_call_id="c", name="f"),
    ev.ToolCallDelta(tool_call_id="c", arguments_delta="{"),
    ev.ToolCallComplete(tool_call_id="c", name="f", arguments=None, arguments_raw="{", valid=False, error="e"),
    ev.ToolResult(tool_call_id="c", ok=True, content={"a": [1]}, duration_ms=2.0),
    ev.BlockEnd(index=0, kind="text"),
    ev.Source(url="https://a.example/", title="A"),
    ev.Usage(source="estimated", output_tokens=3, cost_usd=0.001),
    ev.Reset(from_seq=2, reason="retry"),
    ev.Gap(from_seq=2, to_seq=4, reason="slow_reader", recoverable=True, characters=9),
    ev.Snapshot(through_seq=4, blocks=[{"index": 0, "kind": "text", "text": "a"}]),
    ev.Notice(code="stalled", message="m"),
    ev.Data(name="n", data=[1, None], transient=True),
    ev.StreamEnd(finish_reason="stop", usage=USAGE, metrics=METRICS),
    ev.Error(code="c", message="m", retryable=True, partial=False, retry_after_seconds=1.0, usage=USAGE, metrics=METRICS),
]


def test_the_examples_here_are_all_types_there_are() -> None:
    assert {type(event) for event in EVENTS} == set(ev.TYPES.values()) == set(typing.get_args(ev.AnyEvent))


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_every_event_survives_the_wire(event: ev.Event) -> None:
    event.seq = 7
    line = ev.encode(event)
    assert b"\n" not in line
    assert b"\r" not in line
    shape = json.loads(line)
    assert ev.TYPES[shape["type"]] is type(event)
    assert shape["seq"] == 7
    assert ev.decode(line) == ev.decode(line.decode()) == event


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_fields_of_a_later_version_are_ignored(event: ev.Event) -> None:
    shape = json.loads(ev.encode(event)) | {"invented_later": [1]}
    assert ev.decode(json.dumps(shape)) == event


def test_what_is_not_known_is_left_out() -> None:
    assert json.loads(ev.encode(ev.Usage(source="provider", output_tokens=0, seq=1))) == {
        "type": "usage",
        "seq": 1,
        "source": "provider",
        "output_tokens": 0,
    }


@pytest.mark.parametrize(
    ("event", "field", "value"),
    [
        (ev.ToolCallComplete(tool_call_id="c", name="f", arguments=None, arguments_raw="", valid=False), "arguments", None),
        (ev.Source(url=""), "url", ""),
        (ev.Error(code="c", message="m", retryable=False, partial=False), "partial", False),
        (ev.Error(code="c", message="m", retryable=False, partial=False), "retryable", False),
        (ev.Gap(from_seq=1, to_seq=1, reason="r", recoverable=False), "recoverable", False),
        (ev.Text(index=0, text=""), "index", 0),
    ],
)
def test_what_a_reader_decides_by_is_never_left_out(event: ev.Event, field: str, value: object) -> None:
    assert json.loads(ev.encode(event))[field] == value


def test_a_type_of_a_later_version_is_none() -> None:
    assert ev.decode(b'{"type":"hologram","seq":3}') is None


@pytest.mark.parametrize(
    "line", [b"", b"nonsense", b"[]", b"{}", b'{"type":3}', b'{"type":"text"}', b'{"type":"text","index":"0","text":"a"}']
)
def test_what_is_no_event_raises(line: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        ev.decode(line)


@given(st.text())
def test_any_text_survives_the_wire_on_one_line(text: str) -> None:
    line = ev.encode(ev.Text(index=0, text=text))
    assert line.count(b"\n") == 0
    assert ev.decode(line) == ev.Text(index=0, text=text)
