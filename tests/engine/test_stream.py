"""One stream: its state as it goes, what it counts, and that it ends whatever happens inside."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from engine.guards import turns, until
from engine.peers import CHUNKED, LAST_CHUNK, chunk, head
from engine.rig import Clock, Rig
from engine.wires import OPENAI, PHASES, WIRES, Wire, data
from headrace.engine.provider import Target
from headrace.errors import LocalProtocolError
from headrace.protocol import events as ev
from headrace.simulator import Simulator


async def test_its_phase_and_its_status_as_it_goes(rig: Rig, wire: Wire) -> None:
    stream = rig.ask(wire.dialect)
    seen = [(stream.phase, stream.status)]
    peer = await rig.listener.accept()
    await peer.request()
    seen.append((stream.phase, stream.status))
    peer.send(head(CHUNKED))
    for phase in PHASES:
        peer.send(chunk(wire.parts[phase]))
        await until(lambda phase=phase: stream.phase == phase)
        seen.append((stream.phase, stream.status))
    peer.send(chunk(wire.end), LAST_CHUNK)
    await rig.ended(stream)
    seen.append((stream.phase, stream.status))

    assert seen == [
        ("connecting", "connecting"),
        ("headers", "waiting"),
        ("first_token", "waiting"),
        ("thinking", "streaming"),
        ("text", "streaming"),
        ("tool_arguments", "streaming"),
        ("after_last_token", "streaming"),
        ("ended", "completed"),
    ]


async def test_its_times_are_measured(rig: Rig, clock: Clock) -> None:
    stream, sink, peer = await rig.begin()
    await clock.jump(1)
    peer.send(head(CHUNKED))
    await until(lambda: stream.phase == "first_token")
    await clock.jump(1)
    for text in ("a", "b", "c"):
        peer.send(chunk(data({"choices": [{"index": 0, "delta": {"content": text}}]})))
        await until(lambda text=text: sink.text.endswith(text))
        await clock.jump(2)
    peer.send(chunk(OPENAI.plain()), LAST_CHUNK)
    await rig.ended(stream)

    metrics = sink.end["metrics"]
    assert metrics["upstream_headers_ms"] == pytest.approx(1000, abs=200)
    assert metrics["ttft_ms"] == pytest.approx(2000, abs=200)
    assert metrics["tpot_ms"] == pytest.approx(2000, abs=200)
    assert metrics["max_gap_ms"] == pytest.approx(2000, abs=200)
    assert metrics["duration_ms"] == pytest.approx(8000, abs=300)
    assert metrics["tokens"] == 3
    assert "cancel_ms" not in metrics
    assert sum(metrics["arrivals"]["ingress"]) == sum(metrics["arrivals"]["egress"]) == 3


async def test_tokens_that_had_to_wait_went_out_later(rig: Rig, clock: Clock) -> None:
    stream, sink, peer = await rig.begin()
    sink.hold()
    peer.send(head(CHUNKED), chunk(b"".join(list(OPENAI.pieces(*"abcd"))[:-1])))
    await until(lambda: stream.has_content)
    await clock.jump(2)
    sink.drain()
    peer.send(chunk(OPENAI.plain()), LAST_CHUNK)
    await rig.ended(stream)

    arrivals = sink.end["metrics"]["arrivals"]
    assert sum(arrivals["ingress"]) == sum(arrivals["egress"]) == 4
    first_in = next(at for at, count in enumerate(arrivals["ingress"]) if count)
    first_out = next(at for at, count in enumerate(arrivals["egress"]) if count)
    assert (first_out - first_in) * arrivals["slice_ms"] >= 1500


@pytest.mark.parametrize(
    ("usage", "stopped", "totals"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 40}, False, {"source": "provider", "input_tokens": 9, "output_tokens": 40}),
        ({"prompt_tokens": 9, "completion_tokens": 1}, False, {"source": "provider", "input_tokens": 9, "output_tokens": 1}),
        (None, False, {"source": "estimated", "output_tokens": 3}),
        (None, True, {"source": "estimated", "output_tokens": 3}),
        ({"prompt_tokens": 9, "completion_tokens": 1}, True, {"source": "estimated", "input_tokens": 9, "output_tokens": 3}),
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 40,
                "prompt_tokens_details": {"cached_tokens": 5},
                "completion_tokens_details": {"reasoning_tokens": 30},
            },
            False,
            {"source": "provider", "input_tokens": 9, "output_tokens": 40, "cached_tokens": 5, "reasoning_tokens": 30},
        ),
    ],
)
async def test_usage_is_the_provider_s_where_its_count_is_final(
    rig: Rig, usage: dict[str, Any] | None, stopped: bool, totals: dict[str, Any]
) -> None:
    stream, sink, peer = await rig.begin()
    *content, end = OPENAI.pieces("a", "b", "c")
    peer.send(head(CHUNKED), chunk(b"".join(content)))
    if usage is not None:
        peer.send(chunk(data({"choices": [], "usage": usage})))
    await until(lambda: stream.meter.ingress.tokens == 3 and (usage is None or stream.usage is not None))
    if stopped:
        stream.cancel("user")
    else:
        peer.send(chunk(end), LAST_CHUNK)
    await rig.ended(stream)

    assert sink.end["usage"] == totals


async def test_what_was_never_begun_used_nothing(rig: Rig) -> None:
    stream, sink, _ = await rig.begin()
    stream.cancel("user")

    assert "usage" not in sink.end


# --- whatever happens inside --------------------------------------------------------------------------------------------------


class Rogue:
    """A decoder with a bug."""

    finished = False
    finished_calls: list[Any] = []  # noqa: RUF012

    def __init__(self, feed: Callable[[], list[ev.Event]]) -> None:
        self._feed = feed

    def feed(self, chunk: bytes) -> list[ev.Event]:
        return self._feed()

    def finish(self) -> list[ev.Event]:
        return self._feed()


def _raises() -> list[ev.Event]:
    raise ZeroDivisionError


@pytest.mark.parametrize(
    "feed",
    [
        lambda: [ev.BlockEnd(index=0, kind="text")],
        lambda: [ev.Text(index=0, text="a"), ev.StreamEnd(finish_reason="stop")],
        lambda: [ev.Text(index=0, text="a"), ev.Thinking(index=0, text="b", kind="raw")],
        lambda: [ev.StreamStart(stream_id="", message_id="", model="", provider="", protocol=1, resumable=True, expires_at=0)],
        _raises,
    ],
    ids=["an end without a beginning", "an open block at the end", "two kinds in one block", "a second start", "an exception"],
)
async def test_a_bug_in_a_decoder_ends_the_stream_and_nothing_else(rig: Rig, feed: Callable[[], list[ev.Event]]) -> None:
    provider, healthy = rig.provider(), rig.provider()
    provider.dialect = provider.dialect._replace(new_decoder=lambda quirks: Rogue(feed))
    stream = rig.ask(provider)
    sink = rig.read(stream)
    peer = await rig.listener.accept()
    await peer.request()
    peer.send(head(CHUNKED), chunk(b"data: x\n\n"))
    await rig.ended(stream)

    assert sink.end["code"] == "internal_error"
    assert "ZeroDivision" not in sink.data.decode()
    await peer.gone()
    assert len(rig.observer.errors) == 1
    rig.observer.errors.clear()

    other = rig.ask(healthy)
    told = rig.read(other)
    again = await rig.listener.accept()
    await again.request()
    again.send(head(CHUNKED), chunk(OPENAI.plain("fine")), LAST_CHUNK)
    await rig.ended(other)
    assert told.text == "fine"


async def test_a_bug_in_a_request_builder_of_a_fallback_is_an_internal_error(rig: Rig) -> None:
    def broken(*_: object) -> Any:
        raise LocalProtocolError(detail="a bug")

    first, second = rig.provider(), rig.provider()
    second.dialect = second.dialect._replace(build_request=broken)
    stream = rig.ask([Target(first, "a"), Target(second, "b")])
    sink = rig.read(stream)
    peer = await rig.listener.accept()
    await peer.request()
    peer.send(b"HTTP/1.1 529 Overloaded\r\ncontent-length: 0\r\n\r\n")
    await rig.ended(stream)

    assert sink.end["code"] == "internal_error"
    assert sink.end["message"] == "Something went wrong inside the relay."
    assert [str(error.detail) for error in rig.observer.errors if isinstance(error, LocalProtocolError)] == ["a bug"]
    rig.observer.errors.clear()


# --- many of them ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", list(WIRES))
async def test_streams_at_once_do_not_mix(rig: Rig, simulator: Simulator, dialect: str) -> None:
    provider = rig.provider(dialect, simulator.base_url)
    texts = [f"This is answer number {n}: " + chr(0x4E00 + n) * (n % 40) for n in range(100)]
    streams = [
        rig.ask(provider, model=f"echo?first_token_s=0.01&tokens_per_s=2000&cut=random&seed={n}", text=text) for n, text in enumerate(texts)
    ]
    sinks = [rig.read(stream) for stream in streams]
    async with asyncio.timeout(30):
        await asyncio.gather(*(asyncio.shield(stream.done) for stream in streams))

    for text, sink in zip(texts, sinks, strict=True):
        assert sink.text == text
        sink.assert_gapless()
        assert sink.end["finish_reason"] == "stop"
    await turns()
