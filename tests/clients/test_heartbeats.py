"""Heartbeats, many of them, at the places where they break a client that they are wrong for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

import pytest

from headrace.simulator import texts

from .conftest import Stage
from .node_clients import Driver
from .outcome import Client, Outcome
from .roster import CELLS, CLIENTS, each_cell
from .tap import Replay, Tap, heartbeats

pytestmark = pytest.mark.real

# The provider is silent twice before it says anything, and then after each token: with a heartbeat each 0.2 s, there are several each time.
SLOW = "quick?headers_s=0.7&first_token_s=0.7&progress=0&tokens=4&tokens_per_s=2"
WORDS = texts.tokenise(texts.QUICK)[:4]


class Heard(NamedTuple):
    outcome: Outcome
    body: bytes


Cell = tuple[str, str]


@pytest.fixture(scope="module")
def slow(stage: Stage, driver: Driver) -> dict[Cell, Heard]:
    """The slow answer as every client gets it from every provider, all at once since nothing but the waiting takes time."""

    async def one(client: Client, provider: str) -> tuple[Cell, Heard]:
        async with Tap(stage.port) as tap:
            outcome = await client.ask(tap.url, f"{provider}/{SLOW}")
            return (client.name, provider), Heard(outcome, tap.body())

    async def all_of_them() -> dict[Cell, Heard]:
        return dict(await asyncio.gather(*(one(*cell) for cell in CELLS)))

    return asyncio.run(all_of_them())


@each_cell
def test_heartbeats_break_no_client(slow: dict[Cell, Heard], client: Client, provider: str) -> None:
    heard = slow[client.name, provider]

    assert heard.outcome.whole().text == "".join(WORDS)
    before, found, after = heard.body.partition(WORDS[0].strip().encode())
    assert found
    assert heartbeats(before) >= 3
    assert heartbeats(after) >= 3


# What the relay avoids, put into what it said: each of these forms is lawful, and breaks the client that it is tried on.


def with_ids_and_blank_lines(body: bytes) -> bytes:
    return body.replace(b"data: {", b"id: 7\ndata: {").replace(b": ping\n", b": ping\n\n")


def with_a_retry_of_its_own(body: bytes) -> bytes:
    return b"retry: 3000\n\n" + body


@pytest.mark.parametrize("change", [with_ids_and_blank_lines, with_a_retry_of_its_own])
async def test_the_rig_sees_it_when_a_heartbeat_breaks_a_client(
    slow: dict[Cell, Heard], driver: Driver, change: Callable[[bytes], bytes]
) -> None:
    client = next(client for client in CLIENTS if client.name == "openai-python")
    body = slow[client.name, "simulator"].body

    async with Replay(body) as same, Replay(change(body)) as changed:
        assert (await client.ask(same.url, "any")).whole().text == "".join(WORDS)
        broken = await client.ask(changed.url, "any")

    assert broken.error is not None
