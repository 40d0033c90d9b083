"""From what was reported to the error that is raised: every code, every status, every exception of httpx2."""

import httpx2
import pytest

from headrace.client.failures import RelayFailure, error_of_code, error_of_event, keep_reply, refusal, reply_of
from headrace.client.port import DROPS, dropped
from headrace.errors import HeadraceError, TooManyStreams, UpstreamIdle, all_codes
from headrace.protocol import events as ev
from headrace.protocol.accumulate import Accumulator

# A program that makes these has a bug, or uses httpx2 in ways in which this client does not.
NOT_DROPS = {
    httpx2.HTTPError,
    httpx2.RequestError,
    httpx2.TransportError,
    httpx2.TimeoutException,
    httpx2.NetworkError,
    httpx2.ProtocolError,
    httpx2.LocalProtocolError,
    httpx2.UnsupportedProtocol,
    httpx2.TooManyRedirects,
    httpx2.HTTPStatusError,
    httpx2.SSEError,
}


def subclasses(cls: type) -> set[type]:
    return {cls}.union(*(subclasses(sub) for sub in cls.__subclasses__()))


def test_every_exception_of_httpx2_is_a_drop_or_known_not_to_be() -> None:
    assert {cls for cls in subclasses(httpx2.HTTPError) if cls.__module__.startswith("httpx2")} == NOT_DROPS | set(DROPS)


@pytest.mark.parametrize(("cls", "reason"), DROPS.items())
def test_a_drop_says_why(cls: type[httpx2.RequestError], reason: str) -> None:
    drop = dropped(cls("All is lost."))
    assert drop is not None
    assert (drop.reason, drop.detail) == (reason, "all is lost")


def test_a_drop_says_what_the_system_said() -> None:
    error = httpx2.ConnectError("All connection attempts failed")
    error.__cause__ = OSError("Multiple exceptions")
    error.__cause__.__context__ = ConnectionRefusedError(111, "Connection refused")
    drop = dropped(error)
    assert drop is not None
    assert drop.detail == "connection refused"
    silent = dropped(httpx2.ReadTimeout(""))
    assert silent is not None
    assert silent.detail == "ReadTimeout"


@pytest.mark.parametrize(("code", "cls"), sorted(all_codes().items()))
def test_every_code_becomes_its_class(code: str, cls: type[HeadraceError]) -> None:
    error = error_of_code(code, "What was said.", retryable=not cls.retryable, field="model", retry_after_s=2.0)
    assert type(error) is cls
    assert (error.code, error.public_message, error.field, error.retry_after_s) == (code, "What was said.", "model", 2.0)
    assert error.retryable is not cls.retryable, "what was reported beats what this version would say"


def test_a_code_without_a_class_is_kept() -> None:
    error = error_of_code("from_the_future", "Hm.", retryable=True, status=599)
    assert type(error) is RelayFailure
    assert (error.code, error.status, error.retryable, str(error)) == ("from_the_future", 599, True, "from_the_future: Hm.")
    assert (RelayFailure().code, RelayFailure.code) == ("relay_failure", "relay_failure")


def test_a_message_of_any_length_is_bounded() -> None:
    assert len(error_of_code("unauthorized", "x" * 10**6).public_message) == 500


def test_an_error_event_becomes_its_error() -> None:
    event = ev.Error(code="upstream_idle", message="Quiet.", retryable=False, partial=True, retry_after_seconds=4)
    error = error_of_event(event)
    assert type(error) is UpstreamIdle
    assert (error.public_message, error.retryable, error.retry_after_s) == ("Quiet.", False, 4)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": " 0 "}, 0.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:10 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, 10.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:27:00 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, 0.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:10 GMT"}, None),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:10", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "٣"}, None),
        ({}, None),
    ],
)
def test_retry_after_in_every_form(headers: dict[str, str], seconds: float | None) -> None:
    assert refusal(429, headers, b"", url="http://relay.test/x").error.retry_after_s == seconds


def test_the_body_knows_better_than_the_header() -> None:
    body = b'{"error":{"code":"too_many_streams","message":"Later.","retryable":true,"retry_after_seconds":0.5}}'
    refused = refusal(429, {"retry-after": "1"}, body, url="http://relay.test/x")
    assert type(refused.error) is TooManyStreams
    assert (refused.error.retry_after_s, refused.retryable) == (0.5, True)


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b"[]", b'{"error":"no"}', b'{"error":{}}', b"\xff\xfe", b"[" * 60_000])
def test_a_body_that_is_not_the_relays_is_judged_by_its_status(body: bytes) -> None:
    refused = refusal(502, {}, body, url="http://relay.test/x")
    assert (refused.error.code, refused.retryable) == ("http_502", True)
    assert "http://relay.test/x" in refused.error.public_message
    assert not refusal(500, {}, body, url="http://relay.test/x").retryable


def test_an_error_carries_the_reply() -> None:
    error, reply = HeadraceError(), Accumulator()
    assert reply_of(error) is None
    assert reply_of(keep_reply(error, reply)) is reply is error.reply  # type: ignore[attr-defined]
