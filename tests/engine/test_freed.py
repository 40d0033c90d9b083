"""What is forgotten is freed at once: a process that keeps its garbage collector off the hot path must not depend on it."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref

import pytest

from headrace.engine.provider import Provider, Target
from headrace.engine.stream import Stream
from headrace.engine.streams import Settings, Streams
from headrace.engine.upstream.pool import parse_base_url
from headrace.protocol import dialects
from headrace.protocol.native import SSE
from headrace.protocol.request import ChatRequest, Message
from headrace.simulator import Simulator


class WeaklyHeld(Stream):
    __slots__ = ("__weakref__",)


class Bin:
    full = False
    pending = 0

    def write(self, data: bytes) -> None: ...

    def abort(self) -> None: ...


def begin(streams: Streams, url: str, model: str) -> weakref.ref[Stream]:
    origin, prefix = parse_base_url(url + "/v1")
    provider = Provider("p", dialects.load("openai_chat"), origin, prefix)
    request = ChatRequest(messages=[Message(role="user", content="hi")])
    stream = streams.create(request, [Target(provider, model)], user="u", request_id=None, received_at=time.monotonic())
    stream.attach(Bin(), SSE)
    return weakref.ref(stream)


@pytest.mark.parametrize(("model", "stop"), [("quick?tokens_per_s=0", False), ("endless", True), ("die?after=3&tokens_per_s=0", False)])
async def test_a_stream_that_is_no_longer_kept_leaves_without_the_garbage_collector(
    monkeypatch: pytest.MonkeyPatch, model: str, stop: bool
) -> None:
    monkeypatch.setattr("headrace.engine.streams.Stream", WeaklyHeld)
    async with Simulator() as simulator:
        streams = Streams(Settings(retention_s=0.05))
        gc.collect()
        gc.disable()
        try:
            held = begin(streams, simulator.base_url, model)
            if stop:
                streams.live()[0].cancel("user")
            else:
                await streams.wait_idle()
            assert await freed(held), gc.get_referrers(held())
        finally:
            gc.enable()
            await streams.aclose()


async def freed(held: weakref.ref[Stream]) -> bool:
    deadline = time.monotonic() + 5
    while held() is not None and time.monotonic() < deadline:
        for reader in list(held().readers):  # type: ignore[union-attr]
            reader.stream.detach(reader, "disconnected")
            del reader
        await asyncio.sleep(0.02)
    return held() is None
