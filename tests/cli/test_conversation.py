"""A conversation over a relay that is scripted: what is remembered, what Ctrl-C does, what goes where."""

from __future__ import annotations

import asyncio
import io
import signal
from typing import Any

import httpx2
import msgspec
import pytest

from client.fake_relay import ANSWER, URL, FakeRelay, Fate, refuse, story
from headrace.cli.chat.conversation import Conversation
from headrace.cli.chat.show import PlainShow
from headrace.client import AsyncClient, AsyncStream
from headrace.protocol import events as ev

REFUSED = httpx2.ConnectError("connection refused")


class Table:
    """A conversation and everything that it writes."""

    def __init__(self, relay: FakeRelay, transport: httpx2.AsyncBaseTransport | None = None) -> None:
        self.out, self.notes = io.StringIO(), io.StringIO()
        self.streams: list[AsyncStream] = []
        client = AsyncClient(URL, http=httpx2.AsyncClient(transport=transport or relay))
        self.conversation = Conversation(client, URL, "m", "Be brief.", self._show)

    def _show(self, stream: AsyncStream) -> PlainShow:
        self.streams.append(stream)
        return PlainShow(stream, self.out, self.notes)

    async def ask(self, prompt: str) -> str:
        return await self.conversation.ask(prompt)


@pytest.fixture
def relay() -> FakeRelay:
    return FakeRelay()


async def test_the_history_is_kept_and_sent(relay: FakeRelay) -> None:
    table = Table(relay)
    assert await table.ask("Is it level?") == "complete"
    assert await table.ask("Sure?") == "complete"
    assert msgspec.json.decode(relay.requests[1].content) == {
        "messages": [
            {"role": "user", "content": "Is it level?"},
            {"role": "assistant", "content": ANSWER},
            {"role": "user", "content": "Sure?"},
        ],
        "model": "m",
        "system": "Be brief.",
    }
    assert table.out.getvalue() == f"{ANSWER}\n{ANSWER}\n"
    assert table.notes.getvalue() == ""


async def test_what_came_of_a_broken_answer_is_kept(relay: FakeRelay) -> None:
    relay.events = [*story()[:5], ev.Error(seq=6, code="upstream_idle", message="Quiet.", retryable=True, partial=True)]
    table = Table(relay)
    assert await table.ask("Is it level?") == "failed"
    assert table.conversation.messages[-1] == {"role": "assistant", "content": "The water "}
    assert table.notes.getvalue() == "headrace: Quiet. The text above is kept but not complete. It may work again.\n"


async def test_a_turn_without_an_answer_is_forgotten(relay: FakeRelay) -> None:
    relay.fates = [refuse(400, "invalid_request", retryable=False)]
    table = Table(relay)
    assert await table.ask("Is it level?") == "failed"
    assert table.conversation.messages == []
    assert table.notes.getvalue() == "headrace: It said invalid_request.\n"


async def test_where_there_is_no_relay_it_says_so_soon_and_what_to_do(relay: FakeRelay) -> None:
    relay.fates = [Fate(connect=REFUSED)] * 9
    table = Table(relay)
    assert await table.ask("Is it level?") == "failed"
    assert len(relay.requests) == 2
    assert table.notes.getvalue() == f"headrace: There is no relay at {URL}: connection refused. Start one with: headrace serve\n"


async def test_a_drop_is_told_and_made_good(relay: FakeRelay) -> None:
    relay.fates = [Fate(cut=600), Fate(connect=REFUSED)]
    table = Table(relay)
    assert await table.ask("Is it level?") == "complete"
    assert table.out.getvalue() == f"{ANSWER}\n"
    first, second, third = table.notes.getvalue().splitlines()
    assert first == "headrace: Connection lost. Attempt 1. What you see is kept."
    assert second.startswith("headrace: Connection lost. Attempt 2")
    assert third.startswith("headrace: Resumed, ")


class Paused(httpx2.AsyncBaseTransport):
    """Streams stop in the middle for ever; so do cancels, where `deaf`."""

    def __init__(self, relay: FakeRelay, *, deaf: bool = False) -> None:
        self.relay = relay
        self.deaf = deaf
        self.asked = asyncio.Event()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if "cancel" in request.url.path:
            self.asked.set()
            if self.deaf:
                await asyncio.Event().wait()
        response = await self.relay.handle_async_request(request)
        if "cancel" not in request.url.path:
            response.stream = Endless(response.stream)
        return response


class Endless(httpx2.AsyncByteStream):
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def __aiter__(self) -> Any:
        async for piece in self._stream:
            yield piece
        await asyncio.Event().wait()


async def until_shown(table: Table) -> None:
    while "The " not in table.out.getvalue():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


async def test_a_stop_prints_what_the_receipt_says(relay: FakeRelay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.client.turn.LAST_WORD_S", 0.01)
    relay.fates = [Fate(cut=600)]
    table = Table(relay, Paused(relay))
    asking = asyncio.create_task(table.ask("Is it level?"))
    await until_shown(table)
    signal_to_self()
    assert await asking == "stopped"
    note = table.notes.getvalue()
    assert "The provider's connection was closed 8 ms later; 3 more tokens had already left it." in note
    assert "Usage: about 8 tokens, the relay's estimate." in note
    assert table.conversation.messages[-1]["role"] == "assistant"


async def test_a_stop_that_nobody_confirms_is_not_waited_for_long(relay: FakeRelay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.cli.chat.conversation.CONFIRMED_S", 0.01)
    relay.fates = [Fate(cut=600)]
    table = Table(relay, Paused(relay, deaf=True))
    asking = asyncio.create_task(table.ask("Is it level?"))
    await until_shown(table)
    signal_to_self()
    async with asyncio.timeout(5):
        assert await asking == "stopped"
    assert table.notes.getvalue() == "headrace: Stopped here. The relay has not confirmed yet.\n"
    assert table.conversation.messages[-1]["role"] == "assistant"


async def test_a_second_ctrl_c_leaves_a_stop_that_hangs(relay: FakeRelay) -> None:
    relay.fates = [Fate(cut=600)]
    paused = Paused(relay, deaf=True)
    table = Table(relay, paused)
    asking = asyncio.create_task(table.ask("Is it level?"))
    await until_shown(table)
    signal_to_self()
    await paused.asked.wait()
    assert not asking.done()
    signal_to_self()
    async with asyncio.timeout(5):
        assert await asking == "left"
    assert table.notes.getvalue() == "headrace: Stopped here. The relay has not confirmed yet.\n"


async def test_a_reader_that_closes_its_pipe_stops_the_generation(relay: FakeRelay) -> None:
    table = Table(relay)
    relay.fates = [Fate(piece=100)]

    def broken(text: str) -> int:
        raise BrokenPipeError

    table.out.write = broken  # type: ignore[method-assign]
    with pytest.raises(BrokenPipeError):
        await table.ask("Is it level?")
    assert relay.paths[-1].endswith("/cancel")


async def test_tool_calls_and_notices_do_not_mix_with_the_answer(relay: FakeRelay) -> None:
    call = ev.ToolCallComplete(tool_call_id="c", name="level", arguments=None, arguments_raw='{"a":\x1b', valid=False)
    relay.events = [
        story()[0],
        ev.Text(index=0, text="One"),
        ev.Text(index=1, text="two\x1b[2J"),
        ev.ToolCallStart(index=2, tool_call_id="c", name="level"),
        call,
        ev.Notice(code="x", message="Trying again."),
        ev.Reset(from_seq=7, reason="retry"),
        ev.Gap(from_seq=8, to_seq=8, reason="slow_reader", recoverable=True),
        ev.StreamEnd(finish_reason="length"),
    ]
    for seq, event in enumerate(relay.events, 1):
        event.seq = seq
    table = Table(relay)
    await table.ask("Is it level?")
    assert table.out.getvalue() == "One\n\ntwo␛[2J\n"
    assert table.notes.getvalue().splitlines() == [
        'headrace: level {"a":␛  (arguments are not valid JSON, kept as sent)',
        "headrace: Trying again.",
        "headrace: The first attempt failed and was withdrawn.",
        "headrace: Some text was skipped.",
        "headrace: Reached the length limit.",
    ]


def signal_to_self() -> None:
    signal.raise_signal(signal.SIGINT)
