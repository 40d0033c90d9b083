"""The clients' own protocols on the wire: when a response opens, what an error looks like, and that leaving is stopping."""

import asyncio
import json
from typing import Any, NamedTuple

import pytest

from engine.guards import turns, until
from engine.peers import CHUNKED, LAST_CHUNK, Listener, Peer, chunk, head, sized
from engine.wires import PHASES, WIRES
from headrace.server.config import ModelConfig, ShortTurnsConfig, SurfaceConfig
from server.conftest import Serve
from server.served import KEY, Connection, Served

HI = [{"role": "user", "content": "hi"}]


class Spoken(NamedTuple):
    """A client protocol: where it is, how a request looks, and the dialect that is its own."""

    path: str
    dialect: str | None
    body: dict[str, Any]
    heartbeat: bytes
    whole: bool = True

    def request(self, model: str, **more: Any) -> bytes:
        if self.path == "/api/ag-ui":
            return json.dumps({**self.body, "forwardedProps": {"model": model}}).encode()
        return json.dumps({**self.body, "model": model, **more}).encode()


SPOKEN = {
    "chat_completions": Spoken("/v1/chat/completions", "openai_chat", {"messages": HI}, b": ping\n"),
    "messages": Spoken("/v1/messages", "anthropic", {"messages": HI, "max_tokens": 9}, b'event: ping\ndata: {"type": "ping"}\n\n'),
    "responses": Spoken("/v1/responses", "openai_responses", {"input": "hi"}, b": ping\n"),
    "ui_chat": Spoken(
        "/api/chat",
        None,
        {"id": "c1", "messages": [{"id": "m", "role": "user", "parts": [{"type": "text", "text": "hi"}]}]},
        b": ping\n",
        False,
    ),
}
SPOKEN["ag_ui"] = Spoken(
    "/api/ag-ui",
    None,
    {"threadId": "t", "runId": "r", "messages": [{"id": "m", "role": "user", "content": "hi"}], "tools": [], "context": [], "state": {}},
    b": ping\n",
    False,
)
PROVIDERS = {"p": WIRES["openai_chat"], "a": WIRES["anthropic"]}
NO_RESUME = [name for name, spoken in SPOKEN.items() if spoken.whole]
surfaces = pytest.mark.parametrize("surface", SPOKEN)
providers = pytest.mark.parametrize("provider", PROVIDERS)


async def ask(relay: Served, surface: str, provider: str = "p", **more: Any) -> Connection:
    spoken = SPOKEN[surface]
    return await relay.start("POST", spoken.path, spoken.request(f"{provider}/m", **({"stream": True} | more)))


async def asked(listener: Listener) -> Peer:
    peer = await listener.accept()
    await peer.request()
    return peer


def said(surface: str, body: bytes) -> str:
    """What an error before the first byte says, in the surface's own shape."""
    if surface == "ui_chat":
        return body.decode()
    error = json.loads(body)["error"]
    assert isinstance(error["code" if surface == "ag_ui" else "type"], str)
    return str(error["message"])


# --- when a response opens -----------------------------------------------------------------------------------------------


@surfaces
@providers
async def test_a_stream_from_its_head_to_its_end(relay: Served, listener: Listener, surface: str, provider: str) -> None:
    client = await ask(relay, surface, provider)
    peer = await asked(listener)
    peer.send(head(CHUNKED), chunk(PROVIDERS[provider].whole), LAST_CHUNK)
    answer = await client.answer()

    assert answer.status == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.headers["x-stream-id"].startswith("st_")
    assert "Für" in answer.body.decode()
    assert b"weather" in answer.body
    if SPOKEN[surface].dialect == PROVIDERS[provider].dialect:
        assert answer.body == PROVIDERS[provider].whole.replace(
            b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":7}}\n\n', b""
        )


@pytest.mark.parametrize("surface", NO_RESUME)
async def test_the_head_comes_when_the_provider_s_status_is_known(relay: Served, listener: Listener, surface: str) -> None:
    client = await ask(relay, surface)
    peer = await asked(listener)
    await turns(50)
    assert client.reader._buffer == b""  # type: ignore[attr-defined]

    peer.send(head(CHUNKED))
    assert await client.head() == 200
    peer.send(chunk(PROVIDERS["p"].whole), LAST_CHUNK)
    await client.body()


@pytest.mark.parametrize("surface", ["ui_chat", "ag_ui"])
async def test_a_page_s_stream_opens_at_once_and_its_errors_are_in_it(relay: Served, listener: Listener, surface: str) -> None:
    client = await ask(relay, surface)
    peer = await asked(listener)
    assert await client.head() == 200
    await client.until(b"data: ")
    peer.send(sized(b'{"error":{"type":"rate_limit_error","message":"slow down"}}', "retry-after: 7", status=429))

    assert b"slow down" in await client.body()


@pytest.mark.parametrize("surface", NO_RESUME)
@providers
async def test_a_limit_of_the_provider_is_the_caller_s_status_with_the_time_to_wait(
    relay: Served, listener: Listener, surface: str, provider: str
) -> None:
    client = await ask(relay, surface, provider)
    peer = await asked(listener)
    peer.send(sized(b'{"error":{"type":"rate_limit_error","message":"slow down"}}', "retry-after: 7", status=429))
    answer = await client.answer()

    assert answer.status == 429
    assert answer.headers["retry-after"] == "7"
    assert "slow down" in said(surface, answer.body)
    assert answer.headers["x-stream-id"].startswith("st_")


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_the_provider_s_own_error_reaches_a_caller_of_its_dialect_as_it_came(relay: Served, listener: Listener, stream: bool) -> None:
    own = {"error": {"message": "too long", "type": "invalid_request_error", "param": "messages", "code": "context_length_exceeded"}}
    client = await ask(relay, "chat_completions", "p", stream=stream)
    (await asked(listener)).send(sized(json.dumps(own).encode(), status=422))
    answer = await client.answer()

    assert (answer.status, answer.json) == (422, own)


async def test_a_provider_s_error_does_not_carry_the_relay_s_key(relay: Served, listener: Listener) -> None:
    client = await ask(relay, "chat_completions", "p")
    peer = await asked(listener)
    peer.send(sized(json.dumps({"error": {"message": f"bad {KEY}", "type": "x"}}).encode(), status=400))
    answer = await client.answer()
    assert answer.status == 400
    assert KEY.encode() not in answer.body

    client = await ask(relay, "chat_completions", "p")
    await peer.request()
    peer.send(sized(json.dumps({"error": {"message": "Incorrect API key", "type": "auth"}}).encode(), status=401))
    answer = await client.answer()
    assert answer.status == 502, "the relay's credentials are not the caller's affair"
    assert answer.headers["x-should-retry"] == "false"
    assert b"Incorrect" not in answer.body


@pytest.mark.parametrize("surface", NO_RESUME)
async def test_when_the_first_heartbeat_is_due_the_response_opens_with_it(serve: Serve, listener: Listener, surface: str) -> None:
    relay = await serve(stream={"heartbeat_s": 0.1})
    client = await ask(relay, surface)
    peer = await asked(listener)
    assert await client.head() == 200
    await client.until(SPOKEN[surface].heartbeat * 2)
    peer.send(sized(b'{"error":{"message":"slow down"}}', status=429))
    body = await client.body()

    assert b"slow down" in body, "what comes too late for a status is said in the stream"
    assert body.startswith(SPOKEN[surface].heartbeat) or surface == "responses"


async def test_heartbeats_can_be_switched_off(serve: Serve, listener: Listener) -> None:
    relay = await serve(stream={"heartbeat_s": 0.05}, surfaces={"openai_chat": SurfaceConfig(heartbeat=False)})
    client = await ask(relay, "chat_completions")
    peer = await asked(listener)
    assert await client.head() == 200
    peer.send(head(CHUNKED))
    await asyncio.sleep(0.2)
    peer.send(chunk(PROVIDERS["p"].plain("hello")), LAST_CHUNK)

    assert b"ping" not in await client.body()


# --- whole answers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("surface", NO_RESUME)
@providers
async def test_a_whole_answer(relay: Served, listener: Listener, surface: str, provider: str) -> None:
    client = await ask(relay, surface, provider, stream=False)
    peer = await asked(listener)
    peer.send(head(CHUNKED), chunk(PROVIDERS[provider].whole), LAST_CHUNK)
    answer = await client.answer()

    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert "Für dich" in json.dumps(answer.json, ensure_ascii=False)
    assert "weather" in json.dumps(answer.json)


@pytest.mark.parametrize("surface", NO_RESUME)
@providers
async def test_an_answer_that_broke_off_is_never_given_as_a_whole(relay: Served, listener: Listener, surface: str, provider: str) -> None:
    client = await ask(relay, surface, provider, stream=False)
    peer = await asked(listener)
    peer.send(head(CHUNKED), chunk(PROVIDERS[provider].until("text")), LAST_CHUNK)
    answer = await client.answer()

    assert answer.status == 502
    assert "broke off" in said(surface, answer.body)


async def test_a_whole_answer_has_a_bound(serve: Serve, listener: Listener) -> None:
    relay = await serve(stream={"reply_bytes_max": 100_000})
    client = await ask(relay, "chat_completions", "p", stream=False)
    peer = await asked(listener)
    peer.send(head(CHUNKED))
    task = asyncio.create_task(peer.pour(chunk(b'data: {"choices":[{"index":0,"delta":{"content":"' + b"x" * 9000 + b'"}}]}\n\n')))
    answer = await client.answer()
    await task

    assert answer.status == 502
    assert json.loads(answer.body)["error"]["code"] == "stream_too_large"
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("surface", NO_RESUME)
async def test_an_answer_that_somebody_stops_is_no_success(relay: Served, listener: Listener, surface: str) -> None:
    client = await ask(relay, surface, "p", stream=False)
    peer = await asked(listener)
    peer.send(head(CHUNKED), chunk(PROVIDERS["p"].until("text")))
    await until(lambda: any(stream.has_content for stream in relay.relay.streams.live()))
    await relay.post(f"/v1/streams/{relay.relay.streams.live()[0].id}/cancel")
    answer = await client.answer()

    assert answer.status == 499
    assert "stopped" in said(surface, answer.body)


# --- leaving is stopping -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["headers", *PHASES])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("surface", [*NO_RESUME, "ag_ui"])
@providers
async def test_leaving_in_any_phase_closes_the_provider(
    relay: Served, listener: Listener, surface: str, provider: str, stream: bool, phase: str
) -> None:
    client = await ask(relay, surface, provider, stream=stream)
    peer = await asked(listener)
    if phase != "headers":
        peer.send(head(CHUNKED), chunk(PROVIDERS[provider].until(phase)))
        await until(lambda: any(stream.bytes_in for stream in relay.relay.streams.live()))
    client.writer.transport.abort()

    await peer.gone()
    await until(lambda: relay.relay.streams.running == 0)


@pytest.mark.parametrize("surface", NO_RESUME)
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_leaving_the_queue_gives_up_the_place(serve: Serve, listener: Listener, surface: str, stream: bool) -> None:
    relay = await serve(concurrency=1)
    first = await ask(relay, "messages", "a")
    peer = await asked(listener)
    waiting = await ask(relay, surface, "a", stream=stream)
    line = relay.relay.catalogue.providers["a"].line
    await until(lambda: len(line.waiting) == 1)
    waiting.writer.transport.abort()

    await until(lambda: not line.waiting)
    first.writer.transport.abort()
    await peer.gone()


# --- what a request may say ----------------------------------------------------------------------------------------------

WRONG = {
    "no JSON": (b"{", "JSON"),
    "a list": (b"[]", "object"),
    "a number for a model": (b'{"model":1}', "model"),
    "a word for stream": (b'{"model":"p/m","stream":"yes"}', "stream"),
    "too deep": (b'{"model":"p/m","x":' + b"[" * 200 + b"]" * 200 + b"}", "nested"),
}


@pytest.mark.parametrize("name", WRONG)
@surfaces
async def test_a_wrong_request_is_told_what_in_the_caller_s_dialect(relay: Served, surface: str, name: str) -> None:
    body, expected = WRONG[name]
    answer = await relay.ask("POST", SPOKEN[surface].path, body)

    if not SPOKEN[surface].whole and ("stream" in name or (surface == "ag_ui" and "model" in name)):
        assert answer.status == 400  # not for what these protocols do not have, but for messages that are missing
        return
    assert answer.status == 400
    assert expected in said(surface, answer.body)
    assert relay.relay.streams.running == 0


@surfaces
async def test_a_model_that_is_not_there_is_a_404_that_names_those_that_are(serve: Serve, surface: str) -> None:
    relay = await serve(passthrough=False)
    spoken = SPOKEN[surface]
    answer = await relay.ask("POST", spoken.path, spoken.request("fsat"))

    assert answer.status == 404
    assert "Did you mean 'fast'?" in said(surface, answer.body)


@pytest.mark.parametrize(("surface", "provider"), [("chat_completions", "p"), ("messages", "a")])
async def test_a_bare_name_goes_to_the_provider_that_speaks_the_caller_s_dialect(
    relay: Served, listener: Listener, surface: str, provider: str
) -> None:
    spoken = SPOKEN[surface]
    client = await relay.start("POST", spoken.path, spoken.request("some-model", stream=True))
    peer = await listener.accept()
    assert b'"model":"some-model"' in await peer.request()
    peer.send(head(CHUNKED), chunk(PROVIDERS[provider].whole), LAST_CHUNK)
    assert (await client.answer()).status == 200


async def test_what_another_dialect_cannot_say_is_refused_by_name(relay: Served) -> None:
    spoken = SPOKEN["chat_completions"]
    answer = await relay.ask("POST", spoken.path, spoken.request("a/m", n=2))
    assert answer.status == 400
    assert answer.json["error"]["param"] == "n"


async def test_what_a_provider_of_the_same_dialect_is_sent_is_the_caller_s_own_body(relay: Served, listener: Listener) -> None:
    client = await ask(relay, "chat_completions", "p", n=2, logprobs=True, vendor={"extra": [1, None]})
    peer = await listener.accept()
    request = await peer.request()
    sent = json.loads(request.partition(b"\r\n\r\n")[2])
    peer.send(head(CHUNKED), chunk(PROVIDERS["p"].whole), LAST_CHUNK)
    await client.answer()

    assert sent["model"] == "m"
    assert sent["n"] == 2
    assert sent["vendor"] == {"extra": [1, None]}
    assert sent["stream_options"] == {"include_usage": True}


async def test_betas_that_a_caller_names_go_on(relay: Served, listener: Listener) -> None:
    spoken = SPOKEN["messages"]
    client = await relay.start(
        "POST", spoken.path, spoken.request("a/m", stream=True), "anthropic-beta: files-api-2025-04-14", "x-api-key: mine"
    )
    peer = await listener.accept()
    request = await peer.request()
    peer.send(head(CHUNKED), chunk(PROVIDERS["a"].whole), LAST_CHUNK)
    answer = await client.answer()

    assert b"anthropic-beta: files-api-2025-04-14\r\n" in request
    assert request.lower().count(b"anthropic-version:") == 1
    assert b"mine" not in request
    assert answer.headers["request-id"] == answer.headers["x-request-id"]


# --- models and routing --------------------------------------------------------------------------------------------------


async def test_the_models_that_can_be_named(serve: Serve) -> None:
    relay = await serve(models=["big", "small"])
    answer = await relay.get("/v1/models")

    assert [model["id"] for model in answer.json["data"]] == ["fast", "p/big", "p/small", "a/big", "a/small"]
    assert answer.json["object"] == "list"
    assert (answer.json["first_id"], answer.json["last_id"], answer.json["has_more"]) == ("fast", "a/small", False)
    assert {model["owned_by"] for model in answer.json["data"]} == {"headrace", "p", "a"}

    one = await relay.get("/v1/models/p/big")
    assert one.json == answer.json["data"][1]
    assert (await relay.get("/v1/models/nobody/x")).status == 404


async def test_short_turns_go_to_their_own_model(serve: Serve, listener: Listener) -> None:
    alias = ModelConfig(targets=["p/big"], short_turns=ShortTurnsConfig(targets=["p/small"], characters_max=20))
    relay = await serve(aliases={"smart": alias})
    peer = None
    for text, expected in (("hi", "small"), ("tell me everything about headraces", "big")):
        spoken = SPOKEN["chat_completions"]
        client = await relay.start("POST", spoken.path, spoken.request("smart", stream=True, messages=[{"role": "user", "content": text}]))
        peer = peer or await listener.accept()  # the connection is kept
        request = await peer.request()
        assert f'"model":"{expected}"'.encode() in request
        peer.send(head(CHUNKED), chunk(PROVIDERS["p"].whole), LAST_CHUNK)
        assert (await client.answer()).status == 200
