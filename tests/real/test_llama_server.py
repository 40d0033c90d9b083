"""A real model server behind the relay: llama.cpp's own, with a model of random weights, asked in both of its dialects."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from . import tiny_model
from .llama import LlamaServer
from .processes import Relay
from .wire import NativeStream, all_open, ask, stop, until

pytestmark = pytest.mark.real

CONFIG = """
[providers.llama]
dialect = "openai_chat"
base_url = "{url}/v1"
passthrough = true

[providers.llama-anthropic]
dialect = "anthropic"
base_url = "{url}"
passthrough = true
"""
DIALECTS = ("llama", "llama-anthropic")
CLIENTS = 20
FREE_S = 1.0  # a slot is free within this, once the relay has let go
GRACE_S = 10.0  # the default
QUESTION = "Tell me about the river."
LONG = {"max_tokens": 8000}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaServer]:
    folder = tmp_path_factory.mktemp("llama")
    with LlamaServer(folder, tiny_model.write(folder / "tiny.gguf")) as running:
        yield running


@pytest.fixture(scope="module")
def relay(llama: LlamaServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    with Relay(tmp_path_factory.mktemp("relay"), None, CONFIG.format(url=llama.url)) as running:
        yield running


def is_text(event: dict[str, Any]) -> bool:
    return event["type"] == "text"


def llamas_own(llama: LlamaServer, max_tokens: int) -> tuple[str, dict[str, int]]:
    """What the server says when it is asked directly: the text of its stream, and the usage.

    Of a stream, because it keeps back a character that is cut off by the limit, which the whole answer shows as it is.
    """
    body = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": max_tokens, "stream": True}
    body["stream_options"] = {"include_usage": True}
    asked = urllib.request.Request(f"{llama.url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"})
    text, usage = "", {}
    with urllib.request.urlopen(asked, timeout=30) as response:
        for line in response:
            if line.startswith(b"data: {"):
                chunk = json.loads(line[6:])
                text += "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])
                usage = chunk.get("usage") or usage
    return text, usage


@pytest.mark.parametrize("provider", DIALECTS)
async def test_text_arrives_as_it_is_made_and_is_the_models_own(llama: LlamaServer, relay: Relay, provider: str) -> None:
    text, usage = await asyncio.to_thread(llamas_own, llama, 1200)
    assert text.count("\ufffd") > 100, "broken characters are what makes this hard"
    asked_at = time.monotonic()
    async with NativeStream(relay.port, ask(f"{provider}/tiny", max_tokens=1200)) as stream:
        end = await stream.to_end()
    took_s = time.monotonic() - asked_at
    assert stream.text() == text
    assert (end["type"], end["finish_reason"]) == ("stream_end", "length")
    assert end["usage"]["source"] == "provider"
    assert (end["usage"]["input_tokens"], end["usage"]["output_tokens"]) == (usage["prompt_tokens"], 1200)
    arrivals = [event["at"] - asked_at for event in stream.events if is_text(event)]
    print(f"{provider}: {len(arrivals)} text events in {took_s:.2f} s, the first after {arrivals[0] * 1000:.0f} ms")
    assert len(set(arrivals)) > 50, "many reads, not one block"
    assert arrivals[0] < took_s / 3
    assert sum(at > took_s / 2 for at in arrivals) > len(arrivals) / 5, "spread over the time"


@pytest.mark.parametrize("provider", DIALECTS)
async def test_stop_frees_the_slot(llama: LlamaServer, relay: Relay, provider: str) -> None:
    async with NativeStream(relay.port, ask(f"{provider}/tiny", **LONG)) as stream:
        await stream.until(is_text)
        assert await asyncio.to_thread(llama.busy) == 1
        answer, end = await asyncio.gather(stop(relay.port, stream.id), stream.to_end())
        await until(lambda: llama.busy() == 0, "the slot is free", FREE_S)
        free_ms = (time.monotonic() - answer.sent_at) * 1000
    assert end["finish_reason"] == "cancelled"
    assert answer.json()["receipt"]["phase"] == "text"
    assert answer.json()["receipt"]["cancel_ms"] < 200
    print(f"{provider}: slot free {free_ms:.0f} ms after Stop; {answer.json()['receipt']}")
    await assert_idle(llama)
    assert end["usage"]["output_tokens"] < LONG["max_tokens"] / 2


async def assert_idle(llama: LlamaServer) -> None:
    """Nothing is generated any more: the count of all tokens does not grow."""
    count = await asyncio.to_thread(llama.tokens_predicted)
    decoded = [token_counts(slot) for slot in await asyncio.to_thread(llama.slots)]
    for _ in range(10):
        await asyncio.sleep(0.05)
        assert await asyncio.to_thread(llama.tokens_predicted) == count
    assert [token_counts(slot) for slot in await asyncio.to_thread(llama.slots)] == decoded


def token_counts(slot: dict[str, Any]) -> list[int]:
    return [following.get("n_decoded", 0) for following in slot.get("next_token", [])]


@pytest.mark.parametrize(("wish", "grace_s"), [("cancel", 0.0), (None, GRACE_S)])
async def test_clients_that_are_killed_leave_no_busy_slot(llama: LlamaServer, relay: Relay, wish: str | None, grace_s: float) -> None:
    rest = {"on_disconnect": wish} if wish else {}
    streams = [NativeStream(relay.port, ask(f"{DIALECTS[at % 2]}/tiny", **LONG, **rest)) for at in range(CLIENTS)]
    async with all_open(streams):
        await asyncio.gather(*(stream.until(is_text) for stream in streams))
        assert await asyncio.to_thread(llama.busy) == CLIENTS
        for stream in streams:
            stream.leave("rst")
        gone_at = time.monotonic()
        if grace_s:
            await until(lambda: relay.metric("headrace_readers") == 0, "the relay sees them gone", FREE_S)
            assert await asyncio.to_thread(llama.busy) == CLIENTS, "they may come back"
        await until(lambda: llama.busy() == 0, "all slots are free", grace_s + FREE_S)
    free_s = time.monotonic() - gone_at
    print(f"{CLIENTS} clients killed, on_disconnect {wish}: no busy slot after {free_s:.2f} s")
    assert free_s >= grace_s - 0.5
    await assert_idle(llama)
    assert await asyncio.to_thread(relay.metric, "headrace_streams_in_flight") == 0


@pytest.mark.parametrize("provider", DIALECTS)
async def test_a_request_that_does_not_fit_is_told_so(relay: Relay, provider: str) -> None:
    body = {"model": f"{provider}/tiny", "max_tokens": 10, "messages": [{"role": "user", "content": "the river " * 5000}]}
    async with NativeStream(relay.port, body) as stream:
        end = await stream.to_end()
    assert (end["type"], end["code"], end["retryable"], end["partial"]) == ("error", "upstream_rejected", False, False)
    assert "context size" in end["message"]


@pytest.mark.parametrize("provider", DIALECTS)
async def test_a_request_that_the_model_cannot_take_is_told_so(relay: Relay, provider: str) -> None:
    image = {"type": "image", "media_type": "image/png", "data": "iVBORw0KGgo="}
    body = {"model": f"{provider}/tiny", "max_tokens": 10, "messages": [{"role": "user", "content": [image]}]}
    async with NativeStream(relay.port, body) as stream:
        end = await stream.to_end()
    assert (end["type"], end["code"], end["partial"]) == ("error", "upstream_error", False)
    assert "image input is not supported" in end["message"]


async def test_what_was_generated_for_everybody_is_what_was_asked_for(llama: LlamaServer, relay: Relay) -> None:
    """More streams than slots: the rest wait in the server's own line, and all of them end well."""
    streams = [NativeStream(relay.port, ask(f"{DIALECTS[at % 2]}/tiny", max_tokens=60)) for at in range(40)]
    before = await asyncio.to_thread(llama.tokens_predicted)
    async with all_open(streams):
        ends = await asyncio.gather(*(stream.to_end() for stream in streams))
    assert {(end["type"], end["finish_reason"], end["usage"]["output_tokens"]) for end in ends} == {("stream_end", "length", 60)}
    await until(lambda: llama.tokens_predicted() == before + 40 * 60, "no token was made for nobody", FREE_S)
