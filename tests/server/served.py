"""The relay, served by uvicorn on loopback in the test's own process, and a client that sees and sends bytes."""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Self

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from engine.guards import PATIENCE_S, until
from engine.rig import FRAMES
from headrace.server.app import create_app
from headrace.server.config import (
    Config,
    LimitsConfig,
    ModelConfig,
    ProviderConfig,
    RetryConfig,
    ServerConfig,
    SimulatorConfig,
    StreamConfig,
    SurfaceConfig,
)
from headrace.server.direct import DirectProtocol
from headrace.server.relay import Relay

WAYS: dict[str, type[asyncio.Protocol]] = {"direct": DirectProtocol, "asgi": HttpToolsProtocol}
KEY = "sk-canary-3f9d0c71b2a84e55"


def configuration(
    *,
    provider_url: str | None = None,
    server: dict[str, Any] | None = None,
    stream: dict[str, Any] | None = None,
    limits: dict[str, Any] | None = None,
    surfaces: dict[str, SurfaceConfig] | None = None,
    aliases: dict[str, ModelConfig] | None = None,
    more: dict[str, ProviderConfig] | None = None,
    **provider: Any,
) -> Config:
    """The simulator, and (with `provider_url`) two providers that a test plays: `p` and `a`."""
    providers = {}
    if provider_url is not None:
        fields = {"api_key": KEY, "passthrough": True, **provider}
        providers = {
            "p": ProviderConfig(dialect="openai_chat", base_url=provider_url + "/v1", **fields),
            "a": ProviderConfig(dialect="anthropic", base_url=provider_url, **fields),
        }
    return Config(
        server=ServerConfig(log_format="json", **(server or {})),
        providers=providers | (more or {}),
        models={"fast": ModelConfig(targets=["simulator/quick?first_token_s=0&tokens_per_s=0"]), **(aliases or {})},
        surfaces=surfaces or {},
        stream=StreamConfig(**(stream or {})),
        limits=LimitsConfig(**(limits or {})),
        retry=RetryConfig(attempts_max=1),
        simulator=SimulatorConfig(enabled=True),
    )


class Answer(NamedTuple):
    """One whole response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error in the native shape; nothing else is in the body."""
        assert list(self.json) == ["error"]
        assert self.headers["content-type"] == "application/json"
        error: dict[str, Any] = self.json["error"]
        assert isinstance(error["code"], str)
        assert isinstance(error["message"], str)
        assert error["message"]
        assert isinstance(error["retryable"], bool)
        return error

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events of an SSE body, of which every byte is a frame."""
        assert b"".join(match[0] for match in FRAMES.finditer(self.body)) == self.body
        return [json.loads(payload) for _, payload in FRAMES.findall(self.body) if payload]

    @property
    def text(self) -> str:
        return "".join(event["text"] for event in self.events if event["type"] == "text")


class Connection:
    """One connection to the relay."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.status = 0
        self.headers: dict[str, str] = {}
        self.version = ""
        self.seen = bytearray()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def head(self) -> int:
        async with asyncio.timeout(PATIENCE_S):
            raw = await self.reader.readuntil(b"\r\n\r\n")
        status_line, *lines = raw.decode("latin-1").split("\r\n")[:-2]
        self.version, status, _ = (*status_line.split(" ", 2), "")[:3]
        self.status = int(status)
        pairs = [line.split(": ", 1) for line in lines]
        assert len({name for name, _ in pairs}) == len(pairs), f"a header twice: {lines}"
        self.headers = {name.lower(): value for name, value in pairs}
        return self.status

    async def piece(self) -> bytes:
        """Read the next chunk of a chunked body; empty is its end."""
        async with asyncio.timeout(PATIENCE_S):
            size = int(await self.reader.readuntil(b"\r\n"), 16)
            data = await self.reader.readexactly(size + 2)
        assert data.endswith(b"\r\n")
        self.seen += data[:-2]
        return data[:-2]

    async def until(self, needle: bytes) -> bytearray:
        """Read pieces until `needle` has come; return all that was read so far."""
        while needle not in self.seen:
            assert await self.piece(), f"ended before {needle!r}: {self.seen!r}"
        return self.seen

    async def body(self) -> bytes:
        """Read the rest of the body, by its framing."""
        if self.status == 204:
            return b""
        if "content-length" in self.headers:
            async with asyncio.timeout(PATIENCE_S):
                return await self.reader.readexactly(int(self.headers["content-length"]))
        if self.headers.get("transfer-encoding") == "chunked":
            while await self.piece():
                pass
            return bytes(self.seen)
        return await self.rest()

    async def rest(self) -> bytes:
        """Read until the connection ends."""
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.read()

    async def answer(self) -> Answer:
        await self.head()
        return Answer(self.status, self.headers, await self.body())


class Served:
    """A relay that serves."""

    def __init__(self, app: Any, port: int) -> None:
        self.app = app
        self.relay: Relay = app.state.relay
        self.port = port
        self._open: list[Connection] = []

    async def connect(self) -> Connection:
        connection = Connection(*await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 26))
        self._open.append(connection)
        return connection

    async def start(self, method: str, path: str, body: bytes | None = None, *headers: str, version: str = "1.1") -> Connection:
        """Send a request."""
        connection = await self.connect()
        connection.send(raw(method, path, body, *headers, version=version))
        return connection

    async def ask(self, method: str, path: str, body: bytes | None = None, *headers: str) -> Answer:
        """Send a request, and return its whole answer."""
        return await (await self.start(method, path, body, *headers)).answer()

    async def get(self, path: str, *headers: str) -> Answer:
        return await self.ask("GET", path, None, *headers)

    async def post(self, path: str, value: Any = None, *headers: str) -> Answer:
        return await self.ask("POST", path, b"" if value is None else json.dumps(value).encode(), *headers)

    async def chat(self, model: str = "fast", *headers: str, **body: Any) -> Connection:
        """Start a stream; the answer's head has been read."""
        connection = await self.start("POST", "/v1/chat/stream", chat_body(model, **body), *headers)
        await connection.head()
        return connection

    def leave(self) -> None:
        for connection in self._open:
            connection.writer.transport.abort()


def chat_body(model: str | None = "fast", **body: Any) -> bytes:
    request = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 100, **body}
    return json.dumps(request | ({"model": model} if model is not None else {})).encode()


def raw(method: str, path: str, body: bytes | None, *headers: str, version: str = "1.1") -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "host: relay", *headers]
    if body is not None:
        given = {re.split("[: ]", header, maxsplit=1)[0].lower() for header in headers}
        lines += [] if "content-type" in given else ["content-type: application/json"]
        lines += [] if given & {"content-length", "transfer-encoding"} else [f"content-length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


@asynccontextmanager
async def serving(config: Config, way: str = "direct") -> AsyncIterator[Served]:
    app = create_app(config)
    sock = socket.create_server(("127.0.0.1", 0))
    settings = uvicorn.Config(
        app, http=WAYS[way], ws="none", lifespan="on", access_log=False, log_config=None, server_header=False, proxy_headers=False
    )
    settings.load()
    server = uvicorn.Server(settings)
    server.lifespan = settings.lifespan_class(settings)
    await server.startup(sockets=[sock])
    served = Served(app, sock.getsockname()[1])
    try:
        yield served
    finally:
        served.leave()
        await until(lambda: not server.server_state.connections, "every connection closed")
        await until(lambda: not server.server_state.tasks, "every request over")
        for listening in server.servers:  # what `server.shutdown` does, without its waits
            listening.close()
        sock.close()
        await server.lifespan.shutdown()
