"""Attempts: what is tried again and what is not, fallbacks, stale connections, and what every odd answer is called."""

import asyncio
import json
import time
from email.utils import formatdate

import pytest

from engine.guards import turns, until
from engine.peers import CHUNKED, LAST_CHUNK, Listener, Peer, chunk, chunked, head, sized
from engine.rig import Clock, FakeSink, Rig
from engine.wires import ANTHROPIC, DONE, OPENAI, Wire, data
from headrace.engine.provider import Target
from headrace.engine.stream import Stream
from headrace.policy.admission import Line
from headrace.policy.retry import RetryPolicy
from headrace.protocol import events as ev

TRYING = RetryPolicy(attempts_max=3, backoff_s=0.0)
Answer = bytes | type[ConnectionError] | None
HELLO = OPENAI.plain("Hello")


class Provider:
    """Answers each request with the next of `answers`; bytes are sent, None is a FIN, an exception a RST."""

    def __init__(self, listener: Listener, *answers: Answer) -> None:
        self.requests: list[bytes] = []
        self.times: list[float] = []
        self._listener = listener
        self._answers = list(answers)
        self._task = asyncio.create_task(self._serve())

    async def _serve(self) -> None:
        peers: list[asyncio.Task[None]] = []
        try:
            while True:
                peers.append(asyncio.create_task(self._talk(await self._next())))
        finally:
            for peer in peers:
                peer.cancel()

    async def _next(self) -> Peer:
        while True:
            try:
                return await self._listener.accept()
            except TimeoutError:
                continue

    async def _talk(self, peer: Peer) -> None:
        while self._answers:
            try:
                self.requests.append(await peer.request())
            except (AssertionError, TimeoutError):
                return
            self.times.append(time.monotonic())
            answer = self._answers.pop(0)
            if answer is None:
                peer.fin()
            elif isinstance(answer, bytes):
                peer.send(answer)
            else:
                peer.rst()

    async def aclose(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def answered(rig: Rig, *answers: Answer, target: list[Target] | None = None) -> tuple[Stream, FakeSink, Provider]:
    """Let a provider give these answers to one stream, and wait for its end."""
    provider = Provider(rig.listener, *answers)
    try:
        stream = rig.ask(target or rig.provider())
        sink = rig.read(stream)
        await rig.ended(stream)
    finally:
        await provider.aclose()
    return stream, sink, provider


def refusal(status: int, *headers: str, message: str = "not now", **error: object) -> bytes:
    return sized(json.dumps({"error": {"message": message, **error}}).encode(), *headers, status=status)


def ok(body: bytes = HELLO) -> bytes:
    return chunked(body)


# --- before the first content ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 529])
async def test_a_status_that_may_pass_is_tried_again(rig: Rig, status: int) -> None:
    rig.set(retry=TRYING)

    _, sink, provider = await answered(rig, refusal(status), refusal(status), ok())

    assert sink.text == "Hello"
    assert sink.end["finish_reason"] == "stop"
    assert sink.end["metrics"]["attempts"] == 3
    assert [event["code"] for event in sink.events if event["type"] == "notice"] == ["retrying", "retrying"]
    assert len(provider.requests) == 3
    assert len(set(provider.requests)) == 1
    sink.assert_gapless()


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
async def test_a_status_that_stays_is_not(rig: Rig, status: int) -> None:
    rig.set(retry=TRYING)

    _, sink, provider = await answered(rig, refusal(status))

    assert len(provider.requests) == 1
    assert sink.types == ["stream_start", "error"]
    assert sink.end["retryable"] is False


@pytest.mark.parametrize("failure", [None, ConnectionResetError], ids=["fin", "rst"])
async def test_a_connection_that_dies_without_an_answer_is_tried_again(rig: Rig, failure: Answer) -> None:
    rig.set(retry=TRYING)

    _, sink, _ = await answered(rig, failure, failure, ok())

    assert sink.text == "Hello"
    assert sink.end["metrics"]["attempts"] == 3


async def test_attempts_are_counted_and_end(rig: Rig) -> None:
    rig.set(retry=TRYING)

    _, sink, provider = await answered(rig, *[refusal(529, message="Overloaded")] * 5)

    assert len(provider.requests) == 3
    end = sink.end
    assert (end["code"], end["message"], end["retryable"], end["partial"]) == ("upstream_overloaded", "Overloaded", True, False)


@pytest.mark.parametrize(
    ("header", "asked_s"),
    [
        ("retry-after: 7", 7.0),
        ("retry-after: 0", 0.0),
        ("retry-after-ms: 2500", 2.5),
        ("Retry-After: 3.5", 3.5),
        ("retry-after: soon", 0.0),
    ],
)
async def test_the_provider_says_how_long_to_wait(rig: Rig, clock: Clock, header: str, asked_s: float) -> None:
    rig.set(retry=TRYING)
    provider = Provider(rig.listener, refusal(429, header), ok())
    stream = rig.ask()
    sink = rig.read(stream)
    await until(lambda: "notice" in sink.types)
    if asked_s:
        await clock.jump(asked_s - 0.2)
        assert len(provider.requests) == 1
        await clock.jump(0.2)
    await rig.ended(stream)
    await provider.aclose()

    assert sink.text == "Hello"


async def test_a_wait_until_a_date(rig: Rig, clock: Clock) -> None:
    rig.set(retry=TRYING)
    provider = Provider(rig.listener, refusal(429, f"retry-after: {formatdate(time.time() + 8, usegmt=True)}"), ok())
    stream = rig.ask()
    sink = rig.read(stream)
    await until(lambda: "notice" in sink.types)
    await clock.jump(5)
    assert len(provider.requests) == 1
    await clock.jump(4)
    await rig.ended(stream)
    await provider.aclose()

    assert sink.text == "Hello"


async def test_a_wait_that_is_too_long_is_passed_on_to_whoever_asked(rig: Rig) -> None:
    rig.set(retry=TRYING)

    _, sink, provider = await answered(rig, refusal(429, "retry-after: 3600"))

    assert len(provider.requests) == 1
    assert (sink.end["code"], sink.end["retry_after_seconds"]) == ("upstream_rate_limited", 3600)


ERRORS_IN_200 = {
    "an error event": data({"error": {"message": "overloaded", "type": "overloaded_error"}}, "error"),
    "an error chunk": data({"error": {"message": "overloaded", "code": 503}}),
    "an error beside choices": data({"error": {"message": "overloaded", "code": 503}, "choices": [{"delta": {}}]}) + DONE,
    "usage first": data({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 0}})
    + data({"error": {"message": "overloaded", "code": 503}}),
}


@pytest.mark.parametrize("shape", ERRORS_IN_200)
async def test_an_error_inside_a_200_before_any_content_is_tried_again(rig: Rig, shape: str) -> None:
    rig.set(retry=TRYING)

    _, sink, provider = await answered(rig, ok(ERRORS_IN_200[shape]), ok())

    assert len(provider.requests) == 2
    assert sink.text == "Hello"
    assert sink.end["finish_reason"] == "stop"


@pytest.mark.parametrize("shape", ERRORS_IN_200)
async def test_an_error_inside_a_200_behind_content_is_the_end(rig: Rig, shape: str) -> None:
    rig.set(retry=TRYING)
    body = b"".join(list(OPENAI.pieces("Hel", "lo"))[:-1])

    _, sink, provider = await answered(rig, ok(body + ERRORS_IN_200[shape] + OPENAI.plain("never seen")))

    assert len(provider.requests) == 1
    assert sink.text == "Hello"
    assert (sink.end["code"], sink.end["partial"]) == ("upstream_overloaded", True)
    assert sink.types[-2:] == ["block_end", "error"]


@pytest.mark.parametrize("begun", ["thinking", "text", "tool_arguments"])
async def test_nothing_is_tried_again_once_content_was_relayed(rig: Rig, wire: Wire, begun: str) -> None:
    rig.set(retry=TRYING)
    stream, sink, peer = await rig.begin(wire.dialect)
    peer.send(head(CHUNKED), chunk(wire.until(begun)))
    await until(lambda: stream.has_content)
    peer.fin()
    await rig.ended(stream)

    assert (sink.end["code"], sink.end["partial"], sink.end["retryable"]) == ("upstream_truncated", True, True)
    assert rig.listener.accepted == 1
    assert sink.types.count("stream_start") == 1


# --- fallback ------------------------------------------------------------------------------------------------------------


async def test_the_next_target_answers_when_the_first_cannot(rig: Rig) -> None:
    rig.set(retry=TRYING)
    first, second = rig.provider(name="first"), rig.provider("anthropic", name="second")
    stream, sink, provider = await answered(
        rig, *[refusal(529)] * 3, chunked(ANTHROPIC.plain("Salut")), target=[Target(first, "big"), Target(second, "small")]
    )

    assert sink.text == "Salut"
    assert [event["code"] for event in sink.events if event["type"] == "notice"] == ["retrying", "retrying", "fallback_model"]
    assert stream.target == Target(second, "small")
    assert b'"model":"small"' in provider.requests[3]
    assert provider.requests[3].startswith(b"POST /v1/messages ")
    assert b"/v1/chat/completions" in provider.requests[0]


@pytest.mark.parametrize(("status", "falls_back"), [(400, False), (401, True), (403, True), (404, False), (422, False), (500, True)])
async def test_which_refusals_another_target_may_answer(rig: Rig, status: int, falls_back: bool) -> None:
    targets = [Target(rig.provider(), "a"), Target(rig.provider(), "b")]

    _, sink, provider = await answered(rig, refusal(status), ok(), target=targets)

    assert len(provider.requests) == (2 if falls_back else 1)
    assert sink.end["type"] == ("stream_end" if falls_back else "error")


async def test_when_every_target_fails_the_last_one_s_error_is_told(rig: Rig) -> None:
    targets = [Target(rig.provider(), "a"), Target(rig.provider(), "b")]

    _, sink, _ = await answered(rig, refusal(529, message="first"), refusal(500, message="second"), target=targets)

    assert (sink.end["code"], sink.end["message"]) == ("upstream_error", "second")


# --- stale connections ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_a_stale_connection_is_replaced_once_and_nobody_hears_of_it(rig: Rig, how: str) -> None:
    """The provider closes the idle connection in the moment in which a request goes out on it."""
    provider = rig.provider()
    first = rig.ask(provider)
    rig.read(first)
    peer = await rig.listener.accept()
    await peer.request()
    peer.send(ok())
    await rig.ended(first)
    await until(lambda: rig.pool.statistics()["idle"] == 1)

    second = rig.ask(provider)
    sink = rig.read(second)
    await peer.request()
    getattr(peer, how)()
    fresh = await rig.listener.accept()
    await fresh.request()
    fresh.send(ok())
    await rig.ended(second)

    assert sink.text == "Hello"
    assert sink.end["metrics"]["attempts"] == 1
    assert "notice" not in sink.types


async def test_a_new_connection_that_dies_is_an_attempt_that_failed(rig: Rig) -> None:
    _, sink, provider = await answered(rig, None, ok())

    assert len(provider.requests) == 1
    assert (sink.end["code"], sink.end["partial"]) == ("upstream_connect", False)


async def test_a_pooled_connection_that_gave_half_an_answer_is_not_stale(rig: Rig) -> None:
    provider = rig.provider()
    first = rig.ask(provider)
    rig.read(first)
    peer = await rig.listener.accept()
    await peer.request()
    peer.send(ok())
    await rig.ended(first)

    second = rig.ask(provider)
    sink = rig.read(second)
    await peer.request()
    peer.send(head(CHUNKED)[:20])
    await turns()
    peer.fin()
    await rig.ended(second)

    assert sink.end["code"] == "upstream_connect"
    assert rig.listener.accepted == 1


async def test_connections_are_kept_between_streams(rig: Rig, wire: Wire) -> None:
    provider = rig.provider(wire.dialect)
    peer = None
    for n in range(5):
        stream = rig.ask(provider)
        sink = rig.read(stream)
        peer = peer or await rig.listener.accept()
        await peer.request()
        peer.send(chunked(wire.plain(f"answer {n}")))
        await rig.ended(stream)
        assert sink.text == f"answer {n}"
        await until(lambda: rig.pool.statistics()["idle"] == 1)
    assert rig.listener.accepted == 1


# --- what odd answers are called ------------------------------------------------------------------------------------------------

PAGE = b"<!doctype html><html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (refusal(400), "upstream_rejected"),
        (refusal(401), "upstream_auth"),
        (refusal(403), "upstream_auth"),
        (refusal(404), "upstream_rejected"),
        (refusal(422), "upstream_rejected"),
        (refusal(429), "upstream_rate_limited"),
        (refusal(500), "upstream_error"),
        (refusal(502), "upstream_error"),
        (refusal(503), "upstream_overloaded"),
        (refusal(529), "upstream_overloaded"),
        (sized(b"", status=500), "upstream_error"),
        (sized(PAGE, status=502, content_type="text/html"), "upstream_error"),
        (sized(PAGE, content_type="text/html"), "upstream_protocol"),
        (sized(b'{"error":{"message":"no","type":"server_error"}}'), "upstream_protocol"),
        (sized(b'{"id":"x","choices":[{"message":{"content":"not streamed"}}]}'), "upstream_protocol"),
        (sized(b"", content_type="text/event-stream"), "upstream_truncated"),
        (sized(PAGE, content_type="text/event-stream"), "upstream_protocol"),
        (sized(b"data: {not json\n\n", content_type="text/event-stream"), "upstream_protocol"),
        (sized(b"", "location: http://169.254.169.254/", status=302), "upstream_rejected"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "upstream_rejected"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "upstream_protocol"),
        (head(CHUNKED) + b"zz\r\n", "upstream_truncated"),
    ],
)
async def test_every_answer_that_is_no_stream_has_its_name(rig: Rig, answer: bytes, code: str) -> None:
    _, sink, _ = await answered(rig, answer)

    assert sink.types == ["stream_start", "error"]
    assert sink.end["code"] == code
    assert sink.end["message"]
    assert "<" not in sink.end["message"]


async def test_a_refused_connection_has_its_name(rig: Rig) -> None:
    async with Listener() as other:
        provider = rig.provider(address=other.address)
    stream = rig.ask(provider)
    sink = rig.read(stream)
    await rig.ended(stream)

    assert (sink.end["code"], sink.end["retryable"]) == ("upstream_connect", True)
    assert sink.end["message"] == "The provider could not be reached."


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(rig: Rig, status: int) -> None:
    async with Listener() as elsewhere:
        _, sink, provider = await answered(rig, sized(b"", f"location: {elsewhere.address}/v1/x", status=status))
        assert "redirect" in sink.end["message"]
        assert len(provider.requests) == 1
        await turns(50)
        assert elsewhere.accepted == 0


@pytest.mark.parametrize("status", [200, 500])
async def test_a_body_without_end_is_not_kept(rig: Rig, status: int) -> None:
    """A page that never stops: only its beginning is looked at."""
    stream, sink, peer = await rig.begin()
    peer.send(head(CHUNKED, status=status, content_type="text/html"))
    for _ in range(100):
        peer.send(chunk(b"<p>" * 10_000))
        await turns(2)
    await until(lambda: stream.bytes_in >= 3_000_000)
    assert stream.attempt is not None
    assert len(stream.attempt._error_body) <= 64 * 1024 + 256 * 1024

    peer.send(LAST_CHUNK)
    await rig.ended(stream)
    assert sink.end["code"] == ("upstream_protocol" if status == 200 else "upstream_error")


# --- what goes to the provider --------------------------------------------------------------------------------------------------


async def test_the_request_asks_for_a_stream_that_is_not_compressed(rig: Rig, wire: Wire) -> None:
    rig.ask(wire.dialect, text="Grüße")
    request = await (await rig.listener.accept()).request()
    request_head, body = request.split(b"\r\n\r\n", 1)

    assert json.loads(body)["stream"] is True
    assert "Grüße" in body.decode()
    lines = request_head.decode().split("\r\n")
    assert lines[0] == f"POST /v1/{'chat/completions' if wire.dialect == 'openai_chat' else 'messages'} HTTP/1.1"
    headers = dict(line.split(": ", 1) for line in lines[1:])
    assert headers["accept-encoding"] == "identity"
    assert headers["accept"] == "text/event-stream"
    assert headers["content-length"] == str(len(body))
    assert headers["x-request-id"] == "req_test"
    assert headers["host"] == f"127.0.0.1:{rig.listener.port}"
    key = headers["authorization"] if wire.dialect == "openai_chat" else headers["x-api-key"]
    assert key.endswith("sk-canary-0123456789")


# --- the line ---------------------------------------------------------------------------------------------------------------------


async def test_a_place_is_held_until_the_end_and_given_to_the_next(rig: Rig) -> None:
    provider = rig.provider(line=Line(1))
    streams = [rig.ask(provider, user=user) for user in "abc"]
    sinks = [rig.read(stream) for stream in streams]
    assert [sink.types for sink in sinks] == [["stream_start"], ["stream_start", "queue"], ["stream_start", "queue"]]
    peer = await rig.listener.accept()
    for n, stream in enumerate(streams):
        await peer.request()
        assert [s.status for s in streams[n + 1 :]] == ["queued"] * (2 - n)
        peer.send(ok())
        await rig.ended(stream)

    places = [[(event["position"], event["depth"]) for event in sink.events if event["type"] == "queue"] for sink in sinks]
    assert places == [[], [(1, 1), (0, 1)], [(2, 2), (1, 1), (0, 0)]]  # the last says that the wait is over
    assert all(isinstance(stream.end, ev.StreamEnd) for stream in streams)
    assert sinks[2].end["metrics"]["queue_ms"] > 0
    assert rig.listener.accepted == 1


async def test_a_stream_that_fails_frees_its_place_too(rig: Rig) -> None:
    provider = rig.provider(line=Line(1))
    first, second = rig.ask(provider), rig.ask(provider)
    sink = rig.read(second)
    peer = await rig.listener.accept()
    await peer.request()
    peer.fin()
    await rig.ended(first)

    again = await rig.listener.accept()
    await again.request()
    again.send(ok())
    await rig.ended(second)
    assert sink.text == "Hello"
