"""The simulated provider as a server."""

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Mapping
from copy import copy
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from headrace.simulator import scripts
from headrace.simulator.anthropic import Anthropic
from headrace.simulator.ask import Dialect, Rejected, parse_body
from headrace.simulator.connection import DIALECTS, Connection
from headrace.simulator.gemini import MODELS_PATH, Gemini, route, said_by_path
from headrace.simulator.http1 import Request
from headrace.simulator.openai_chat import OpenAIChat
from headrace.simulator.performance import Performance, rejection, stage
from headrace.simulator.scripts.base import Recording, Scene
from headrace.simulator.stats import Ledger, RequestRecord, Stats

_BACKLOG = 4096
_CONTENT_TYPES = {".json": "application/json", ".html": "text/html; charset=utf-8"}


class Simulator:
    """A provider without a model, in several dialects, that can fail in every way that a real one does.

    `log` is called with one line for each request that ends. `replays` and `replay_dir` are where `replay?file=…` looks.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        log: Callable[[str], None] | None = None,
        replays: Mapping[str, tuple[str, bytes]] | None = None,
        replay_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self.ledger = Ledger(log)
        self._replays = dict(replays or {})
        self._replay_dir = Path(replay_dir).resolve() if replay_dir is not None else None
        self._attempts: Counter[str] = Counter()
        self._connections: set[Connection] = set()
        self._all_closed = asyncio.Event()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        await self.aclose()

    async def start(self) -> None:
        """Listen; a `port` of 0 becomes the one that the system chose."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), self.host, self.port, backlog=_BACKLOG)
        self.port = self._server.sockets[0].getsockname()[1]

    async def aclose(self) -> None:
        """Stop listening, break off every answer, and wait until the sockets are closed."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        for connection in list(self._connections):
            connection.shut()
        if self._connections:
            self._all_closed.clear()
            await self._all_closed.wait()

    @property
    def base_url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def stats(self) -> Stats:
        """What `GET /stats` answers, now; a copy that does not change any more."""
        now = self.ledger.since()
        return Stats(copy(now.totals), [copy(record) for record in now.requests])

    # What the connections ask for

    def opened(self, connection: Connection) -> None:
        self._connections.add(connection)
        if self._server is None:  # accepted in the moment in which the server stopped
            connection.shut()

    def closed(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._all_closed.set()

    def stage(self, dialect: Dialect, request: Request, record: RequestRecord) -> Performance:
        """Decide what happens to a request; a request that makes no sense gets an answer too."""
        try:
            body = parse_body(request.body) | said_by_path(request.path, request.query)
            model = body.get("model")
            record.model = model if isinstance(model, str) else None
            ask = dialect.read(body, record.id)
            record.stream = ask.stream
            return stage(Scene(ask, dialect, self.attempt, self.recording))
        except Rejected as rejected:
            return rejection(dialect, record.id, rejected)

    def page(self, request: Request) -> tuple[int, bytes]:
        """Answer everything that is no generation: status and JSON."""
        if (path := route(request.path)) in DIALECTS:
            return 405, DIALECTS[path].error(405, f"{request.method} is not allowed here.", 0)
        if request.method == "GET":
            match request.path:
                case "/health":
                    return 200, b'{"status":"ok"}'
                case "/stats":
                    return self._stats_page(request.query)
                case "/v1/models":
                    dialect = Anthropic() if "anthropic-version" in request.headers else OpenAIChat()
                    return 200, dialect.models(scripts.names())
                case path if path == MODELS_PATH:
                    return 200, Gemini().models(scripts.names())
        return 404, OpenAIChat().error(404, f"There is no {request.method} {request.path}.", 0)

    def _stats_page(self, query: dict[str, str]) -> tuple[int, bytes]:
        number = query.get("id") or query.get("since") or "0"
        if not number.isdecimal():
            return 400, b'{"error":{"message":"id and since are numbers"}}'
        if "id" not in query:
            return 200, msgspec.json.encode(self.ledger.since(int(number)))
        record = self.ledger.find(int(number))
        return (200, msgspec.json.encode(record)) if record else (404, b'{"error":{"message":"no such request"}}')

    def attempt(self, key: str) -> int:
        self._attempts[key] += 1
        return self._attempts[key]

    def recording(self, name: str) -> Recording | None:
        """Return the recording `name`: a registered one, or a file inside the replay directory and nowhere else."""
        if name in self._replays:
            return Recording(*self._replays[name])
        if self._replay_dir is None or "\0" in name:
            return None
        try:
            path = (self._replay_dir / name).resolve()
            body = path.read_bytes() if path.is_relative_to(self._replay_dir) else None
        except OSError:  # there is no such file, or it cannot be one
            return None
        return Recording(_CONTENT_TYPES.get(path.suffix, "text/event-stream; charset=utf-8"), body) if body is not None else None
