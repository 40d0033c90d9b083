"""The Gemini dialect of the simulator, as bytes and as the relay's decoder reads it."""

import base64
import json

import msgspec
import pytest

from headrace.protocol import events as ev
from headrace.protocol.accumulate import Accumulator
from headrace.protocol.dialects import load
from headrace.protocol.request import ChatRequest
from headrace.simulator import texts

FAST = "first_token_s=0;tokens_per_s=0"
GEMINI = load("gemini")
HI = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}


def request(caller, target: str, body: object = HI) -> bytes:
    return caller.post(f"/v1beta/models/{target}", json.dumps(body).encode(), "connection: close\r\n")


async def ask(caller, model: str, body: object = HI):
    conversation = await caller.send(request(caller, f"{model}:streamGenerateContent?alt=sse", body))
    await conversation.head()
    return conversation


async def responses(caller, model: str, body: object = HI) -> list[dict]:
    """Return what the events of a stream say, having checked how they are framed."""
    events = (await (await ask(caller, model, body)).body()).split(b"\r\n\r\n")
    assert events.pop() == b""
    assert all(event.startswith(b"data: {") and b"\n" not in event for event in events)
    return [json.loads(event.removeprefix(b"data: ")) for event in events]


def parts(answer: list[dict]) -> list[dict]:
    candidates = [candidate for response in answer for candidate in response.get("candidates", ())]
    return [part for candidate in candidates for part in candidate.get("content", {}).get("parts", ())]


async def relayed(caller, model: str, **fields: object) -> Accumulator:
    """Ask as the relay does, and return what it makes of the answer."""
    asked = msgspec.convert({"messages": [{"role": "user", "content": "Grüße"}], **fields}, ChatRequest)
    upstream = GEMINI.build_request(asked, model, {})
    conversation = await caller.send(caller.post("/v1beta" + upstream.path, upstream.body, "connection: close\r\n"))
    assert await conversation.head() == 200
    decoder, reply = GEMINI.new_decoder({}), Accumulator()
    while part := await conversation.chunk():
        for event in decoder.feed(part):
            reply.feed(event)
    for event in decoder.finish():
        reply.feed(event)
    return reply


async def test_a_story_is_responses_with_usage_and_a_reason_at_the_end(caller):
    answer = await responses(caller, f"story;tokens=30;{FAST}")

    assert len(parts(answer)) == 31
    assert [response["candidates"][0].get("finishReason") for response in answer] == [None] * 30 + ["STOP"]
    assert answer[-1]["usageMetadata"] == {"promptTokenCount": 5, "candidatesTokenCount": 30, "totalTokenCount": 35}
    assert {response["modelVersion"] for response in answer} == {"story"}
    assert caller.simulator.stats.requests[-1].model == "story?tokens=30&first_token_s=0&tokens_per_s=0"
    assert caller.simulator.stats.requests[-1].dialect == "gemini"


@pytest.mark.parametrize("options", ["", ";cut=1", ";cut=random;seed=3", ";newline=lf", ";newline=crlf", ";newline=cr"])
async def test_the_relay_reads_a_story_however_it_is_written(caller, options):
    reply = await relayed(caller, f"story;{FAST}{options}")

    assert reply.text == texts.STORY
    assert reply.complete


async def test_line_ends_are_replaced_only_where_that_is_asked_for(caller):
    for newline, end in (("lf", b"\r\n\r\n"), ("cr", b"\r\r")):
        body = await (await ask(caller, f"quick;newline={newline};tokens=2;{FAST}")).body()
        assert body.count(end) == 3


async def test_the_relay_reads_thoughts_and_their_signature(caller):
    reply = await relayed(caller, f"thinking;thinking_s=0.01;{FAST}")

    assert reply.thinking
    assert [block.kind for block in reply.blocks.values()] == ["thinking", "text", "thinking"]
    assert reply.blocks[2].signature
    assert reply.usage.reasoning_tokens


@pytest.mark.parametrize("model", ["unknown_events", "quick;first_token_s=0.05;ping_s=0.01"])
async def test_noise_and_pings_are_events_that_say_nothing(caller, model):
    answer = await responses(caller, f"{model};tokens=10;tokens_per_s=0")
    said = [part["text"] for part in parts(answer) if part["text"]]

    assert len(said) == 10
    assert len(answer) > 12


async def test_signatures_are_base64(caller):
    [signature] = [part["thoughtSignature"] for part in parts(await responses(caller, f"thinking;thinking_s=0.01;{FAST}"))[-1:]]

    assert base64.b64decode(signature, validate=True)


async def test_the_relay_reads_calls(caller):
    reply = await relayed(caller, f"tools;calls=4;{FAST}", tools=[{"name": "notify"}])

    assert [call.name for call in reply.tool_calls] == ["get_river_level", "get_rainfall", "set_gate", "notify"]
    assert all(call.valid and call.arguments for call in reply.tool_calls)
    assert reply.end.finish_reason == "tool_calls"


async def test_a_call_without_arguments_has_an_empty_object(caller):
    reply = await relayed(caller, f"tool_empty;{FAST}")

    assert [(call.name, call.arguments) for call in reply.tool_calls] == [("list_gates", {})]


async def test_the_last_user_turn_is_echoed(caller):
    assert (await relayed(caller, f"echo;{FAST}")).text == "Grüße"


@pytest.mark.parametrize(
    ("model", "end"),
    [
        ("max_tokens", "length"),
        ("max_tokens_in_tool", "length"),
        ("refusal", "content_filter"),
        ("no_done", "stop"),
        ("unknown_events", "stop"),
        ("duplicate_start", "stop"),
        ("no_finish", "upstream_truncated"),
        ("stream_error", "upstream_overloaded"),
    ],
)
async def test_the_relay_reads_every_end_as_what_it_is(caller, model, end):
    last = (await relayed(caller, f"{model};{FAST}")).end

    assert (last.finish_reason if isinstance(last, ev.StreamEnd) else last.code) == end


@pytest.mark.parametrize(
    ("model", "code"), [("json_error_200", "upstream_error"), ("html", "upstream_protocol"), ("empty", "upstream_truncated")]
)
async def test_the_relay_reads_a_200_that_is_no_stream_as_an_error(caller, model, code):
    decoder = GEMINI.new_decoder({})
    events = decoder.feed(await (await ask(caller, model)).body()) + decoder.finish()

    assert [event.code for event in events] == [code]


async def test_an_answer_may_come_whole(caller):
    conversation = await caller.send(request(caller, f"thinking;thinking_s=0.01;{FAST}:generateContent"))
    assert await conversation.head() == 200
    answer = json.loads(await conversation.body())

    [candidate] = answer["candidates"]
    assert [part.get("thought") for part in candidate["content"]["parts"]] == [True, None]
    assert candidate["finishReason"] == "STOP"


async def test_a_whole_answer_may_hold_a_call(caller):
    conversation = await caller.send(request(caller, f"tool;{FAST}:generateContent"))
    await conversation.head()
    told = json.loads(await conversation.body())["candidates"][0]["content"]["parts"]

    assert told[1]["functionCall"]["name"] == "file_report"


@pytest.mark.parametrize(
    ("target", "body", "status", "kind"),
    [
        ("nobody:streamGenerateContent?alt=sse", HI, 404, "NOT_FOUND"),
        ("redacted:streamGenerateContent?alt=sse", HI, 400, "INVALID_ARGUMENT"),
        ("story;speed=3:streamGenerateContent?alt=sse", HI, 400, "INVALID_ARGUMENT"),
        ("story:streamGenerateContent", HI, 400, "INVALID_ARGUMENT"),
        ("story:streamGenerateContent?alt=sse", {}, 400, "INVALID_ARGUMENT"),
        ("story:streamGenerateContent?alt=sse", {"contents": [5]}, 400, "INVALID_ARGUMENT"),
        ("story:streamGenerateContent?alt=sse", {"contents": [{"role": "tool", "parts": []}]}, 400, "INVALID_ARGUMENT"),
        ("error_429:streamGenerateContent?alt=sse", HI, 429, "RESOURCE_EXHAUSTED"),
        ("error_503:generateContent", HI, 503, "UNAVAILABLE"),
    ],
)
async def test_a_request_that_is_refused_says_so_in_the_dialect(caller, target, body, status, kind):
    conversation = await caller.send(request(caller, target, body))

    assert await conversation.head() == status
    error = json.loads(await conversation.body())["error"]
    assert (error["code"], error["status"]) == (status, kind)
    assert caller.simulator.stats.requests[-1].state == "refused"


@pytest.mark.parametrize(
    "place", ["/v1/models", "/v1beta1/projects/p/locations/global/publishers/google/models", "/v1/publishers/google/models"]
)
async def test_every_place_of_a_model_is_known(caller, place):
    target = f"{place}/quick;tokens=1;{FAST}:streamGenerateContent?alt=sse"
    conversation = await caller.send(caller.post(target, json.dumps(HI).encode()))

    assert await conversation.head() == 200
    assert caller.simulator.stats.requests[-1].dialect == "gemini"


async def test_its_models_are_listed_in_its_shape(caller):
    status, page = await caller.get("/v1beta/models")

    assert status == 200
    assert {"name": "models/story", "displayName": "story"}.items() <= page["models"][1].items()
    assert (await caller.get("/v1beta/models/story:generateContent"))[0] == 405


async def test_a_reader_that_leaves_is_seen(caller):
    conversation = await ask(caller, "endless;first_token_s=0;tokens_per_s=100")
    await conversation.until(b"river")
    conversation.leave()

    record = await caller.record(lambda record: record.state == "left")
    assert record.phase_when_left == "streaming"
