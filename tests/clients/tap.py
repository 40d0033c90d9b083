"""A wire between a client and the relay that shows every byte and can be cut, and a server that says again what was heard on it."""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import Self

from engine.guards import turns

_SIGN_OF_LIFE = re.compile(rb"^(?::.*|event: ping)$", re.MULTILINE)


def heartbeats(body: bytes) -> int:
    """Count comments and Anthropic's pings."""
    return len(_SIGN_OF_LIFE.findall(body))


class _Server(ABC):
    """Serves on a free port, and is over when its connections are."""

    def __init__(self) -> None:
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        for listening in self._server.sockets:
            asyncio.get_running_loop().remove_reader(listening.fileno())
        await turns()  # asyncio loses a connection that it accepts while the server closes, and Node likes to open one more at the end
        self._server.close()
        self.cut()
        await asyncio.gather(*self._open)

    def cut(self) -> None:
        """Reset every connection."""
        for writers in self._open.values():
            for writer in writers:
                writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = writers = [writer]
        with suppress(OSError, EOFError):
            await self._serve(reader, writer, writers)
        for ended in writers:
            ended.close()
            with suppress(OSError):
                await ended.wait_closed()
        del self._open[task]

    @abstractmethod
    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, writers: list[asyncio.StreamWriter]) -> None:
        """Serve one connection; `writers` takes those that it opens."""


class Tap(_Server):
    """Forwards each connection to `port`, byte for byte. `cut()` resets them all."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port
        self._heard: list[bytearray] = []

    def body(self) -> bytes:
        """Return the bodies of all responses, one behind the other, without their framing."""
        return b"".join(body for heard in self._heard for body in bodies(bytes(heard)))

    def header(self, name: str) -> str | None:
        """Return a header of the last response whose head has come."""
        found = re.findall(rb"(?im)^%b: *(.*?)\r$" % name.encode(), b"".join(self._heard))
        return found[-1].decode() if found else None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, writers: list[asyncio.StreamWriter]) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        writers.append(back)
        heard = bytearray()
        self._heard.append(heard)
        await asyncio.gather(_pass(reader, back), _pass(there, writer, heard))


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


class Replay(_Server):
    """A server that answers every request with one event stream, `body`."""

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self._body = body

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, writers: list[asyncio.StreamWriter]) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        await reader.readexactly(int(length[1]) if length else 0)
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(self._body)
        writer.write(head + self._body)
        await writer.drain()
