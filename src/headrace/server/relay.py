"""The composition root: everything that one relay process holds, put together once."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from starlette.types import Scope

from headrace.engine.streams import Streams
from headrace.engine.upstream.pool import Pool
from headrace.server.config import Catalogue, Config
from headrace.server.observe import Observatory
from headrace.simulator import Simulator

LOCAL_USER = "local"


class Relay:
    """One relay. `async with` it, or let the application's lifespan do so.

    Attributes:
        ready: whether `/readyz` says yes: started, and not draining.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.observatory = Observatory(config.server.log_format)
        self.streams: Streams
        self.catalogue: Catalogue
        self.simulator: Simulator | None = None
        self._stack = AsyncExitStack()
        self._started = False

    @property
    def ready(self) -> bool:
        return self._started and not self.streams.draining

    async def start(self) -> None:
        """Start everything, or nothing.

        Raises:
            ConfigError: something in the configuration cannot be.
        """
        try:
            await self._start()
        except BaseException:
            await self.aclose()
            raise

    async def _start(self) -> None:
        settings = self.config.settings()
        if self.config.simulator.enabled:
            self.simulator = Simulator(port=self.config.simulator.port)
            await self.simulator.start()
            self._stack.push_async_callback(self.simulator.aclose)
        self.catalogue = Catalogue(self.config, self.simulator.base_url if self.simulator is not None else None)
        pool = Pool(connect_s=settings.connect_s)
        self.streams = Streams(settings, pool, self.observatory)
        self.observatory.watch(self.streams)
        self._stack.push_async_callback(self.streams.aclose)
        for name, provider in self.config.providers.items():
            if provider.warm_connections:
                await pool.warm(self.catalogue.providers[name].origin, provider.warm_connections)
        self._started = True

    async def aclose(self) -> None:
        self._started = False
        await self._stack.aclose()

    async def drain(self) -> None:
        """Let streams finish within the drain timeout, then end the rest with an honest error."""
        self.streams.drain()
        try:
            async with asyncio.timeout(self.config.server.drain_timeout_s):
                await self.streams.wait_idle()
        except TimeoutError:
            self.streams.end_all()

    def user(self, scope: Scope) -> str:
        """Who is asking. Without authentication there is one user."""
        return LOCAL_USER
