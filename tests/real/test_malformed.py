"""Thousands of wrong requests against the relay process: an answer that says what is wrong, never a 5xx, and nothing is kept."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from .mutations import Bad, by_chance, certain, encode, good
from .processes import Provider, Relay, own_kib
from .wire import Connection, NativeStream, ask, call, request

pytestmark = pytest.mark.real

SEED = 20_261_107
BODIES = 5000
AT_ONCE = 8
GREW_KIB_MAX = 32 * 1024
ANSWER_S = 5.0


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    folder = tmp_path_factory.mktemp("relay")
    with Provider(folder) as provider, Relay(folder, provider.url, "[stream]\ndisconnect_grace_s = 0") as running:
        yield running


class Sender:
    """Sends one request after the other, on the same connection as long as it lasts."""

    def __init__(self, relay: Relay, counts: Counter[int]) -> None:
        self._relay = relay
        self._counts = counts
        self._connection: Connection | None = None

    async def send(self, bad: Bad) -> None:
        async with asyncio.timeout(ANSWER_S):
            if self._connection is None:
                self._connection = Connection(self._relay.port)
                await self._connection.connect()
            connection = self._connection
            headers = {"content-type": "application/json", "content-length": str(len(bad.body)), **bad.headers}
            head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            connection.writer.write(f"POST {bad.path} HTTP/1.1\r\nhost: relay\r\n{head}\r\n".encode() + bad.body)
            await connection.head()
            self._counts[connection.status] += 1
            if connection.status == 200 or "close" in connection.headers.get("connection", ""):
                assert connection.status != 200 or bad.may_pass, bad.what
                await self.aclose()
                return
            body = await connection.reader.readexactly(int(connection.headers["content-length"]))
        assert_named(bad, connection.status, connection.headers, json.loads(body))

    async def aclose(self) -> None:
        if self._connection is not None:
            await self._connection.aclose()
            self._connection = None


def assert_named(bad: Bad, status: int, headers: dict[str, str], answer: dict) -> None:
    assert 400 <= status < 500, (bad.what, status, answer)
    assert headers["content-type"] == "application/json", bad.what
    error = answer["error"]
    assert error["code"], bad.what
    assert error["message"], bad.what
    assert len(error["message"]) < 1000, bad.what
    if bad.field is not None:
        assert error["field"].startswith(bad.field) or error["field"].endswith(bad.field), (bad.what, error)
        assert error["field"] in error["message"], (bad.what, error)


async def test_no_wrong_body_is_a_5xx_and_each_is_told_what_is_wrong(relay: Relay) -> None:
    sure = list(certain())
    bodies = sure + list(by_chance(SEED, BODIES - len(sure)))
    random.Random(SEED).shuffle(bodies)
    before = own_kib(relay.pid)
    counts: Counter[int] = Counter()
    waiting = iter(bodies)

    async def work() -> None:
        sender = Sender(relay, counts)
        try:
            for bad in waiting:
                await sender.send(bad)
        finally:
            await sender.aclose()

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    grew = own_kib(relay.pid) - before
    print(f"{len(bodies)} bodies, {len(sure)} of them wrong for sure: {dict(counts)}; {grew} KiB more than before")
    assert sum(counts.values()) == len(bodies)
    assert grew < GREW_KIB_MAX
    await assert_well(relay)


async def assert_well(relay: Relay) -> None:
    async with NativeStream(relay.port, good()) as stream:
        assert (await stream.to_end())["finish_reason"] == "stop"
    async with NativeStream(relay.port, ask("sim/quick")) as stream:
        assert (await stream.to_end())["finish_reason"] == "stop"
    assert "Traceback" not in relay.output()
    assert not [line for line in relay.log_lines() if line["event"] == "internal_error"]


CHUNKED = "POST /v1/chat/stream HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n"
HAND_MADE = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /\x00 HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost : x\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: x\r\n folded: y\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a\x00b\r\n\r\n",
    b"GET http://[::1 HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET //\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n",
    b"POST /v1/chat/stream HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
    b"POST /v1/chat/stream HTTP/1.1\r\nhost: x\r\ncontent-length: 1e3\r\n\r\n",
    b"POST /v1/chat/stream HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n{}   ",
    b"POST /v1/chat/stream HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999999\r\n\r\n{}",
    CHUNKED.encode() + b"content-length: 4\r\n\r\n0\r\n\r\n",
    CHUNKED.encode() + b"\r\nzz\r\n{}\r\n0\r\n\r\n",
    CHUNKED.encode() + b"\r\nffffffffffffffffff\r\n{}\r\n0\r\n\r\n",
    CHUNKED.encode() + b"\r\n2;" + b"x" * 100_000 + b"\r\n{}\r\n0\r\n\r\n",
    b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: x\r\n" + b"".join(b"h%d: v\r\n" % n for n in range(20_000)) + b"\r\n",
    b"GET / HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
    b"CONNECT evil:443 HTTP/1.1\r\nhost: x\r\n\r\n",
    b"\r\n" * 5000,
    b"",
)


def garbage(seed: int, count: int) -> Iterator[bytes]:
    yield from HAND_MADE
    dice = random.Random(seed)
    head = request("POST", "/v1/chat/stream", encode(good()))
    for _ in range(count):
        data = bytearray(head)
        for _ in range(dice.randint(1, 6)):
            data[dice.randrange(250)] = dice.randrange(256)
        yield bytes(data) if dice.random() < 0.8 else dice.randbytes(dice.randint(1, 3000))


async def test_no_garbage_on_the_wire_is_a_5xx(relay: Relay) -> None:
    counts: Counter[str] = Counter()
    for data in garbage(SEED, 600):
        async with asyncio.timeout(ANSWER_S), Connection(relay.port) as connection:
            connection.writer.write(data)
            connection.writer.write_eof()
            try:
                answer = await connection.reader.read()
            except ConnectionError:
                answer = b""
        for status in statuses(answer):
            counts[status] += 1
            assert status[0] in "24", (data[:300], answer[:300])
        if answer.startswith(b"HTTP/1.1 4"):
            head, _, body = answer.partition(b"\r\n\r\n")
            assert b"content-type: application/json" in head, (data[:300], answer[:300])
            assert b'"code":' in body.replace(b'": ', b'":'), (data[:300], answer[:300])
        if not answer:
            counts["closed without a word"] += 1
    print(f"garbage: {dict(counts)}")
    await assert_well(relay)


def statuses(answer: bytes) -> list[str]:
    return [line[9:12].decode() for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]


async def test_a_body_that_is_too_large_is_refused_before_it_has_come(relay: Relay) -> None:
    for head in (CHUNKED, CHUNKED.replace("transfer-encoding: chunked", "content-length: 900000000")):
        async with asyncio.timeout(ANSWER_S), Connection(relay.port) as connection:
            connection.writer.write(head.encode() + b"\r\n")
            piece = b"x" * 65_536
            reading = asyncio.create_task(connection.head())
            for _ in range(200 if "chunked" in head else 0):
                connection.writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                await asyncio.sleep(0)
            await reading
            assert connection.status == 413


NOWHERE = ("/v1/streams/none/events", "/v1/streams/" + "x" * 5000, "/v1/streams/%00/cancel", "/%ff", "/v1/chat/stream")


@pytest.mark.parametrize("path", NOWHERE)
async def test_addresses_that_do_not_exist_are_4xx_in_json(relay: Relay, path: str) -> None:
    for method in ("GET", "POST", "DELETE"):
        if (method, path) == ("POST", "/v1/chat/stream"):
            continue
        answer = await call(relay.port, method, path)
        assert answer.status in (404, 405), (method, path, answer)
        assert answer.json()["error"]["code"]


@pytest.mark.parametrize("after", ["-1", "1.5", "x", "9" * 30, "٣", "1e3", "999999", "%00"])
async def test_a_cursor_that_is_none_is_told_so(relay: Relay, after: str) -> None:
    async with NativeStream(relay.port, ask("sim/quick?tokens=1")) as stream:
        await stream.to_end()
        answer = await call(relay.port, "GET", f"/v1/streams/{stream.id}/events?after={quote(after, safe='%')}")
    assert answer.status == 400
    assert answer.json()["error"]["field"] == "after"
