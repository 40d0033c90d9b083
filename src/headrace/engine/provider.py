"""A provider as the engine sees it: where it is, what language it speaks, and how a request to it looks on the wire."""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from headrace.engine.upstream.connection import ResponseHead
from headrace.engine.upstream.pool import Origin
from headrace.errors import (
    BadRequest,
    UpstreamAuth,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamProtocol,
    UpstreamRateLimited,
    UpstreamRejected,
)
from headrace.policy.admission import Line
from headrace.protocol.dialects import Dialect
from headrace.protocol.request import Request
from headrace.protocol.sse import SSEEvent

_STREAM_TYPES = frozenset({"text/event-stream", "text/plain", "application/octet-stream", "binary/octet-stream", ""})
PASSED_BODY_BYTES_MAX = 16 * 1024  # of an error that callers of the same dialect get as it came
SECRET_CHARACTERS_MIN = 8  # a shorter value would be found in what is none
_UNSAFE = re.compile(r"[\x00-\x1f\x7f]")


class Provider:
    """One provider of the configuration."""

    def __init__(
        self,
        name: str,
        dialect: Dialect,
        origin: Origin,
        prefix: str,
        *,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        quirks: Mapping[str, object] | None = None,
        passthrough: bool = False,
        line: Line | None = None,
    ) -> None:
        self.name = name
        self.dialect = dialect
        self.origin = origin
        self.prefix = prefix
        self.quirks = dict(quirks or {})
        self.passthrough = passthrough
        self.line = line or Line()
        self._secrets = [value for value in (api_key, *(headers or {}).values()) if value and len(value) >= SECRET_CHARACTERS_MIN]
        fixed = {
            "host": origin.host_header,
            "user-agent": "headrace",
            "content-type": "application/json",
            "accept": "text/event-stream",
            "accept-encoding": "identity",
            **(dialect.auth_headers(api_key) if api_key else {}),
            **{key.lower(): value for key, value in (headers or {}).items()},
        }
        self._configured = frozenset(key.lower() for key in headers or {})
        self._fixed_head = "".join(f"{key}: {_header_value(value)}\r\n" for key, value in fixed.items())

    def redact(self, said: str) -> str:
        """Return what the provider said without the credentials that it was sent: some repeat the key that they refuse."""
        for secret in self._secrets:
            said = said.replace(secret, "[masked]")
        return said

    def redact_frame(self, frame: SSEEvent) -> SSEEvent:
        """Return the frame of an error without those credentials."""
        return SSEEvent(self.redact(frame.text).encode(), frame.event, frame.id)

    def request_bytes(self, request: Request, model: str, request_id: str) -> bytes:
        """Return the whole HTTP request.

        Raises:
            BadRequest: this dialect cannot say what the request says; the error names the field.
        """
        upstream = request.upstream(self.dialect, model, self.quirks)
        own = {key: value for key, value in upstream.headers.items() if key not in self._configured}
        extra = "".join(f"{key}: {_header_value(value)}\r\n" for key, value in own.items())
        head = (
            f"POST {self.prefix}{upstream.path} HTTP/1.1\r\n{self._fixed_head}{extra}"
            f"x-request-id: {_header_value(request_id)}\r\ncontent-length: {len(upstream.body)}\r\n\r\n"
        )
        return head.encode("latin-1", "replace") + upstream.body


class Target(NamedTuple):
    """A model at a provider."""

    provider: Provider
    model: str


def first_sayable(targets: Sequence[Target], request: Request, request_id: str) -> tuple[int, bytes]:
    """Return which of `targets` is the first that can be asked this, and the whole HTTP request to it.

    Raises:
        BadRequest: none can; what the first of them cannot say.
    """
    refused: BadRequest | None = None
    for at, target in enumerate(targets):
        try:
            return at, target.provider.request_bytes(request, target.model, request_id)
        except BadRequest as error:
            refused = refused or error
    assert refused is not None
    raise refused


def is_stream(head: ResponseHead) -> bool:
    return head.status == 200 and head.content_type in _STREAM_TYPES


def error_from_response(provider: Provider, head: ResponseHead, body: bytes) -> UpstreamError:
    """Return what an answer that is no stream means: by its status, in the provider's own words where it gave any."""
    error = _error_of_status(provider, head, body)
    if head.status >= 400 and head.content_type == "application/json" and len(body) <= PASSED_BODY_BYTES_MAX:
        error.provider_body = provider.redact(body.decode("utf-8", "replace")).encode()
    return error


def _error_of_status(provider: Provider, head: ResponseHead, body: bytes) -> UpstreamError:
    said = provider.dialect.error_message(body)
    said = said and provider.redact(said)
    detail = f"HTTP {head.status} {head.content_type or 'without content-type'}" + (f": {said}" if said else "")
    status = head.status
    if status == 200:
        return UpstreamProtocol(said and f"The provider answered: {said}", detail=detail, provider_status=status)
    if status in (401, 403) or (status == 400 and b'"API_KEY_INVALID"' in body):  # Google's way to say 401
        return UpstreamAuth(detail=detail, provider_status=status)
    if status == 429:
        return UpstreamRateLimited(said, detail=detail, provider_status=status, retry_after_s=retry_after(head.headers))
    if status in (503, 529):
        return UpstreamOverloaded(said, detail=detail, provider_status=status, retry_after_s=retry_after(head.headers))
    if status == 408 or status >= 500:
        return UpstreamError(said, detail=detail, provider_status=status, retry_after_s=retry_after(head.headers))
    if 300 <= status < 400:
        return UpstreamRejected("The provider answered with a redirect, which is not followed.", detail=detail, provider_status=status)
    return UpstreamRejected(said, detail=detail, provider_status=status)


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Return the seconds to wait: `retry-after-ms`, or `Retry-After` as a number or an HTTP date (RFC 9110, section 10.2.3)."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        if re.fullmatch(r"\d{1,9}(\.\d{1,6})?", value):
            return float(value) * unit
    date = email.utils.parsedate_tz(headers.get("retry-after", ""))
    if date is None:
        return None
    return max(0.0, email.utils.mktime_tz(date) - (time.time() if now is None else now))


def _header_value(value: str) -> str:
    return _UNSAFE.sub("", value)
