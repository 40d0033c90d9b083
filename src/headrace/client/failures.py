"""From what the relay says went wrong to the error that is raised for it.

A code of the tree in `headrace.errors` becomes its class, so that `except UpstreamRateLimited` works on this side too. A code that
this version does not know, and an answer that is not the relay's at all, become `RelayFailure`.
"""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from functools import cache, partial
from typing import Any

import msgspec

from headrace.client.recovery import RETRYABLE_STATUSES, Refused
from headrace.errors import HeadraceError, RemoteProtocolError, all_codes
from headrace.protocol import events as ev
from headrace.protocol.accumulate import Accumulator

_MESSAGE_CHARACTERS_MAX = 500


class RelayFailure(HeadraceError):
    """An error that has no class here. Its `code`, `status` and `retryable` are the ones that were reported."""

    code = "relay_failure"
    status = 502
    default_message = "The relay reported an error."

    def __init__(self, public_message: str | None = None, *, code: str = code, **rest: Any) -> None:
        vars(self)["code"] = code
        super().__init__(public_message, **rest)


class ErrorShape(msgspec.Struct, kw_only=True):
    """The JSON of an error before a stream."""

    code: str
    message: str = ""
    retryable: bool | None = None
    field: str | None = None
    retry_after_seconds: float | None = None


class ErrorBody(msgspec.Struct, kw_only=True):
    error: ErrorShape


def error_of_code(
    code: str,
    message: str,
    *,
    retryable: bool | None = None,
    field: str | None = None,
    retry_after_s: float | None = None,
    status: int | None = None,
) -> HeadraceError:
    """Return the error that `code` names, saying what was reported and not what its class says by default."""
    cls = _classes().get(code) or partial(RelayFailure, code=code)
    error = cls(message[:_MESSAGE_CHARACTERS_MAX] or None, field=field, retry_after_s=retry_after_s)
    told = {"retryable": retryable, "status": status}
    vars(error).update({name: value for name, value in told.items() if value is not None})
    return error


@cache
def _classes() -> dict[str, type[HeadraceError]]:
    return all_codes()


def error_of_event(event: ev.Error) -> HeadraceError:
    """Return the error that a terminal `error` event stands for."""
    return error_of_code(event.code, event.message, retryable=event.retryable, retry_after_s=event.retry_after_seconds)


def refusal(status: int, headers: Mapping[str, str], body: bytes, *, url: str) -> Refused:
    """Return what a response says that is no stream. `headers` has lower-case names."""
    retry_after_s = _retry_after_s(headers)
    try:
        shape = msgspec.json.decode(body, type=ErrorBody).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Refused(status, _foreign(status, headers, url, retry_after_s))
    if shape.retry_after_seconds is not None:
        retry_after_s = shape.retry_after_seconds
    error = error_of_code(
        shape.code, shape.message, retryable=shape.retryable, field=shape.field, retry_after_s=retry_after_s, status=status
    )
    return Refused(status, error, shape.retryable)


def _foreign(status: int, headers: Mapping[str, str], url: str, retry_after_s: float | None) -> HeadraceError:
    """An answer that the relay cannot have given: a proxy's own page, or another server."""
    if 300 <= status < 400:
        target = headers.get("location", "")[:200]
        message = f"{url} redirects to {target!r}, which is not followed: the key would go along. Set base_url to the relay itself."
        return error_of_code("redirected", message, retryable=False, status=status)
    if status < 300:
        kind = headers.get("content-type", "nothing")[:100]
        return RemoteProtocolError(f"{url} answered with {kind!r} and not with a stream. Is base_url a Headrace relay?")
    message = f"{url} answered with status {status}, and not in the relay's own form."
    return error_of_code(f"http_{status}", message, retryable=status in RETRYABLE_STATUSES, retry_after_s=retry_after_s, status=status)


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return `Retry-After` in seconds. A date is taken relative to the answer's own `Date`, so that no clock has to agree."""
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        wait = parsedate_to_datetime(value) - parsedate_to_datetime(headers.get("date", ""))
    except (ValueError, TypeError):
        return None
    return max(0.0, wait.total_seconds())


def keep_reply(error: HeadraceError, reply: Accumulator) -> HeadraceError:
    """Let the error carry what had come of the answer, as `error.reply`, and return it."""
    vars(error)["reply"] = reply
    return error


def reply_of(error: HeadraceError) -> Accumulator | None:
    """Return what had come of the answer when `error` was raised: `error.reply`, for type checkers too."""
    reply = vars(error).get("reply")
    return reply if isinstance(reply, Accumulator) else None
