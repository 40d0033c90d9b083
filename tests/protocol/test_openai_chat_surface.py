"""The surface of Chat Completions: its parts, and its errors before the first byte."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import openai
import pytest

from headrace import errors
from headrace.protocol.dialects import surface
from headrace.protocol.surface import SurfaceRequest

SURFACE = surface("openai_chat")


def raised(error: errors.HeadraceError) -> openai.APIStatusError:
    """What the official SDK raises of our answer."""
    status, body, content_type = SURFACE.error(error)
    response = httpx2.Response(status, headers={"content-type": content_type}, content=body)
    transport = httpx2.MockTransport(lambda _request: response)
    with (
        openai.OpenAI(api_key="k", base_url="http://a.example/v1", http_client=httpx2.Client(transport=transport), max_retries=0) as client,
        pytest.raises(openai.APIStatusError) as caught,
    ):
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
    return caught.value


def test_its_name_is_that_of_the_provider_dialect() -> None:
    request = SurfaceRequest(SURFACE, {})
    assert SURFACE.name == "openai_chat"
    assert SURFACE.new_stream(request).dialect == "openai_chat"
    assert SURFACE.new_reply is not None
    assert SURFACE.new_reply(request).dialect == "openai_chat"
    assert "messages" in SURFACE.bulky


def test_the_shape_of_an_error() -> None:
    status, body, _ = SURFACE.error(errors.BadRequest("messages is a list.", field="messages", detail="secret"))
    assert status == 400
    assert json.loads(body) == {
        "error": {"message": "messages is a list.", "type": "invalid_request_error", "param": "messages", "code": "invalid_request"}
    }


@pytest.mark.parametrize(
    ("error", "expected", "type", "code"),
    [
        (errors.BadRequest(), openai.BadRequestError, "invalid_request_error", "invalid_request"),
        (errors.UnknownModel(), openai.NotFoundError, "invalid_request_error", "model_not_found"),
        (errors.Unauthorized(), openai.AuthenticationError, "authentication_error", "invalid_api_key"),
        (errors.UnknownStream(), openai.NotFoundError, "not_found_error", "unknown_stream"),
        (errors.TooManyStreams(), openai.RateLimitError, "rate_limit_error", "rate_limit_exceeded"),
        (errors.UpstreamRateLimited(), openai.RateLimitError, "rate_limit_error", "rate_limit_exceeded"),
        (errors.UpstreamRejected(), openai.BadRequestError, "invalid_request_error", "upstream_rejected"),
        (errors.UpstreamOverloaded(), openai.InternalServerError, "server_error", "upstream_overloaded"),
        (errors.QueueFull(), openai.InternalServerError, "server_error", "queue_full"),
        (errors.UpstreamAuth(), openai.InternalServerError, "server_error", "upstream_auth"),
        (errors.HeadraceError(), openai.InternalServerError, "server_error", "internal_error"),
    ],
)
def test_errors_are_the_exceptions_that_users_of_the_sdk_know(
    error: errors.HeadraceError, expected: type[Exception], type: str, code: str
) -> None:
    found = raised(error)
    assert isinstance(found, expected)
    assert (found.status_code, found.type, found.code) == (error.status, type, code)


@pytest.mark.parametrize(
    "message",
    ["This model's maximum context length is 8192 tokens.", "prompt is too long: 210000 tokens > 200000", "exceeds context window"],
)
def test_a_prompt_that_is_too_long_has_the_code_that_programs_look_for(message: str) -> None:
    assert raised(errors.UpstreamRejected(message)).code == "context_length_exceeded"


def test_how_long_to_wait() -> None:
    body: dict[str, Any] = json.loads(SURFACE.error(errors.TooManyStreams(retry_after_s=2.5)).body)
    assert body["error"]["retry_after"] == 2.5


@pytest.mark.parametrize("code", sorted(errors.all_codes()))
def test_every_error_of_ours_has_a_body(code: str) -> None:
    error = errors.all_codes()[code]()
    status, body, _ = SURFACE.error(error)
    assert status == error.status
    assert json.loads(body)["error"]["message"] == error.public_message
