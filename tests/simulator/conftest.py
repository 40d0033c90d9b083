"""A client that shows every byte, and takes leave in every way."""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import pytest

from headrace.simulator import RequestRecord, Simulator

PATHS = {"openai_chat": "/v1/chat/completions", "anthropic": "/v1/messages"}


class Conversation:
    """One connection to the simulator."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.status = 0
        self.headers: dict[str, str] = {}

    async def head(self) -> int:
        """Read status and headers."""
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        self.status = int(lines[0].split(" ")[1])
        self.version = lines[0].split(" ")[0]
        self.headers = dict(line.split(": ", 1) for line in lines[1:-2])
        return self.status

    async def chunk(self) -> bytes | None:
        """Read one HTTP chunk; None is the last."""
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        data = await self.reader.readexactly(size + 2)
        return data[:-2] if size else None

    async def raw(self) -> bytes:
        """Read everything that is left, as it is on the wire."""
        return await self.reader.read()

    async def body(self) -> bytes:
        """Read the body to its proper end, by its framing."""
        if "content-length" in self.headers:
            return await self.reader.readexactly(int(self.headers["content-length"]))
        if "transfer-encoding" not in self.headers:
            return await self.reader.read()
        parts = []
        while (part := await self.chunk()) is not None:
            parts.append(part)
        return b"".join(parts)

    async def until(self, needle: bytes) -> bytes:
        """Read until `needle` has come."""
        seen = b""
        while needle not in seen:
            part = await self.reader.read(4096)
            assert part, f"ended before {needle!r}"
            seen += part
        return seen

    def leave(self, how: str = "fin") -> None:
        if how == "rst":
            sock: socket.socket = self.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.writer.transport.abort()
        else:
            self.writer.close()


class Caller:
    """Calls the simulator in either dialect."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self._open: list[Conversation] = []

    async def connect(self, receive_buffer: int | None = None) -> Conversation:
        sock = socket.socket()
        sock.setblocking(False)
        if receive_buffer is not None:  # only before the connection does it bound the window
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.simulator.port))
        conversation = Conversation(*await asyncio.open_connection(sock=sock))
        self._open.append(conversation)
        return conversation

    async def send(self, raw: bytes) -> Conversation:
        conversation = await self.connect()
        conversation.writer.write(raw)
        return conversation

    async def ask(
        self, model: str, dialect: str = "openai_chat", /, *, headers: str = "connection: close\r\n", **body: object
    ) -> Conversation:
        return await self.send(self.request(model, dialect, headers=headers, **body))

    def request(self, model: str, dialect: str = "openai_chat", /, *, headers: str = "", **body: object) -> bytes:
        content = {"model": model, "stream": True, "max_tokens": 99, "messages": [{"role": "user", "content": "hi"}], **body}
        return self.post(PATHS[dialect], json.dumps(content).encode(), headers)

    def post(self, path: str, body: bytes, headers: str = "") -> bytes:
        return f"POST {path} HTTP/1.1\r\nhost: simulator\r\ncontent-length: {len(body)}\r\n{headers}\r\n".encode() + body

    async def get(self, target: str, headers: str = "") -> tuple[int, dict]:
        conversation = await self.send(f"GET {target} HTTP/1.1\r\nhost: simulator\r\nconnection: close\r\n{headers}\r\n".encode())
        status = await conversation.head()
        return status, json.loads(await conversation.body())

    async def body_of(self, model: str, dialect: str = "openai_chat", **body: object) -> bytes:
        """Return the whole body of an answer."""
        conversation = await self.ask(model, dialect, **body)
        await conversation.head()
        return await conversation.body()

    async def record(self, condition: Callable[[RequestRecord], bool]) -> RequestRecord:
        """Return the last request's record as soon as `condition` holds."""
        while not self.simulator.stats.requests or not condition(self.simulator.stats.requests[-1]):  # noqa: ASYNC110  # polls as a user of /stats does
            await asyncio.sleep(0)
        return self.simulator.stats.requests[-1]

    async def aclose(self) -> None:
        for conversation in self._open:
            conversation.writer.close()
        for conversation in self._open:
            with suppress(OSError):  # it was reset, as the test wanted
                await conversation.writer.wait_closed()


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator() as running:
        yield running


@pytest.fixture
async def caller(simulator: Simulator) -> AsyncIterator[Caller]:
    calling = Caller(simulator)
    yield calling
    await calling.aclose()
