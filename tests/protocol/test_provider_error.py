"""Foreign errors: which class they are, and what of their words may be shown."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import UpstreamAuth, UpstreamError, UpstreamOverloaded, UpstreamRateLimited, UpstreamRejected
from headrace.protocol.provider_error import MESSAGE_CHARACTERS_MAX, body_message, error_class, error_event, public_text, read_error


@pytest.mark.parametrize(
    ("error", "message", "cls"),
    [
        ({"error": {"message": "m", "type": "server_error"}}, "m", UpstreamError),
        ({"error": {"message": "m", "type": "invalid_request_error", "code": "invalid_api_key"}}, "m", UpstreamAuth),
        ({"error": {"message": "m", "type": "invalid_request_error", "code": None, "param": "tools"}}, "m", UpstreamRejected),
        ({"error": {"message": "m", "type": "insufficient_quota"}}, "m", UpstreamRateLimited),
        ({"error": {"message": "m", "code": "rate_limit_exceeded"}}, "m", UpstreamRateLimited),
        ({"error": {"message": "m", "code": 429}}, "m", UpstreamRateLimited),
        ({"error": {"code": 503, "message": "m", "status": "UNAVAILABLE"}}, "m", UpstreamOverloaded),
        ([{"error": {"code": 400, "message": "m", "status": "INVALID_ARGUMENT"}}], "m", UpstreamRejected),
        ({"type": "error", "error": {"type": "overloaded_error", "message": "m"}}, "m", UpstreamOverloaded),
        ({"object": "error", "message": "m", "type": "BadRequestError", "code": 400}, "m", UpstreamRejected),
        ({"error": "m", "error_type": "validation"}, "m", UpstreamError),
        ({"error": "m", "status_code": 401}, "m", UpstreamAuth),
        ({"detail": [{"loc": ["body"], "msg": "m", "type": "missing"}]}, "m", UpstreamError),
        ({"errors": [{"code": 1000, "message": "m"}]}, "m", UpstreamError),
        ({"message": "m", "code": "500"}, "m", UpstreamError),
        ("m", "m", UpstreamError),
        ({"error": {"code": 500}}, None, UpstreamError),
        ({}, None, UpstreamError),
        (None, None, UpstreamError),
        (3, None, UpstreamError),
    ],
)
def test_the_shapes_of_errors(error: object, message: str | None, cls: type[UpstreamError]) -> None:
    found = read_error(error)
    assert (found.message, found.error_class()) == (message, cls)


@pytest.mark.parametrize(
    ("status", "cls"),
    [
        (400, UpstreamRejected),
        (401, UpstreamAuth),
        (403, UpstreamAuth),
        (404, UpstreamRejected),
        (422, UpstreamRejected),
        (429, UpstreamRateLimited),
        (500, UpstreamError),
        (503, UpstreamOverloaded),
        (529, UpstreamOverloaded),
        (None, UpstreamError),
    ],
)
def test_a_status_says_enough_where_there_are_no_words(status: int | None, cls: type[UpstreamError]) -> None:
    assert error_class((), status) is cls


def test_words_say_more_than_a_status() -> None:
    assert error_class(["overloaded_error"], 400) is UpstreamOverloaded


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("Incorrect API key provided: sk-proj-Ab12Cd34Ef56Gh78. You can find it", "Ab12Cd34"),
        ("Incorrect API key provided: sk-ab***********wxyz.", "wxyz"),
        ("invalid x-api-key sk-ant-api03-xYz_123-456789", "xYz_123"),
        ("header Authorization: Bearer abc.def-ghi was refused", "abc.def"),
        ("got bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln", "eyJ"),
        ("token eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl expired", "eyJ"),
        ("https://api.example/v1?key=AIzaSyD1234567890abcdefghi&alt=sse", "AIza"),
        ("API key not valid: AIzaSyD1234567890abcdefghi", "AIza"),
        ("gsk_abcdefgh12345678 is not allowed", "gsk_abc"),
        ("xai-abcdefgh12345678 and hf_abcdefgh12345678", "12345678"),
        ('{"api_key": "0123456789abcdef"}', "0123456789abcdef"),
        ("secret=hunter2hunter2", "hunter2"),
    ],
)
def test_what_looks_like_a_key_is_masked(text: str, secret: str) -> None:
    shown = public_text(text)
    assert secret not in shown
    assert "[masked]" in shown


@pytest.mark.parametrize(
    "text",
    [
        "max_tokens must be less than 8192",
        "Rate limit reached for gpt-5-mini in organization on tokens per min (TPM): Limit 30000, Used 29000",
        "Tool choice is required, but model did not call a tool",
        "The model `task-runner-1` does not exist (request id: req_011CeCGox9bj)",
        "1 < 2 and 3 > 2",
    ],
)
def test_plain_words_stay_as_they_are(text: str) -> None:
    assert public_text(text) == text


def test_html_becomes_its_words() -> None:
    head = "<!DOCTYPE html><html><head><title>502</title><style>p{}</style></head>"
    assert public_text(head + "<body><h1>Bad Gateway</h1><p>try &amp; again</p></body></html>") == "Bad Gateway try & again"
    assert public_text("<html><head><title>Just a moment</title></head><body></body></html>") == "Just a moment"


@given(st.text(max_size=2000))
def test_public_text_is_one_bounded_printable_line(text: str) -> None:
    shown = public_text(text)
    assert len(shown) <= MESSAGE_CHARACTERS_MAX
    assert shown.isprintable()
    assert shown == shown.strip()
    shown.encode()


@pytest.mark.parametrize("text", ["<" * 20_000, "<html" * 4000, "sk-" * 6000, "a" * 1_000_000, "<script>" * 2500, "bearer " * 2500])
def test_hostile_text_takes_no_time(text: str) -> None:
    assert len(public_text(text)) <= MESSAGE_CHARACTERS_MAX


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error":{"message":"No such model"}}', "No such model"),
        (b"<html><body>502 Bad Gateway</body></html>", "502 Bad Gateway"),
        (b"Service Unavailable\r\n", "Service Unavailable"),
        (b'{"error":{"message":"bad key sk-abcdef0123456789"}}', "bad key [masked]"),
        (b'{"error":{"message":"bad \\ud83d"}}', "bad"),
        (b"", None),
        (b"  \n", None),
        (b"{}", None),
        (b"[[[[[[[[[[[[", "[[[[[[[[[[[["),
        (b"\xff\xfe", "\ufffd\ufffd"),
    ],
)
def test_the_message_of_an_error_body(body: bytes, message: str | None) -> None:
    assert body_message(body) == message


@given(st.binary(max_size=300))
def test_any_body_gives_a_message_or_none(body: bytes) -> None:
    message = body_message(body)
    assert message is None or message.isprintable()


def test_the_message_for_a_refused_key_stays_here() -> None:
    event = error_event({"error": {"type": "authentication_error", "message": "organization org-1 has no access"}}, partial=True)
    assert (event.code, event.message) == ("upstream_auth", UpstreamAuth.default_message)


def test_a_deep_error_is_no_recursion() -> None:
    value: object = "m"
    for _ in range(5000):
        value = {"error": value}
    assert read_error(value).message is None
    assert read_error(json.loads('{"error":{"error":{"message":"m"}}}')).message == "m"
