"""Every error that Headrace raises or sends, in one tree.

An error has a stable `code` that programs may switch on, the HTTP status that it has before a stream has begun, whether
the same request may succeed later, and a `public_message` that may be shown to a user. What is only for the operator
(`detail`) goes to the log and never to a client.
"""

from __future__ import annotations

from typing import ClassVar


class HeadraceError(Exception):
    """Base of the tree. `str(error)` is for logs; users see `public_message`."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False
    default_message: ClassVar[str] = "Something went wrong inside the relay."

    def __init__(
        self,
        public_message: str | None = None,
        *,
        detail: str | None = None,
        field: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        self.public_message = public_message or self.default_message
        self.detail = detail
        self.field = field
        self.retry_after_s = retry_after_s
        super().__init__(f"{self.code}: {self.public_message}" + (f" ({detail})" if detail else ""))


class LocalProtocolError(HeadraceError):
    """This program used a protocol wrongly: a bug on our side, never the peer's fault."""

    code = "local_protocol_error"


class RemoteProtocolError(HeadraceError):
    """The peer broke the protocol."""

    code = "remote_protocol_error"
    status = 502
    retryable = True
    default_message = "The provider sent something that is not a valid stream."


# --- the caller's mistakes -------------------------------------------------------------------------------------------


class BadRequest(HeadraceError):
    """The request is wrong; `field` names where."""

    code = "invalid_request"
    status = 400
    default_message = "The request is not valid."


class UnknownModel(BadRequest):
    code = "unknown_model"
    status = 404
    default_message = "No such model is configured."


class Unauthorized(HeadraceError):
    code = "unauthorized"
    status = 401
    default_message = "This relay needs a valid API key."


class UnknownStream(HeadraceError):
    """No such stream, or not this user's: the two look the same on purpose."""

    code = "unknown_stream"
    status = 404
    default_message = "There is no such stream."


class ExpiredStream(HeadraceError):
    code = "expired_stream"
    status = 410
    default_message = "The relay no longer has this answer."


class IdempotencyConflict(HeadraceError):
    code = "idempotency_conflict"
    status = 422
    default_message = "This Idempotency-Key was used before with another request body."


class BodyTooLarge(HeadraceError):
    code = "body_too_large"
    status = 413
    default_message = "The request body is too large."


class BodyTimeout(HeadraceError):
    code = "body_timeout"
    status = 408
    retryable = True
    default_message = "The request body did not arrive in time."


class UnsupportedMediaType(HeadraceError):
    code = "unsupported_media_type"
    status = 415
    default_message = "The request body must be JSON."


# --- the relay's own limits ------------------------------------------------------------------------------------------


class TooManyStreams(HeadraceError):
    code = "too_many_streams"
    status = 429
    retryable = True
    default_message = "Too many answers are streaming at once. Stop one, or wait until one ends."


class QueueFull(HeadraceError):
    code = "queue_full"
    status = 503
    retryable = True
    default_message = "The line for this model is full."


class QueueTimeout(HeadraceError):
    code = "queue_timeout"
    status = 503
    retryable = True
    default_message = "The wait for this model took too long."


class Cancelled(HeadraceError):
    """Somebody stopped the answer. The native protocol calls that an end; protocols without a word for it call it an error."""

    code = "cancelled"
    status = 499
    default_message = "The answer was stopped."


class ServerShutdown(HeadraceError):
    code = "server_shutdown"
    status = 503
    retryable = True
    default_message = "The relay is restarting."


class StreamTooLong(HeadraceError):
    code = "stream_too_long"
    status = 504
    default_message = "The answer took longer than this relay allows."


class StreamTooLarge(HeadraceError):
    code = "stream_too_large"
    status = 502
    default_message = "The answer is larger than this relay gives as a whole: ask for a stream."


class SlowConsumer(HeadraceError):
    """A reader took nothing for too long. The stream itself goes on for its other readers."""

    code = "slow_consumer"
    status = 408
    retryable = True
    default_message = "This reader took nothing for too long. Reconnect to go on."


# --- the provider ----------------------------------------------------------------------------------------------------


class UpstreamError(HeadraceError):
    """Base of what goes wrong at the provider.

    `provider_status` is its HTTP status where it gave one, `provider_body` its own JSON, without the relay's credentials.
    """

    code = "upstream_error"
    status = 502
    retryable = True
    default_message = "The provider reported an error."

    def __init__(
        self,
        public_message: str | None = None,
        *,
        detail: str | None = None,
        field: str | None = None,
        retry_after_s: float | None = None,
        provider_status: int | None = None,
    ) -> None:
        super().__init__(public_message, detail=detail, field=field, retry_after_s=retry_after_s)
        self.provider_status = provider_status
        self.provider_body: bytes | None = None


class UpstreamConnect(UpstreamError):
    code = "upstream_connect"
    default_message = "The provider could not be reached."


class UpstreamTruncated(UpstreamError):
    """The stream ended without its terminator: what came is kept, and never called complete."""

    code = "upstream_truncated"
    default_message = "The provider's answer broke off before its end."


class UpstreamProtocol(UpstreamError):
    """The provider answered with something that is no stream of its dialect."""

    code = "upstream_protocol"
    default_message = "The provider sent something that is not a valid stream."


class UpstreamFirstTokenTimeout(UpstreamError):
    code = "upstream_first_token_timeout"
    status = 504
    default_message = "The provider sent no token in time."


class UpstreamIdle(UpstreamError):
    code = "upstream_idle"
    status = 504
    default_message = "The provider stopped sending in the middle of its answer."


class UpstreamRateLimited(UpstreamError):
    code = "upstream_rate_limited"
    status = 429
    default_message = "The provider is limiting requests."


class UpstreamOverloaded(UpstreamError):
    code = "upstream_overloaded"
    status = 503
    default_message = "The provider is overloaded."


class UpstreamRejected(UpstreamError):
    """The provider refused the request itself; sending it again changes nothing."""

    code = "upstream_rejected"
    status = 400
    retryable = False
    default_message = "The provider refused the request."


class UpstreamAuth(UpstreamError):
    """The relay's own credentials were refused: the operator's problem, not the caller's."""

    code = "upstream_auth"
    status = 502
    retryable = False
    default_message = "The provider refused this relay's credentials."


# --- the client library ----------------------------------------------------------------------------------------------


class IncompleteStream(HeadraceError):
    """The connection is over and no terminal event came, so nothing says that the answer is whole."""

    code = "incomplete_stream"
    retryable = True
    default_message = "The answer was cut off: no terminal event came."


class RelayUnreachable(HeadraceError):
    code = "relay_unreachable"
    status = 502
    retryable = True
    default_message = "The relay could not be reached."


class ConfigError(HeadraceError):
    """The configuration is wrong; the message says what, where, and what would be right."""

    code = "config_error"
    default_message = "The configuration is not valid."


def all_codes() -> dict[str, type[HeadraceError]]:
    """Every code of the tree with its class: for the documentation and its test."""
    found: dict[str, type[HeadraceError]] = {}
    stack: list[type[HeadraceError]] = [HeadraceError]
    while stack:
        cls = stack.pop()
        found.setdefault(cls.code, cls)
        stack.extend(cls.__subclasses__())
    return found
