"""The Responses dialect of the simulator, as the official SDK reads it, strictly, and as the relay's decoder does."""

import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from headrace.protocol import events as ev
from headrace.protocol.accumulate import Accumulator
from headrace.protocol.dialects import load
from headrace.protocol.request import ChatRequest
from headrace.simulator import Simulator, texts

FAST = "first_token_s=0&tokens_per_s=0"
PATH = "/v1/responses"
RESPONSES = load("openai_responses")
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
WHOLE = ["story", "thinking", "redacted", "tool", "tools?calls=4", "tool_empty", "refusal", "max_tokens", "max_tokens_in_tool", "echo"]


def model(script: str) -> str:
    return f"{script}{'&' if '?' in script else '?'}{FAST}"


@pytest.fixture
async def gpt(simulator: Simulator) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=simulator.base_url + "/v1", api_key="none", max_retries=0) as client:
        yield client


async def body(caller, script: str, *, input: object = "hi", stream: bool = True, status: int = 200) -> bytes:
    content = {"model": model(script), "input": input, "stream": stream}
    conversation = await caller.send(caller.post(PATH, json.dumps(content).encode(), "connection: close\r\n"))
    assert await conversation.head() == status
    return await conversation.body()


async def answer(client: openai.AsyncOpenAI, script: str) -> Response:
    async with client.responses.stream(model=model(script), input="Guten Tag, 水車!") as stream:
        return await stream.get_final_response()


async def relayed(caller, script: str, **fields: object) -> Accumulator:
    """Ask as the relay does, and return what it makes of the answer."""
    asked = msgspec.convert({"messages": [{"role": "user", "content": "Grüße"}], **fields}, ChatRequest)
    upstream = RESPONSES.build_request(asked, model(script), {})
    conversation = await caller.send(caller.post("/v1" + upstream.path, upstream.body, "connection: close\r\n"))
    assert await conversation.head() == 200
    decoder, reply = RESPONSES.new_decoder({}), Accumulator()
    while part := await conversation.chunk():
        for event in decoder.feed(part):
            reply.feed(event)
    for event in decoder.finish():
        reply.feed(event)
    return reply


@pytest.mark.parametrize("script", WHOLE)
async def test_every_event_is_what_the_sdk_says_it_is(caller, script):
    frames = (await body(caller, script)).split(b"\n\n")

    assert frames.pop() == b""
    for number, frame in enumerate(frames):
        name, _, data = frame.partition(b"\ndata: ")
        event = EVENT.validate_json(data, strict=True)
        assert name.decode() == f"event: {event.type}"
        assert event.sequence_number == number


@pytest.mark.parametrize("script", WHOLE)
async def test_a_whole_answer_is_what_the_sdk_says_it_is(caller, script):
    whole = Response.model_validate_json(await body(caller, script, stream=False), strict=True)

    assert whole.usage is not None
    assert whole.usage.output_tokens > 0


@pytest.mark.parametrize("script", WHOLE)
async def test_the_stream_and_the_whole_answer_tell_the_same(caller, script):
    last = (await body(caller, script)).rsplit(b"\ndata: ", 1)[1]
    streamed, whole = json.loads(last)["response"], json.loads(await body(caller, script, stream=False))

    assert streamed["status"] == whole["status"]
    assert streamed["usage"] == whole["usage"]
    assert [item["type"] for item in streamed["output"]] == [item["type"] for item in whole["output"]]


async def test_the_sdk_reads_text_and_reasoning(gpt):
    story, thought = await answer(gpt, "story"), await answer(gpt, "thinking")

    assert story.output_text == texts.STORY
    assert thought.output_text == texts.CONCLUSION
    assert thought.output[0].summary[0].text == texts.REASONING
    assert thought.output[0].encrypted_content


@pytest.mark.parametrize("cut", ["1", "3", "random", "none"])
async def test_the_sdk_reads_calls(gpt, cut):
    one = await answer(gpt, f"tool?cut={cut}")
    several = await answer(gpt, f"tools?calls=4&cut={cut}")

    assert json.loads(one.output[1].arguments)["station"] == "Wehr Nürnberg/Süd"
    assert [call.name for call in several.output] == ["get_river_level", "get_rainfall", "set_gate", "notify"]
    assert len({call.call_id for call in several.output}) == 4


async def test_the_sdk_reads_a_refusal(gpt):
    assert (await answer(gpt, "refusal")).output[0].content[0].refusal == texts.REFUSAL


async def test_noise_and_a_second_start_are_read_over(gpt):
    assert texts.STORY.startswith((await answer(gpt, "unknown_events")).output_text)
    assert (await answer(gpt, "duplicate_start")).output_text == texts.QUICK


@pytest.mark.parametrize(("shape", "types"), [("responses", ["error", "response.failed"]), ("failed", ["response.failed"])])
async def test_the_sdk_reads_an_error_inside_the_stream(gpt, shape, types):
    stream = await gpt.responses.create(model=model(f"stream_error?shape={shape}&after=2"), input="hi", stream=True)
    seen = [event async for event in stream]

    assert [event.type for event in seen][-len(types) :] == types
    assert seen[-1].response.error.code == "server_error"


async def test_the_sdk_raises_an_error_with_an_error_inside(gpt):
    stream = await gpt.responses.create(model=model("stream_error?shape=openai&after=2"), input="hi", stream=True)

    with pytest.raises(openai.APIError, match="error while processing"):
        [event async for event in stream]


@pytest.mark.parametrize(("status", "error"), [(401, "AuthenticationError"), (429, "RateLimitError"), (500, "InternalServerError")])
async def test_a_status_is_the_sdks_own_error(gpt, status, error):
    with pytest.raises(getattr(openai, error)):
        await answer(gpt, f"error_{status}")


async def test_an_item_that_the_limit_cut_is_incomplete(caller):
    events = [json.loads(frame.split(b"data: ", 1)[1]) for frame in (await body(caller, "max_tokens_in_tool")).split(b"\n\n")[:-1]]

    assert events[-1]["type"] == "response.incomplete"
    assert events[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert events[-1]["response"]["output"][0]["status"] == "incomplete"


async def test_a_stream_without_its_terminator(caller):
    no_done, no_finish = await body(caller, "no_done"), await body(caller, "no_finish")

    assert b"response.completed" not in no_done + no_finish
    assert b"response.output_item.done" in no_done
    assert b"response.output_item.done" not in no_finish


async def test_the_input_may_hold_items_of_all_sorts(caller):
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "one"}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "two"},
    ]
    whole = json.loads(await body(caller, "echo", input=items, stream=False))

    assert whole["output"][0]["content"][0]["text"] == "one"


@pytest.mark.parametrize("wrong", ["", [], 5, [5], [{"content": "x"}]])
async def test_an_input_that_is_none_is_refused(caller, wrong):
    assert b"input" in await body(caller, "quick", input=wrong, status=400)


@pytest.mark.parametrize(
    ("script", "reason"),
    [("story", "stop"), ("tools", "tool_calls"), ("tool_empty", "tool_calls"), ("refusal", "refusal"), ("max_tokens_in_tool", "length")],
)
async def test_the_relay_reads_how_it_ended(caller, script, reason):
    reply = await relayed(caller, script)

    assert isinstance(reply.end, ev.StreamEnd)
    assert reply.end.finish_reason == reason
    assert all(call.valid is (reason != "length") for call in reply.tool_calls)


async def test_the_relay_reads_reasoning_and_can_send_it_back(caller):
    shown, hidden = await relayed(caller, "thinking", thinking=True), await relayed(caller, "redacted", thinking=True)

    assert (shown.thinking, shown.text) == (texts.REASONING, texts.CONCLUSION)
    assert (shown.blocks[0].signature or "").partition(":")[2] == (hidden.blocks[0].redacted or "").partition(":")[2] != ""
    assert shown.blocks[0].redacted is hidden.blocks[0].signature is None


@pytest.mark.parametrize("shape", ["responses", "failed", "openai"])
async def test_the_relay_reads_an_error_in_every_shape(caller, shape):
    reply = await relayed(caller, f"stream_error?shape={shape}&after=2")

    assert isinstance(reply.end, ev.Error)
    assert (reply.end.code, reply.end.partial) == ("upstream_error", True)
    assert "error while processing" in reply.end.message
