"""5,000 malformed bodies: never a 5xx, always JSON with a code and a message. One seed, so that every run is the same."""

import copy
import json
import random
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from engine.guards import Watch
from headrace.server.app import create_app
from server.served import configuration

SEED = 20261121
BODIES = 5000
VALID: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "hi"}], "model": "fast", "max_tokens": 5},
    {
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "look"}, {"type": "image", "url": "https://x/y.png"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "text": "hm", "signature": "s"},
                    {"type": "tool_call", "tool_call_id": "c1", "name": "f", "arguments": {"a": [1, 2.5, None, True]}},
                ],
            },
            {"role": "tool", "content": [{"type": "tool_result", "tool_call_id": "c1", "content": "42", "ok": True}]},
        ],
        "model": "fast",
        "system": "rules",
        "max_tokens": 100,
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": ["END"],
        "tools": [{"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"a": {"type": "array"}}}}],
        "tool_choice": "auto",
        "thinking": {"budget_tokens": 1000},
        "on_disconnect": "cancel",
        "slow_reader": "pause",
        "metadata": {"user_id": "u1", "nested": {"deep": [[]]}},
        "stream": True,
    },
]
ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**70), 10**300, 0.1, -0.0, 1e308),
    *("", " ", "\u0000", "\u202e", "x" * 5000, "🌊" * 100, "user", "text", "1", "true"),
    *([], {}, [[]], [{}], {"": ""}, {"a": {"a": {"a": {}}}}, ["user"], {"type": "text"}, {"type": None}, [None] * 50),
]
SCRAPS = [
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b'"',
    b"\\",
    b"\\u",
    b"\\ud800",
    b"nul",
    b"NaN",
    b"-",
    b"1e999",
    b"\x00",
    b"\xff",
    b"\xc3",
    b"\n",
]


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from paths(value[key], (*path, key))
    elif isinstance(value, list):
        for at in range(len(value)):
            yield from paths(value[at], (*path, at))


def with_value(body: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    changed = copy.deepcopy(body)
    holder = changed
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    return changed


def wrong_types() -> Iterator[bytes]:
    """Every odd value in every place."""
    for body in VALID:
        for path in paths(body):
            for value in ODD:
                yield json.dumps(with_value(body, path, value)).encode()


def mutated(dice: random.Random) -> bytes:
    """A valid body with a few bytes changed, doubled, swapped, cut or put in."""
    body = bytearray(json.dumps(dice.choice(VALID), ensure_ascii=dice.random() < 0.5).encode())
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(body) + 1)
        to = min(len(body), at + dice.randint(1, 30))
        match dice.randrange(6):
            case 0:
                del body[at:to]
            case 1:
                body[at:at] = dice.choice(SCRAPS)
            case 2:
                body[at:at] = body[at:to] * dice.randint(1, 3)
            case 3:
                body[at:to] = dice.randbytes(to - at)
            case 4:
                del body[at:]
            case 5:
                body[at:at] = re.sub(rb"[{}\[\]]", b"", bytes(body[at:to]))
        if not body:
            break
    return bytes(body)


def bodies() -> list[bytes]:
    dice = random.Random(SEED)
    types = list(wrong_types())
    some = dice.sample(types, min(len(types), BODIES * 2 // 5))
    changed = [mutated(dice) for _ in range(BODIES * 2 // 5)]
    noise = [dice.randbytes(dice.randint(0, 300)) for _ in range(BODIES - len(some) - len(changed))]
    return [*some, *changed, *noise]


class Call:
    """One request to the application without a server: the body comes in pieces, and then the client is gone."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def post(self, path: str, body: bytes, **headers: str) -> tuple[int, dict[str, str], bytes]:
        cut = len(body) // 2
        messages: list[dict[str, Any]] = [
            {"type": "http.request", "body": body[:cut], "more_body": True},
            {"type": "http.request", "body": body[cut:], "more_body": False},
        ]
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return messages.pop(0) if messages else {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        given = {"content-type": "application/json", **headers}
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in given.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }
        await self._app(scope, receive, send)
        start, *rest = sent
        assert start["type"] == "http.response.start"
        answered = {name.decode(): value.decode() for name, value in start["headers"]}
        return start["status"], answered, b"".join(message.get("body", b"") for message in rest)


@pytest.fixture
async def call(watch: Watch) -> AsyncIterator[Call]:
    app = create_app(configuration(stream={"disconnect_grace_s": 0.0, "retention_s": 0.0}))
    async with app.router.lifespan_context(app):
        yield Call(app)
        relay = app.state.relay
        for stream in relay.streams.live():
            stream.cancel("user")
        assert relay.streams.running == 0


def test_there_are_as_many_and_they_differ() -> None:
    assert len(bodies()) == BODIES
    assert len(set(bodies())) > BODIES * 0.9
    assert bodies() == bodies()


async def test_five_thousand_malformed_bodies(call: Call) -> None:
    statuses: dict[int, int] = {}
    for body in bodies():
        status, headers, answer = await call.post("/v1/chat/stream", body)
        statuses[status] = statuses.get(status, 0) + 1
        if status == 200:
            assert headers["content-type"] == "text/event-stream; charset=utf-8"
            continue
        assert 400 <= status < 500, (status, body)
        assert headers["content-type"] == "application/json"
        error = json.loads(answer)["error"]
        assert re.fullmatch(r"[a-z_]+", error["code"]), body
        assert 0 < len(error["message"]) < 1500, body
        assert error["retryable"] is False
    assert statuses[400] > BODIES / 2  # the bodies are worth sending


async def test_malformed_bodies_of_a_stop_by_key(call: Call) -> None:
    dice = random.Random(SEED)
    valid = b'{"idempotency_key":"k"}'
    for n in range(500):
        body = valid[: n % 20] + dice.choice(SCRAPS) + valid[dice.randrange(len(valid)) :]
        status, _, answer = await call.post("/v1/streams/cancel", body)
        assert status in (202, 400), body
        assert status == 202 or json.loads(answer)["error"]["code"] == "invalid_request"


async def test_malformed_headers(call: Call) -> None:
    dice = random.Random(SEED)
    body = json.dumps(VALID[0]).encode()
    names = ["content-type", "content-length", "content-encoding", "accept", "idempotency-key", "x-request-id", "last-event-id", "origin"]
    for _ in range(500):
        value = "".join(chr(dice.choice([9, *range(32, 127), *range(160, 256)])) for _ in range(dice.randint(0, 40)))
        status, _, answer = await call.post("/v1/chat/stream", body, **{dice.choice(names): value})
        assert status == 200 or (400 <= status < 500 and json.loads(answer)["error"]["code"])
