"""Connections to providers: opened, kept warm, handed out, and thrown away when there is any doubt.

A stale connection (one that the provider closed while it lay in the pool) is found out by its failing before the first byte
of an answer; the request is then sent once more on a new one.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import OrderedDict
from typing import NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

from headrace.engine.upstream.connection import UpstreamConnection
from headrace.errors import ConfigError, UpstreamConnect

RECEIVE_BUFFER_BYTES = 256 * 1024


class Proxy(NamedTuple):
    """An HTTP proxy from the environment; TLS goes through it by CONNECT."""

    host: str
    port: int
    authorization: str | None


class Origin(NamedTuple):
    """Where a provider is: what a connection can be shared for."""

    scheme: str
    host: str
    port: int
    ca_file: str | None = None

    @property
    def host_header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == {"http": 80, "https": 443}[self.scheme] else f"{host}:{self.port}"


def parse_base_url(url: str, ca_file: str | None = None) -> tuple[Origin, str]:
    """Return the origin and the path prefix (without a slash at its end) of a provider's base URL.

    Raises:
        ConfigError: not an http or https address with a host.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"{url!r} is no address: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{url!r} is no http:// or https:// address.")
    if any(ch <= " " for ch in url) or parts.username or parts.query or parts.fragment:
        raise ConfigError(f"{url!r}: a base URL has no user, query, fragment or space.")
    return Origin(parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80), ca_file), parts.path.rstrip("/")


def proxy_for(origin: Origin) -> Proxy | None:
    """Return the proxy that the environment names for `origin` (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, less `NO_PROXY`)."""
    proxies = getproxies_environment()
    if proxy_bypass_environment(f"{origin.host}:{origin.port}", proxies) or proxy_bypass_environment(origin.host, proxies):
        return None
    address = proxies.get(origin.scheme) or proxies.get("all")
    if not address:
        return None
    try:
        parts = urlsplit(address if "://" in address else f"http://{address}")
        port = parts.port or 80
    except ValueError:
        raise ConfigError("The environment's proxy is no address.") from None  # and may hold a password, so it is not repeated
    if parts.scheme != "http" or not parts.hostname:
        raise ConfigError(f"The environment's proxy must be an http:// address, not {parts.scheme}://.")
    credentials = None
    if parts.username:
        import base64

        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        credentials = "Basic " + base64.b64encode(pair.encode()).decode()
    return Proxy(parts.hostname, port, credentials)


class Pool:
    """All connections of one process. `idle_max` bounds how many lie ready for each origin."""

    def __init__(self, *, connect_s: float = 10.0, idle_s: float = 55.0, idle_max: int = 1024) -> None:
        self.connect_s = connect_s
        self.idle_s = idle_s
        self.idle_max = idle_max
        self.opened = 0
        # Ready connections with the time until which they are kept, the most recently used last.
        self._idle: dict[Origin, OrderedDict[UpstreamConnection, float]] = {}
        self._all: set[UpstreamConnection] = set()
        self._contexts: dict[str | None, ssl.SSLContext] = {}
        self._sweeper: asyncio.TimerHandle | None = None

    def statistics(self) -> dict[str, int]:
        idle = sum(len(line) for line in self._idle.values())
        return {"open": len(self._all), "idle": idle, "opened": self.opened}

    def take(self, origin: Origin) -> UpstreamConnection | None:
        """Return a connection that lies ready, the most recently used first, or None."""
        line = self._idle.get(origin)
        while line:
            connection, _ = line.popitem()
            if not connection.closed and connection.transport is not None and not connection.transport.is_closing():
                return connection
        return None

    async def open(self, origin: Origin) -> UpstreamConnection:
        """Return a new connection.

        Raises:
            UpstreamConnect: the name, the address, the handshake or the deadline failed.
        """
        proxy = proxy_for(origin)
        try:
            async with asyncio.timeout(self.connect_s):
                return await self._connect(origin, proxy)
        except TimeoutError:
            raise UpstreamConnect(detail=f"{origin.host}:{origin.port} did not accept within {self.connect_s:g} s") from None
        except (OSError, ssl.SSLError, UnicodeError) as error:
            raise UpstreamConnect(detail=f"{origin.host}:{origin.port}: {error}") from error

    async def warm(self, origin: Origin, count: int) -> None:
        """Have `count` connections lie ready, so that the first requests pay for no handshake. Failures are left for later."""
        results = await asyncio.gather(*(self.open(origin) for _ in range(count)), return_exceptions=True)
        for connection in results:
            if isinstance(connection, UpstreamConnection):
                connection.reused = True
                self._put(origin, connection)

    async def aclose(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for connection in list(self._all):
            connection.abort()
        await asyncio.sleep(0)

    async def _connect(self, origin: Origin, proxy: Proxy | None) -> UpstreamConnection:
        loop = asyncio.get_running_loop()
        context = self._context(origin.ca_file) if origin.scheme == "https" else None
        name = origin.host if context is not None else None
        connection = UpstreamConnection()
        if proxy is None:
            await loop.create_connection(lambda: connection, origin.host, origin.port, ssl=context, server_hostname=name)
        else:
            sock = await _tunnel(loop, origin, proxy)
            try:
                await loop.create_connection(lambda: connection, sock=sock, ssl=context, server_hostname=name)
            except BaseException:
                sock.close()
                raise
        if connection.closed:  # it would never tell an exchange so
            raise OSError("closed as soon as it was open")
        self._adopt(origin, connection)
        return connection

    def _adopt(self, origin: Origin, connection: UpstreamConnection) -> None:
        self.opened += 1
        self._all.add(connection)
        connection.on_closed = lambda: self._forget(origin, connection)
        connection.on_reusable = lambda c: self._put(origin, c)
        assert connection.transport is not None
        sock = connection.transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # A paused stream should stop its provider soon: the kernel's own growth of this buffer would take megabytes first.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)

    def _forget(self, origin: Origin, connection: UpstreamConnection) -> None:
        self._all.discard(connection)
        if origin in self._idle:
            self._idle[origin].pop(connection, None)

    def _put(self, origin: Origin, connection: UpstreamConnection) -> None:
        line = self._idle.setdefault(origin, OrderedDict())
        if len(line) >= self.idle_max or connection.closed:
            connection.abort()
            return
        loop = asyncio.get_running_loop()
        line[connection] = loop.time() + self.idle_s
        if self._sweeper is None:
            self._sweeper = loop.call_later(self.idle_s, self._sweep)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now, following = loop.time(), None
        for line in self._idle.values():
            while line and next(iter(line.values())) <= now:
                line.popitem(last=False)[0].abort()
            if line:
                oldest = next(iter(line.values()))
                following = min(following or oldest, oldest)
        self._sweeper = loop.call_at(following, self._sweep) if following is not None else None

    def _context(self, ca_file: str | None) -> ssl.SSLContext:
        context = self._contexts.get(ca_file)
        if context is None:
            context = ssl.create_default_context(cafile=ca_file)
            context.set_alpn_protocols(["http/1.1"])
            self._contexts[ca_file] = context
        return context


async def _tunnel(loop: asyncio.AbstractEventLoop, origin: Origin, proxy: Proxy) -> socket.socket:
    """Return a socket that leads through `proxy` to `origin`, by CONNECT for both schemes, so that no proxy sees a plain request."""
    infos = await loop.getaddrinfo(proxy.host, proxy.port, type=socket.SOCK_STREAM)
    family, kind, proto, _, address = infos[0]
    sock = socket.socket(family, kind, proto)
    sock.setblocking(False)
    try:
        await loop.sock_connect(sock, address)
        target = f"[{origin.host}]:{origin.port}" if ":" in origin.host else f"{origin.host}:{origin.port}"
        lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
        if proxy.authorization:
            lines.append(f"Proxy-Authorization: {proxy.authorization}")
        await loop.sock_sendall(sock, ("\r\n".join(lines) + "\r\n\r\n").encode())
        reply = b""
        while b"\r\n\r\n" not in reply:
            data = await loop.sock_recv(sock, 1)
            if not data or len(reply) > 16 * 1024:
                raise OSError(f"the proxy {proxy.host}:{proxy.port} gave no answer to CONNECT")
            reply += data
        status = reply.split(b" ", 2)[1:2]
        if status != [b"200"]:
            raise OSError(f"the proxy {proxy.host}:{proxy.port} refused CONNECT: {reply.splitlines()[0].decode('latin-1')}")
    except BaseException:
        sock.close()
        raise
    return sock
