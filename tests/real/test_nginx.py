"""The relay behind Debian's nginx: with nothing but `proxy_pass`, told to buffer, and with the configuration of `deploy/`."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from headrace.cli.proof import nginx as real_nginx
from headrace.cli.proof import probe
from headrace.cli.proof.child import ChildFailed, free_ports, listens, stop_all
from headrace.cli.proof.nginx import Nginx
from headrace.cli.proof.probe import Reading, read
from headrace.cli.proof.stage import Relay
from headrace.cli.proof.witness import Witness
from headrace.protocol import events as ev

from .conftest import HEARTBEAT_S

pytestmark = pytest.mark.real

PRODUCTION = Path(__file__).parents[2] / "deploy" / "nginx" / "headrace.conf"
HOLD_S_MAX = 0.1
TRIES = 3  # a machine that is busy with something else may sleep for longer than a token may be held


async def holds(http: httpx2.AsyncClient, witness: Witness, url: str) -> list[float]:
    """Return how long each token of an answer was on its way, and check that it is whole."""
    reading = await read(http, url, "story?tokens=75&tokens_per_s=50")
    record = await witness.wait(reading.request_id, lambda record: record.state == "finished")
    assert len(reading.tokens) == len(record.written_at_monotonic) == 75
    assert [event.seq for event in reading.events] == list(range(1, len(reading.events) + 1))
    return [arrived - written for arrived, written in zip(reading.tokens, record.written_at_monotonic, strict=True)]


async def test_every_token_passes_an_nginx_that_has_only_proxy_pass_within_100_ms(
    nginx: Nginx, http: httpx2.AsyncClient, witness: Witness
) -> None:
    worst = [max(await holds(http, witness, nginx.url("plain")))]
    while worst[-1] > HOLD_S_MAX and len(worst) < TRIES:
        worst.append(max(await holds(http, witness, nginx.url("plain"))))
    assert min(worst) <= HOLD_S_MAX, worst


async def test_an_nginx_that_buffers_makes_a_cliff_of_it(nginx: Nginx, http: httpx2.AsyncClient) -> None:
    """Without this the test above would prove nothing: this nginx does hold answers back where it is told to."""
    reading = await read(http, nginx.url("buffering"), "story?tokens=50&tokens_per_s=50")
    assert len(reading.tokens) == 50
    assert reading.tokens[0] - reading.sent_at > 1.0
    assert reading.tokens[-1] - reading.tokens[0] < 0.25


async def test_a_stop_reaches_the_provider(nginx: Nginx, http: httpx2.AsyncClient, witness: Witness) -> None:
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        reading, ready = Reading(), asyncio.Event()

        def look(reading: Reading) -> None:
            if len(reading.tokens) >= 10:
                ready.set()

        group.create_task(read(http, nginx.url("plain"), "endless", reading, watch=look))
        await ready.wait()
        pressed_at = time.monotonic()
        answer = await http.post(f"{nginx.url('plain')}/v1/streams/{reading.stream_id}/cancel")
    record = await witness.wait(reading.request_id, lambda record: record.state != "running")
    assert answer.json()["status"] == "cancelled"
    assert record.state == "left"
    assert record.left_at_monotonic is not None
    assert record.left_at_monotonic - pressed_at < 0.5
    assert isinstance(reading.end, ev.StreamEnd)
    assert reading.end.finish_reason == "cancelled"


@pytest.mark.parametrize("model", ["endless", "story?first_token_s=60"], ids=["writing", "silent"])
async def test_a_client_that_is_killed_reaches_the_provider_after_the_grace(nginx: Nginx, witness: Witness, model: str) -> None:
    grace_s = 0.4
    request_id = f"req_killed_{model.partition('?')[0]}"
    sock = await ask_raw(nginx.ports["plain"], {**probe.ask(model), "on_disconnect": grace_s}, request_id)
    await witness.wait(request_id, lambda record: record.state == "running")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
    killed_at = time.monotonic()
    record = await witness.wait(request_id, lambda record: record.state != "running")
    assert record.state == "left"
    assert record.left_at_monotonic is not None
    assert grace_s - 0.1 < record.left_at_monotonic - killed_at < grace_s + 2


async def test_heartbeats_pass_while_the_model_is_silent(nginx: Nginx, http: httpx2.AsyncClient) -> None:
    reading = await read(http, nginx.url("plain"), f"quick?progress=0&first_token_s={HEARTBEAT_S * 3.5}")
    before = [mark for mark in reading.marks if mark.kind == "life" and mark.at_s < HEARTBEAT_S * 3.4]
    assert len(before) == 4, "the opening event and three heartbeats"
    assert isinstance(reading.end, ev.StreamEnd)


async def test_a_dropped_stream_is_resumed(nginx: Nginx, http: httpx2.AsyncClient, witness: Witness) -> None:
    url, model = nginx.url("plain"), "story?tokens=60&tokens_per_s=100"
    whole = (await witness.answer("story?tokens=60"))["content"]
    text, stream_id, last = "", "", 0
    async with http.stream("POST", f"{url}/v1/chat/stream", json=probe.ask(model)) as response:
        reading = Reading()
        async for chunk in response.aiter_raw():
            reading.feed(chunk, time.monotonic())
            if len(reading.tokens) >= 20:
                break
        stream_id, text, last = response.headers["x-stream-id"], reading.text, reading.events[-1].seq
    rest = Reading()
    async with http.stream("GET", f"{url}/v1/streams/{stream_id}/events", headers={"last-event-id": str(last)}) as response:
        async for chunk in response.aiter_raw():
            rest.feed(chunk, time.monotonic())
    assert text + rest.text == whole
    assert isinstance(rest.end, ev.StreamEnd)
    assert rest.end.finish_reason == "stop"


# --- the clients' own protocols --------------------------------------------------------------------------------------------

HI = {"role": "user", "content": "hi"}
# Path, body, and what stands once in each token's frame.
SURFACES: dict[str, tuple[str, dict[str, Any], bytes]] = {
    "chat_completions": ("/v1/chat/completions", {"messages": [HI], "stream": True}, b'"content":"'),
    "messages": ("/v1/messages", {"messages": [HI], "max_tokens": 99, "stream": True}, b'"text_delta"'),
    "responses": ("/v1/responses", {"input": "hi", "stream": True}, b"event: response.output_text.delta"),
    "ui_chat": (
        "/api/chat",
        {"id": "c", "messages": [{"id": "m", "role": "user", "parts": [{"type": "text", "text": "hi"}]}]},
        b'"text-delta"',
    ),
    "ag_ui": (
        "/api/ag-ui",
        {"threadId": "t", "runId": "r", "messages": [{"id": "m", **HI}], "tools": [], "context": [], "state": {}},
        b'"TEXT_MESSAGE_CONTENT"',
    ),
}


def surface_ask(surface: str, model: str) -> tuple[str, dict[str, Any], bytes]:
    path, body, token = SURFACES[surface]
    return path, body | ({"forwardedProps": {"model": model}} if surface == "ag_ui" else {"model": model}), token


async def surface_holds(http: httpx2.AsyncClient, witness: Witness, url: str, surface: str, request_id: str) -> list[float]:
    path, body, token = surface_ask(surface, "simulator/story?tokens=75&tokens_per_s=50")
    arrived: list[float] = []
    async with http.stream("POST", url + path, json=body, headers={"x-request-id": request_id}) as response:
        async for chunk in response.aiter_raw():
            arrived += [time.monotonic()] * chunk.count(token)
    record = await witness.wait(request_id, lambda record: record.state == "finished")
    written = record.written_at_monotonic
    assert len(written) == 75
    return [at - then for at, then in zip(arrived[-75:], written, strict=True)]


@pytest.mark.parametrize("surface", SURFACES)
async def test_every_token_passes_in_the_clients_own_protocols_too(
    nginx: Nginx, http: httpx2.AsyncClient, witness: Witness, surface: str
) -> None:
    worst: list[float] = []
    while len(worst) < TRIES and (not worst or worst[-1] > HOLD_S_MAX):
        worst.append(max(await surface_holds(http, witness, nginx.url("plain"), surface, f"req_{surface}_{len(worst)}")))
    assert min(worst) <= HOLD_S_MAX, worst


@pytest.mark.parametrize("model", ["endless", "story?first_token_s=60"], ids=["writing", "silent"])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("surface", ["chat_completions", "messages", "responses"])
async def test_a_client_of_another_protocol_that_is_killed_reaches_the_provider_at_once(
    nginx: Nginx, witness: Witness, surface: str, stream: bool, model: str
) -> None:
    path, body, _ = surface_ask(surface, f"simulator/{model}")
    request_id = f"req_killed_{surface}_{stream}_{model.partition('?')[0]}"
    sock = await ask_raw(nginx.ports["plain"], body | {"stream": stream}, request_id, path=path, answers=stream and "?" not in model)
    await witness.wait(request_id, lambda record: record.state == "running")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
    killed_at = time.monotonic()
    record = await witness.wait(request_id, lambda record: record.state != "running")
    assert record.state == "left"
    assert record.left_at_monotonic is not None
    assert record.left_at_monotonic - killed_at < 1


def test_a_client_of_http_1_0_gets_no_chunks(relay: Relay) -> None:
    """Which is how nginx asks by default. RFC 9112, section 6.1."""
    host, _, port = relay.address.rpartition(":")
    body = json.dumps(probe.ask("quick?first_token_s=0&tokens_per_s=0")).encode()
    head = f"POST /v1/chat/stream HTTP/1.0\r\nhost: relay\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    with socket.create_connection((host, int(port)), 10) as sock:
        sock.sendall(head.encode() + body)
        answer = b""
        while part := sock.recv(65536):
            answer += part
    fields, _, events = answer.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in fields.lower()
    assert events.startswith(b"id: 1\ndata: {")
    assert events.endswith(b"data: [DONE]\n\n")


@pytest.fixture
def production(tmp_path: Path, relay: Relay) -> Any:
    """nginx with `deploy/nginx/headrace.conf` in front of the relay; yields its address."""
    (port,) = free_ports(1)
    text = PRODUCTION.read_text()
    for written, here in (("127.0.0.1:8080", relay.address), ("listen 80;", f"listen 127.0.0.1:{port};")):
        assert written in text
        text = text.replace(written, here)
    child = real_nginx.run(real_nginx.find(), tmp_path, text)
    try:
        child.wait_for(lambda: listens(port), "listened")
        yield f"http://127.0.0.1:{port}"
    finally:
        stop_all([child])


async def test_the_configuration_for_production_streams_and_stops(production: str, http: httpx2.AsyncClient, witness: Witness) -> None:
    assert min([max(await holds(http, witness, production)) for _ in range(2)]) <= HOLD_S_MAX
    async with http.stream("POST", f"{production}/v1/chat/stream", json=probe.ask("endless") | {"on_disconnect": "cancel"}) as response:
        assert response.http_version == "HTTP/1.1"
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert "content-encoding" not in response.headers
        await anext(response.aiter_raw())
        request_id = response.headers["x-request-id"]
    assert (await witness.wait(request_id, lambda record: record.state != "running")).state == "left"


async def test_the_configuration_for_production_refuses_what_is_too_large(production: str, http: httpx2.AsyncClient) -> None:
    answer = await http.post(f"{production}/v1/chat/stream", content=b" " * (8 * 1024 * 1024 + 1))
    assert answer.status_code == 413


def test_a_configuration_that_nginx_refuses_is_told_in_its_own_words(tmp_path: Path) -> None:
    with pytest.raises(ChildFailed, match='unknown directive "proxy_bufering"'):
        real_nginx.run(real_nginx.find(), tmp_path, "server { proxy_bufering off; }")


async def ask_raw(
    port: int, body: dict[str, Any], request_id: str, *, path: str = "/v1/chat/stream", answers: bool = True
) -> socket.socket:
    """Send a request on a bare socket, and return that as soon as the answer begins, if it does."""
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: relay\r\ncontent-type: application/json\r\nx-request-id: {request_id}\r\n"
    sock = socket.socket()
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, ("127.0.0.1", port))
    await loop.sock_sendall(sock, f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
    if answers:
        await loop.sock_recv(sock, 100)
    return sock
