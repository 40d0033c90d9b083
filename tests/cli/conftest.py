"""A relay with its simulator, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
import uvicorn

from headrace.server.app import create_app
from headrace.server.config import load
from headrace.server.direct import DirectProtocol
from headrace.server.run import bind


@pytest.fixture(scope="module")
def relay_url() -> Iterator[str]:
    sock = bind("127.0.0.1", 0)
    app = create_app(load(environ={"HEADRACE_SERVER_LOG_FORMAT": "json"}))
    server = uvicorn.Server(uvicorn.Config(app, http=DirectProtocol, lifespan="on", log_config=None))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[sock])))
    thread.start()
    yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    server.should_exit = True
    thread.join(10)
    assert not thread.is_alive()
