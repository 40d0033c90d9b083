"""A wire between a client and the relay that shows every byte and can be cut, and a server that says again what was heard on it."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from typing import Self

_SIGN_OF_LIFE = re.compile(rb"^(?::.*|event: ping)$", re.MULTILINE)


def heartbeats(body: bytes) -> int:
    """Count comments and Anthropic's pings."""
    return len(_SIGN_OF_LIFE.findall(body))


class Tap:
    """Forwards each connection to `port`, byte for byte. `cut()` resets them all."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._heard: list[bytearray] = []
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    def body(self) -> bytes:
        """Return the bodies of all responses, one behind the other, without their framing."""
        return b"".join(body for heard in self._heard for body in bodies(bytes(heard)))

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers |= {writer, back}
        heard = bytearray()
        self._heard.append(heard)
        await asyncio.gather(_pass(reader, back), _pass(there, writer, heard))
        for ended in (writer, back):
            with suppress(OSError):
                await ended.wait_closed()


async def _pass(source: asyncio.StreamReader, to: asyncio.StreamWriter, heard: bytearray | None = None) -> None:
    with suppress(OSError):
        while data := await source.read(65536):
            if heard is not None:
                heard += data
            to.write(data)
            await to.drain()
    to.close()


def bodies(raw: bytes) -> list[bytes]:
    """Return the body of each response on one connection; the last may be cut off."""
    found = []
    while raw:
        head, _, raw = raw.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        if length:
            found.append(raw[: int(length[1])])
            raw = raw[int(length[1]) :]
        elif b"chunked" in head.lower():
            body, raw = _dechunk(raw)
            found.append(body)
        elif b" 204 " not in head:
            return [*found, raw]
    return found


def _dechunk(raw: bytes) -> tuple[bytes, bytes]:
    body = b""
    while raw:
        line, _, raw = raw.partition(b"\r\n")
        size = int(line, 16)
        body += raw[:size]
        raw = raw[size + 2 :]
        if not size:
            break
    return body, raw


class Replay:
    """A server that answers every request with one event stream, `body`."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._server: asyncio.Server | None = None
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        await reader.readexactly(int(length[1]) if length else 0)
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(self._body)
        with suppress(OSError):
            writer.write(head + self._body)
            await writer.drain()
            writer.close()
            await writer.wait_closed()
