"""The pool: how connections are opened, kept, handed out and thrown away. Cancelled at any point, it leaves nothing behind."""

import asyncio
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import trustme

from engine.guards import PATIENCE_S, Watch, open_sockets, turns, until
from engine.peers import Listener, Peer, chunked, sized
from engine.upstream.conftest import REQUEST, Client, Exchange
from headrace.engine.upstream.pool import Origin, Pool, Proxy, parse_base_url, proxy_for
from headrace.errors import ConfigError, UpstreamConnect


async def answer(pool: Pool, origin: Origin, peer_of: Callable[[], Awaitable[Peer]]) -> bytes:
    """Send a request over a new connection and return the body of the answer that the peer gives."""
    opening = asyncio.create_task(pool.open(origin))
    peer = await peer_of()
    connection = await opening
    exchange = Exchange()
    connection.begin(exchange, REQUEST)
    assert await peer.request() == REQUEST
    peer.send(sized(b"here"))
    await exchange.over()
    assert exchange.error is None
    return exchange.body


# --- addresses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "origin", "prefix", "host"),
    [
        ("https://api.example.com/v1", Origin("https", "api.example.com", 443), "/v1", "api.example.com"),
        ("https://api.example.com", Origin("https", "api.example.com", 443), "", "api.example.com"),
        ("http://api.example.com:80/", Origin("http", "api.example.com", 80), "", "api.example.com"),
        ("http://127.0.0.1:8080/a/b/", Origin("http", "127.0.0.1", 8080), "/a/b", "127.0.0.1:8080"),
        ("https://[::1]:8443/v1", Origin("https", "::1", 8443), "/v1", "[::1]:8443"),
        ("HTTPS://API.example.com", Origin("https", "api.example.com", 443), "", "api.example.com"),
    ],
)
def test_a_base_url(url: str, origin: Origin, prefix: str, host: str) -> None:
    assert parse_base_url(url) == (origin, prefix)
    assert origin.host_header == host


@pytest.mark.parametrize(
    "url",
    ["", "api.example.com", "ftp://x", "https://", "https://x:port", "https://x:99999", "https://user@x", "https://x?a=b", "https://x#f",
     "https://x y", "https://x\r\nevil: 1", "file:///etc/passwd", "https://[::1"],
)  # fmt: skip
def test_what_is_no_base_url(url: str) -> None:
    with pytest.raises(ConfigError):
        parse_base_url(url)


PROXY = Proxy("proxy", 3128, None)


@pytest.mark.parametrize(
    ("environment", "origin", "proxy"),
    [
        ({}, Origin("https", "api.example.com", 443), None),
        ({"HTTPS_PROXY": "http://proxy:3128"}, Origin("https", "api.example.com", 443), PROXY),
        ({"https_proxy": "http://proxy:3128"}, Origin("https", "api.example.com", 443), PROXY),
        ({"HTTPS_PROXY": "proxy:3128"}, Origin("https", "api.example.com", 443), PROXY),
        ({"HTTPS_PROXY": "http://proxy"}, Origin("https", "api.example.com", 443), Proxy("proxy", 80, None)),
        ({"HTTPS_PROXY": "http://proxy:3128"}, Origin("http", "api.example.com", 80), None),
        ({"HTTP_PROXY": "http://proxy:3128"}, Origin("http", "api.example.com", 80), PROXY),
        ({"ALL_PROXY": "http://proxy:3128"}, Origin("https", "api.example.com", 443), PROXY),
        ({"HTTPS_PROXY": ""}, Origin("https", "api.example.com", 443), None),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "example.com"}, Origin("https", "api.example.com", 443), None),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "other.com, .example.com"}, Origin("https", "api.example.com", 443), None),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "ample.com"}, Origin("https", "api.example.com", 443), PROXY),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "*"}, Origin("https", "api.example.com", 443), None),
        ({"HTTP_PROXY": "http://proxy:3128", "no_proxy": "127.0.0.1:8080"}, Origin("http", "127.0.0.1", 8080), None),
        ({"HTTP_PROXY": "http://proxy:3128", "no_proxy": "127.0.0.1:8081"}, Origin("http", "127.0.0.1", 8080), PROXY),
        (
            {"HTTPS_PROXY": "http://me:p%40ss%3A@proxy:3128"},
            Origin("https", "x", 443),
            Proxy("proxy", 3128, "Basic " + b64encode(b"me:p@ss:").decode()),
        ),
        ({"HTTPS_PROXY": "http://me@proxy:3128"}, Origin("https", "x", 443), Proxy("proxy", 3128, "Basic " + b64encode(b"me:").decode())),
    ],
)
def test_the_proxy_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], origin: Origin, proxy: Proxy | None
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert proxy_for(origin) == proxy


@pytest.mark.parametrize("address", ["socks5://proxy:1080", "https://proxy:443", "http://", "http://proxy:port"])
def test_a_proxy_that_cannot_be_used_is_said_and_not_passed_by(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", address)

    with pytest.raises(ConfigError):
        proxy_for(Origin("https", "api.example.com", 443))


# --- opening -----------------------------------------------------------------------------------------------------------


async def test_nobody_there(pool: Pool, listener: Listener) -> None:
    port = listener.port
    await listener.__aexit__()

    with pytest.raises(UpstreamConnect) as refused:
        await pool.open(Origin("http", "127.0.0.1", port))
    assert f"127.0.0.1:{port}" in str(refused.value.detail)
    assert "127.0.0.1" not in refused.value.public_message


async def test_a_name_that_is_none(pool: Pool) -> None:
    with pytest.raises(UpstreamConnect):
        await pool.open(Origin("http", "x" * 70 + ".invalid", 80))


async def test_nobody_accepts_in_time(watch: Watch, deaf_port: int) -> None:
    pool = Pool(connect_s=0.03)

    with pytest.raises(UpstreamConnect, match=r"within 0\.03 s"):
        await pool.open(Origin("http", "127.0.0.1", deaf_port))
    assert pool.statistics() == {"open": 0, "idle": 0, "opened": 0}


async def test_cancelled_while_connecting(pool: Pool, deaf_port: int) -> None:
    before = len(open_sockets())
    opening = asyncio.create_task(pool.open(Origin("http", "127.0.0.1", deaf_port)))
    await until(lambda: len(open_sockets()) > before)

    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening

    await until(lambda: len(open_sockets()) == before, "the socket closed")
    assert pool.statistics()["open"] == 0


# --- keeping -----------------------------------------------------------------------------------------------------------


async def test_the_most_recently_used_is_handed_out_first(client: Client) -> None:
    asks = [await client.ask() for _ in range(3)]
    for _, exchange, peer in (asks[1], asks[2], asks[0]):
        peer.send(chunked(b"x"))
        await exchange.over()

    assert [client.pool.take(client.origin) for _ in range(4)] == [asks[0][0], asks[2][0], asks[1][0], None]


async def test_connections_are_shared_by_the_same_origin_only(client: Client) -> None:
    await client.idle()

    for other in (Origin("https", "127.0.0.1", client.listener.port), Origin("http", "127.0.0.1", client.listener.port, "ca.pem")):
        assert client.pool.take(other) is None
    assert client.pool.take(client.origin) is not None


@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_a_connection_that_its_provider_closed_is_not_handed_out(client: Client, how: str) -> None:
    peer = await client.idle()

    getattr(peer, how)()
    await until(lambda: client.pool.statistics()["open"] == 0)

    assert client.pool.take(client.origin) is None
    assert client.pool.statistics()["idle"] == 0


async def test_a_provider_that_talks_out_of_turn_is_not_trusted(client: Client) -> None:
    peer = await client.idle()

    peer.send(sized(b"did you mean this?"))

    await peer.gone()
    assert client.pool.take(client.origin) is None


async def test_so_many_lie_ready_and_no_more(watch: Watch, listener: Listener) -> None:
    pool = Pool(idle_max=2)
    client = Client(pool, listener)
    for _, exchange, peer in [await client.ask() for _ in range(4)]:
        peer.send(chunked(b"x"))
        await exchange.over()

    await until(lambda: pool.statistics() == {"open": 2, "idle": 2, "opened": 4})
    await pool.aclose()


async def test_what_lies_ready_for_too_long_is_closed(watch: Watch, listener: Listener) -> None:
    pool = Pool(idle_s=0.02)
    client = Client(pool, listener)
    first, second = await client.ask(), await client.ask()
    for _, exchange, peer in (first, second):
        peer.send(chunked(b"x"))
        await exchange.over()

    await first[2].gone()
    await second[2].gone()
    assert pool.statistics() == {"open": 0, "idle": 0, "opened": 2}
    await pool.aclose()


async def test_connections_are_warmed(client: Client) -> None:
    await client.pool.warm(client.origin, 3)

    assert client.pool.statistics() == {"open": 3, "idle": 3, "opened": 3}
    connection = client.pool.take(client.origin)
    assert connection is not None
    assert connection.reused  # it may have grown stale


async def test_warming_a_provider_that_is_not_there_is_no_error(pool: Pool, listener: Listener) -> None:
    port = listener.port
    await listener.__aexit__()

    await pool.warm(Origin("http", "127.0.0.1", port), 3)

    assert pool.statistics() == {"open": 0, "idle": 0, "opened": 0}


async def test_a_connection_that_is_closed_as_soon_as_it_is_open(client: Client) -> None:
    """Whether that is noticed before the request or after it, the exchange ends."""
    opening = asyncio.create_task(client.pool.open(client.origin))
    peer = await client.listener.accept()
    peer.fin()
    connection = await opening
    await turns(50)
    exchange = Exchange()

    if not connection.closed:
        connection.begin(exchange, REQUEST)
        await exchange.over()
        assert isinstance(exchange.error, UpstreamConnect)
    await until(lambda: client.pool.statistics()["open"] == 0)


# --- TLS ---------------------------------------------------------------------------------------------------------------


class Secure(Listener):
    """A listener with a certificate for `name`, and the file of the authority that signed it."""

    def __init__(self, name: str, directory: Path) -> None:
        authority = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["h2", "http/1.1"])
        authority.issue_cert(name).configure_cert(context)
        self.ca_file = str(directory / "ca.pem")
        authority.cert_pem.write_to_path(self.ca_file)
        super().__init__(context)

    def origin(self, ca_file: str | None = None) -> Origin:
        return Origin("https", "127.0.0.1", self.port, ca_file)


@pytest.fixture
async def secure(watch: Watch, tmp_path: Path) -> AsyncIterator[Secure]:
    async with Secure("127.0.0.1", tmp_path) as running:
        yield running


async def test_a_certificate_that_is_right(pool: Pool, secure: Secure) -> None:
    assert await answer(pool, secure.origin(secure.ca_file), secure.accept) == b"here"
    peer = secure.peers[0]
    assert peer.transport.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
    assert pool.statistics()["idle"] == 1


async def test_a_certificate_of_an_authority_that_nobody_knows(pool: Pool, secure: Secure) -> None:
    with pytest.raises(UpstreamConnect) as refused:
        await pool.open(secure.origin())
    assert "certificate" in str(refused.value.detail)
    assert secure.peers == []


async def test_a_certificate_of_somebody_else(pool: Pool, watch: Watch, tmp_path: Path) -> None:
    async with Secure("other.example", tmp_path) as wrong:
        with pytest.raises(UpstreamConnect) as refused:
            await pool.open(wrong.origin(wrong.ca_file))
    assert "certificate" in str(refused.value.detail)
    assert wrong.peers == []


async def test_no_tls_where_tls_was_meant(pool: Pool, listener: Listener, secure: Secure) -> None:
    opening = asyncio.create_task(pool.open(Origin("https", "127.0.0.1", listener.port, secure.ca_file)))
    peer = await listener.accept()
    peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\nThis is the plain port.")

    with pytest.raises(UpstreamConnect):
        await opening


@pytest.mark.parametrize("how", ["cancelled", "too late"])
async def test_a_handshake_that_does_not_end(watch: Watch, listener: Listener, secure: Secure, how: str) -> None:
    pool = Pool(connect_s=0.05 if how == "too late" else PATIENCE_S)
    opening = asyncio.create_task(pool.open(Origin("https", "127.0.0.1", listener.port, secure.ca_file)))
    peer = await listener.accept()
    await until(lambda: peer.received)  # its hello

    if how == "cancelled":
        opening.cancel()
    with pytest.raises(asyncio.CancelledError if how == "cancelled" else UpstreamConnect):
        await opening
    await peer.gone()
    assert pool.statistics()["open"] == 0
    await pool.aclose()


async def test_an_abort_closes_a_tls_connection_at_once(pool: Pool, secure: Secure) -> None:
    opening = asyncio.create_task(pool.open(secure.origin(secure.ca_file)))
    peer = await secure.accept()
    connection = await opening
    exchange = Exchange()
    connection.begin(exchange, REQUEST)
    await peer.request()

    connection.abort()

    await peer.gone()
    await until(lambda: connection.closed)
    assert exchange.ends == []


# --- a proxy -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch, listener: Listener) -> Listener:
    """The listener is the proxy of the environment."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://user:pass@127.0.0.1:{listener.port}")
    return listener


TUNNEL = b"HTTP/1.1 200 Connection established\r\nvia: proxy\r\n\r\n"


async def test_plain_http_goes_through_the_proxy_by_connect_too(pool: Pool, proxied: Listener) -> None:
    async def beyond() -> Peer:
        peer = await proxied.accept()
        asked = await peer.request()
        assert asked.startswith(b"CONNECT api.example.com:8080 HTTP/1.1\r\nHost: api.example.com:8080\r\n")
        assert b"\r\nProxy-Authorization: Basic " + b64encode(b"user:pass") + b"\r\n" in asked
        peer.send(TUNNEL)
        return peer

    assert await answer(pool, Origin("http", "api.example.com", 8080), beyond) == b"here"
    assert pool.statistics() == {"open": 1, "idle": 1, "opened": 1}


async def test_tls_is_spoken_with_the_provider_and_not_with_the_proxy(pool: Pool, proxied: Listener, secure: Secure) -> None:
    async def beyond() -> Peer:
        outer = await proxied.accept()
        assert (await outer.request()).startswith(b"CONNECT 127.0.0.1:443 ")
        outer.send(TUNNEL)
        inner = Peer(proxied)
        context = secure._context
        assert context is not None
        transport = await asyncio.get_running_loop().start_tls(outer.transport, inner, context, server_side=True)
        assert transport is not None
        proxied.closed(outer)
        inner.connection_made(transport)
        return inner

    assert await answer(pool, Origin("https", "127.0.0.1", 443, secure.ca_file), beyond) == b"here"


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
        b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 3\r\n\r\nno!",
        b"HTTP/1.1 302 Found\r\nlocation: http://elsewhere/\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 5000,
    ],
    ids=["407", "502", "302", "nonsense", "nothing", "endless"],
)
async def test_a_proxy_that_opens_no_tunnel(pool: Pool, proxied: Listener, reply: bytes) -> None:
    opening = asyncio.create_task(pool.open(Origin("https", "api.example.com", 443)))
    peer = await proxied.accept()
    await peer.request()
    peer.send(reply)
    peer.fin()

    with pytest.raises(UpstreamConnect) as refused:
        await opening
    assert "proxy" in str(refused.value.detail)
    assert b64encode(b"user:pass").decode() not in str(refused.value)


@pytest.mark.parametrize("point", ["connecting to the proxy", "waiting for its answer", "inside the tunnel's handshake"])
async def test_cancelled_behind_a_proxy(
    monkeypatch: pytest.MonkeyPatch, pool: Pool, proxied: Listener, secure: Secure, deaf_port: int, point: str
) -> None:
    if point == "connecting to the proxy":
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{deaf_port}")
    before = len(open_sockets())
    opening = asyncio.create_task(pool.open(Origin("https", "127.0.0.1", 443, secure.ca_file)))
    peer = None
    if point == "connecting to the proxy":
        await until(lambda: len(open_sockets()) > before)
    else:
        peer = await proxied.accept()
        await peer.request()
        if point == "inside the tunnel's handshake":
            peer.send(TUNNEL)
            await until(lambda: peer.received)

    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening

    if peer is not None:
        await peer.gone()
    await until(lambda: len(open_sockets()) <= before, "the socket closed")
    assert pool.statistics()["open"] == 0
