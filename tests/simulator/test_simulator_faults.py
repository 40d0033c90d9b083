"""Every fault, as it is seen on the wire."""

import asyncio
import gzip
import json
import re

import pytest

FAST = "first_token_s=0&tokens_per_s=0"
BOTH = ["openai_chat", "anthropic"]
TERMINATOR = {"openai_chat": b"data: [DONE]\n\n", "anthropic": b'event: message_stop\ndata: {"type":"message_stop"}\n\n'}
FINISH = {"openai_chat": b'"finish_reason":"stop"', "anthropic": b"event: message_delta"}
CHUNK_END = b"0\r\n\r\n"


def chunks(raw: bytes) -> tuple[list[bytes], int]:
    """Take chunked framing apart; return the chunks and how many announced bytes are missing (-1: the last chunk)."""
    found: list[bytes] = []
    while raw:
        size_line, raw = raw.split(b"\r\n", 1)
        size = int(size_line, 16)
        if len(raw) < size + 2:
            return [*found, raw], size - len(raw)
        found.append(raw[:size])
        raw = raw[size + 2 :]
    return found, -1


async def answered(caller, model, dialect="openai_chat", **body):
    conversation = await caller.ask(model, dialect, **body)
    await conversation.head()
    return conversation


@pytest.mark.parametrize("dialect", BOTH)
@pytest.mark.parametrize("after", [0, 1, 7])
async def test_it_dies_with_a_fin_between_events(caller, dialect, after):
    conversation = await answered(caller, f"die?after={after}&{FAST}", dialect)
    raw = await conversation.raw()

    parts, missing = chunks(raw)
    assert missing == -1
    assert not raw.endswith(CHUNK_END)
    assert parts[-1].endswith(b"\n\n")
    assert (await caller.record(lambda record: record.state == "died")).tokens_written == after


@pytest.mark.parametrize("dialect", BOTH)
async def test_it_dies_with_a_reset_after_everything_arrived(caller, dialect):
    conversation = await answered(caller, f"die?after=300&how=rst&{FAST}", dialect)
    record = await caller.record(lambda record: record.state == "died")
    seen = [await conversation.chunk() for _ in range(8)]

    with pytest.raises(ConnectionResetError):
        await conversation.raw()
    assert record.tokens_written == 300
    assert all(seen)


@pytest.mark.parametrize("dialect", BOTH)
async def test_it_dies_inside_a_chunk(caller, dialect):
    conversation = await answered(caller, f"die?after=3&how=short_chunk&{FAST}", dialect)
    parts, missing = chunks(await conversation.raw())

    assert missing > 0
    assert not parts[-1].endswith(b"\n")


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("dialect", BOTH)
async def test_it_dies_before_the_headers(caller, dialect, how):
    conversation = await caller.ask(f"die?headers=0&how={how}", dialect)

    if how == "fin":
        assert await conversation.raw() == b""
    else:
        with pytest.raises(ConnectionResetError):
            await conversation.raw()


@pytest.mark.parametrize("dialect", BOTH)
@pytest.mark.parametrize("of", ["quick", "tool"])
async def test_it_dies_at_any_byte(caller, dialect, of):
    whole = await body_at(caller, f"die?of={of}&{FAST}&at_byte=9999999", dialect)
    assert whole.endswith(TERMINATOR[dialect])

    for byte in [0, 1, *range(100, len(whole), 373), len(whole) - 1]:
        part = await body_at(caller, f"die?of={of}&{FAST}&at_byte={byte}", dialect)
        assert part == whole[:byte]


@pytest.mark.parametrize("dialect", BOTH)
async def test_it_dies_inside_a_character(caller, dialect):
    whole = await body_at(caller, f"die?{FAST}&at_byte=9999999", dialect)
    inside = whole.index("ä".encode()) + 1

    part = await body_at(caller, f"die?{FAST}&at_byte={inside}", dialect)

    with pytest.raises(UnicodeDecodeError, match="unexpected end of data"):
        part.decode()


async def body_at(caller, model, dialect):
    """Return what comes of a body, all digits made equal, because ids and times differ."""
    conversation = await answered(caller, model, dialect)
    parts, _ = chunks(await conversation.raw())
    return re.sub(rb"\d", b"0", b"".join(parts))


@pytest.mark.parametrize("at_byte", [0, 1, 150])
async def test_a_short_chunk_at_a_byte_announces_more(caller, at_byte):
    conversation = await answered(caller, f"die?at_byte={at_byte}&how=short_chunk&{FAST}")
    parts, missing = chunks(await conversation.raw())

    assert missing > 0
    assert len(b"".join(parts)) == at_byte


@pytest.mark.parametrize("dialect", BOTH)
async def test_it_stalls_on_an_open_socket(caller, dialect):
    conversation = await answered(caller, f"stall?after=4&{FAST}", dialect)
    await caller.record(lambda record: record.tokens_written == 4)
    await conversation.chunk()

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(conversation.reader.read(1), 0.1)
    assert caller.simulator.stats.requests[-1].state == "running"


@pytest.mark.parametrize(("dialect", "ping"), [("openai_chat", b": keep-alive\n\n"), ("anthropic", b"event: ping\n")])
async def test_it_pings_while_it_stalls(caller, dialect, ping):
    conversation = await answered(caller, f"stall?after=1&ping_s=0.01&{FAST}", dialect)
    await conversation.chunk()

    for _ in range(3):
        assert (await conversation.chunk()).startswith(ping)


@pytest.mark.parametrize("dialect", BOTH)
async def test_it_ends_without_a_terminator(caller, dialect):
    no_done = await caller.body_of(f"no_done?{FAST}", dialect)
    no_finish = await caller.body_of(f"no_finish?{FAST}", dialect)

    assert TERMINATOR[dialect] not in no_done
    assert FINISH[dialect] in no_done
    assert TERMINATOR[dialect] not in no_finish
    assert FINISH[dialect] not in no_finish


@pytest.mark.parametrize(("dialect", "start"), [("openai_chat", b'"role":"assistant"'), ("anthropic", b"event: message_start")])
async def test_it_starts_twice(caller, dialect, start):
    assert (await caller.body_of(f"duplicate_start?{FAST}", dialect)).count(start) == 2


async def test_a_second_message_begins_inside_a_call(caller):
    conversation = await answered(caller, f"spliced?after=9&{FAST}", "anthropic")
    body = await conversation.body()

    first, second = body.split(b"event: message_start")[1:]
    assert b"input_json_delta" in first
    assert b"content_block_stop" not in first
    assert b'"content_block_start","index":0' in second
    ids = re.findall(rb"msg_sim\d+", body)
    assert len(set(ids)) == len(ids) == 2


@pytest.mark.parametrize(
    ("dialect", "shape", "error", "done"),
    [
        ("openai_chat", "openai", rb'\ndata: {"error":{"message":', False),
        ("openai_chat", "groq", rb'\nevent: error\ndata: {"error":{', False),
        ("openai_chat", "openrouter", rb'"choices":\[{[^\n]*"finish_reason":"error"}\],"error":{"code":502', True),
        ("openai_chat", "llama_box", rb'\nerror: {"code":500', False),
        ("anthropic", "anthropic", rb'\nevent: error\ndata: {"type":"error","error":{"type":"overloaded_error"', False),
    ],
)
async def test_an_error_inside_the_stream_has_the_shape_of_its_provider(caller, dialect, shape, error, done):
    body = await caller.body_of(f"stream_error?shape={shape}&after=2&{FAST}", dialect)

    assert re.search(error, body)
    assert (TERMINATOR[dialect] in body) is done
    assert (await caller.record(lambda record: record.state == "died")).tokens_written == 2


async def test_a_shape_of_the_other_dialect_is_refused(caller):
    conversation = await answered(caller, "stream_error?shape=anthropic")

    assert conversation.status == 400
    assert b"openai, groq, openrouter, llama_box" in await conversation.body()


@pytest.mark.parametrize("dialect", BOTH)
async def test_a_200_can_be_no_stream_at_all(caller, dialect):
    for model, content_type, start in [
        ("html", "text/html; charset=utf-8", b"<!doctype html>"),
        ("json_error_200", "application/json", b'{"'),
        ("empty", "text/event-stream; charset=utf-8", b""),
    ]:
        conversation = await answered(caller, model, dialect)
        assert (conversation.status, conversation.headers["content-type"]) == (200, content_type)
        body = await conversation.body()
        assert body.startswith(start)
        assert bool(body) == bool(start)


async def test_gzip_comes_without_being_asked_for(caller):
    conversation = await answered(caller, f"gzip?{FAST}")
    assert conversation.headers["content-encoding"] == "gzip"
    assert gzip.decompress(await conversation.body()).endswith(TERMINATOR["openai_chat"])

    held_back = await answered(caller, "gzip?first_token_s=0&tokens_per_s=1000&flush=0")
    first = await held_back.chunk()
    assert gzip.decompress(first + (await held_back.chunk() or b"")).endswith(TERMINATOR["openai_chat"])


async def test_close_delimited_is_http_1_0(caller):
    conversation = await answered(caller, f"close_delimited?{FAST}", headers="")

    assert conversation.version == "HTTP/1.0"
    assert not {"transfer-encoding", "content-length"} & conversation.headers.keys()
    assert (await conversation.raw()).endswith(TERMINATOR["openai_chat"])


@pytest.mark.parametrize("by", [-20, 20])
async def test_a_wrong_length_is_wrong_by_as_much_as_asked(caller, by):
    conversation = await answered(caller, f"wrong_length?by={by}&{FAST}")
    body = await conversation.raw()

    assert body.endswith(TERMINATOR["openai_chat"])
    assert int(conversation.headers["content-length"]) == len(body) + by


async def test_a_dying_answer_with_a_length_promises_more(caller):
    conversation = await answered(caller, f"die?after=2&framing=length&{FAST}")

    assert int(conversation.headers["content-length"]) > len(await conversation.raw())


@pytest.mark.parametrize(("newline", "end"), [("crlf", b"\r\n"), ("cr", b"\r")])
async def test_line_ends_are_the_asked_for_ones(caller, newline, end):
    body = await caller.body_of(f"quick?newline={newline}&{FAST}")

    assert body.endswith(b"data: [DONE]" + 2 * end)
    assert body.replace(end, b"").count(b"\n") == 0
    assert (await caller.body_of(f"crlf?{FAST}")).endswith(b"data: [DONE]\r\n\r\n")


@pytest.mark.parametrize("dialect", BOTH)
async def test_writes_have_the_asked_for_size(caller, dialect):
    async def sizes(model: str) -> list[int]:
        conversation = await answered(caller, model, dialect)
        parts, _ = chunks(await conversation.raw())
        return [len(part) for part in parts[:-1]]

    assert set(await sizes(f"quick?cut=1&tokens=5&{FAST}")) == {1}
    assert set((await sizes(f"quick?cut=7&tokens=5&{FAST}"))[:-1]) <= set(range(1, 8))
    assert await sizes(f"quick?cut=random&seed=3&tokens=5&{FAST}") == await sizes(f"quick?cut=random&seed=3&tokens=5&{FAST}")
    assert await sizes(f"quick?cut=random&seed=3&tokens=5&{FAST}") != await sizes(f"quick?cut=random&seed=4&tokens=5&{FAST}")
    assert set(await sizes(f"tool?net_cut=1&tokens=1&{FAST}")) == {1}


async def test_a_gap_separates_writes(caller):
    conversation = await answered(caller, f"quick?cut=200&gap_ms=20&tokens=2&{FAST}")
    loop = asyncio.get_running_loop()
    times = []
    while await conversation.chunk() is not None:
        times.append(loop.time())

    assert times[1] - times[0] > 0.015


@pytest.mark.parametrize("dialect", BOTH)
async def test_error_statuses_carry_what_a_client_needs_for_its_retry(caller, dialect):
    seconds = await answered(caller, "error_429?retry_after=2", dialect)
    milliseconds = await answered(caller, "error_529?retry_after=0.25&retry_after_form=ms", dialect)
    date = await answered(caller, "error_503?retry_after=9&retry_after_form=date", dialect)
    without = await answered(caller, "error_500", dialect)

    assert (seconds.status, seconds.headers["retry-after"]) == (429, "2")
    assert (milliseconds.status, milliseconds.headers["retry-after-ms"]) == (529, "250")
    assert date.headers["retry-after"].endswith("GMT")
    assert "retry-after" not in without.headers
    error = json.loads(await seconds.body())["error"]
    assert error["type"] == "rate_limit_error"
    assert caller.simulator.stats.totals.refused == 4


async def test_an_error_passes_after_as_many_times_as_asked(caller):
    async def status(key: str) -> int:
        return (await answered(caller, f"error_500?times=2&key={key}&{FAST}")).status

    assert [await status("a") for _ in range(4)] == [500, 500, 200, 200]
    assert await status("b") == 500


@pytest.mark.parametrize("dialect", BOTH)
async def test_a_whole_answer_fails_in_its_own_ways(caller, dialect):
    failed = await answered(caller, f"stream_error?{FAST}", dialect, stream=False)
    assert failed.status == 500

    died = await caller.ask(f"die?{FAST}", dialect, stream=False)
    assert await died.raw() == b""

    short = await answered(caller, f"die?at_byte=50&{FAST}", dialect, stream=False)
    assert int(short.headers["content-length"]) > len(await short.raw()) == 50


@pytest.mark.parametrize("dialect", BOTH)
async def test_headers_can_be_slow(caller, dialect):
    loop = asyncio.get_running_loop()
    began = loop.time()
    await answered(caller, f"slow_headers?headers_s=0.1&{FAST}", dialect)

    assert loop.time() - began >= 0.09


@pytest.mark.parametrize("dialect", BOTH)
async def test_the_token_limit_can_stop_inside_a_call(caller, dialect):
    body = await caller.body_of(f"max_tokens_in_tool?after=5&cut=3&{FAST}", dialect)

    assert b'"max_tokens"' in body if dialect == "anthropic" else b'"length"' in body
    fragments = [json.loads(found) for found in re.findall(rb'"(?:arguments|partial_json)":("(?:[^"\\]|\\.)*")', body)]
    assert "".join(fragments) == '{"station": "We'


async def test_silence_before_the_first_token_is_complete_without_progress(caller):
    conversation = await answered(caller, "thinking?first_token_s=0.1&progress=0")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(conversation.reader.read(1), 0.05)

    assert b"reasoning_content" not in await conversation.chunk()
