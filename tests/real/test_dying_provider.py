"""A provider that dies at every byte of a stream: one honest ending each time, and never an invented success."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import urllib.request
from collections import Counter
from collections.abc import Iterator

import pytest

from .processes import DIALECTS, Provider, Relay
from .wire import NativeStream, ask

pytestmark = pytest.mark.real

AT_ONCE = 60
BEYOND = 1_000_000
SHORT = "tokens=2&first_token_s=0&tokens_per_s=0"
TOOL = "of=tool&tokens=2&first_token_s=0&tokens_per_s=0"
PATHS = {"openai_chat": "/v1/chat/completions", "anthropic": "/v1/messages"}
# With which event the provider has said that its answer is over: behind its last brace it is.
LAST_WORDS = {"openai_chat": rb'data: \{[^\n]*"finish_reason":"[^\n]*\}', "anthropic": rb'data: \{"type":"message_stop"\}'}
# Few attempts and short waits: how often a relay tries is not what is tried here.
RETRY = "[retry]\nattempts_max = 2\nbackoff_s = 0.01"


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    with Provider(tmp_path_factory.mktemp("provider")) as running:
        yield running


@pytest.fixture(scope="module")
def relay(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    with Relay(tmp_path_factory.mktemp("relay"), provider.url, RETRY) as running:
        yield running


def whole_body(provider: Provider, dialect: str, model: str) -> bytes:
    """What the provider sends when it dies behind the last byte: the whole body, and then no end of it in HTTP's sense."""
    body = {"model": model, "stream": True, "max_tokens": 99, "stream_options": {"include_usage": True}}
    body |= {"messages": [{"role": "user", "content": "Tell me about the river."}]}
    data = json.dumps(body).encode()
    asked = urllib.request.Request(provider.url + PATHS[dialect], data, {"content-type": "application/json"})
    with urllib.request.urlopen(asked, timeout=10) as response, pytest.raises(http.client.IncompleteRead) as cut:
        response.read()
    return cut.value.partial


async def read_all(relay: Relay, models: list[str]) -> list[NativeStream]:
    """Read each model's stream to its end, `AT_ONCE` of them at the same time."""
    places = asyncio.Semaphore(AT_ONCE)

    async def read(model: str) -> NativeStream:
        async with places, NativeStream(relay.port, ask(model)) as stream:
            await stream.to_end()
            return stream

    return await asyncio.gather(*(read(model) for model in models))


def end_of_answer(body: bytes, dialect: str) -> int:
    said = re.search(LAST_WORDS[dialect], body)
    assert said is not None, body
    return said.end()


def assert_honest(stream: NativeStream, *, whole: bool) -> None:
    end = stream.events[-1]
    has_content = bool({"text", "tool_call_start"} & set(stream.kinds))
    if whole:
        assert end["type"] == "stream_end", end
        return
    assert end["type"] == "error", end
    assert end["code"] in (("upstream_truncated",) if has_content else ("upstream_truncated", "upstream_connect")), end
    assert end["retryable"] is True
    assert end["partial"] is has_content
    assert stream.kinds.count("block_end") + stream.kinds.count("tool_call_complete") == opened(stream), stream.kinds


def opened(stream: NativeStream) -> int:
    """How many ends of blocks are due: one for a text, a completion and an end for a call."""
    texts = {event["index"] for event in stream.events if event["type"] == "text"}
    return len(texts) + 2 * stream.kinds.count("tool_call_start")


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_one_honest_ending_wherever_the_provider_dies(provider: Provider, relay: Relay, dialect: str, how: str) -> None:
    body = whole_body(provider, dialect, f"die?of=quick&{SHORT}&at_byte={BEYOND}")
    over = end_of_answer(body, dialect)
    places = range(len(body) + 1)
    name = DIALECTS[dialect]
    streams = await read_all(relay, [f"{name}/die?of=quick&{SHORT}&at_byte={at}&how={how}" for at in places])
    reference = streams[-1].text()
    assert reference
    assert streams[-1].events[-1]["usage"]["source"] == "provider"
    for at, stream in zip(places, streams, strict=True):
        assert_honest(stream, whole=at >= over)
        assert reference.startswith(stream.text())
        assert at < over or stream.text() == reference
    print(f"{dialect}, {how}: {len(body) + 1} places, {Counter(s.events[-1].get('code', 'stream_end') for s in streams)}")


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_arguments_of_a_call_that_was_cut_are_never_completed(provider: Provider, relay: Relay, dialect: str) -> None:
    body = whole_body(provider, dialect, f"die?{TOOL}&at_byte={BEYOND}")
    over = end_of_answer(body, dialect)
    places = range(0, len(body) + 1, len(body) // 400)  # about three in each fragment's event
    name = DIALECTS[dialect]
    streams = await read_all(relay, [f"{name}/die?{TOOL}&at_byte={at}" for at in places])
    (reference,) = await read_all(relay, [f"{name}/die?{TOOL}&at_byte={BEYOND}"])
    arguments = reference.text("tool_call_delta", "arguments_delta")
    cut = 0
    for at, stream in zip(places, streams, strict=True):
        assert_honest(stream, whole=at >= over)
        assert arguments.startswith(stream.text("tool_call_delta", "arguments_delta"))
        for event in stream.events:
            if event["type"] == "tool_call_complete" and not event["valid"]:
                cut += 1
                assert event.get("arguments") is None
                assert event["arguments_raw"] == stream.text("tool_call_delta", "arguments_delta") != arguments
    assert cut > 20


async def test_a_provider_that_dies_in_the_middle_of_a_chunk_or_before_its_head_is_no_success_either(relay: Relay) -> None:
    models = [f"{name}/die?{rest}" for name in DIALECTS.values() for rest in ("after=5&how=short_chunk&first_token_s=0", "headers=0")]
    for stream in await read_all(relay, models):
        assert_honest(stream, whole=False)


async def test_the_relay_keeps_nothing_of_all_that(relay: Relay) -> None:
    assert relay.metric("headrace_streams_in_flight") == 0
    assert relay.metric("headrace_upstream_connections_open") == relay.metric("headrace_upstream_connections_idle")
    assert not [line for line in relay.log_lines() if line["event"] == "internal_error"]
    assert "Traceback" not in relay.output()
