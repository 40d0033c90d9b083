"""Newline-delimited JSON: bytes to lines and back, without I/O. What a line says is for the caller's JSON parser to judge."""

from __future__ import annotations

from headrace.errors import LocalProtocolError, RemoteProtocolError
from headrace.protocol.sse import LINE_BYTES_MAX, LineTooLong


class NDJSONParser:
    """Split one `application/x-ndjson` stream into its lines. Holds state, does no I/O.

    LF ends a line; a CR before it is dropped. Lines of nothing but white space are skipped. `line_bytes_max` bounds everything
    before the LF.
    """

    __slots__ = ("_closed", "_fault", "_line", "_line_bytes_max")

    def __init__(self, line_bytes_max: int = LINE_BYTES_MAX) -> None:
        self._line_bytes_max = line_bytes_max
        self._line = bytearray()  # the beginning of a line whose end is in a later chunk
        self._closed = False
        self._fault: RemoteProtocolError | None = None

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the lines that `chunk` completes, oldest first, without their ends.

        How the stream was cut into chunks never changes the result. To keep it so, an error that follows complete lines in the
        same chunk is raised by the next call, be it `feed` or `finish`.

        Raises:
            LineTooLong: the peer sent more than `line_bytes_max` bytes without a line end; the parser stays closed.
            LocalProtocolError: the parser is closed.
        """
        if self._closed:
            fault, self._fault = self._fault, None
            raise fault or LocalProtocolError(detail="fed an NDJSON parser that is closed")
        *whole, tail = chunk.split(b"\n")
        if whole and self._line:
            whole[0] = bytes(self._line + whole[0])
            self._line.clear()
        lines: list[bytes] = []
        for line in whole:
            if len(line) > self._line_bytes_max:
                return self._fail(lines)
            if line and not line.isspace():
                lines.append(line.removesuffix(b"\r"))
        self._line += tail
        if len(self._line) > self._line_bytes_max:
            return self._fail(lines)
        return lines

    def finish(self) -> list[bytes]:
        """Take the end of the stream, close, and return the last line if it came without its end.

        Many servers leave that end out, and a JSON object that was cut off does not parse, so nothing wrong passes as right.
        Finishing twice is allowed, and returns nothing the second time.

        Raises:
            LineTooLong: the error that the last `feed` held back.
        """
        fault, self._fault = self._fault, None
        last = bytes(self._line)
        self._close()
        if fault is not None:
            raise fault
        return [last.removesuffix(b"\r")] if last and not last.isspace() else []

    def _fail(self, lines: list[bytes]) -> list[bytes]:
        """Close; raise now, or by the next call where `lines` have to be handed out first."""
        self._close()
        fault = LineTooLong(detail=f"more than {self._line_bytes_max} bytes in one NDJSON line")
        if not lines:
            raise fault
        self._fault = fault
        return lines

    def _close(self) -> None:
        self._closed = True
        self._line.clear()


def encode_line(value: bytes) -> bytes:
    """Return one JSON value as a line.

    Raises:
        LocalProtocolError: `value` holds a line end, which compact JSON never does, or nothing, which readers skip.
    """
    if 10 in value or 13 in value:
        raise LocalProtocolError(detail="CR or LF in an NDJSON value")
    if not value or value.isspace():
        raise LocalProtocolError(detail="an NDJSON value is blank")
    return value + b"\n"
