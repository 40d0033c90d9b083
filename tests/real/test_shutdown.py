"""The relay process is told to end: what its readers get, what it still takes, and how long it may last."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .processes import Provider, Relay, wait_for
from .wire import Connection, NativeStream, all_open, ask

pytestmark = pytest.mark.real

FLUSH_S = 2.5  # how long the process may last after its last stream, on a busy machine


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    with Provider(tmp_path_factory.mktemp("provider")) as running:
        yield running


def is_token(event: dict) -> bool:
    return event["type"] == "text"


async def ended(relay: Relay, within_s: float) -> int:
    return await asyncio.to_thread(relay.wait, within_s)


async def test_a_running_stream_finishes_and_nothing_new_begins(tmp_path: Path, provider: Provider) -> None:
    with Relay(tmp_path, provider.url) as relay:
        async with NativeStream(relay.port, ask("sim/story?tokens=60&tokens_per_s=30")) as stream, Connection(relay.port) as monitor:
            assert (await monitor.call("GET", "/readyz")).status == 200
            await stream.until(is_token)
            relay.send(signal.SIGTERM)
            told_at = time.monotonic()
            while (answer := await monitor.call("GET", "/readyz")).status == 200:
                assert time.monotonic() - told_at < 1.0
            assert (answer.status, answer.json()) == (503, {"status": "draining"})
            with pytest.raises(OSError):
                await asyncio.open_connection("127.0.0.1", relay.port)
            end = await stream.to_end()
        assert (end["type"], end["finish_reason"]) == ("stream_end", "stop")
        assert end["usage"]["output_tokens"] == 60
        over_at = time.monotonic()
        assert await ended(relay, 10) == 0
        assert time.monotonic() - over_at < FLUSH_S


async def test_a_new_stream_on_an_open_connection_is_refused_while_draining(tmp_path: Path, provider: Provider) -> None:
    with Relay(tmp_path, provider.url) as relay:
        async with NativeStream(relay.port, ask("sim/story?tokens_per_s=100")) as stream, Connection(relay.port) as other:
            assert (await other.call("GET", "/readyz")).status == 200
            await stream.until(is_token)
            relay.send(signal.SIGTERM)
            while (await other.call("GET", "/readyz")).status == 200:
                pass
            answer = await other.call("POST", "/v1/chat/stream", b'{"model":"sim/quick","messages":[{"role":"user","content":"hi"}]}')
            assert answer.status == 503
            assert answer.json()["error"]["code"] == "server_shutdown"
            assert answer.json()["error"]["retryable"] is True
            assert "retry-after" in answer.headers


async def test_what_has_not_finished_at_the_drain_timeout_ends_with_an_error(tmp_path: Path, provider: Provider) -> None:
    models = ("sim/endless?tokens_per_s=30", "sim/quick?first_token_s=60", "sim/slow_headers?headers_s=60")
    with Relay(tmp_path, provider.url, server="drain_timeout_s = 1") as relay:
        streams = [NativeStream(relay.port, ask(model)) for model in models]
        async with all_open(streams):
            await streams[0].until(is_token)
            relay.send(signal.SIGTERM)
            told_at = time.monotonic()
            ends = await asyncio.gather(*(stream.to_end() for stream in streams))
            assert 0.8 < time.monotonic() - told_at < 1.0 + FLUSH_S
        assert {(end["type"], end["code"], end["retryable"]) for end in ends} == {("error", "server_shutdown", True)}
        assert [end["partial"] for end in ends] == [True, False, False]
        assert await ended(relay, 10) == 0
        assert time.monotonic() - told_at < 1.0 + FLUSH_S


async def test_a_second_signal_ends_all_at_once_and_still_says_why(tmp_path: Path, provider: Provider) -> None:
    with Relay(tmp_path, provider.url) as relay:
        streams = [NativeStream(relay.port, ask("sim/endless?tokens_per_s=30")) for _ in range(20)]
        async with all_open(streams):
            await asyncio.gather(*(stream.until(is_token) for stream in streams))
            relay.send(signal.SIGTERM)
            await streams[0].until(is_token)  # it goes on
            relay.send(signal.SIGTERM)
            told_at = time.monotonic()
            ends = await asyncio.gather(*(stream.to_end() for stream in streams))
            assert time.monotonic() - told_at < 1.0
        assert {(end["type"], end["code"], end["retryable"]) for end in ends} == {("error", "server_shutdown", True)}
        assert await ended(relay, 10) == 0
        assert time.monotonic() - told_at < FLUSH_S
    assert await asyncio.to_thread(wait_for, lambda: provider.stats()["totals"]["open"] == 0, "the provider is left")


async def test_without_streams_it_ends_at_once(tmp_path: Path, provider: Provider) -> None:
    with Relay(tmp_path, provider.url) as relay:
        async with Connection(relay.port) as idle:
            await idle.call("GET", "/healthz")
            relay.send(signal.SIGTERM)
            told_at = time.monotonic()
            assert await ended(relay, 10) == 0
            assert time.monotonic() - told_at < 2.0


async def test_a_reader_that_takes_nothing_does_not_hold_up_the_end(tmp_path: Path, provider: Provider) -> None:
    with Relay(tmp_path, provider.url, server="drain_timeout_s = 0.5") as relay:
        async with NativeStream(relay.port, ask("sim/endless?tokens_per_s=0")) as stream:
            stream.writer.transport.pause_reading()
            relay.send(signal.SIGTERM)
            told_at = time.monotonic()
            assert await ended(relay, 10) == 0
            assert time.monotonic() - told_at < 0.5 + FLUSH_S


async def test_a_kill_is_a_transport_error_at_once(tmp_path: Path, provider: Provider) -> None:
    with Relay(tmp_path, provider.url) as relay:
        async with NativeStream(relay.port, ask("sim/endless?tokens_per_s=30")) as stream:
            await stream.until(is_token)
            relay.send(signal.SIGKILL)
            told_at = time.monotonic()
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await stream.to_end()
            assert time.monotonic() - told_at < 1.0
            assert not stream.done
