"""The Messages API as a surface: errors before the first byte as the official SDK reads them, and what goes on to a provider."""

from __future__ import annotations

import json

import anthropic
import pytest
from anthropic.types.shared import ErrorResponse
from anthropic_client import REQUEST, SURFACE, client

from headrace import errors
from headrace.protocol.dialects import load
from headrace.protocol.surface import SurfaceRequest


@pytest.mark.parametrize(
    ("error", "status", "type", "raised"),
    [
        (errors.BadRequest("Wrong."), 400, "invalid_request_error", anthropic.BadRequestError),
        (errors.UnknownModel(), 404, "not_found_error", anthropic.NotFoundError),
        (errors.Unauthorized(), 401, "authentication_error", anthropic.AuthenticationError),
        (errors.BodyTooLarge(), 413, "request_too_large", anthropic.APIStatusError),
        (errors.TooManyStreams(), 429, "rate_limit_error", anthropic.RateLimitError),
        (errors.UpstreamRateLimited(), 429, "rate_limit_error", anthropic.RateLimitError),
        (errors.UpstreamOverloaded(), 529, "overloaded_error", anthropic.InternalServerError),
        (errors.QueueFull(), 529, "overloaded_error", anthropic.InternalServerError),
        (errors.ServerShutdown(), 503, "overloaded_error", anthropic.APIStatusError),
        (errors.UpstreamIdle(), 504, "timeout_error", anthropic.APIStatusError),
        (errors.UpstreamConnect(), 502, "api_error", anthropic.InternalServerError),
        (errors.UpstreamAuth(), 502, "api_error", anthropic.InternalServerError),
        (errors.HeadraceError(), 500, "api_error", anthropic.InternalServerError),
        (errors.UpstreamRejected("Too long.", provider_status=413), 413, "request_too_large", anthropic.APIStatusError),
        (errors.UpstreamRejected("No such model.", provider_status=404), 404, "not_found_error", anthropic.NotFoundError),
        (errors.UpstreamRejected("Wrong.", provider_status=422), 400, "invalid_request_error", anthropic.BadRequestError),
    ],
)
def test_an_error_has_the_status_and_the_type_of_the_api(
    error: errors.HeadraceError, status: int, type: str, raised: type[anthropic.APIStatusError]
) -> None:
    reply = SURFACE.error(error)
    assert reply.status == status
    assert json.loads(reply.body) == {"type": "error", "error": {"type": type, "message": error.public_message}}
    with pytest.raises(raised) as caught:
        client(reply.body, status=reply.status).messages.create(**REQUEST)
    assert caught.value.status_code == status
    assert error.public_message in str(caught.value)


@pytest.mark.parametrize("code", errors.all_codes())
def test_every_error_can_be_told(code: str) -> None:
    reply = SURFACE.error(errors.all_codes()[code]())
    assert 400 <= reply.status <= 599
    shape = json.loads(reply.body)
    # The first is a type of the API that the SDK's types do not have, the second one of ours.
    if shape["error"]["type"] not in ("request_too_large", "cancelled"):
        ErrorResponse.model_validate(shape)


def test_what_only_the_operator_may_know_is_not_told() -> None:
    assert b"10.0.0.1" not in SURFACE.error(errors.UpstreamConnect(detail="10.0.0.1 refused")).body


def test_a_body_for_a_provider_of_the_dialect_goes_on_as_it_came() -> None:
    body = {**REQUEST, "tools": [{"type": "web_search_20250305", "name": "web_search"}], "field_of_tomorrow": 1}
    headers = {"anthropic-beta": "context-1m", "anthropic-version": "2030-01-01"}
    sent = SurfaceRequest(SURFACE, body, headers=headers).upstream(load("anthropic"), "claude-y", {})
    assert json.loads(sent.body) == {**body, "model": "claude-y", "stream": True}
    assert (sent.path, sent.headers) == ("/v1/messages", headers)


def test_a_body_for_another_provider_is_told_in_its_dialect() -> None:
    sent = SurfaceRequest(SURFACE, dict(REQUEST)).upstream(load("openai_chat"), "gpt-y", {})
    assert json.loads(sent.body)["messages"] == [{"role": "user", "content": "Hi"}]


def test_what_is_bulky_is_let_go() -> None:
    request = SurfaceRequest(SURFACE, {**REQUEST, "system": "S", "tools": []})
    request.forget()
    assert request.body == {"model": "m", "max_tokens": 5}
