"""(b) Stop reaches the provider, in every phase of an answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

from headrace.cli.proof.experiments.base import Experiment, Scene, ms
from headrace.cli.proof.probe import Reading, monotonic, read
from headrace.cli.proof.provider import StampedRecord
from headrace.cli.proof.results import Curve

CLOSED_MS_MAX = 20.0
WATCH_S = 1.5
LIMIT_S = 20.0


class Press(NamedTuple):
    """When Stop is pressed: `ready` says that the stream has come that far."""

    phase: str
    model: str
    ready: Callable[[Reading], bool]


def _tokens(number: int) -> Callable[[Reading], bool]:
    return lambda reading: len(reading.tokens) >= number


MAIN = Press("text", "story?tokens_per_s=50", _tokens(130))
OTHERS = (
    Press("waiting", "story?first_token_s=30", lambda reading: bool(reading.events)),
    Press("thinking", "thinking?first_token_s=0.1&thinking_s=30", _tokens(12)),
    Press("tool arguments", "tool?first_token_s=0.1&cut=1", _tokens(40)),
)


class Stopped(NamedTuple):
    """One Stop, with every moment on the clock that all processes share."""

    press: Press
    reading: Reading
    record: StampedRecord
    receipt: dict[str, Any]
    pressed_at: float
    answered_at: float

    @property
    def closed_ms(self) -> float:
        """From the press, at the reader, to the moment in which the provider saw its connection close."""
        left_at = self.record.left_at_monotonic
        return ms(left_at - self.pressed_at) if left_at is not None else float("inf")

    @property
    def written_after(self) -> int:
        return sum(at > self.pressed_at for at in self.record.written_at_monotonic)


async def run(scene: Scene) -> None:
    curve = Curve(label="Tokens written by the provider", unit="tokens", points=[])
    main = await _stop(scene, MAIN, curve)
    others = [await _stop(scene, press, None) for press in OTHERS]
    began = main.reading.began
    scene.result.curves["written"] = curve
    scene.result.traces["reader"] = main.reading.trace("What the reader got")
    scene.result.detail["stops"] = [_as_row(stopped) for stopped in (main, *others)]
    after = [value for at, value in curve.points if at >= main.pressed_at - began]
    worst = max((main, *others), key=lambda stopped: stopped.closed_ms)
    scene.result.numbers.update(
        pressed_s=round(main.pressed_at - began, 4),
        closed_ms=main.closed_ms,
        closed_ms_worst=worst.closed_ms,
        receipt_ms=main.receipt.get("cancel_ms"),
        answered_ms=ms(main.answered_at - main.pressed_at),
        tokens_written=main.record.tokens_written,
        tokens_written_after=main.written_after,
        watched_s=round(curve.points[-1][0] - (main.pressed_at - began), 2),
    )
    _judge(scene, [main, *others], flat=len(set(after[3:])) <= 1)
    scene.result.finding = f"closed {worst.closed_ms:.0f} ms after Stop, {_count_tokens(main.written_after)} after it"


def _judge(scene: Scene, stops: list[Stopped], *, flat: bool) -> None:
    scene.check(flat, "the provider went on writing after Stop")
    for stopped in stops:
        phase = stopped.press.phase
        scene.check(
            stopped.record.state == "left", f"{phase}: the provider's connection was {stopped.record.state}, not closed by its reader"
        )
        scene.check(stopped.closed_ms <= CLOSED_MS_MAX, f"{phase}: the provider was closed {stopped.closed_ms:.0f} ms after Stop")
        end = stopped.reading.end
        reason = getattr(end, "finish_reason", getattr(end, "code", None))
        scene.check(reason == "cancelled", f"{phase}: the reader's stream ended with {reason!r} instead of 'cancelled'")


async def _stop(scene: Scene, press: Press, curve: Curve | None) -> Stopped:
    """Start an answer, press Stop where `press` says, and, with a `curve`, watch the provider before and after."""
    reading, ready = Reading(), asyncio.Event()

    def look(reading: Reading) -> None:
        if press.ready(reading):
            ready.set()

    async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as group:
        group.create_task(read(scene.http, scene.stage.url, press.model, reading, watch=look))
        await reading.opened.wait()
        async with contextlib.AsyncExitStack() as stack:
            if curve is not None:
                record = await scene.witness.wait(reading.request_id, lambda record: True)
                await stack.enter_async_context(scene.witness.sampling([record.id], curve, reading.began, _tokens_written))
            await ready.wait()
            pressed_at, receipt, answered_at = await _press(scene, reading)
            await asyncio.sleep(WATCH_S if curve is not None else 0)
    record = await scene.witness.wait(reading.request_id, lambda record: record.state != "running")
    return Stopped(press, reading, record, receipt, pressed_at, answered_at)


def _tokens_written(records: list[StampedRecord]) -> float:
    return sum(record.tokens_written for record in records)


async def _press(scene: Scene, reading: Reading) -> tuple[float, dict[str, Any], float]:
    pressed_at = monotonic()
    answer = await scene.http.post(f"{scene.stage.url}/v1/streams/{reading.stream_id}/cancel")
    answered_at = monotonic()
    return pressed_at, answer.raise_for_status().json()["receipt"], answered_at


def _as_row(stopped: Stopped) -> dict[str, Any]:
    return {
        "phase": stopped.press.phase,
        "model": stopped.press.model,
        "closed_ms": stopped.closed_ms,
        "tokens_written_after": stopped.written_after,
        "provider_state": stopped.record.state,
        "provider_phase": stopped.record.phase_when_left,
        "receipt": stopped.receipt,
        "receipt_to_provider_ms": _receipt_gap(stopped),
    }


def _receipt_gap(stopped: Stopped) -> float | None:
    """How long after the relay's own claim the provider saw it, by the wall clock that both have."""
    claimed, left = stopped.receipt.get("upstream_closed_at"), stopped.record.left_at
    return ms(left - claimed) if claimed is not None and left is not None else None


def _count_tokens(number: int) -> str:
    return f"{number} token" if number == 1 else f"{number} tokens"


EXPERIMENT = Experiment(
    letter="b",
    key="stop",
    title="Stop reaches the provider",
    promise=(
        f"In every phase of an answer the provider's connection is closed within {CLOSED_MS_MAX:.0f} ms of Stop, "
        "and it writes nothing more."
    ),
    turn=2,
    run=run,
)
