"""Reading a request: bounded in bytes and in time, and every mistake in it named by its field."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import TypeVar

import msgspec
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from headrace.errors import BadRequest, BodyTimeout, BodyTooLarge, UnsupportedMediaType

T = TypeVar("T")
SAID_CHARACTERS_MAX = 200
NAME = re.compile(r"[!-~]{1,255}")
_JSON_TYPES = (b"application/json", b"")


async def read_body(headers: Mapping[bytes, bytes], receive: Receive, *, bytes_max: int, seconds_max: float) -> bytes:
    """Return the whole body of the request with these headers.

    Raises:
        UnsupportedMediaType, BodyTooLarge, BodyTimeout: as they say.
        ClientDisconnect: nobody is left to answer.
    """
    content_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if content_type not in _JSON_TYPES and not content_type.endswith(b"+json"):
        given = content_type[:80].decode("latin-1")
        raise UnsupportedMediaType(f"The request body must be JSON (content-type: application/json), not {given}.")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise UnsupportedMediaType("The request body must not be compressed.")
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length[:18]) > bytes_max:
        raise BodyTooLarge(f"The request body is {int(length[:18])} bytes; at most {bytes_max} are taken.")
    try:
        async with asyncio.timeout(seconds_max):
            return await _collect(receive, bytes_max)
    except TimeoutError:
        raise BodyTimeout() from None


async def _collect(receive: Receive, bytes_max: int) -> bytes:
    pieces: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        piece = message.get("body", b"")
        more = message.get("more_body", False)
        size += len(piece)
        if size > bytes_max:
            raise BodyTooLarge(f"The request body is larger than the {bytes_max} bytes that are taken.")
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def request_id(headers: Mapping[bytes, bytes]) -> str | None:
    """The caller's own id where it can be passed on; else the stream gets one."""
    given = headers.get(b"x-request-id", b"").decode("latin-1")
    return given if NAME.fullmatch(given) else None


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
    path, what = _bounded(path), _bounded(what)
    return BadRequest(f"{path or 'body'}: {what}.", field=path or None)


def _bounded(said: str) -> str:
    """A field's name may be of the caller's making, and as long as its body."""
    return said if len(said) <= SAID_CHARACTERS_MAX else said[:SAID_CHARACTERS_MAX] + "…"
