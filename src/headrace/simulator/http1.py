"""As much HTTP/1.1 as a provider needs: requests in, response heads out."""

from http import HTTPStatus
from urllib.parse import parse_qs, urlsplit

from msgspec import Struct

_HEAD_BYTES_MAX = 64 * 1024
_BODY_BYTES_MAX = 64 * 1024 * 1024
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class BadRequest(Exception):
    """The bytes are no request that this server takes; `status` says why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Request(Struct):
    """One request; the headers' names are in lower case."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    version: str
    keep_alive: bool
    body: bytes = b""


class RequestReader:
    """Split the bytes of one connection into requests. Holds state, does no I/O."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._request: Request | None = None
        self._body = bytearray()
        self._left = 0  # bytes of the body, or of its current chunk, that are still to come
        self._chunked = False
        self._in_trailer = False
        self.continue_expected = False

    @property
    def waiting_bytes(self) -> int:
        """How much has been fed and not yet been returned."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next_request(self) -> Request | None:
        """Return the next whole request, or None while it is incomplete.

        Raises:
            BadRequest: it is malformed or too large; the connection cannot go on.
        """
        if self._request is None and not self._read_head():
            return None
        complete = self._read_chunks() if self._chunked else self._read_length()
        if not complete:
            return None
        request, self._request = self._request, None
        assert request is not None
        request.body = bytes(self._body)
        self._body.clear()
        return request

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > _HEAD_BYTES_MAX:
                raise BadRequest(431, "the request's head is too large")
            return False
        lines = self._buffer[:end].decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        self._request = _parse_head(lines)
        headers = self._request.headers
        self._chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        self._left = 0 if self._chunked else _length(headers.get("content-length", "0"))
        self._in_trailer = False
        self.continue_expected = headers.get("expect", "").lower() == "100-continue"
        return True

    def _read_length(self) -> bool:
        self._take(self._left)
        return self._left == 0

    def _read_chunks(self) -> bool:
        while True:
            if self._left:
                self._take(self._left)
                if self._left:
                    return False
            line = self._line()
            if line is None:
                return False
            if self._in_trailer:
                if not line:
                    return True
            elif line:  # the line end after a chunk's data is an empty line here
                self._left = _length(line.split(b";")[0].decode("latin-1").strip(), base=16)
                self._in_trailer = self._left == 0
                if len(self._body) + self._left > _BODY_BYTES_MAX:
                    raise BadRequest(413, "the request's body is too large")

    def _take(self, size: int) -> None:
        part = self._buffer[:size]
        del self._buffer[: len(part)]
        self._body += part
        self._left -= len(part)

    def _line(self) -> bytes | None:
        end = self._buffer.find(b"\r\n")
        if end < 0:
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line


def _parse_head(lines: list[str]) -> Request:
    try:
        method, target, version = lines[0].split(" ")
        pairs = [line.split(":", 1) for line in lines[1:]]
        headers = {name.lower(): value.strip() for name, value in pairs}
    except ValueError as error:
        raise BadRequest(400, "malformed request line or header") from error
    if version not in ("HTTP/1.0", "HTTP/1.1"):
        raise BadRequest(505, f"{version} is not spoken here")
    url = urlsplit(target)
    query = {name: values[-1] for name, values in parse_qs(url.query).items()}
    keep_alive = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
    return Request(method, url.path, query, headers, version, keep_alive)


def _length(text: str, base: int = 10) -> int:
    try:
        length = int(text, base)
    except ValueError as error:
        raise BadRequest(400, "malformed length") from error
    if not 0 <= length <= _BODY_BYTES_MAX:
        raise BadRequest(413, "the request's body is too large")
    return length


def response_head(status: int, headers: list[tuple[str, str]], *, version: str = "1.1") -> bytes:
    """Return status line and headers."""
    try:
        reason = HTTPStatus(status).phrase
    except ValueError:
        reason = "Overloaded" if status == 529 else "Unknown"
    lines = [f"HTTP/{version} {status} {reason}", *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode("latin-1")


def response(status: int, body: bytes, content_type: str = "application/json", *, keep_alive: bool = True) -> bytes:
    """Return a whole response."""
    connection = [] if keep_alive else [("connection", "close")]
    return response_head(status, [("content-type", content_type), ("content-length", str(len(body))), *connection]) + body
