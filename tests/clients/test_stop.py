"""When a client goes, in whichever phase, the provider sees it go."""

from __future__ import annotations

import asyncio
import time
from types import ModuleType
from typing import Any, NamedTuple

import anthropic
import openai
import pytest

from engine.guards import until

from .conftest import Stage
from .node_clients import Driver
from .outcome import QUESTION, Client, Kind
from .roster import each_cell
from .tap import Tap

pytestmark = pytest.mark.real

PROMPTLY_S = 1.0
SOON = "first_token_s=0"


class Phase(NamedTuple):
    """When to leave.

    Attributes:
        leave_at: close the stream at the first piece of this kind; None: abort the request while the client waits.
        seen_as: what the provider calls the phase in which it was left.
    """

    script: str
    leave_at: Kind | None
    seen_as: str
    stream: bool = True


PHASES = {
    "no-status-yet": Phase("slow_headers?headers_s=60", None, "before_headers"),
    "no-token-yet": Phase("quick?first_token_s=60", None, "before_first_token"),
    "thinking": Phase(f"thinking?thinking_s=60&{SOON}", "thinking", "streaming"),
    "text": Phase(f"endless?tokens_per_s=20&{SOON}", "text", "streaming"),
    "tool-arguments": Phase(f"tool?cut=3&tokens_per_s=20&{SOON}", "arguments", "tool_arguments"),
    "silence-in-text": Phase(f"stall?after=5&{SOON}", "text", "streaming"),
    "not-streamed": Phase("endless?tokens_per_s=20", None, "before_headers", stream=False),
}


@each_cell
@pytest.mark.parametrize("phase", PHASES.values(), ids=PHASES)
async def test_the_provider_sees_the_client_go(stage: Stage, driver: Driver, client: Client, provider: str, phase: Phase) -> None:
    if (client.name, phase.leave_at) == ("langchain", "thinking"):
        phase = PHASES["no-token-yet"]  # it shows no reasoning: to its user this is a wait
    model = stage.witness.tag(f"{provider}/{phase.script}")

    if phase.leave_at:
        left_at = (await client.ask(stage.url, model, leave_at=phase.leave_at)).left_at
    else:
        asking = asyncio.create_task(client.ask(stage.url, model, stream=phase.stream))
        await stage.witness.record(model, lambda record: record["state"] == "running", "the provider was asked")
        asking.cancel()
        left_at = time.monotonic()
        await asyncio.gather(asking, return_exceptions=True)

    assert left_at is not None, "the client never saw what it was to leave at"
    record = await stage.witness.record(model, lambda record: record["state"] != "running", "the provider saw it")
    assert record["state"] == "left"
    assert record["left_at_monotonic"] - left_at < PROMPTLY_S
    assert record["tokens_written"] < 60
    if phase.stream:  # a whole answer is streamed from the provider all the same
        assert record["phase_when_left"] == phase.seen_as


@each_cell
async def test_an_answer_that_somebody_else_stopped_is_no_success(
    stage: Stage, driver: Driver, tap: Tap, client: Client, provider: str
) -> None:
    model = stage.witness.tag(f"{provider}/endless?tokens_per_s=50&{SOON}")
    asking = asyncio.create_task(client.ask(tap.url, model))
    await until(lambda: b"delta" in tap.body(), "some text")

    status, _ = await stage.call("POST", f"/v1/streams/{tap.header('x-stream-id')}/cancel")
    outcome = await asking

    assert status == 200
    assert outcome.error is not None, "a stopped answer looked finished"
    assert outcome.text
    assert outcome.finish is None
    assert "stopped" in outcome.error.message
    record = await stage.witness.record(model, lambda record: record["state"] != "running", "the provider saw it")
    assert record["state"] == "left"


@pytest.mark.parametrize("sdk", [openai, anthropic], ids=["openai", "anthropic"])
async def test_the_provider_sees_a_client_go_that_is_not_async(stage: Stage, sdk: ModuleType) -> None:
    model = stage.witness.tag(f"{'simulator' if sdk is anthropic else 'simulator-anthropic'}/endless?tokens_per_s=50&{SOON}")

    def leave() -> float:
        hello: Any = [{"role": "user", "content": QUESTION}]
        if sdk is openai:
            with openai.OpenAI(base_url=stage.url + "/v1", api_key="any") as client:
                with client.chat.completions.create(model=model, messages=hello, stream=True) as chunks:
                    next(iter(chunks))
                return time.monotonic()
        with anthropic.Anthropic(base_url=stage.url, api_key="any") as client:
            with client.messages.stream(model=model, messages=hello, max_tokens=100) as stream:
                next(iter(stream.text_stream))
            return time.monotonic()

    left_at = await asyncio.to_thread(leave)

    record = await stage.witness.record(model, lambda record: record["state"] != "running", "the provider saw it")
    assert record["state"] == "left"
    assert record["left_at_monotonic"] - left_at < PROMPTLY_S
