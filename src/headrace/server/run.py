"""Run the relay as a process: uvicorn on uvloop, with our protocol, our signals and our drain."""

from __future__ import annotations

import asyncio
import gc
import socket
from types import FrameType

import uvicorn
from fastapi import FastAPI

from headrace.engine.streams import Streams
from headrace.errors import ConfigError
from headrace.server.app import create_app
from headrace.server.config import Config
from headrace.server.direct import DirectProtocol
from headrace.server.observe import quiet_libraries
from headrace.server.relay import Relay

FLUSH_S = 1.0  # for the last events to reach their readers, once every stream has ended


class Server(uvicorn.Server):
    """uvicorn's server, with a drain in place of its wait: SIGTERM lets streams finish, a second signal ends them honestly at once."""

    def __init__(self, config: uvicorn.Config, relay: Relay) -> None:
        super().__init__(config)
        self.relay = relay
        self._flush: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.should_exit:
            self.should_exit = True
            return
        self._streams.end_all()

    @property
    def _streams(self) -> Streams:
        return self.relay.streams

    async def main_loop(self) -> None:
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)
        await super().main_loop()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no connection, but leave the open ones their say while streams finish: a monitor hears 503, a client may still Stop."""
        for server in self.servers:
            server.close()
        for sock in sockets or []:
            sock.close()
        await self.relay.drain()
        self._flush = asyncio.create_task(self._close_what_is_left())
        await super().shutdown(sockets)
        self._flush.cancel()

    async def _close_what_is_left(self) -> None:
        await asyncio.sleep(FLUSH_S)
        self.force_exit = True
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.close()


def serve(config: Config, *, ready: socket.socket | None = None) -> None:
    """Serve until a signal says otherwise.

    Raises:
        ConfigError: the address cannot be bound.
    """
    quiet_libraries()
    app: FastAPI = create_app(config)
    relay: Relay = app.state.relay
    sock = ready or bind(config.server.host, config.server.port)
    server = Server(
        uvicorn.Config(
            app,
            loop="uvloop",
            http=DirectProtocol,
            ws="none",
            lifespan="on",
            access_log=False,
            log_config=None,
            server_header=False,
            backlog=4096,
            timeout_keep_alive=75,
            proxy_headers=False,
        ),
        relay,
    )
    server.run(sockets=[sock])


def bind(host: str, port: int) -> socket.socket:
    """Return a listening address, before anything else is started, so that a taken port is the first thing one hears of."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise ConfigError(f"Cannot listen on {host}:{port}: {error.strerror}. Choose another with --port.") from None
    return sock
