"""What goes wrong is the client's own error, with what came before it, and never an answer that looks finished."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import pytest

from engine.guards import until
from headrace.simulator import texts

from .conftest import Stage
from .node_clients import Driver
from .outcome import Client, Outcome
from .roster import CELLS, OWN, each_cell, each_client
from .tap import Tap

pytestmark = pytest.mark.real

SOON = "first_token_s=0&tokens_per_s=0"
BEGUN = "".join(texts.tokenise(texts.STORY)[:20])


class Refusal(NamedTuple):
    script: str
    kind: str
    statuses: tuple[int, ...]
    retry_after: str | None = None


REFUSALS = {
    "rate-limited": Refusal("error_429?retry_after=7", "RateLimitError", (429,), "7"),
    "rejected": Refusal("error_400", "BadRequestError", (400,)),
    "too-large": Refusal("error_413", "APIError", (400, 413)),
    "overloaded": Refusal("error_529", "InternalServerError", (503, 529)),
    "unavailable": Refusal("error_503", "InternalServerError", (503, 529)),
    "broken": Refusal("error_500", "InternalServerError", (500, 502)),
    "our-key-is-wrong": Refusal("error_401", "InternalServerError", (502,)),
}


@each_cell
@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
async def test_an_error_before_the_stream_is_the_clients_own_class(
    stage: Stage, driver: Driver, client: Client, provider: str, refusal: Refusal
) -> None:
    for stream in (True, False):
        outcome = await client.ask(stage.url, f"{provider}/{refusal.script}", stream=stream)

        assert outcome.error is not None
        assert refusal.kind in outcome.error.kinds
        assert outcome.error.status in refusal.statuses
        assert outcome.error.retry_after == refusal.retry_after
        assert outcome.finish is None


@each_client
async def test_an_unknown_model_is_not_found(stage: Stage, driver: Driver, client: Client) -> None:
    for stream in (True, False):
        outcome = await client.ask(stage.url, "nobody/has-this", stream=stream)

        assert outcome.error is not None
        assert "NotFoundError" in outcome.error.kinds
        assert outcome.error.status == 404
        assert "nobody/has-this" in outcome.error.message


Cell = tuple[Client, str]


class Retried(NamedTuple):
    outcome: Outcome
    states: list[str]


@pytest.fixture(scope="module")
def retried(stage: Stage, driver: Driver) -> dict[Cell, Retried]:
    """What came of a request that the provider refused once, for all clients at once, since they wait a second before they ask again."""

    async def one(client: Client, provider: str) -> Retried:
        model = stage.witness.tag(f"{provider}/error_429?retry_after=0.01&times=1&key={client.name}-{provider}&{SOON}")
        outcome = await client.ask(stage.url, model, retries=2)
        return Retried(outcome, [record["state"] for record in stage.witness.records(model)])

    async def all_of_them() -> list[Retried]:
        return await asyncio.gather(*(one(*cell) for cell in CELLS))

    return dict(zip(CELLS, asyncio.run(all_of_them()), strict=True))


@each_cell
def test_a_clients_own_retry_sees_the_status_and_succeeds(
    retried: dict[tuple[Client, str], Retried], client: Client, provider: str
) -> None:
    assert retried[client, provider].outcome.whole().text == texts.QUICK
    assert retried[client, provider].states == ["refused", "finished"]


BREAKS = {
    "error": f"stream_error?after=20&{SOON}",
    "connection-closed": f"die?after=20&how=fin&{SOON}",
    "connection-reset": f"die?after=20&how=rst&{SOON}",
    "cut-inside-a-chunk": f"die?after=20&how=short_chunk&{SOON}",
    "no-finish": f"no_finish?tokens=20&{SOON}",
}
MID_STREAM = {"openai_chat": {"APIError"}, "anthropic": {"APIError"}, "openai_responses": {"APIError", "error", "response.failed"}}


@each_cell
@pytest.mark.parametrize("script", BREAKS.values(), ids=BREAKS)
async def test_a_stream_that_breaks_is_an_error_after_what_came(
    stage: Stage, driver: Driver, client: Client, provider: str, script: str
) -> None:
    outcome = await client.ask(stage.url, f"{provider}/{script}")

    assert outcome.error is not None, "a cut answer looked finished"
    assert MID_STREAM[client.surface] & set(outcome.error.kinds)
    assert outcome.text == BEGUN
    assert outcome.finish is None
    if script.startswith(("die", "no_finish")):
        assert "broke off before its end" in outcome.error.message


@each_cell
@pytest.mark.parametrize("script", BREAKS.values(), ids=BREAKS)
async def test_an_answer_that_breaks_is_no_whole_answer(stage: Stage, driver: Driver, client: Client, provider: str, script: str) -> None:
    outcome = await client.ask(stage.url, f"{provider}/{script}", stream=False)

    assert outcome.error is not None, "a cut answer looked finished"
    assert "InternalServerError" in outcome.error.kinds
    assert outcome.text == ""


@each_cell
async def test_an_answer_without_its_end_marker_is_whole(stage: Stage, driver: Driver, client: Client, provider: str) -> None:
    """The finish reason is there; many providers never send more."""
    outcome = await client.ask(stage.url, f"{provider}/no_done?{SOON}")

    if provider in ("simulator-anthropic", "simulator-responses"):  # their protocols have a terminator, and it did not come
        assert outcome.error is not None
    else:
        assert outcome.whole().text


@each_client
async def test_a_relay_that_is_gone_leaves_no_finished_answer(stage: Stage, driver: Driver, tap: Tap, client: Client) -> None:
    model = stage.witness.tag(f"{OWN[client.surface]}/endless?first_token_s=0&tokens_per_s=50")
    asking = asyncio.create_task(client.ask(tap.url, model))
    await until(lambda: b"delta" in tap.body(), "some text")

    tap.cut()
    outcome = await asking

    assert outcome.error is not None, "a cut answer looked finished"
    assert outcome.finish is None
    record = await stage.witness.record(model, lambda record: record["state"] != "running", "the provider saw it")
    assert record["state"] == "left"
