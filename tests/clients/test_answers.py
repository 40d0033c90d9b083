"""What a client makes of an answer: the same whether it is streamed or whole, and what the model said."""

from __future__ import annotations

import anthropic
import openai
import pytest

from headrace.simulator import texts

from .conftest import Stage
from .node_clients import Driver
from .outcome import Client
from .roster import CLIENTS, each_cell, each_client, every_cell, model_of

pytestmark = pytest.mark.real

SOON = "first_token_s=0&tokens_per_s=0"
FINISHES = {
    "openai_chat": {"stop": "stop", "length": "length", "calls": "tool_calls"},
    "anthropic": {"stop": "end_turn", "length": "max_tokens", "calls": "tool_use"},
    "openai_responses": {"stop": "completed", "length": "max_output_tokens", "calls": "completed"},
}
ANSWERS = {
    "short": (f"quick?{SOON}", "stop"),
    "long": (f"story?{SOON}", "stop"),
    "markdown": (f"markdown?{SOON}", "stop"),
    "thinking": (f"thinking?{SOON}", "stop"),
    "cut-short": (f"max_tokens?{SOON}", "length"),
    "call": (f"tool?cut=3&{SOON}", "calls"),
    "parallel-calls": (f"tools?calls=4&cut=2&{SOON}", "calls"),
    "call-without-arguments": (f"tool_empty?{SOON}", "calls"),
}


@each_cell
@pytest.mark.parametrize("answer", ANSWERS)
async def test_a_streamed_answer_is_the_whole_answer(stage: Stage, driver: Driver, client: Client, provider: str, answer: str) -> None:
    script, finish = ANSWERS[answer]
    model = model_of(provider, script)

    streamed = (await client.ask(stage.url, model, tools=finish == "calls")).whole()
    whole = (await client.ask(stage.url, model, stream=False, tools=finish == "calls")).whole()

    assert streamed.said == whole.said
    assert streamed.finish == FINISHES[client.surface][finish]
    assert streamed.usage
    assert streamed.usage["output"] > 0


@every_cell
async def test_what_is_streamed_is_what_the_model_said(stage: Stage, driver: Driver, client: Client, provider: str) -> None:
    story = await client.ask(stage.url, model_of(provider, f"story?{SOON}"))
    thinking = await client.ask(stage.url, model_of(provider, f"thinking?{SOON}"))

    assert story.text == texts.STORY
    assert story.deltas > 1
    assert thinking.text == texts.CONCLUSION
    if client.name != "langchain":  # which shows no reasoning of this API
        assert thinking.thinking == texts.REASONING


@every_cell
async def test_parallel_calls_are_gathered_each_for_itself(stage: Stage, driver: Driver, client: Client, provider: str) -> None:
    one = await client.ask(stage.url, model_of(provider, f"tool?cut=1&{SOON}"), tools=True)
    several = await client.ask(stage.url, model_of(provider, f"tools?calls=4&cut=1&{SOON}"), tools=True)
    empty = await client.ask(stage.url, model_of(provider, f"tool_empty?{SOON}"), tools=True)

    assert [call.name for call in one.calls] == ["file_report"]
    assert one.calls[0].arguments is not None
    assert one.calls[0].arguments["station"] == "Wehr Nürnberg/Süd"
    assert [call.name for call in several.calls] == ["get_river_level", "get_rainfall", "set_gate", "notify"]
    assert len({call.id for call in several.calls}) == 4
    assert all(call.arguments for call in several.calls)
    assert len(empty.calls) == 1
    assert not empty.calls[0].arguments


@pytest.mark.parametrize("client", [client for client in CLIENTS if client.surface != "anthropic"], ids=lambda client: client.name)
async def test_a_refusal_is_a_refusal(stage: Stage, driver: Driver, client: Client) -> None:
    whole = (await client.ask(stage.url, f"simulator/refusal?{SOON}", stream=False)).whole()
    streamed = (await client.ask(stage.url, f"simulator/refusal?{SOON}")).whole()

    assert whole.refusal == texts.REFUSAL
    if client.name != "langchain":  # which gathers no refusals
        assert streamed.refusal == texts.REFUSAL


@each_client
async def test_a_model_has_the_name_that_the_relay_gives_it(stage: Stage, driver: Driver, client: Client) -> None:
    assert (await client.ask(stage.url, "fast")).whole().text == texts.QUICK


async def test_both_sdks_list_the_models(stage: Stage) -> None:
    async with openai.AsyncOpenAI(base_url=stage.url + "/v1", api_key="any") as gpt:
        assert "fast" in [model.id async for model in gpt.models.list()]
        assert (await gpt.models.retrieve("fast")).id == "fast"
    async with anthropic.AsyncAnthropic(base_url=stage.url, api_key="any") as claude:
        assert "fast" in [model.id async for model in claude.models.list()]
        assert (await claude.models.retrieve("fast")).type == "model"
