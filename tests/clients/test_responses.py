"""What only the Responses API can do: an answer in the background, resumed after a number, cancelled, and fetched again."""

from __future__ import annotations

import pytest

from headrace.simulator import texts

from .conftest import Stage
from .node_clients import Driver, NodeResponses
from .python_responses import OpenAIResponses
from .roster import CLIENTS, OTHER, OWN

pytestmark = pytest.mark.real

TOKENS = 200
STORY = "".join(texts.tokenise(texts.STORY)[:TOKENS])
PACED = f"tokens={TOKENS}&first_token_s=0&tokens_per_s=300"

Responses = OpenAIResponses | NodeResponses
each_client = pytest.mark.parametrize("client", [c for c in CLIENTS if isinstance(c, Responses)], ids=lambda client: client.name)
each_provider = pytest.mark.parametrize("provider", [OWN["openai_responses"], OTHER["openai_responses"]])


@each_client
@each_provider
async def test_a_background_answer_resumes_after_a_number(stage: Stage, driver: Driver, client: Responses, provider: str) -> None:
    model = stage.witness.tag(f"{provider}/story?{PACED}")

    begun = await client.begin(stage.url, model, leave_after=40)
    assert begun.id is not None
    assert begun.through == 40
    rest = await client.resume(stage.url, begun.id, 40)

    assert begun.numbers == list(range(begun.numbers[0], 41))
    assert rest.numbers[0] == 41
    assert rest.numbers == sorted(set(rest.numbers))
    assert rest.status == "completed"
    assert rest.text == STORY, "the last event has the whole response"
    assert [record["state"] for record in stage.witness.records(model)] == ["finished"], "it was generated twice, or not to its end"


@each_client
@each_provider
async def test_a_background_answer_goes_on_without_its_reader(stage: Stage, driver: Driver, client: Responses, provider: str) -> None:
    model = stage.witness.tag(f"{provider}/story?{PACED}")

    begun = await client.begin(stage.url, model, leave_after=5)
    assert begun.id is not None
    await stage.witness.record(model, lambda record: record["state"] == "finished", "it goes on to its end")
    fetched = await client.retrieve(stage.url, begun.id)

    assert fetched.status == "completed"
    assert fetched.text == STORY
    assert fetched.usage


@each_client
@each_provider
async def test_cancel_reaches_the_provider_and_may_be_said_twice(stage: Stage, driver: Driver, client: Responses, provider: str) -> None:
    model = stage.witness.tag(f"{provider}/endless?first_token_s=0&tokens_per_s=50")

    begun = await client.begin(stage.url, model, leave_after=20)
    assert begun.id is not None
    first = await client.cancel(stage.url, begun.id)
    second = await client.cancel(stage.url, begun.id)
    fetched = await client.retrieve(stage.url, begun.id)

    assert first.status == second.status == fetched.status == "cancelled"
    assert first.text == second.text == fetched.text
    assert first.text.startswith(begun.text)
    record = await stage.witness.record(model, lambda record: record["state"] != "running", "the provider saw it")
    assert record["state"] == "left"


@each_client
async def test_what_is_resumed_after_its_end_ends(stage: Stage, driver: Driver, client: Responses) -> None:
    begun = await client.begin(stage.url, "simulator/quick?first_token_s=0&tokens_per_s=0")
    assert begun.id is not None
    assert begun.through is not None

    again = await client.resume(stage.url, begun.id, 3)

    assert begun.status == again.status == "completed"
    assert again.numbers[0] == 4
    assert again.through == begun.through
    assert again.text == begun.text == texts.QUICK


@each_client
async def test_an_unknown_response_is_not_found(stage: Stage, driver: Driver, client: Responses) -> None:
    for act in (client.retrieve, client.cancel):
        outcome = await act(stage.url, "resp_00000000000000000000000000000000")
        assert outcome.error is not None
        assert "NotFoundError" in outcome.error.kinds
