"""What HTTP itself asks of a server: odd clients, other sites' pages, monitors, and people who read the docs."""

import asyncio
import json
import re
from typing import Any

import pytest

from engine.guards import until
from engine.peers import CHUNKED, LAST_CHUNK, Listener, chunk, chunked, head
from engine.wires import OPENAI
from server.served import Served, chat_body, raw

TEXT = b'data: {"choices":[{"index":0,"delta":{"content":"' + b"x" * 1000 + b'"}}]}\n\n'


# --- odd clients -----------------------------------------------------------------------------------------------------------


async def test_a_client_of_http_1_0_gets_a_body_that_ends_with_the_connection(relay: Served, way: str) -> None:
    connection = await relay.start("POST", "/v1/chat/stream", chat_body(), version="1.0")
    await connection.head()
    assert connection.headers["connection"] == "close"
    if way == "direct":
        assert "transfer-encoding" not in connection.headers
        body = await connection.rest()
        assert body.startswith(b"id: 1\ndata: {")
    else:
        body = await connection.rest()  # what the foreign server makes of it
    assert b"data: [DONE]\n\n" in body


async def test_requests_behind_each_other_on_one_connection(relay: Served) -> None:
    connection = await relay.connect()
    stream = raw("POST", "/v1/chat/stream", chat_body())
    connection.send(stream + raw("GET", "/healthz", None) + stream)

    for _ in range(2):
        connection.seen = bytearray()
        assert await connection.head() == 200
        if connection.headers["content-type"] == "application/json":
            assert json.loads(await connection.body()) == {"status": "ok"}
            assert await connection.head() == 200
        assert (await connection.body()).endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"POST /v1/chat/stream HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/chat/stream HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        b"POST /v1/chat/stream HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/chat/stream HTTP/1.1\r\nhost: x\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: x\r\nx: a\x00b\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: x\r\n x: folded\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\r\n" * 10 + b"nonsense",
    ],
)
async def test_garbage_is_refused_and_the_next_client_is_served(relay: Served, garbage: bytes) -> None:
    connection = await relay.connect()
    connection.send(garbage)
    connection.writer.write_eof()

    answer = await connection.rest()

    assert not answer or re.match(rb"HTTP/1\.1 (4\d\d|505) ", answer)
    assert (await relay.get("/healthz")).status == 200
    assert relay.relay.streams.running == 0


async def test_garbage_behind_a_request_whose_stream_is_running(relay: Served, listener: Listener) -> None:
    """It ends the connection, and never a frame of the stream as if that were whole."""
    connection = await relay.chat("p/m")
    peer = await listener.accept()
    await peer.request()
    await connection.until(b"\n\n")

    connection.send(b"\x00\x01nonsense\r\n\r\n")
    rest = await connection.rest()

    assert b"stream_end" not in rest
    assert b"[DONE]" not in rest
    assert not rest.endswith(LAST_CHUNK)


@pytest.mark.parametrize("host", ["", "[", "a b", "x:99999", "\u00e9", "evil\t", "user@host", "[::1"])
async def test_an_odd_host_is_nobody_s_undoing(relay: Served, host: str) -> None:
    for path in ("/healthz", "/v1/streams/nobody", "/nowhere", "/v1/streams/nobody/events?after=1"):
        connection = await relay.connect()
        connection.send(f"GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n".encode("latin-1"))
        assert await connection.head() in (200, 400, 404)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/v1/chat/stream", 405, "method_not_allowed"),
        ("DELETE", "/v1/streams/x", 405, "method_not_allowed"),
        ("POST", "/healthz", 405, "method_not_allowed"),
        ("PUT", "/v1/streams/x/cancel", 405, "method_not_allowed"),
        ("GET", "/v1/streams/x/", 404, "not_found"),
        ("POST", "/v1/chat/stream/", 404, "not_found"),
        ("POST", "/v1//chat/stream", 404, "not_found"),
        ("GET", "/%ff%fe", 404, "not_found"),
    ],
)
async def test_what_is_not_there_is_said_in_json(relay: Served, method: str, path: str, status: int, code: str) -> None:
    answer = await relay.ask(method, path, b"{}" if method == "POST" else None)

    assert (answer.status, answer.error["code"]) == (status, code)


async def test_a_large_head_is_bounded_by_the_parser(relay: Served) -> None:
    connection = await relay.connect()
    connection.send(b"GET /healthz HTTP/1.1\r\nhost: x\r\n" + b"".join(b"x-%d: %b\r\n" % (n, b"y" * 1000) for n in range(30)) + b"\r\n")

    assert await connection.head() in (200, 400, 431)


async def test_expect_100_continue(relay: Served) -> None:
    body = chat_body()
    connection = await relay.start("POST", "/v1/chat/stream", b"", f"content-length: {len(body)}", "expect: 100-continue")
    assert await connection.head() == 100
    connection.send(body)

    assert await connection.head() == 200
    assert (await connection.body()).endswith(b"data: [DONE]\n\n")


async def test_a_chunked_request_body(relay: Served) -> None:
    body = chat_body()
    connection = await relay.start("POST", "/v1/chat/stream", b"", "transfer-encoding: chunked")
    for byte in body:
        connection.send(b"1\r\n%c\r\n" % byte)
        await asyncio.sleep(0)
    connection.send(LAST_CHUNK)

    assert (await connection.answer()).text


# --- other sites -----------------------------------------------------------------------------------------------------------

SITE = "https://app.example.com"


async def test_other_sites_are_told_nothing_by_default(relay: Served) -> None:
    connection = await relay.chat("fast", f"origin: {SITE}")
    await connection.body()
    preflight = await relay.ask("OPTIONS", "/v1/chat/stream", None, f"origin: {SITE}", "access-control-request-method: POST")

    assert not [name for name in connection.headers if name.startswith("access-control")]
    assert preflight.status == 405
    assert not [name for name in preflight.headers if name.startswith("access-control")]


async def test_a_site_that_is_configured_may_call_and_read(serve: Any, listener: Listener) -> None:
    relay = await serve(server={"cors_origins": [SITE]})
    preflight = await relay.ask(
        "OPTIONS",
        "/v1/chat/stream",
        None,
        f"origin: {SITE}",
        "access-control-request-method: POST",
        "access-control-request-headers: content-type,idempotency-key,last-event-id",
    )
    assert preflight.status == 200
    assert preflight.headers["access-control-allow-origin"] == SITE

    connection = await relay.chat("p/m", f"origin: {SITE}")
    peer = await listener.accept()
    await peer.request()
    peer.send(head(CHUNKED), chunk(OPENAI.until("text")))
    await connection.until(b"dich")  # as it comes, also through this middleware
    peer.send(chunk(OPENAI.whole[len(OPENAI.until("text")) :]), LAST_CHUNK)
    assert (await connection.body()).endswith(b"data: [DONE]\n\n")
    assert connection.headers["access-control-allow-origin"] == SITE
    assert "x-stream-id" in connection.headers["access-control-expose-headers"].lower()

    stop = await relay.post(f"/v1/streams/{connection.headers['x-stream-id']}/cancel", None, f"origin: {SITE}")
    assert (stop.status, stop.headers["access-control-allow-origin"]) == (200, SITE)


async def test_a_site_that_is_not_configured_may_not(serve: Any) -> None:
    relay = await serve(server={"cors_origins": [SITE]})
    evil = await relay.ask("OPTIONS", "/v1/chat/stream", None, "origin: https://evil.example", "access-control-request-method: POST")

    assert evil.status == 400
    assert "access-control-allow-origin" not in evil.headers


async def test_errors_can_be_read_by_a_site_that_is_configured(serve: Any) -> None:
    relay = await serve(server={"cors_origins": [SITE]})
    answer = await relay.ask("POST", "/v1/chat/stream", b"{", f"origin: {SITE}")

    assert (answer.status, answer.headers["access-control-allow-origin"]) == (400, SITE)
    assert answer.error["code"] == "invalid_request"


# --- operations ------------------------------------------------------------------------------------------------------------


async def test_alive_and_ready(relay: Served) -> None:
    assert [(answer.status, answer.json) for answer in (await relay.get("/healthz"), await relay.get("/readyz"))] == [
        (200, {"status": "ok"}),
        (200, {"status": "ready"}),
    ]


async def test_the_api_describes_itself(relay: Served) -> None:
    document = (await relay.get("/openapi.json")).json
    page = await relay.get("/docs")

    assert document["info"]["title"] == "Headrace"
    assert set(document["paths"]) >= {
        "/v1/chat/stream",
        "/v1/streams/{stream_id}",
        "/v1/streams/{stream_id}/events",
        "/v1/streams/{stream_id}/cancel",
        "/v1/streams/cancel",
        "/healthz",
        "/readyz",
        "/metrics",
    }
    body = document["paths"]["/v1/chat/stream"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert "messages" in body["required"]
    assert "$ref" not in json.dumps(body)
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert b"/openapi.json" in page.body


async def test_a_bug_in_an_endpoint_is_an_error_in_json_too(relay: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Any:
        raise ZeroDivisionError("sk-secret")

    monkeypatch.setattr(relay.relay.streams, "find", broken)
    monkeypatch.setattr(relay.relay.catalogue, "targets", broken)
    for method, path in (
        ("GET", "/v1/streams/st_1"),
        ("POST", "/v1/streams/st_1/cancel"),
        ("POST", "/v1/chat/stream"),
    ):
        answer = await relay.ask(method, path, chat_body() if method == "POST" else None)
        assert (answer.status, answer.error["code"]) == (500, "internal_error")
        assert "secret" not in answer.body.decode()


async def test_a_stream_s_connection_serves_again(relay: Served, listener: Listener, way: str) -> None:
    connection = await relay.connect()
    for n in range(3):
        connection.seen = bytearray()
        connection.send(raw("POST", "/v1/chat/stream", chat_body("p/m")))
        await connection.head()
        peer = await listener.accept() if n == 0 else listener.peers[-1]
        await peer.request()
        peer.send(chunked(OPENAI.plain(f"answer {n}")))
        assert f"answer {n}".encode() in await connection.body()
        await until(lambda: relay.relay.streams.pool.statistics()["idle"] == 1)
    assert listener.accepted == 1
