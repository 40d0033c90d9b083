"""Wrong requests: each a 4xx whose JSON says what is wrong, and where."""

import asyncio
import gzip
import json
from typing import Any

import pytest

from engine.peers import Listener
from server.served import Served, chat_body, raw

HI = [{"role": "user", "content": "hi"}]


async def refused(relay: Served, body: bytes, *headers: str) -> tuple[int, dict[str, Any]]:
    answer = await relay.ask("POST", "/v1/chat/stream", body, *headers)
    assert relay.relay.streams.running == 0
    assert answer.headers["cache-control"] == "no-store"
    return answer.status, answer.error


NOT_JSON = {
    "nothing": b"",
    "blanks": b" \n\t ",
    "a word": b"hello",
    "half": b'{"messages":[{"role":"user",',
    "a comma too many": b'{"messages":[],}',
    "single quotes": b"{'messages':[]}",
    "two values": b"{}{}",
    "a form": b"messages=hi",
    "XML": b"<messages/>",
    "latin-1": '{"messages":[{"role":"user","content":"\u00fc"}]}'.encode("latin-1"),
    "UTF-16": '{"messages":[]}'.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "NaN": b'{"messages":[{"role":"user","content":"hi"}],"temperature":NaN}',
    "half a character": b'{"messages":[{"role":"user","content":"\\ud83d"}]}',
    "a control character": b'{"messages":[{"role":"user","content":"\x01"}]}',
    "a NUL behind": b"{}\x00",
    "deep lists": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "deep metadata": b'{"messages":[{"role":"user","content":"hi"}],"metadata":' + b'{"a":' * 5000 + b"1" + b"}" * 5001,
}


@pytest.mark.parametrize("name", NOT_JSON)
async def test_a_body_that_is_no_json(relay: Served, name: str) -> None:
    status, error = await refused(relay, NOT_JSON[name])

    assert (status, error["code"], error["retryable"]) == (400, "invalid_request", False)
    assert len(error["message"]) < 400


# body, field
WRONG = [
    ([], None),
    ("text", None),
    (None, None),
    (1, None),
    ({}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": None}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": {}}, "messages"),
    ({"messages": [None]}, "messages[0]"),
    ({"messages": ["hi"]}, "messages[0]"),
    ({"messages": [{}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"content": "hi"}]}, "messages[0].role"),
    ({"messages": [{"role": "robot", "content": "hi"}]}, "messages[0].role"),
    ({"messages": [{"role": "User", "content": "hi"}]}, "messages[0].role"),
    ({"messages": [{"role": 1, "content": "hi"}]}, "messages[0].role"),
    ({"messages": [*HI, {"role": "user", "content": 1}]}, "messages[1].content"),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
    ({"messages": [{"role": "user", "content": [{"type": "video", "url": "x"}]}]}, "messages[0].content[0].type"),
    ({"messages": [{"role": "user", "content": [{"text": "hi"}]}]}, "messages[0].content[0].type"),
    ({"messages": [{"role": "user", "content": "hi", "name": "me"}]}, "messages[0].name"),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
    ({"messages": [{"role": "tool", "content": "42"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "assistant", "content": [{"type": "image", "url": "https://x"}]}]}, "messages[0].content[0]"),
    ({"messages": HI, "temprature": 1}, "temprature"),
    ({"messages": HI, "temperature": "hot"}, "temperature"),
    ({"messages": HI, "temperature": -1}, "temperature"),
    ({"messages": HI, "top_p": 1.5}, "top_p"),
    ({"messages": HI, "max_tokens": 0}, "max_tokens"),
    ({"messages": HI, "max_tokens": 1.5}, "max_tokens"),
    ({"messages": HI, "max_tokens": "many"}, "max_tokens"),
    ({"messages": HI, "max_tokens": True}, "max_tokens"),
    ({"messages": HI, "model": ""}, "model"),
    ({"messages": HI, "model": 5}, "model"),
    ({"messages": HI, "model": "x" * 513}, "model"),
    ({"messages": HI, "system": ["be kind"]}, "system"),
    ({"messages": HI, "stop": "end"}, "stop"),
    ({"messages": HI, "stop": [1]}, "stop[0]"),
    ({"messages": HI, "tools": [{}]}, "tools[0].name"),
    ({"messages": HI, "tools": [{"name": ""}]}, "tools[0].name"),
    ({"messages": HI, "tools": [{"name": "f", "parameters": []}]}, "tools[0].parameters"),
    ({"messages": HI, "tool_choice": "f"}, "tool_choice"),
    ({"messages": HI, "thinking": "yes"}, "thinking"),
    ({"messages": HI, "thinking": {"budget_tokens": 0}}, "thinking.budget_tokens"),
    ({"messages": HI, "thinking": {"effort": "heroic"}}, "thinking.effort"),
    ({"messages": HI, "on_disconnect": "wait"}, "on_disconnect"),
    ({"messages": HI, "on_disconnect": -1}, "on_disconnect"),
    ({"messages": HI, "on_disconnect": 1e9}, "on_disconnect"),
    ({"messages": HI, "slow_reader": "drop"}, "slow_reader"),
    ({"messages": HI, "metadata": []}, "metadata"),
    ({"messages": HI, "stream": False}, "stream"),
    ({"messages": HI, "stream": 1}, "stream"),
]


@pytest.mark.parametrize(("body", "field"), WRONG, ids=[f"{field}-{n}" for n, (_, field) in enumerate(WRONG)])
async def test_a_body_that_says_something_wrong(relay: Served, body: Any, field: str | None) -> None:
    status, error = await refused(relay, json.dumps(body).encode())

    assert (status, error["code"], error.get("field")) == (400, "invalid_request", field)
    assert (field or "body") in error["message"]


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("nobody/m", "no model 'nobody/m'"),
        ("fats", "Did you mean 'fast'?"),
        ("simulator", "Did you mean"),
        ("p/", "no model 'p/'"),
        ("x" * 500, "no model"),
        ("\u202e\u0000evil\r\n", "no model"),
        ("<script>", "no model"),
    ],
)
async def test_a_model_that_nobody_knows(relay: Served, model: str, said: str) -> None:
    status, error = await refused(relay, chat_body(model))

    assert (status, error["code"], error["field"]) == (404, "unknown_model", "model")
    assert said in error["message"]
    assert len(error["message"]) < 500


@pytest.mark.parametrize("name", ["x" * 1_000_000, "a`b", "a\nb: c", "\u2028", "", "$.messages[0]", "\u0000"])
async def test_a_field_of_the_caller_s_making_is_repeated_in_bounds(relay: Served, name: str) -> None:
    status, error = await refused(relay, json.dumps({"messages": HI, name: 1}).encode())

    assert (status, error["code"]) == (400, "invalid_request")
    assert len(error["message"]) < 1000
    assert len(error.get("field", "")) < 300


@pytest.mark.parametrize("depth", [10, 90, 120, 500, 900, 1000, 3000])
@pytest.mark.parametrize(
    "place",
    [
        '"metadata":{"a":%s}',
        '"tools":[{"name":"f","parameters":{"a":%s}}]',
        '"messages":[{"role":"assistant","content":[{"type":"tool_call","tool_call_id":"c","name":"f","arguments":{"a":%s}}]}]',
    ],
    ids=["metadata", "parameters", "arguments"],
)
async def test_however_deep_a_body_is_it_is_taken_or_refused(relay: Served, place: str, depth: int) -> None:
    messages = "" if "messages" in place else '"messages":[{"role":"user","content":"hi"}],'
    body = '{"max_tokens":1,%s%s}' % (messages, place % ("[" * depth + "]" * depth))  # noqa: UP031
    answer = await relay.ask("POST", "/v1/chat/stream", body.encode())

    assert answer.status == (200 if depth < 100 else 400)
    if answer.status == 400:
        assert answer.error["code"] == "invalid_request"


# --- size, time, type ------------------------------------------------------------------------------------------------------


async def test_a_body_that_says_that_it_is_too_large(serve: Any) -> None:
    relay = await serve(server={"body_bytes_max": 1000})
    connection = await relay.start("POST", "/v1/chat/stream", b"{", "content-length: 1001")

    answer = await connection.answer()

    assert (answer.status, answer.error["code"]) == (413, "body_too_large")
    assert "1001" in answer.error["message"]
    assert "1000" in answer.error["message"]


@pytest.mark.parametrize("length", ["9" * 18, "18446744073709551615"])
async def test_a_length_beyond_all_measure(serve: Any, length: str) -> None:
    relay = await serve(server={"body_bytes_max": 1000})
    connection = await relay.start("POST", "/v1/chat/stream", b"{", f"content-length: {length}")

    assert await connection.head() in (400, 413)


async def test_a_body_that_does_not_say_that_it_is_too_large(serve: Any) -> None:
    relay = await serve(server={"body_bytes_max": 1000})
    connection = await relay.start("POST", "/v1/chat/stream", b"", "transfer-encoding: chunked")
    connection.send(b"3e8\r\n" + b" " * 1000 + b"\r\n")
    await asyncio.sleep(0)
    connection.send(b"1\r\n{\r\n")

    answer = await connection.answer()

    assert (answer.status, answer.error["code"]) == (413, "body_too_large")


async def test_the_largest_body_that_is_taken(serve: Any) -> None:
    body = chat_body()
    relay = await serve(server={"body_bytes_max": len(body)})

    assert (await relay.ask("POST", "/v1/chat/stream", body)).status == 200
    assert (await relay.ask("POST", "/v1/chat/stream", body + b" ")).status == 413


@pytest.mark.parametrize("framing", ["content-length: 100", "transfer-encoding: chunked"])
async def test_a_body_that_does_not_come(serve: Any, framing: str) -> None:
    relay = await serve(server={"body_s_max": 0.05})
    connection = await relay.start("POST", "/v1/chat/stream", b"", framing)
    if "chunked" in framing:
        connection.send(b"1\r\n{\r\n")

    answer = await connection.answer()

    assert (answer.status, answer.error["code"], answer.error["retryable"]) == (408, "body_timeout", True)
    assert answer.headers["connection"] == "close"
    assert await connection.rest() == b""


async def test_what_is_left_of_a_body_that_was_refused_is_no_request(serve: Any) -> None:
    """A caller that is still sending gets to read why it should not."""
    relay = await serve(server={"body_bytes_max": 10})
    smuggled = raw("GET", "/metrics", None)
    connection = await relay.start("POST", "/v1/chat/stream", smuggled, f"content-length: {len(smuggled) * 3}")
    answer = await connection.answer()
    assert answer.status == 413

    connection.send(smuggled + smuggled + raw("GET", "/healthz", None))

    assert (await connection.answer()).json == {"status": "ok"}


async def test_a_client_that_goes_before_its_body_has_come(relay: Served) -> None:
    connection = await relay.start("POST", "/v1/chat/stream", b"{", "content-length: 100")
    connection.writer.close()

    assert (await relay.get("/healthz")).status == 200
    assert relay.relay.streams.running == 0


@pytest.mark.parametrize(
    ("content_type", "taken"),
    [
        ("application/json", True),
        ("Application/JSON; charset=utf-8", True),
        ("application/vnd.api+json", True),
        ("text/plain", False),
        ("application/x-www-form-urlencoded", False),
        ("multipart/form-data; boundary=x", False),
        ("text/json-ish", False),
    ],
)
async def test_which_content_types_are_json(relay: Served, content_type: str, taken: bool) -> None:
    """A page of another site can send `text/plain` without asking anybody."""
    answer = await relay.ask("POST", "/v1/chat/stream", chat_body(), f"content-type: {content_type}")

    assert answer.status == (200 if taken else 415)
    if not taken:
        assert answer.error["code"] == "unsupported_media_type"


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip", "x"])
async def test_a_compressed_body_is_not_taken(relay: Served, encoding: str) -> None:
    status, error = await refused(relay, gzip.compress(chat_body()), f"content-encoding: {encoding}")

    assert (status, error["code"]) == (415, "unsupported_media_type")
    assert "compressed" in error["message"]


async def test_without_a_model_there_is_a_default(relay: Served, listener: Listener) -> None:
    connection = await relay.start("POST", "/v1/chat/stream", chat_body(None))
    assert await connection.head() == 200
    assert b'"type":"stream_start"' in await connection.until(b"\n\n")
    assert listener.accepted == 0
