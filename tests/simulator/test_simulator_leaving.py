"""The witness: in whatever phase a reader leaves, the simulator notices at once, stops, and says when."""

import asyncio
import time

import pytest
import uvloop

from headrace.simulator import Simulator

NOTICED_WITHIN_S = 0.05
FAST = "first_token_s=0&tokens_per_s=0"
BOTH = ["openai_chat", "anthropic"]

# phase, model, and how many tokens to wait for (None: not even for the head)
PHASES = [
    ("before_headers", "slow_headers?headers_s=60", None),
    ("before_first_token", "story?first_token_s=60", 0),
    ("before_first_token", "thinking?first_token_s=60&progress=0", 0),
    ("streaming", "endless?first_token_s=0", 3),
    ("streaming", "thinking?first_token_s=0&thinking_s=60", 3),
    ("streaming", "endless?first_token_s=0&tokens_per_s=0", 1000),
    ("streaming", f"stall?after=5&{FAST}", 5),
    ("tool_arguments", "tool?first_token_s=0&tokens=1", 4),
    ("tool_arguments", f"stall?of=tool&after=40&{FAST}", 40),
    ("after_last_token", f"quick?tokens=30&finish_s=60&{FAST}", 30),
]


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("dialect", BOTH)
@pytest.mark.parametrize(("phase", "model", "tokens"), PHASES)
async def test_a_reader_that_leaves_is_noticed_in_every_phase(caller, phase, model, tokens, dialect, how):
    conversation = await caller.ask(model, dialect)
    if tokens is not None:
        await conversation.head()
    await caller.record(lambda record: record.tokens_written >= (tokens or 0))

    left = time.monotonic()
    conversation.leave(how)
    record = await asyncio.wait_for(caller.record(lambda record: record.state == "left"), 5)

    assert record.phase_when_left == phase
    assert 0 <= record.left_at_monotonic - left < NOTICED_WITHIN_S
    assert record.ended_at_monotonic == record.left_at_monotonic
    assert caller.simulator.stats.totals.open == 0
    assert caller.simulator.stats.totals.aborted == 1


async def test_nothing_is_generated_after_the_reader_left(caller):
    conversation = await caller.ask("endless?first_token_s=0&tokens_per_s=200")
    await conversation.until(b"river")
    conversation.leave()
    before = await caller.record(lambda record: record.state == "left")

    await asyncio.sleep(0.05)  # ten more tokens' time

    after = caller.simulator.stats.requests[-1]
    assert (after.tokens_written, after.bytes_written) == (before.tokens_written, before.bytes_written)


@pytest.mark.parametrize("dialect", BOTH)
@pytest.mark.parametrize("model", ["story", "endless", "stall", "thinking"])
async def test_a_reader_of_a_whole_answer_is_noticed_too(caller, dialect, model):
    conversation = await caller.ask(model, dialect, stream=False)
    await caller.record(lambda record: record.state == "running")

    left = time.monotonic()
    conversation.leave()
    record = await caller.record(lambda record: record.state == "left")

    assert record.phase_when_left == "before_headers"
    assert record.left_at_monotonic - left < NOTICED_WITHIN_S


async def test_a_half_closed_connection_counts_as_left(caller):
    conversation = await caller.ask("endless?first_token_s=0")
    await conversation.until(b"river")

    conversation.writer.write_eof()

    assert (await caller.record(lambda record: record.state == "left")).phase_when_left == "streaming"


async def test_a_reader_of_a_full_socket_is_noticed(caller):
    conversation = await caller.ask("endless?first_token_s=0&tokens_per_s=0&token_bytes=60000")
    conversation.writer.transport.pause_reading()
    await settled(caller)

    conversation.leave("rst")

    assert (await caller.record(lambda record: record.state == "left")).phase_when_left == "streaming"


async def test_a_reader_that_takes_nothing_stops_the_generation(caller):
    conversation = await caller.connect(receive_buffer=16 * 1024)
    conversation.writer.transport.pause_reading()
    conversation.writer.write(caller.request("endless?first_token_s=0&tokens_per_s=0&token_bytes=1000"))
    await caller.record(lambda record: record.tokens_written > 0)
    stuck = await settled(caller)

    assert caller.simulator.stats.requests[-1].bytes_written < 256 * 1024  # the send buffer, the write buffer, the reader's window
    conversation.writer.transport.resume_reading()
    await drain(conversation)
    assert caller.simulator.stats.requests[-1].tokens_written > stuck


async def test_what_was_not_generated_for_a_full_socket_is_not_caught_up(caller):
    conversation = await caller.ask("endless?first_token_s=0&tokens_per_s=1000&token_bytes=60000")
    await conversation.until(b"river")
    conversation.writer.transport.pause_reading()
    stuck = await settled(caller, still_s=0.2)
    conversation.writer.transport.resume_reading()
    resumed = time.monotonic()
    await drain(conversation)
    record = caller.simulator.stats.requests[-1]

    assert record.tokens_written - stuck <= (time.monotonic() - resumed) * 1000 + 20


def test_it_sees_the_same_on_uvloop():
    async def leave_and_look() -> str | None:
        async with Simulator() as simulator:
            reader, writer = await asyncio.open_connection("127.0.0.1", simulator.port)
            body = b'{"model":"endless?first_token_s=0","stream":true,"messages":[{"role":"user"}]}'
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
            await reader.readuntil(b"content")
            writer.close()
            while simulator.stats.totals.aborted == 0:  # noqa: ASYNC110  # polls as a user of /stats does
                await asyncio.sleep(0.001)
            return simulator.stats.requests[-1].phase_when_left

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(leave_and_look()) in ("streaming", "before_first_token")


async def settled(caller, still_s: float = 0.1) -> int:
    """Return the last request's tokens when they have not grown for `still_s`."""
    tokens, since = -1, time.monotonic()
    while time.monotonic() - since < still_s:
        await asyncio.sleep(0.01)
        now = caller.simulator.stats.requests[-1].tokens_written
        if now != tokens:
            tokens, since = now, time.monotonic()
    return tokens


async def drain(conversation, size: int = 4 * 1024 * 1024) -> int:
    """Read `size` bytes."""
    read = 0
    while read < size:
        read += len(await conversation.reader.read(65536))
    return read
