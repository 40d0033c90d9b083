"""An exchange that writes down what happens to it, and a pool that must be whole afterwards."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from engine.guards import PATIENCE_S, Watch, until
from engine.peers import Listener, Peer
from headrace.engine.upstream.connection import ResponseHead, UpstreamConnection
from headrace.engine.upstream.pool import Origin, Pool

REQUEST = b"POST /v1/x HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"


class Exchange:
    """Takes one response."""

    def __init__(self) -> None:
        self.heads: list[ResponseHead] = []
        self.pieces: list[bytes] = []
        self.ends: list[Exception | None] = []
        self._over = asyncio.Event()

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def error(self) -> Exception | None:
        assert len(self.ends) == 1, "it ends once"
        return self.ends[0]

    def on_head(self, head: ResponseHead) -> None:
        assert not self.pieces
        assert not self.ends
        self.heads.append(head)

    def on_body(self, data: bytes) -> None:
        assert self.heads
        assert not self.ends
        assert data
        self.pieces.append(data)

    def on_end(self, error: Exception | None) -> None:
        self.ends.append(error)
        self._over.set()

    async def over(self) -> "Exchange":
        async with asyncio.timeout(PATIENCE_S):
            await self._over.wait()
        return self


class Client:
    """A pool, and the listener that it connects to."""

    def __init__(self, pool: Pool, listener: Listener) -> None:
        self.pool = pool
        self.listener = listener
        self.origin = Origin("http", "127.0.0.1", listener.port)

    async def ask(self, connection: UpstreamConnection | None = None) -> tuple[UpstreamConnection, Exchange, Peer]:
        """Send a request, on a new connection if none is given; return both ends of it."""
        if connection is None:
            connection = await self.pool.open(self.origin)
            peer = await self.listener.accept()
        else:
            peer = self.listener.peers[-1]
        exchange = Exchange()
        connection.begin(exchange, REQUEST)
        assert await peer.request() == REQUEST
        return connection, exchange, peer

    async def idle(self) -> Peer:
        """Have one connection lie ready; return its other end."""
        _, exchange, peer = await self.ask()
        peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        await exchange.over()
        assert self.pool.statistics()["idle"] == 1
        return peer


@pytest.fixture(autouse=True)
def no_proxy_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
async def pool(watch: Watch) -> AsyncIterator[Pool]:
    pool = Pool(connect_s=5.0)
    yield pool
    await pool.aclose()
    await until(lambda: pool.statistics()["open"] == 0, "every connection closed")
    assert pool.statistics()["idle"] == 0


@pytest.fixture
async def client(pool: Pool, listener: Listener) -> Client:
    return Client(pool, listener)
