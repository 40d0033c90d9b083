"""The Responses surface as a whole: its parts, and its errors as the SDK raises them."""

from __future__ import annotations

import json

import httpx2
import openai
import pytest
from responses_reader import request

from headrace.errors import BadRequest, HeadraceError, QueueFull, TooManyStreams, Unauthorized, UnknownModel, UpstreamConnect
from headrace.protocol.dialects import surface
from headrace.protocol.dialects.openai_responses.surface import SURFACE


def test_the_surface_is_found_by_its_name() -> None:
    assert surface("openai_responses") is SURFACE
    assert SURFACE.new_stream(request()).dialect == SURFACE.name == "openai_responses"
    assert SURFACE.new_reply is not None
    assert SURFACE.new_reply(request()).content_type == "application/json"
    assert SURFACE.headers == ("openai-beta",)


@pytest.mark.parametrize(
    ("error", "cls"),
    [
        (BadRequest("No such tool.", field="tools[0].type"), openai.BadRequestError),
        (UnknownModel(), openai.NotFoundError),
        (Unauthorized(), openai.AuthenticationError),
        (TooManyStreams(), openai.RateLimitError),
        (QueueFull(), openai.InternalServerError),
        (UpstreamConnect(), openai.InternalServerError),
    ],
)
def test_the_sdk_raises_each_error_as_its_own(error: HeadraceError, cls: type[openai.APIStatusError]) -> None:
    found = SURFACE.error(error)
    transport = httpx2.MockTransport(lambda _: httpx2.Response(found.status, content=found.body))
    client = openai.OpenAI(api_key="k", base_url="http://relay.test", max_retries=0, http_client=httpx2.Client(transport=transport))
    with pytest.raises(cls) as caught:
        client.responses.create(model="swift", input="hi")
    assert json.loads(found.body)["error"]["message"] == error.public_message
    assert caught.value.param == error.field
    assert caught.value.type
