"""What operators see, and what they must never see."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from engine.guards import until
from engine.peers import CHUNKED, LAST_CHUNK, Listener, chunk, chunked, head, sized
from engine.wires import OPENAI, data
from headrace.server import observe
from headrace.server.observe import Observatory
from server.served import Served, chat_body

PLAIN_KEY = "4f9d0c71b2a84e55a1b2c3d4e5f60718"  # like no vendor's: only who has it can know that it is one
Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines(capfd: pytest.CaptureFixture[str]) -> Lines:
    """What was logged, as JSON; a line that is none fails."""
    seen = ""

    def read() -> list[dict[str, Any]]:
        nonlocal seen
        seen += capfd.readouterr().err
        return [json.loads(line) for line in seen.splitlines()]

    return read


async def metrics(relay: Served) -> str:
    answer = await relay.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return answer.body.decode()


def sample(text: str, name: str, **labels: str) -> float:
    """Return the value of the one series of `name` that has these labels."""
    found = [
        float(value)
        for given, value in re.findall(rf"^{name}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE)
        if all(f'{label}="{wanted}"' in given for label, wanted in labels.items())
    ]
    assert len(found) == 1, f"{name} {labels}: {len(found)} series"
    return found[0]


# --- the log ---------------------------------------------------------------------------------------------------------------


async def test_one_line_at_the_end_of_a_stream(lines: Lines, serve: Any, listener: Listener) -> None:
    relay = await serve()
    connection = await relay.chat("p/m", "x-request-id: mine-1")
    peer = await listener.accept()
    await peer.request()
    peer.send(chunked(OPENAI.whole))
    body = await connection.body()

    (line,) = lines()
    assert line.pop("timestamp")[:2] == "20"
    for measured in ("ttft_ms", "tpot_ms", "queue_ms", "duration_ms"):
        assert 0 <= line.pop(measured) < 10_000
    assert line == {
        "event": "stream_end",
        "level": "info",
        "stream_id": connection.headers["x-stream-id"],
        "request_id": "mine-1",
        "surface": "native",
        "provider": "p",
        "model": "m",
        "reason": "tool_calls",
        "tokens": 5,
        "input_tokens": 9,
        "output_tokens": 7,
        "usage_source": "provider",
        "attempts": 1,
        "bytes_in": len(OPENAI.whole),
        "bytes_out": len(body),
        "readers": 1,
        "tool_calls": [{"name": "weather", "fragments": 2, "parses": 1}],
    }


async def test_a_stop_in_the_log(lines: Lines, serve: Any, listener: Listener) -> None:
    relay = await serve()
    connection = await relay.chat("p/m")
    peer = await listener.accept()
    await peer.request()
    peer.send(head(CHUNKED), chunk(OPENAI.until("text")))
    await connection.until(b"dich")
    path = f"/v1/streams/{connection.headers['x-stream-id']}/cancel"
    for _ in range(3):
        await relay.post(path)

    (line,) = lines()
    assert (line["reason"], line["cause"], line["level"], line["tokens"]) == ("cancelled", "user", "info", 3)
    assert 0 <= line["cancel_ms"] < 1000
    assert line["usage_source"] == "estimated"


async def test_an_error_in_the_log(lines: Lines, serve: Any, listener: Listener) -> None:
    relay = await serve()
    connection = await relay.chat("p/m")
    peer = await listener.accept()
    await peer.request()
    peer.send(sized(b'{"error":{"message":"quota used up"}}', status=429))
    await connection.body()

    (line,) = lines()
    assert (line["reason"], line["level"]) == ("upstream_rate_limited", "warning")
    assert "HTTP 429" in line["detail"]
    assert "quota used up" in line["detail"]


async def test_a_reader_that_was_closed_for_being_slow_in_the_log(lines: Lines, serve: Any, listener: Listener) -> None:
    relay = await serve(stream={"slow_reader_s": 0.05})
    connection = await relay.chat("p/m", on_disconnect="continue")
    connection.reader._transport.pause_reading()
    (stream,) = relay.relay.streams.live()
    peer = await listener.accept()
    await peer.request()
    peer.send(head(CHUNKED))
    piece = chunk(b'data: {"choices":[{"index":0,"delta":{"content":"' + b"x" * 10_000 + b'"}}]}\n\n')
    while stream.readers:
        await until(lambda: peer._writable.is_set() or not stream.readers)
        peer.send(piece)
        await until(lambda: True)
    stream.cancel("user")

    slow, end = lines()
    assert (slow["event"], slow["level"], slow["stream_id"]) == ("slow_consumer", "warning", stream.id)
    assert end["event"] == "stream_end"


@pytest.mark.parametrize("log_format", ["json", "text"])
async def test_nothing_from_a_caller_makes_a_line_or_a_colour_of_its_own(
    capfd: pytest.CaptureFixture[str], serve: Any, listener: Listener, log_format: str
) -> None:
    relay = await serve(server={"cors_origins": []})
    relay.relay.observatory = relay.relay.streams.observer = Observatory(log_format)
    evil = 'm\n{"event":"stream_end","reason":"stop"}\r\x1b[31m\u2028\u202eevil'
    connection = await relay.chat(f"p/{evil}")
    peer = await listener.accept()
    await peer.request()
    peer.send(sized(json.dumps({"error": {"message": evil}}).encode(), status=400))
    await connection.body()

    logged = capfd.readouterr().err
    assert logged.count("\n") == 1
    assert not set(logged) & set("\x1b\r")


async def test_a_log_that_cannot_be_written_stops_nothing(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    relay = await serve()

    class Full:
        def __getattr__(self, name: str) -> Any:
            def fails(*_: Any, **__: Any) -> None:
                raise OSError(28, "No space left on device")

            return fails

    monkeypatch.setattr(relay.relay.observatory, "log", Full())
    for _ in range(3):
        connection = await relay.chat()
        assert (await connection.body()).endswith(b"data: [DONE]\n\n")
    assert relay.relay.streams.running == 0


# --- metrics ---------------------------------------------------------------------------------------------------------------

NAMES = {
    "gen_ai_server_time_to_first_token_seconds",
    "gen_ai_server_time_per_output_token_seconds",
    "gen_ai_server_request_duration_seconds",
    "gen_ai_client_operation_duration_seconds",
    "gen_ai_client_operation_time_to_first_chunk_seconds",
    "gen_ai_client_token_usage",
    "headrace_cancel_duration_seconds",
    "headrace_queue_duration_seconds",
    "headrace_streams_ended_total",
    "headrace_upstream_retries_total",
    "headrace_readers_closed_total",
    "headrace_streams_in_flight",
    "headrace_retained_bytes",
    "headrace_readers",
    "headrace_upstream_connections_open",
    "headrace_upstream_connections_idle",
}


async def test_every_metric_and_no_other(relay: Served) -> None:
    families = re.findall(r"^# TYPE (\S+) (\S+)$", await metrics(relay), re.MULTILINE)

    assert {name for name, _ in families if not name.endswith("_created")} == NAMES


async def test_what_a_stream_leaves_in_the_metrics(relay: Served, listener: Listener) -> None:
    connection = await relay.chat("p/m")
    peer = await listener.accept()
    await peer.request()
    during = await metrics(relay)
    assert (sample(during, "headrace_streams_in_flight"), sample(during, "headrace_readers")) == (1, 1)
    peer.send(chunked(OPENAI.whole))
    await connection.body()
    await until(lambda: relay.relay.streams.pool.statistics()["idle"] == 1)

    after = await metrics(relay)
    labels = {"gen_ai_operation_name": "chat", "gen_ai_provider_name": "p", "gen_ai_request_model": "m"}
    assert sample(after, "headrace_streams_ended_total", reason="tool_calls", **labels) == 1
    for name in (
        "gen_ai_server_time_to_first_token_seconds",
        "gen_ai_server_time_per_output_token_seconds",
        "gen_ai_client_operation_time_to_first_chunk_seconds",
        "headrace_queue_duration_seconds",
    ):
        assert sample(after, f"{name}_count", **labels) == 1
    for name in ("gen_ai_server_request_duration_seconds", "gen_ai_client_operation_duration_seconds"):
        assert sample(after, f"{name}_count", error_type="", **labels) == 1
    assert sample(after, "gen_ai_client_token_usage_sum", gen_ai_token_type="output", **labels) == 7
    assert sample(after, "gen_ai_client_token_usage_sum", gen_ai_token_type="input", **labels) == 9
    assert sample(after, "headrace_streams_in_flight") == 0
    assert (sample(after, "headrace_upstream_connections_open"), sample(after, "headrace_upstream_connections_idle")) == (1, 1)
    assert sample(after, "headrace_retained_bytes") > 0


async def test_errors_stops_and_leavings_are_counted_by_their_reason(relay: Served, listener: Listener) -> None:
    failed = await relay.chat("p/m")
    peer = await listener.accept()
    await peer.request()
    peer.fin()
    await failed.body()
    stopped = await relay.chat("p/m")
    await (await listener.accept()).request()
    await relay.post(f"/v1/streams/{stopped.headers['x-stream-id']}/cancel")
    left = await relay.chat("p/m")
    left.writer.transport.abort()
    await until(lambda: not any(stream.readers for stream in relay.relay.streams.live()))

    text = await metrics(relay)
    assert sample(text, "headrace_streams_ended_total", reason="upstream_connect") == 1
    assert sample(text, "headrace_streams_ended_total", reason="cancelled") == 1
    assert sample(text, "gen_ai_server_request_duration_seconds_count", error_type="upstream_connect") == 1
    assert sample(text, "headrace_cancel_duration_seconds_count", cause="user") == 1
    assert sample(text, "headrace_readers_closed_total", reason="disconnected") >= 1
    assert sample(text, "headrace_streams_in_flight") == 1


async def test_callers_cannot_make_labels_without_end(relay: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observe, "MODEL_LABELS_MAX", 5)
    for n in range(12):
        await (await relay.chat(f"simulator/quick?tokens=1&first_token_s=0&seed={n}")).body()

    text = await metrics(relay)
    models = set(re.findall(r'gen_ai_request_model="([^"]*)"', text))
    assert len(models) == 6
    assert sample(text, "headrace_streams_ended_total", gen_ai_request_model="_OTHER") == 7


# --- keys ------------------------------------------------------------------------------------------------------------------


def echoes(key: str) -> list[bytes]:
    """What a provider may say that repeats the key it was sent."""
    message = f"Incorrect API key provided: {key}. You can find yours at https://example.com."
    error = json.dumps({"error": {"message": message, "type": "invalid_request_error", "code": key}}).encode()
    text = b"".join(list(OPENAI.pieces("a"))[:-1])
    return [
        *(sized(error, status=status) for status in (400, 401, 403, 404, 429, 500, 529)),
        sized(error),
        sized(f"<html><title>{key}</title>bad token {key}</html>".encode(), status=502, content_type="text/html"),
        sized(f"unknown {key}".encode(), status=418, content_type="text/plain"),
        sized(b"", f"location: https://x/?key={key}", f"x-key: {key}", status=302),
        chunked(data({"error": {"message": message, "code": 500}})),
        chunked(text + data({"error": {"message": message, "code": 500}})),
        chunked(text + data({"error": message}, "error")),
        chunked(b"data: " + key.encode() + b"\n\n"),
        f"{key}\r\n\r\n".encode(),
        head(CHUNKED, f"content-encoding: {key}", "connection: close") + LAST_CHUNK,
    ]


@pytest.mark.parametrize("key", ["sk-canary-3f9d0c71b2a84e55", PLAIN_KEY], ids=["like a vendor's", "like nobody's"])
async def test_a_key_that_a_provider_repeats_is_seen_nowhere(
    capfd: pytest.CaptureFixture[str], serve: Any, listener: Listener, key: str
) -> None:
    relay = await serve(api_key=key, headers={"x-second-key": "second-" + key[::-1]})
    seen = b""
    for answer in [*echoes(key), *echoes("second-" + key[::-1])]:
        connection = await relay.chat("p/m")
        peer = listener.peers[-1] if listener.peers and not listener.peers[-1].left.is_set() else None
        await until(lambda peer=peer: (peer is not None and peer.received) or listener._waiting.qsize())
        peer = peer if peer is not None and peer.received else await listener.accept()
        assert key.encode() in await peer.request()  # it goes to the provider, of course
        peer.send(answer)
        peer.fin()
        await peer.gone()
        seen += await connection.body()
        seen += (await relay.get(f"/v1/streams/{connection.headers['x-stream-id']}")).body
        seen += json.dumps(connection.headers).encode()
    seen += (await relay.get("/metrics")).body
    logged = capfd.readouterr().err

    for secret in (key, key[::-1]):
        assert secret not in logged
        assert secret.encode() not in seen


async def test_what_users_say_is_in_no_log_and_no_metric(capfd: pytest.CaptureFixture[str], serve: Any, listener: Listener) -> None:
    relay = await serve()
    for answer in (OPENAI.plain("a private answer"), b"data: {broken\n\n"):
        connection = await relay.start("POST", "/v1/chat/stream", chat_body("p/m", system="a private rule", metadata={"a": "private"}))
        peer = listener.peers[-1] if listener.peers else await listener.accept()
        await peer.request()
        peer.send(chunked(answer))
        await connection.answer()
    await relay.ask("POST", "/v1/chat/stream", b'{"messages":[{"role":"user","content":{"private":1}}]}')

    assert "private" not in capfd.readouterr().err + await metrics(relay)
