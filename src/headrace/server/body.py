"""Reading a request: bounded in bytes and in time, and every mistake in it named by its field."""

from __future__ import annotations

import asyncio
import re
from typing import TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from headrace.errors import BadRequest, BodyTimeout, BodyTooLarge, UnsupportedMediaType

T = TypeVar("T")
_JSON_TYPES = ("application/json", "")


async def read_body(request: Request, *, bytes_max: int, seconds_max: float) -> bytes:
    """Return the whole body.

    Raises:
        UnsupportedMediaType, BodyTooLarge, BodyTimeout: as they say.
        ClientDisconnect: nobody is left to answer.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type not in _JSON_TYPES and not content_type.endswith("+json"):
        raise UnsupportedMediaType(f"The request body must be JSON (content-type: application/json), not {content_type[:80]}.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("The request body must not be compressed.")
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > bytes_max:
        raise BodyTooLarge(f"The request body is {length} bytes; at most {bytes_max} are taken.")
    try:
        async with asyncio.timeout(seconds_max):
            return await _collect(request, bytes_max)
    except TimeoutError:
        raise BodyTimeout() from None


async def _collect(request: Request, bytes_max: int) -> bytes:
    more = True
    pieces: list[bytes] = []
    size = 0
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        piece = message.get("body", b"")
        more = message.get("more_body", False)
        size += len(piece)
        if size > bytes_max:
            raise BodyTooLarge(f"The request body is larger than the {bytes_max} bytes that are taken.")
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def parse(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Return what the body says.

    Raises:
        BadRequest: with the field where it goes wrong.
    """
    if not body.strip():
        raise BadRequest("The request body is empty; a JSON object is needed.")
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _named(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"The request body is not JSON: {error}.") from None


def _named(text: str) -> BadRequest:
    what, _, place = text.partition(" - at ")
    path = re.sub(r"^\$\.?|^key in ", "", place.strip("`"))
    unknown = re.search(r"(?:unknown|required) field `([^`]*)`", what)
    if unknown:
        path = f"{path}.{unknown[1]}" if path else unknown[1]
    return BadRequest(f"{path or 'body'}: {what}.", field=path or None)
