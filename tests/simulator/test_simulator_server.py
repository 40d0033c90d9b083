"""The simulator as a server: HTTP, the dashboard, the names and options, and what it rejects."""

import asyncio
import json
import time

import pytest

from headrace.simulator import Simulator
from headrace.simulator.ask import Rejected
from headrace.simulator.scripts import SCRIPTS, names, parse
from headrace.simulator.scripts.base import Script

FAST = "first_token_s=0&tokens_per_s=0"
BOTH = ["openai_chat", "anthropic"]
QUICK = f"quick?tokens=3&{FAST}"


def error_of(dialect: str, body: bytes) -> str:
    answer = json.loads(body)
    if dialect == "anthropic":
        assert answer["type"] == "error"
        assert answer["error"]["type"]
    else:
        assert answer["error"].keys() == {"message", "type", "param", "code"}
    return answer["error"]["message"]


@pytest.mark.parametrize("dialect", BOTH)
@pytest.mark.parametrize(
    ("model", "status", "says"),
    [
        ("gpt-9", 404, "quick, story, markdown"),
        ("error_<status>", 404, "error_<status>"),
        ("error_200", 404, "does not exist"),
        ("story?speed=3", 400, "first_token_s, tokens_per_s"),
        ("story?tokens=1&tokens=2", 400, "given twice"),
        ("story?tokens=many", 400, "$.tokens"),
        ("story?tokens_per_s=-1", 400, ">= 0"),
        ("story?tokens_per_s=nan", 400, "$.tokens_per_s"),
        ("story?cut=0", 400, "$.cut"),
        ("endless?framing=length", 400, "no end"),
        ("error_429?status=500", 400, "no option `status`"),
        ("replay?file=nothing.sse", 404, "nothing.sse"),
        ("replay", 400, "file"),
    ],
)
async def test_a_name_that_means_nothing_is_refused_with_what_would(caller, dialect, model, status, says):
    conversation = await caller.ask(model, dialect)

    assert await conversation.head() == status
    assert says in error_of(dialect, await conversation.body())
    assert caller.simulator.stats.requests[-1].state == "refused"


@pytest.mark.parametrize("model", ["redacted", "pause_turn", "spliced"])
async def test_a_script_of_one_dialect_is_refused_in_the_other(caller, model):
    conversation = await caller.ask(model)

    assert await conversation.head() == 400
    assert "only in the dialect anthropic" in error_of("openai_chat", await conversation.body())


@pytest.mark.parametrize("dialect", BOTH)
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": None}, "model"),
        ({"model": 5}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": ["hi"]}, "messages.0"),
        ({"messages": [{"content": "hi"}]}, "messages.0"),
        ({"stream": "yes"}, "stream"),
    ],
)
async def test_a_request_that_is_none_is_refused(caller, dialect, change, says):
    conversation = await caller.ask("quick", dialect, **change)

    assert await conversation.head() == 400
    assert says in error_of(dialect, await conversation.body())


async def test_anthropic_wants_max_tokens(caller):
    for wrong in (None, 0, "9", True):
        conversation = await caller.ask("quick", "anthropic", max_tokens=wrong)
        assert await conversation.head() == 400


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
async def test_a_body_that_is_no_json_object_is_refused(caller, path, body):
    conversation = await caller.send(caller.post(path, body))

    assert await conversation.head() == 400


async def test_a_connection_is_used_again(caller):
    conversation = await caller.ask(QUICK, headers="")
    for _ in range(2):
        assert await conversation.head() == 200
        assert (await conversation.body()).endswith(b"data: [DONE]\n\n")
        conversation.writer.write(caller.request(QUICK))

    assert await conversation.head() == 200


async def test_pipelined_requests_are_answered_in_order(caller):
    conversation = await caller.send(caller.request(QUICK) + caller.request("error_500") + caller.request("html"))

    statuses = []
    for _ in range(3):
        statuses.append(await conversation.head())
        await conversation.body()
    assert statuses == [200, 500, 200]


@pytest.mark.parametrize("size", [1, 7, 100_000])
async def test_a_request_may_come_in_pieces_and_in_chunks(caller, size):
    body = json.dumps({"model": f"echo?{FAST}", "stream": True, "messages": [{"role": "user", "content": "Grüße"}]}).encode()
    parts = [body[start : start + 9] for start in range(0, len(body), 9)]
    framed = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\ntrailer: x\r\n\r\n"
    raw = b"POST /v1/chat/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + framed
    conversation = await caller.connect()
    for start in range(0, len(raw), size):
        conversation.writer.write(raw[start : start + size])
        await asyncio.sleep(0)

    assert await conversation.head() == 200
    assert "ße".encode() in await conversation.body()


async def test_a_client_may_wait_for_continue(caller):
    request = caller.request(QUICK, headers="expect: 100-continue\r\n")
    head, body = request.split(b"\r\n\r\n")
    conversation = await caller.send(head + b"\r\n\r\n")

    assert await conversation.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    conversation.writer.write(body)
    assert await conversation.head() == 200


async def test_an_http_1_0_client_gets_no_chunks(caller):
    request = caller.request(QUICK).replace(b"HTTP/1.1", b"HTTP/1.0", 1)
    conversation = await caller.send(request)

    assert await conversation.head() == 200
    assert "transfer-encoding" not in conversation.headers
    assert (await conversation.raw()).endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\ncontent-length: x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: 99999999999\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * 70_000, 431),
    ],
)
async def test_bytes_that_are_no_request_end_the_connection(caller, raw, status):
    conversation = await caller.send(raw)

    assert await conversation.head() == status
    await conversation.body()
    assert await conversation.raw() == b""


async def test_pages(caller):
    assert await caller.get("/health") == (200, {"status": "ok"})
    assert (await caller.get("/nowhere"))[0] == 404
    assert (await caller.get("/v1/messages"))[0] == 405

    _, openai_models = await caller.get("/v1/models")
    _, anthropic_models = await caller.get("/v1/models", "anthropic-version: 2023-06-01\r\n")
    assert [model["id"] for model in openai_models["data"]] == names()
    assert anthropic_models["last_id"] == names()[-1]


@pytest.mark.parametrize("name", names())
def test_every_listed_model_exists(name):
    assert isinstance(parse(name), Script)


def test_an_unknown_name_is_answered_with_all_names():
    with pytest.raises(Rejected) as caught:
        parse("?")
    assert all(name in caught.value.message for name in SCRIPTS)


async def test_the_dashboard_shows_each_request(caller):
    before = time.time()
    conversation = await caller.ask(QUICK, headers="connection: close\r\nX-Request-Id: abc-1\r\n")
    await conversation.head()
    body = await conversation.raw()
    failed = await caller.ask("error_500", "anthropic")
    await failed.head()

    _, page = await caller.get("/stats")
    first, second = page["requests"]
    assert first["x_request_id"] == "abc-1"
    assert (first["model"], first["dialect"], first["state"]) == (QUICK, "openai_chat", "finished")
    assert (first["tokens_written"], first["tokens_total"]) == (3, 3)
    assert first["bytes_written"] > len(body)
    assert before <= first["started_at"] <= first["first_token_at"] <= first["ended_at"] <= time.time()
    assert first["started_at_monotonic"] <= first["ended_at_monotonic"] <= time.monotonic()
    assert first["left_at"] is None
    assert (second["dialect"], second["state"]) == ("anthropic", "refused")
    assert conversation.headers["x-simulator-id"] == str(first["id"])
    assert page["totals"]["started"] == 2
    assert page["totals"]["finished"] == page["totals"]["refused"] == 1
    assert page["totals"]["tokens_written"] == 3


async def test_the_dashboard_can_be_asked_for_one_request_or_for_news(caller):
    for _ in range(3):
        await caller.body_of(QUICK)

    assert (await caller.get("/stats?id=2"))[1]["id"] == 2
    assert [record["id"] for record in (await caller.get("/stats?since=1"))[1]["requests"]] == [2, 3]
    assert (await caller.get("/stats?id=99"))[0] == 404
    assert (await caller.get("/stats?since=x"))[0] == 400


async def test_the_dashboard_keeps_the_last_thousand(caller):
    conversation = await caller.connect()
    for _ in range(1003):
        conversation.writer.write(caller.request("empty"))
        await conversation.head()

    requests = caller.simulator.stats.requests
    assert (len(requests), requests[0].id, requests[-1].id) == (1000, 4, 1003)
    assert len((await caller.get("/stats"))[1]["requests"]) == 1000


async def test_stats_are_a_copy(caller):
    before = caller.simulator.stats
    await caller.body_of(QUICK)

    assert before.totals.started == 0
    assert before.requests == []


async def test_every_end_is_logged_in_a_line():
    lines = []
    async with Simulator(log=lines.append) as simulator:
        reader, writer = await asyncio.open_connection("127.0.0.1", simulator.port)
        writer.write(b"POST /v1/messages HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}")
        await reader.readuntil(b'"}')
        writer.close()

    assert len(lines) == 1
    assert lines[0].startswith("#1 anthropic None refused: 0 tokens in")


async def test_a_server_that_goes_away_breaks_its_answers_off(caller):
    conversation = await caller.ask("endless?first_token_s=0")
    await conversation.head()

    await caller.simulator.aclose()

    assert not (await conversation.raw()).endswith(b"0\r\n\r\n")
    assert caller.simulator.stats.requests[-1].state == "died"
    await caller.simulator.aclose()


async def test_a_recording_is_played_byte_for_byte():
    recorded = b'data: {"a":1}\n\n: comment\r\n\r\n\ndata: {"b":"\xc3\xa4"}\n\ndata: [DONE]'
    async with Simulator(replays={"odd one": ("text/event-stream", recorded)}) as simulator:
        for options in ("", "&cut=1", "&cut=random&seed=2", "&cut=5&gap_ms=1", "&tokens_per_s=500", "&framing=close"):
            reader, writer = await asyncio.open_connection("127.0.0.1", simulator.port)
            body = json.dumps({"model": f"replay?file=odd%20one{options}", "stream": True, "messages": [{"role": "user"}]}).encode()
            writer.write(b"POST /v1/chat/completions HTTP/1.0\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
            assert (await reader.read()).partition(b"\r\n\r\n")[2] == recorded
            writer.close()
        assert simulator.stats.requests[-1].tokens_written == 4


async def test_recordings_come_from_their_directory_and_nowhere_else(tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "deep" / "a.sse").write_bytes(b"data: 1\n\n")
    (tmp_path / "in" / "b.json").write_bytes(b"{}")
    (tmp_path / "secret").write_bytes(b"no")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "secret")
    simulator = Simulator(replay_dir=tmp_path / "in")

    assert simulator.recording("deep/a.sse").body == b"data: 1\n\n"
    assert simulator.recording("b.json").content_type == "application/json"
    for name in ("../secret", "deep/../../secret", str(tmp_path / "secret"), "link", "deep", "", "a\0b", "x" * 5000):
        assert simulator.recording(name) is None


async def test_a_hundred_streams_keep_their_pace(caller):
    conversations = [await caller.ask("endless?first_token_s=0&tokens_per_s=50") for _ in range(100)]
    began = time.monotonic()
    await asyncio.gather(*(conversation.until(b"river") for conversation in conversations))
    start = caller.simulator.stats.totals.tokens_written
    counted_from = time.monotonic()
    await asyncio.gather(*(read_for(conversation, 1.0) for conversation in conversations))
    rate = (caller.simulator.stats.totals.tokens_written - start) / (time.monotonic() - counted_from)

    assert counted_from - began < 5
    assert 4000 < rate < 5500


async def read_for(conversation, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        await conversation.reader.read(65536)
