"""What a provider says when something is wrong, whatever shape it says it in: its class in our tree, and words fit to be shown.

Providers put errors into HTTP bodies and into streams that began with a 200: as an object, as a string, as a list of objects, as
a page of HTML. Their words are somebody else's text: they are bounded, stripped of markup and control characters, and whatever
looks like a credential is masked, because some providers repeat the key that they refuse.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from typing import NamedTuple

from headrace.errors import (
    UpstreamAuth,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamProtocol,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTruncated,
)
from headrace.protocol import events as ev
from headrace.protocol.lenient import loads

MESSAGE_CHARACTERS_MAX = 500
_READ_CHARACTERS_MAX = 16 * 1024
_DEPTH_MAX = 6
# What an event stream may begin with, the comment included.
_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":", b"\xef\xbb\xbf")

# In this order, because the words overlap: an `invalid_request_error` may have the code `invalid_api_key`.
_WORDS: tuple[tuple[type[UpstreamError], tuple[str, ...]], ...] = (
    (UpstreamOverloaded, ("overloaded", "service_unavailable", "unavailable", "insufficient_system_resource", "capacity")),
    (UpstreamRateLimited, ("rate_limit", "rate-limit", "ratelimit", "too_many_requests", "quota", "resource_exhausted", "throttl")),
    (UpstreamAuth, ("authentication", "unauthenticated", "unauthorized", "permission", "forbidden", "api_key", "billing")),
    (
        UpstreamRejected,
        (
            "invalid_request",
            "invalid_argument",
            "badrequest",
            "bad_request",
            "not_found",
            "notfound",
            "context_length",
            "too_large",
            "unprocessable",
        ),
    ),
)
_STATUSES: dict[int, type[UpstreamError]] = {
    **dict.fromkeys((400, 404, 405, 406, 409, 410, 411, 413, 414, 415, 422, 451), UpstreamRejected),
    **dict.fromkeys((401, 402, 403, 407), UpstreamAuth),
    429: UpstreamRateLimited,
    503: UpstreamOverloaded,
    529: UpstreamOverloaded,
}

_KEYS = re.compile(
    r"""(?ix)
    \b(?:sk|pk|rk|gsk|xai|hf|r8|nvapi|pplx|csk|fw|tgp|AIza|ghp|gho|github_pat|AKIA|ASIA)[-_a-z0-9*.…]*[-_*.0-9][-_a-z0-9*.…]{5,}
    | \beyJ[\w-]{8,}(?:\.[\w-]+){1,2}
    | (?<=bearer\ )\s*[^\s"',;]+
    | (?<=basic\ )\s*[a-z0-9+/]{12,}=*
    """
)
_NAMED_KEYS = re.compile(
    r"""(?ix)
    ((?:\b(?:api[-_ ]?key|access[-_ ]?key|token|secret|password|authorization)|[?&]key)
        (?:\s+(?:provided|is|was))?["']?\s*[:=]\s*["']?)
    (?!bearer\b|basic\b)[^\s"',;&]{6,}
    """
)
_HTML_HIDDEN = re.compile(r"(?is)<(script|style|head)\b.*?(?:</\1\s*>|\Z)|<!--.*?(?:-->|\Z)")
_HTML_TITLE = re.compile(r"(?is)<title\b[^>]*>(.*?)</title")
_HTML_TAG = re.compile(r"<[^<>]{0,2000}>")


class ProviderError(NamedTuple):
    """`message` as the provider wrote it; `words` are its types and codes, in lower case; `status` the HTTP status that it names."""

    message: str | None
    words: tuple[str, ...]
    status: int | None

    def error_class(self) -> type[UpstreamError]:
        return error_class(self.words, self.status)


def error_class(words: Iterable[str] = (), status: int | None = None) -> type[UpstreamError]:
    """Return the class for what a provider names: its own words first, because gateways wrap every error in a 400 or a 500."""
    found = " ".join(words)
    for cls, known in _WORDS:
        if any(word in found for word in known):
            return cls
    return _STATUSES.get(status or 0, UpstreamError)


def read_error(value: object) -> ProviderError:
    """Find message, types and codes in a provider's error, in any of the shapes that are known from the field."""
    words: list[str] = []
    statuses: list[int] = []
    message = _search(value, words, statuses, 0)
    return ProviderError(message, tuple(words), statuses[0] if statuses else None)


def error_event(value: object, *, partial: bool, cls: type[UpstreamError] | None = None) -> ev.Error:
    """Return the terminal event for an error that a provider sent inside a stream.

    A refused key is the operator's business, so its message stays out of the answer.
    """
    found = read_error(value)
    cls = cls or found.error_class()
    message = None if cls is UpstreamAuth or not found.message else public_text(found.message)
    return plain_error_event(cls, partial=partial, message=message)


def plain_error_event(cls: type[UpstreamError], *, partial: bool, message: str | None = None) -> ev.Error:
    return ev.Error(code=cls.code, message=message or cls.default_message, retryable=cls.retryable, partial=partial)


def error_of_head(head: bytes, *, partial: bool) -> ev.Error:
    """Return what it means that a body ended without its terminator, from its beginning if no event was in it (else `b""`).

    A provider that fails early may answer 200 with an error in plain JSON, or with a page of HTML. What looks like the beginning
    of a stream was cut off.
    """
    head = head.strip()
    if any(head.startswith(field) or field.startswith(head) for field in _FIELDS):
        return plain_error_event(UpstreamTruncated, partial=partial)
    try:
        found = read_error(loads(head))
    except ValueError:
        found = None
    if found is not None and found.message:
        return error_event(loads(head), partial=partial)
    return plain_error_event(UpstreamProtocol, partial=partial)


def body_message(body: bytes) -> str | None:
    """Return the public message of an HTTP error's body: JSON in any known shape, HTML, or plain text. None where there is none."""
    text = body[: 4 * _READ_CHARACTERS_MAX].decode("utf-8", "replace").strip()
    if not text:
        return None
    try:
        value = loads(body)
    except ValueError:
        value = text
    message = read_error(value).message
    return (public_text(message) or None) if message else None


def public_text(text: str) -> str:
    """Return foreign text as one bounded, printable line without markup and without anything that looks like a key."""
    text = text[:_READ_CHARACTERS_MAX]
    if "<" in text and re.search(r"(?i)<(?:!doctype|html|head|body|title|center|h1|p|br|div)\b", text):
        title = _HTML_TITLE.search(text)
        text = _HTML_TAG.sub(" ", _HTML_HIDDEN.sub(" ", text))
        if title and not text.strip():
            text = title[1]
        text = html.unescape(text)
    text = "".join(character if character.isprintable() else " " for character in text)
    text = " ".join(text.split())
    text = _NAMED_KEYS.sub(r"\1[masked]", _KEYS.sub("[masked]", text))
    return text if len(text) <= MESSAGE_CHARACTERS_MAX else text[: MESSAGE_CHARACTERS_MAX - 1] + "…"


def _search(value: object, words: list[str], statuses: list[int], depth: int) -> str | None:
    if isinstance(value, str):
        return value.strip() or None
    if depth > _DEPTH_MAX:
        return None
    if isinstance(value, list):
        return next((found for item in value[:8] if (found := _search(item, words, statuses, depth + 1))), None)
    if not isinstance(value, dict):
        return None
    for name in ("type", "code", "status", "status_code", "error_type", "http_code"):
        _note_kind(value.get(name), words, statuses)
    for name in ("error", "errors", "message", "detail", "details", "msg", "error_message", "title"):
        if found := _search(value.get(name), words, statuses, depth + 1):
            return found
    return None


def _note_kind(kind: object, words: list[str], statuses: list[int]) -> None:
    if isinstance(kind, str):
        if kind.isascii() and kind.isdigit() and len(kind) == 3:
            statuses.append(int(kind))
        elif kind:
            words.append(kind.lower()[:100])
    elif isinstance(kind, int) and not isinstance(kind, bool) and 100 <= kind <= 599:
        statuses.append(kind)
