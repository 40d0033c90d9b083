"""The network and the clock, in two forms: one that awaits and one that blocks.

Everything above is written once, as coroutines over a `Port`. The coroutines of `BlockingPort` never suspend: they block, so that
`run` can carry the whole of it through in one step, on the caller's own thread.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self, TypeVar

import httpx2

from headrace.client.asks import Ask
from headrace.client.recovery import Dropped, DropReason
from headrace.errors import ConfigError

T = TypeVar("T")

# A stream holds its connection for minutes: under a limit, the next one, and every Stop, would wait for it.
LIMITS = httpx2.Limits(max_connections=None, max_keepalive_connections=20)
LAST_BYTES_S = 0.5  # for the rest of a body behind its terminal event, so that the connection can be used again

# Every way in which httpx2 says that a connection failed. What is missing here is a mistake in the program, and stays one.
DROPS: dict[type[httpx2.HTTPError], DropReason] = {
    httpx2.ConnectError: "unreachable",
    httpx2.ConnectTimeout: "unreachable",
    httpx2.PoolTimeout: "unreachable",
    httpx2.ProxyError: "unreachable",
    httpx2.ReadTimeout: "silent",
    httpx2.ReadError: "lost",
    httpx2.WriteError: "lost",
    httpx2.WriteTimeout: "lost",
    httpx2.CloseError: "lost",
    httpx2.RemoteProtocolError: "lost",
    httpx2.DecodingError: "garbled",
}


class Timeouts(NamedTuple):
    """`silence_s` is for how long a stream may bring nothing at all: two and a half of the relay's heartbeats."""

    connect_s: float = 10.0
    write_s: float = 10.0
    silence_s: float = 25.0
    answer_s: float = 15.0  # for what is no stream: a Stop, a state


class Body(Protocol):
    """A response whose head has come."""

    status: int
    headers: Mapping[str, str]

    async def read(self) -> bytes | None:
        """Return the next piece, or None at the end.

        Raises:
            Dropped: the connection failed.
        """
        ...

    async def finish(self) -> None:
        """Close; where next to nothing is left, take it, so that the connection can be used again."""
        ...

    async def aclose(self) -> None: ...


class Patience(Protocol):
    """What a wait is done under, so that a Stop from elsewhere can cut it short: it then raises `Dropped("stopped")`."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    async def sleep(self, seconds: float) -> None: ...

    def hurry(self, seconds: float) -> None:
        """Let every wait, also one that is under way, end within `seconds` from now."""
        ...


class Port(Protocol):
    def now(self) -> float: ...

    def chance(self) -> float: ...

    def patience(self) -> Patience: ...

    async def open(self, ask: Ask, *, streaming: bool) -> Body:
        """Send the request and return its response's head.

        Raises:
            Dropped: there is none.
        """
        ...

    async def aclose(self) -> None: ...


def run(step: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine over a `BlockingPort` to its end."""
    try:
        step.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    step.close()
    raise RuntimeError("a coroutine over a blocking port has suspended")


class Address:
    """Where the relay is, and what every request to it carries."""

    def __init__(self, base_url: str, api_key: str | None, headers: Mapping[str, str] | None, timeouts: Timeouts) -> None:
        try:
            url = httpx2.URL(base_url)
        except httpx2.InvalidURL:
            url = httpx2.URL()
        if url.scheme not in ("http", "https") or not url.host:
            raise ConfigError(f"base_url: an address like http://127.0.0.1:8080, not {base_url!r}.", field="base_url")
        self.base_url = base_url.rstrip("/")
        self._headers = {"accept-encoding": "identity", **(headers or {})}
        if api_key is not None:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._timeouts = timeouts

    def request(self, http: httpx2.Client | httpx2.AsyncClient, ask: Ask, *, streaming: bool) -> httpx2.Request:
        times = self._timeouts
        timeout = httpx2.Timeout(
            connect=times.connect_s,
            write=times.write_s,
            pool=times.connect_s,
            read=times.silence_s if streaming else times.answer_s,
        )
        headers = {**self._headers, **ask.headers}
        return http.build_request(ask.method, self.base_url + ask.path, headers=headers, content=ask.body, timeout=timeout)


def dropped(error: httpx2.HTTPError) -> Dropped | None:
    """Return what a failure of httpx2 means to a reader, or None for one that is a mistake in the program."""
    for cls, reason in DROPS.items():
        if isinstance(error, cls):
            return Dropped(reason, _in_words(error))
    return None


def _in_words(error: BaseException) -> str:
    """Say what the system said, which httpx2 keeps some causes below."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno is not None and cause.errno > 0:
            return os.strerror(cause.errno).lower()
        cause = cause.__cause__ or cause.__context__
    return str(error).rstrip(".").lower() or type(error).__name__


class Failing:
    """Turns httpx2's exceptions into `Dropped`, inside a `with`."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, httpx2.HTTPError):
            drop = dropped(error)
            if drop is not None:
                raise drop from error


FAILING = Failing()


# --- the form that awaits --------------------------------------------------------------------------------------------


class AsyncBody:
    def __init__(self, response: httpx2.Response) -> None:
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self._response = response
        self._pieces: AsyncGenerator[bytes, None] = response.aiter_bytes()

    async def read(self) -> bytes | None:
        with FAILING:
            return await anext(self._pieces, None)

    async def finish(self) -> None:
        with suppress(Dropped, TimeoutError):
            async with asyncio.timeout(LAST_BYTES_S):
                while await self.read() is not None:
                    pass
        await self.aclose()

    async def aclose(self) -> None:
        await self._pieces.aclose()
        await self._response.aclose()


class AsyncPatience:
    """Holds one `asyncio.timeout` at a time; without a Stop it never fires and costs no timer."""

    def __init__(self, sleep: Callable[[float], Awaitable[None]]) -> None:
        self._sleep = sleep
        self._until: float | None = None
        self._timeout: asyncio.Timeout | None = None

    async def __aenter__(self) -> Self:
        self._timeout = asyncio.timeout_at(self._until)
        await self._timeout.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        timeout, self._timeout = self._timeout, None
        assert timeout is not None
        try:
            await timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            raise Dropped("stopped", "a Stop was asked for") from None

    async def sleep(self, seconds: float) -> None:
        await self._sleep(seconds)

    def hurry(self, seconds: float) -> None:
        until = asyncio.get_running_loop().time() + seconds
        self._until = until if self._until is None else min(until, self._until)
        if self._timeout is not None:
            self._timeout.reschedule(self._until)


class AsyncPort:
    """httpx2's asynchronous client. `now`, `sleep` and `chance` are there for tests that do not wait."""

    def __init__(
        self,
        address: Address,
        http: httpx2.AsyncClient | None = None,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.now = now
        self.chance = chance
        self._address = address
        self._sleep = sleep
        self._own = http is None
        self._http = http or httpx2.AsyncClient(limits=LIMITS)

    def patience(self) -> AsyncPatience:
        return AsyncPatience(self._sleep)

    async def open(self, ask: Ask, *, streaming: bool) -> AsyncBody:
        request = self._address.request(self._http, ask, streaming=streaming)
        with FAILING:
            return AsyncBody(await self._http.send(request, stream=True, follow_redirects=False))

    async def aclose(self) -> None:
        if self._own:
            await self._http.aclose()


# --- the form that blocks --------------------------------------------------------------------------------------------


class BlockingBody:
    def __init__(self, response: httpx2.Response) -> None:
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self._response = response
        self._pieces: Iterator[bytes] = response.iter_bytes()

    async def read(self) -> bytes | None:
        with FAILING:
            return next(self._pieces, None)

    async def finish(self) -> None:
        """Take what is there already; to wait for more could block for as long as a stream may be silent."""
        network = self._response.extensions.get("network_stream")
        with suppress(Dropped):
            while network is not None and network.get_extra_info("is_readable"):
                if await self.read() is None:
                    break
        await self.aclose()

    async def aclose(self) -> None:
        self._response.close()


class BlockingPatience:
    """Only sleeping can be cut short here: a thread that reads is woken by what the relay then sends."""

    def __init__(self, sleep: Callable[[float], object] | None) -> None:
        self._hurried = threading.Event()
        self._sleep = sleep or self._hurried.wait

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    async def sleep(self, seconds: float) -> None:
        self._sleep(seconds)

    def hurry(self, seconds: float) -> None:
        self._hurried.set()


class BlockingPort:
    """httpx2's synchronous client."""

    def __init__(
        self,
        address: Address,
        http: httpx2.Client | None = None,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.now = now
        self.chance = chance
        self._address = address
        self._sleep = sleep
        self._own = http is None
        self._http = http or httpx2.Client(limits=LIMITS)

    def patience(self) -> BlockingPatience:
        return BlockingPatience(self._sleep)

    async def open(self, ask: Ask, *, streaming: bool) -> BlockingBody:
        request = self._address.request(self._http, ask, streaming=streaming)
        with FAILING:
            return BlockingBody(self._http.send(request, stream=True, follow_redirects=False))

    async def aclose(self) -> None:
        if self._own:
            self._http.close()
