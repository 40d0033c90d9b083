"""The providers' own SDKs read what the simulator writes, and find nothing strange in it."""

import json
from collections.abc import AsyncIterator

import anthropic
import openai
import pytest

from headrace.simulator import Simulator, texts

FAST = "first_token_s=0&tokens_per_s=0"
HELLO = [{"role": "user", "content": "Guten Tag, 水車!"}]


@pytest.fixture
async def gpt(simulator: Simulator) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=simulator.base_url + "/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
async def claude(simulator: Simulator) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=simulator.base_url, api_key="none", max_retries=0) as client:
        yield client


async def chat(client: openai.AsyncOpenAI, model: str, **options):
    stream = await client.chat.completions.create(model=model, messages=HELLO, stream=True, **options)
    return [chunk async for chunk in stream]


def text_of(chunks) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


async def message(client: anthropic.AsyncAnthropic, model: str):
    async with client.messages.stream(model=model, messages=HELLO, max_tokens=1000) as stream:
        return await stream.get_final_message()


async def test_openai_reads_a_story(gpt):
    chunks = await chat(gpt, f"story?{FAST}")

    assert text_of(chunks) == texts.STORY
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks)


async def test_openai_gets_usage_only_when_it_asks(gpt):
    chunks = await chat(gpt, f"story?tokens=30&{FAST}", stream_options={"include_usage": True})

    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 30
    assert chunks[-1].usage.total_tokens == chunks[-1].usage.prompt_tokens + 30


async def test_openai_reads_reasoning(gpt):
    chunks = await chat(gpt, f"thinking?{FAST}")

    reasoning = "".join(getattr(chunk.choices[0].delta, "reasoning_content", None) or "" for chunk in chunks)
    assert reasoning == texts.REASONING
    assert text_of(chunks) == texts.CONCLUSION


@pytest.mark.parametrize("cut", ["1", "2", "3", "7", "random", "none"])
async def test_openai_reads_a_call_whose_arguments_are_cut_anywhere(gpt, cut):
    chunks = await chat(gpt, f"tool?cut={cut}&{FAST}")

    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert calls[0].id
    assert calls[0].function.name == "file_report"
    assert json.loads("".join(call.function.arguments for call in calls))["station"] == "Wehr Nürnberg/Süd"
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


async def test_openai_reads_parallel_calls_that_alternate(gpt):
    chunks = await chat(gpt, f"tools?calls=3&{FAST}")

    order = [call.index for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert order[:6] == [0, 1, 2, 0, 1, 2]
    for index in range(3):
        fragments = (call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or [] if call.index == index)
        assert isinstance(json.loads("".join(fragment.function.arguments for fragment in fragments)), dict)


async def test_openai_reads_a_refusal(gpt):
    chunks = await chat(gpt, f"refusal?{FAST}")

    assert "".join(chunk.choices[0].delta.refusal or "" for chunk in chunks) == texts.REFUSAL


async def test_openai_gets_a_whole_answer(gpt):
    answer = await gpt.chat.completions.create(model=f"tools?{FAST}", messages=HELLO)

    assert answer.choices[0].finish_reason == "tool_calls"
    assert [call.function.name for call in answer.choices[0].message.tool_calls] == ["get_river_level", "get_rainfall"]
    assert answer.usage.completion_tokens > 0


async def test_anthropic_reads_a_story(claude):
    answer = await message(claude, f"story?{FAST}")

    assert answer.content[0].text == texts.STORY
    assert answer.stop_reason == "end_turn"
    assert answer.usage.output_tokens == len(texts.tokenise(texts.STORY))
    assert answer.usage.input_tokens > 0


async def test_anthropic_reads_thinking_with_its_signature(claude):
    answer = await message(claude, f"thinking?{FAST}")

    assert [block.type for block in answer.content] == ["thinking", "text"]
    assert answer.content[0].thinking == texts.REASONING
    assert answer.content[0].signature


async def test_anthropic_reads_silent_and_redacted_thinking(claude):
    silent = await message(claude, f"thinking?progress=0&{FAST}")
    redacted = await message(claude, f"redacted?{FAST}")

    assert silent.content[0].thinking == ""
    assert silent.content[0].signature
    assert redacted.content[0].type == "redacted_thinking"
    assert redacted.content[1].text == texts.CONCLUSION


@pytest.mark.parametrize("cut", ["1", "3", "random"])
async def test_anthropic_reads_calls(claude, cut):
    one = await message(claude, f"tool?cut={cut}&{FAST}")
    several = await message(claude, f"tools?calls=4&cut={cut}&{FAST}")
    empty = await message(claude, f"tool_empty?{FAST}")

    assert one.content[1].input["水位"]["high"] == 3.5
    assert [block.name for block in several.content] == ["get_river_level", "get_rainfall", "set_gate", "notify"]
    assert empty.content[1].input == {}
    assert one.stop_reason == "tool_use"


@pytest.mark.parametrize(("model", "reason"), [("refusal", "refusal"), ("pause_turn", "pause_turn"), ("max_tokens", "max_tokens")])
async def test_anthropic_reads_why_it_stopped(claude, model, reason):
    assert (await message(claude, f"{model}?{FAST}")).stop_reason == reason


async def test_anthropic_gets_a_whole_answer(claude):
    answer = await claude.messages.create(model=f"thinking?{FAST}", messages=HELLO, max_tokens=10)

    assert [block.type for block in answer.content] == ["thinking", "text"]


async def test_both_echo(gpt, claude):
    assert text_of(await chat(gpt, f"echo?{FAST}")) == "Guten Tag, 水車!"
    assert (await message(claude, f"echo?{FAST}")).content[0].text == "Guten Tag, 水車!"


@pytest.mark.parametrize(
    "transport", ["cut=1", "cut=random&seed=4", "newline=crlf", "newline=cr", "encoding=gzip", "framing=close", "framing=length"]
)
async def test_the_wire_does_not_change_what_is_read(gpt, claude, transport):
    assert text_of(await chat(gpt, f"quick?{transport}&{FAST}")) == texts.QUICK
    assert (await message(claude, f"quick?{transport}&{FAST}")).content[0].text == texts.QUICK


async def test_noise_is_skipped(gpt, claude):
    assert texts.STORY.startswith(text_of(await chat(gpt, f"unknown_events?{FAST}")))
    assert texts.STORY.startswith((await message(claude, f"unknown_events?{FAST}")).content[0].text)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, "AuthenticationError"),
        (404, "NotFoundError"),
        (429, "RateLimitError"),
        (500, "InternalServerError"),
        (529, "InternalServerError"),
    ],
)
async def test_a_status_is_the_sdks_own_error(gpt, claude, status, error):
    with pytest.raises(getattr(openai, error)):
        await chat(gpt, f"error_{status}")
    with pytest.raises(anthropic.APIStatusError) as caught:
        await message(claude, f"error_{status}")
    assert caught.value.status_code == status


async def test_an_sdk_retries_an_error_that_passes(simulator):
    client = openai.AsyncOpenAI(base_url=simulator.base_url + "/v1", api_key="none", max_retries=2)
    async with client:
        chunks = await chat(client, "error_429?retry_after=0.01&times=1&key=passing&first_token_s=0&tokens_per_s=0")

    assert text_of(chunks) == texts.QUICK
    assert [record.state for record in simulator.stats.requests] == ["refused", "finished"]


@pytest.mark.parametrize("shape", ["openai", "openrouter"])
async def test_openai_raises_an_error_inside_a_stream(gpt, shape):
    with pytest.raises(openai.APIError):
        await chat(gpt, f"stream_error?shape={shape}&{FAST}")


async def test_anthropic_raises_an_error_inside_a_stream(claude):
    with pytest.raises(anthropic.APIStatusError, match="Overloaded"):
        await message(claude, f"stream_error?{FAST}")


async def test_both_list_the_models(gpt, claude):
    assert "story" in [model.id async for model in gpt.models.list()]
    assert "error_529" in [model.id async for model in claude.models.list()]
