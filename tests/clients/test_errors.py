"""What goes wrong is the client's own error, with what came before it, and never an answer that looks finished."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from headrace.simulator import texts

from .conftest import Stage
from .node_clients import Driver
from .outcome import Client
from .roster import CLIENTS, PROVIDERS

pytestmark = pytest.mark.real

SOON = "first_token_s=0&tokens_per_s=0"
BEGUN = "".join(texts.tokenise(texts.STORY)[:20])

each_client = pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
each_provider = pytest.mark.parametrize("provider", PROVIDERS.values())


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


@each_client
@each_provider
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


@each_client
@each_provider
async def test_a_clients_own_retry_sees_the_status_and_succeeds(stage: Stage, driver: Driver, client: Client, provider: str) -> None:
    model = stage.witness.tag(f"{provider}/error_429?retry_after=0.01&times=1&key={client.name}-{provider}&{SOON}")

    outcome = await client.ask(stage.url, model, retries=2)

    assert outcome.whole().text == texts.QUICK
    assert [record["state"] for record in stage.witness.records(model)] == ["refused", "finished"]


BREAKS = {
    "error": f"stream_error?after=20&{SOON}",
    "connection-closed": f"die?after=20&how=fin&{SOON}",
    "connection-reset": f"die?after=20&how=rst&{SOON}",
    "cut-inside-a-chunk": f"die?after=20&how=short_chunk&{SOON}",
    "no-finish": f"no_finish?tokens=20&{SOON}",
}
MID_STREAM = {"openai_chat": {"APIError"}, "anthropic": {"APIError"}, "openai_responses": {"APIError", "error", "response.failed"}}


@each_client
@each_provider
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


@each_client
@each_provider
@pytest.mark.parametrize("script", BREAKS.values(), ids=BREAKS)
async def test_an_answer_that_breaks_is_no_whole_answer(stage: Stage, driver: Driver, client: Client, provider: str, script: str) -> None:
    outcome = await client.ask(stage.url, f"{provider}/{script}", stream=False)

    assert outcome.error is not None, "a cut answer looked finished"
    assert "InternalServerError" in outcome.error.kinds
    assert outcome.text == ""


@each_client
@each_provider
async def test_an_answer_without_its_end_marker_is_whole(stage: Stage, driver: Driver, client: Client, provider: str) -> None:
    """The finish reason is there; many providers never send more."""
    outcome = await client.ask(stage.url, f"{provider}/no_done?{SOON}")

    if provider == "simulator":
        assert outcome.whole().text
    else:  # Anthropic's protocol has a terminator, and it did not come
        assert outcome.error is not None
