"""The native surface on the wire: streams, resuming, state, Stop. Everything in both ways, direct and as plain ASGI."""

import asyncio
import json
import re
from typing import Any

import pytest

from engine.guards import turns, until
from engine.peers import CHUNKED, LAST_CHUNK, Listener, Peer, chunk, chunked, head, sized
from engine.wires import OPENAI, WIRES
from server.served import Connection, Served, chat_body

TEXT = b'data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'
FIELDS = {"type", "seq"}


async def begun(relay: Served, listener: Listener, *headers: str, model: str = "p/m", **body: Any) -> tuple[Connection, Peer]:
    """A stream whose provider has taken the request and waits for what the test wants to say."""
    connection = await relay.chat(model, *headers, **body)
    assert connection.status == 200
    peer = await listener.accept()
    await peer.request()
    return connection, peer


async def ended(relay: Served, listener: Listener, body: bytes = OPENAI.whole) -> tuple[str, bytes]:
    """Return the id and the whole body of a stream that has come to its end."""
    connection, peer = await begun(relay, listener)
    peer.send(chunked(body))
    return connection.headers["x-stream-id"], await connection.body()


# --- a stream --------------------------------------------------------------------------------------------------------------


async def test_the_bytes_of_an_sse_stream(relay: Served, listener: Listener) -> None:
    _, body = await ended(relay, listener)

    frames = body.split(b"\n\n")
    assert frames.pop() == b""
    assert frames.pop() == b"data: [DONE]"
    for number, frame in enumerate(frames, 1):
        match = re.fullmatch(rb"id: (\d+)\ndata: (\{.*\})", frame)
        assert match is not None
        event = json.loads(match[2])
        assert (int(match[1]), event["seq"]) == (number, number)
        assert list(event)[:2] == ["type", "seq"]
    assert json.loads(frames[0].partition(b"data: ")[2])["type"] == "stream_start"
    assert json.loads(frames[-1].partition(b"data: ")[2])["type"] == "stream_end"


async def test_the_bytes_of_an_ndjson_stream(relay: Served, listener: Listener) -> None:
    connection, peer = await begun(relay, listener, "accept: application/x-ndjson")
    peer.send(chunked(OPENAI.whole))
    body = await connection.body()

    assert connection.headers["content-type"] == "application/x-ndjson; charset=utf-8"
    assert body.endswith(b"}\n")
    events = [json.loads(line) for line in body.splitlines()]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert events[-1]["type"] == "stream_end"


@pytest.mark.parametrize(
    ("accept", "ndjson"),
    [
        ("application/x-ndjson", True),
        ("text/event-stream", False),
        ("*/*", False),
        ("text/event-stream, application/x-ndjson;q=0.5", True),
        ("application/json", False),
    ],
)
async def test_which_framing_a_caller_gets(relay: Served, accept: str, ndjson: bool) -> None:
    connection = await relay.chat("fast", f"accept: {accept}")

    assert ("ndjson" in connection.headers["content-type"]) is ndjson
    await connection.body()


async def test_the_headers_of_a_stream(relay: Served) -> None:
    connection = await relay.chat("fast", "x-request-id: mine-1")
    stream_id = connection.headers["x-stream-id"]
    await connection.body()

    assert connection.headers == {
        "content-type": "text/event-stream; charset=utf-8",
        "cache-control": "no-cache, no-store, no-transform",
        "x-accel-buffering": "no",
        "x-content-type-options": "nosniff",
        "x-stream-id": stream_id,
        "x-request-id": "mine-1",
        "location": f"/v1/streams/{stream_id}/events",
        "transfer-encoding": "chunked",
    }


@pytest.mark.parametrize("given", ["", "with a space", "x" * 256, "h\u00e9", "a\tb"])
async def test_a_request_id_that_cannot_be_passed_on_is_replaced(relay: Served, given: str) -> None:
    connection = await relay.chat("fast", f"x-request-id: {given}")
    await connection.body()

    assert re.fullmatch(r"req_[0-9a-f]{24}", connection.headers["x-request-id"])


async def test_the_head_comes_before_the_provider_has_said_anything(relay: Served, listener: Listener) -> None:
    connection, peer = await begun(relay, listener)

    assert b'"type":"stream_start"' in await connection.until(b"\n\n")
    peer.fin()


async def test_each_token_is_sent_as_it_comes(relay: Served, listener: Listener) -> None:
    connection, peer = await begun(relay, listener)
    peer.send(head(CHUNKED))
    for n in range(20):
        peer.send(chunk(b'data: {"choices":[{"index":0,"delta":{"content":"<%d>"}}]}\n\n' % n))
        assert (await connection.until(b"<%d>" % n)).endswith(b'"text":"<%d>"}\n\n' % n)


@pytest.mark.parametrize("dialect", list(WIRES))
async def test_text_that_looks_like_a_protocol_passes_unchanged(relay: Served, listener: Listener, dialect: str) -> None:
    text = "data: [DONE]\n\nid: 9\r\n: ping\n\u2028\x00\x1b[31m" + "‮ HTTP/1.1 200 OK\r\n\r\n0\r\n\r\n"
    connection, peer = await begun(relay, listener, model="p/m" if dialect == "openai_chat" else "a/m")
    peer.send(chunked(WIRES[dialect].plain(text)))
    body = await connection.body()

    (event,) = [e for e in map(json.loads, re.findall(rb"data: (\{[^\n]*)\n\n", body)) if e["type"] == "text"]
    assert event["text"] == text
    assert body.count(b"data: [DONE]\n\n") == 1


async def test_heartbeats_on_the_wire(serve: Any, listener: Listener) -> None:
    relay = await serve(stream={"heartbeat_s": 0.03})
    sse, _ = await begun(relay, listener)
    lines, _ = await begun(relay, listener, "accept: application/x-ndjson")

    assert re.search(rb"\n\n: ping\n(: ping\n)*$", await sse.until(b": ping\n: ping\n"))
    assert b'\n{"type":"ping"}\n{"type":"ping"}\n' in await lines.until(b'{"type":"ping"}\n{"type":"ping"}\n')


async def test_an_error_of_the_provider_is_an_event(relay: Served, listener: Listener) -> None:
    connection, peer = await begun(relay, listener)
    peer.send(sized(b'{"error":{"message":"Overloaded"}}', status=529))
    body = await connection.body()

    event = json.loads(re.findall(rb"data: (\{.*\})", body)[-1])
    assert (event["type"], event["code"], event["message"]) == ("error", "upstream_overloaded", "Overloaded")
    assert (event["retryable"], event["partial"]) == (True, False)
    assert body.endswith(b"\n\ndata: [DONE]\n\n")


# --- leaving ---------------------------------------------------------------------------------------------------------------


async def test_a_client_that_goes_takes_its_stream_with_it_after_the_grace_time(serve: Any, listener: Listener) -> None:
    relay = await serve(stream={"disconnect_grace_s": 0.05})
    connection, peer = await begun(relay, listener)

    connection.writer.transport.abort()

    await peer.gone()
    (stream,) = relay.relay.streams._streams.values()
    assert (stream.cancel_cause, stream.status) == ("disconnect", "cancelled")


async def test_a_client_that_goes_at_once_is_noticed_at_once(relay: Served, listener: Listener) -> None:
    connection, peer = await begun(relay, listener, on_disconnect="cancel")
    connection.writer.close()

    await peer.gone()


async def test_a_client_that_stays_away_costs_a_stream_nothing_if_it_said_so(serve: Any, listener: Listener) -> None:
    relay = await serve(stream={"disconnect_grace_s": 0.0})
    connection, peer = await begun(relay, listener, on_disconnect="continue")
    stream_id = connection.headers["x-stream-id"]
    connection.writer.transport.abort()
    (stream,) = relay.relay.streams.live()
    await until(lambda: not stream.readers)
    peer.send(chunked(OPENAI.plain("to the end")))
    await until(lambda: stream.ended)

    assert (await relay.get(f"/v1/streams/{stream_id}/events")).text == "to the end"


# --- resuming --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["last-event-id", "after", "starting_after"])
async def test_a_stream_is_resumed_behind_what_was_seen(relay: Served, listener: Listener, how: str) -> None:
    stream_id, whole = await ended(relay, listener)
    last = whole.count(b"\nid: ") + 1
    for after in (0, 1, 3, last - 1, last):
        path = f"/v1/streams/{stream_id}/events"
        if how == "last-event-id":
            answer = await relay.get(path, f"last-event-id: {after}")
        else:
            answer = await relay.get(f"{path}?{how}={after}")
        covered = [seq for event in answer.events for seq in range(event.get("from_seq", event["seq"]), event["seq"] + 1)]
        assert covered == list(range(after + 1, last + 1))
        assert answer.headers["x-stream-id"] == stream_id
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"


async def test_a_replay_says_much_in_few_events(relay: Served, listener: Listener) -> None:
    stream_id, _ = await ended(relay, listener, OPENAI.plain(*["word "] * 300))

    answer = await relay.get(f"/v1/streams/{stream_id}/events")

    assert answer.text == "word " * 300
    assert len(answer.events) < 6


async def test_a_resumed_reader_goes_on_live(relay: Served, listener: Listener) -> None:
    first, peer = await begun(relay, listener)
    peer.send(head(CHUNKED), chunk(TEXT))
    await first.until(b'"text":"x"}\n\n')
    stream_id = first.headers["x-stream-id"]
    first.writer.transport.abort()

    second = await relay.start("GET", f"/v1/streams/{stream_id}/events", None, "last-event-id: 2")
    await second.head()
    await turns(20)
    peer.send(chunk(b'data: {"choices":[{"index":0,"delta":{"content":"y"}}]}\n\n' + OPENAI.plain()), LAST_CHUNK)

    body = await second.body()
    assert b'id: 3\ndata: {"type":"text","seq":3,"index":0,"text":"y"}\n\n' in body
    assert b'"text":"x"' not in body


async def test_resuming_as_ndjson(relay: Served, listener: Listener) -> None:
    stream_id, whole = await ended(relay, listener)

    answer = await relay.get(f"/v1/streams/{stream_id}/events?after=2", "accept: application/x-ndjson")

    assert json.loads(answer.body.splitlines()[-1])["seq"] == whole.count(b"\nid: ") + 1


@pytest.mark.parametrize(
    ("query", "header", "field"),
    [
        ("after=x", None, "after"),
        ("after=-1", None, "after"),
        ("after=1.5", None, "after"),
        ("after=99999", None, "after"),
        ("after=" + "9" * 400, None, "after"),
        ("after=%D9%A1", None, "after"),  # an Arabic digit one
        ("starting_after=abc", None, "starting_after"),
        ("", "nonsense", "Last-Event-ID"),
        ("", "99999", "Last-Event-ID"),
    ],
)
async def test_a_cursor_that_is_none(relay: Served, listener: Listener, query: str, header: str | None, field: str) -> None:
    stream_id, _ = await ended(relay, listener)

    answer = await relay.get(f"/v1/streams/{stream_id}/events?{query}", *([f"last-event-id: {header}"] if header else []))

    assert answer.status == 400
    assert (answer.error["code"], answer.error["field"]) == ("invalid_request", field)
    assert len(answer.error["message"]) < 300


@pytest.mark.parametrize("path", ["", "/events", "/cancel"])
async def test_a_stream_that_is_not_there(relay: Served, path: str) -> None:
    for stream_id in ("st_" + "0" * 32, "nonsense", "..", "%00", "st_%2e%2e%2f"):
        answer = await relay.ask(
            "POST" if path == "/cancel" else "GET", f"/v1/streams/{stream_id}{path}", b"" if path == "/cancel" else None
        )
        assert answer.status == 404
        assert answer.error["code"] in ("unknown_stream", "not_found")


@pytest.mark.parametrize("path", ["", "/events", "/cancel"])
async def test_a_stream_that_is_gone(serve: Any, listener: Listener, path: str) -> None:
    relay = await serve(stream={"retention_s": 0.0})
    stream_id, _ = await ended(relay, listener)
    await until(lambda: not relay.relay.streams._streams)

    answer = await relay.ask("POST" if path == "/cancel" else "GET", f"/v1/streams/{stream_id}{path}", b"" if path == "/cancel" else None)

    assert (answer.status, answer.error["code"]) == (410, "expired_stream")


# --- state -----------------------------------------------------------------------------------------------------------------


async def test_the_state_of_a_stream_as_it_goes(relay: Served, listener: Listener) -> None:
    connection, peer = await begun(relay, listener)
    path = f"/v1/streams/{connection.headers['x-stream-id']}"
    waiting = (await relay.get(path)).json
    assert (waiting["status"], waiting["blocks"], waiting["readers"], waiting["last_seq"]) == ("waiting", [], 1, 1)
    assert (waiting["model"], waiting["provider"]) == ("m", "p")

    peer.send(head(CHUNKED), chunk(OPENAI.until("text")))
    await connection.until(b'"text":"dich"')
    streaming = (await relay.get(path)).json
    assert streaming["status"] == "streaming"
    assert [(block["kind"], block["text"], block["ended"]) for block in streaming["blocks"]] == [
        ("thinking", "Let me see 🌊. ", True),
        ("text", "Für dich", False),
    ]

    peer.send(chunk(OPENAI.whole[len(OPENAI.until("text")) :]), LAST_CHUNK)
    await connection.body()
    over = (await relay.get(path)).json
    assert (over["status"], over["finish_reason"]) == ("completed", "tool_calls")
    assert over["usage"]["output_tokens"] == 7
    assert over["blocks"][2]["arguments"] == {"ort": "Zürich 水"}
    assert over["metrics"]["tokens"] == 5
    assert over["expires_at"] > over["created_at"]


async def test_the_state_of_a_stream_that_failed(relay: Served, listener: Listener) -> None:
    connection, peer = await begun(relay, listener)
    peer.send(head(CHUNKED), chunk(TEXT))
    peer.fin()
    await connection.body()

    state = (await relay.get(f"/v1/streams/{connection.headers['x-stream-id']}")).json

    assert state["status"] == "failed"
    assert (state["error"]["code"], state["error"]["partial"]) == ("upstream_truncated", True)


# --- Stop ------------------------------------------------------------------------------------------------------------------


async def test_a_stop_and_its_receipt(relay: Served, listener: Listener) -> None:
    connection, peer = await begun(relay, listener)
    peer.send(head(CHUNKED), chunk(TEXT * 3))
    await connection.until(b'"text":"x"}\n\nid: 4')
    path = f"/v1/streams/{connection.headers['x-stream-id']}/cancel"

    answer = await relay.post(path)

    await peer.gone()
    assert answer.status == 200
    said = answer.json
    assert (said["status"], said["finish_reason"]) == ("cancelled", "cancelled")
    receipt = said["receipt"]
    assert (receipt["phase"], receipt["tokens_before"], receipt["tokens_after"]) == ("text", 3, 0)
    assert receipt["already_ended"] is False
    assert receipt["requested_at"] <= receipt["upstream_closed_at"]
    assert 0 <= receipt["cancel_ms"] < 1000
    assert receipt["usage"] == {"source": "estimated", "output_tokens": 3}
    assert (await connection.body()).endswith(b"data: [DONE]\n\n")
    assert b'"finish_reason":"cancelled"' in connection.seen
    assert (await relay.post(path)).json == said


async def test_a_stop_after_the_end(relay: Served, listener: Listener) -> None:
    stream_id, _ = await ended(relay, listener)

    said = (await relay.post(f"/v1/streams/{stream_id}/cancel")).json

    assert (said["status"], said["finish_reason"]) == ("completed", "tool_calls")
    assert said["receipt"]["already_ended"] is True
    assert said["receipt"]["tokens_before"] == 5
    assert said["receipt"]["cancel_ms"] is None


async def test_a_stop_of_many_at_once(relay: Served, listener: Listener) -> None:
    started = [await begun(relay, listener) for _ in range(30)]

    answers = await asyncio.gather(*(relay.post(f"/v1/streams/{connection.headers['x-stream-id']}/cancel") for connection, _ in started))

    for (connection, peer), answer in zip(started, answers, strict=True):
        assert answer.json["status"] == "cancelled"
        await peer.gone()
        await connection.body()


async def test_a_stop_by_key_of_a_request_whose_id_nobody_knows(relay: Served, listener: Listener) -> None:
    connection, peer = await begun(relay, listener, "idempotency-key: k-1")

    answer = await relay.post("/v1/streams/cancel", {"idempotency_key": "k-1"})

    await peer.gone()
    assert answer.json["status"] == "cancelled"
    await connection.body()


async def test_a_stop_by_key_that_comes_first(relay: Served, listener: Listener) -> None:
    answer = await relay.post("/v1/streams/cancel", {"idempotency_key": "k-1"})
    assert (answer.status, answer.json) == (202, {"status": "not_started"})

    connection = await relay.chat("p/m", "idempotency-key: k-1")
    body = await connection.body()

    assert b'"finish_reason":"cancelled"' in body
    assert listener.accepted == 0


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{}", "idempotency_key"),
        (b'{"idempotency_key":1}', "idempotency_key"),
        (b'{"idempotency_key":""}', "idempotency_key"),
        (b'{"idempotency_key":"a b"}', "idempotency_key"),
        (b'{"idempotency_key":"k","x":1}', "x"),
        (b"[]", None),
        (b"", None),
    ],
)
async def test_a_stop_by_a_key_that_is_none(relay: Served, body: bytes, field: str | None) -> None:
    answer = await relay.ask("POST", "/v1/streams/cancel", body)

    assert (answer.status, answer.error["code"], answer.error.get("field")) == (400, "invalid_request", field)


# --- idempotency -----------------------------------------------------------------------------------------------------------


async def test_the_same_request_again_joins_the_stream(relay: Served, listener: Listener) -> None:
    first, peer = await begun(relay, listener, "idempotency-key: k-1")
    second = await relay.chat("p/m", "idempotency-key: k-1")
    peer.send(chunked(OPENAI.plain("once")))

    assert (await first.body()).partition(b"seq")[2] != b""
    assert first.headers["x-stream-id"] == second.headers["x-stream-id"]
    assert await second.body() == first.seen
    third = await relay.chat("p/m", "idempotency-key: k-1")
    assert b"once" in await third.body()
    assert listener.accepted == 1


async def test_the_same_key_with_another_request(relay: Served, listener: Listener) -> None:
    await begun(relay, listener, "idempotency-key: k-1")

    answer = await relay.ask("POST", "/v1/chat/stream", chat_body("p/m", temperature=0.5), "idempotency-key: k-1")

    assert (answer.status, answer.error["code"], answer.error["retryable"]) == (422, "idempotency_conflict", False)


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "\u00e9"])
async def test_an_idempotency_key_that_is_none(relay: Served, key: str) -> None:
    answer = await relay.ask("POST", "/v1/chat/stream", chat_body(), f"idempotency-key: {key}")

    assert (answer.status, answer.error["code"], answer.error["field"]) == (400, "invalid_request", "Idempotency-Key")


# --- limits ----------------------------------------------------------------------------------------------------------------


async def test_fifty_tabs(serve: Any, listener: Listener) -> None:
    relay = await serve(limits={"concurrent_streams": 3})
    for _ in range(3):
        await begun(relay, listener)
    for _ in range(47):
        answer = await relay.ask("POST", "/v1/chat/stream", chat_body("p/m"))
        assert (answer.status, answer.error["code"], answer.headers["retry-after"]) == (429, "too_many_streams", "1")
        assert answer.error["retry_after_seconds"] == 1


async def test_a_line_is_told_of_on_the_wire(serve: Any, listener: Listener) -> None:
    relay = await serve(concurrency=1, queue_max=1)
    first, peer = await begun(relay, listener)
    second = await relay.chat("p/m")
    body = await second.until(b'"type":"queue"')
    assert b'{"type":"queue","seq":2,"position":1,"depth":1,"reason":"provider_concurrency"}' in body

    answer = await relay.ask("POST", "/v1/chat/stream", chat_body("p/m"))
    assert (answer.status, answer.error["code"]) == (503, "queue_full")
    peer.send(chunked(OPENAI.plain("one")))
    await first.body()
    await peer.request()
    peer.send(chunked(OPENAI.plain("two")))
    assert b'"text":"two"' in await second.body()


async def test_while_it_drains_it_takes_no_new_stream(relay: Served, listener: Listener) -> None:
    connection, peer = await begun(relay, listener)
    relay.relay.streams.drain()

    answer = await relay.ask("POST", "/v1/chat/stream", chat_body())
    ready = await relay.get("/readyz")
    alive = await relay.get("/healthz")

    assert (answer.status, answer.error["code"], answer.headers["retry-after"]) == (503, "server_shutdown", "1")
    assert (ready.status, ready.json, alive.status) == (503, {"status": "draining"}, 200)
    peer.send(chunked(OPENAI.plain("still")))
    assert b"still" in await connection.body()
