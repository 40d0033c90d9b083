"""The clients for JavaScript: one Node process drives them all, so that none pays for its start."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .outcome import Client, Kind, Outcome, from_json

FOLDER = Path(__file__).parent / "node"
_END_S = 5.0

Listener = Callable[[dict[str, Any]], None]


class Driver:
    """`driver.mjs` as a child: commands go in, what the clients saw comes out."""

    def __init__(self, log: Path) -> None:
        assert shutil.which("node"), "Node is missing: `make test` says how to install it"
        assert (FOLDER / "node_modules").is_dir(), "no JavaScript clients: run `make test`, or `npm ci` in tests/clients/node"
        proxies = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NODE_OPTIONS")
        environment = {name: value for name, value in os.environ.items() if name.upper() not in proxies}
        self._numbers = itertools.count(1)
        self._listeners: dict[int, tuple[asyncio.AbstractEventLoop, Listener]] = {}
        self._log = log
        with log.open("wb") as errors:
            self._popen = subprocess.Popen(
                ["node", "driver.mjs"], cwd=FOLDER, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
            )
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def start(self, command: dict[str, Any], listener: Listener) -> int:
        """Send a command. `listener` gets every line about it, on the loop of the caller."""
        number = next(self._numbers)
        self._listeners[number] = (asyncio.get_running_loop(), listener)
        self.send({"id": number, **command})
        return number

    def send(self, command: dict[str, Any]) -> None:
        assert self._popen.poll() is None, f"the driver ended:\n{self._log.read_text()}"
        assert self._popen.stdin is not None
        self._popen.stdin.write(json.dumps(command).encode() + b"\n")
        self._popen.stdin.flush()

    def forget(self, number: int) -> None:
        self._listeners.pop(number, None)

    async def run(self, command: dict[str, Any]) -> Outcome:
        """Send a command and return its outcome. Cancelling this aborts it, as a user's `AbortController` does."""
        done: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

        def hear(line: dict[str, Any]) -> None:
            if "outcome" in line and not done.done():
                done.set_result(line["outcome"])

        number = self.start(command, hear)
        try:
            return from_json(await done)
        except asyncio.CancelledError:
            self.send({"id": number, "abort": True})
            raise
        finally:
            self.forget(number)

    def end(self) -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.close()
        try:
            self._popen.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        self._reading.join(_END_S)
        assert self._popen.stdout is not None
        self._popen.stdout.close()
        said = self._log.read_text()
        assert not said, f"a client complained:\n{said}"

    def _read(self) -> None:
        assert self._popen.stdout is not None
        for raw in self._popen.stdout:
            line = json.loads(raw)
            found = self._listeners.get(line["id"])
            if found is not None and not found[0].is_closed():
                found[0].call_soon_threadsafe(found[1], line)


class NodeClient(Client):
    """One of the modules in `node/` with an `ask`."""

    def __init__(self, name: str, surface: str, module: str) -> None:
        self.name = name
        self.surface = surface
        self.module = module
        self.driver: Driver | None = None

    async def ask(
        self, base: str, model: str, *, stream: bool = True, leave_at: Kind | None = None, retries: int = 0, tools: bool = False
    ) -> Outcome:
        return await self.act("ask", base, model=model, stream=stream, leave_at=leave_at, retries=retries, tools=tools)

    async def act(self, act: str, base: str, **words: Any) -> Outcome:
        assert self.driver is not None, "the test needs the fixture `driver`"
        return await self.driver.run({"client": self.module, "act": act, "base": base, **words})


class NodeResponses(NodeClient):
    """openai for Node, Responses, with what only that API can do."""

    def __init__(self) -> None:
        super().__init__("openai-node-responses", "openai_responses", "openai_responses")

    async def begin(self, base: str, model: str, *, leave_after: int | None = None) -> Outcome:
        return await self.act("begin", base, model=model, leave_after=leave_after)

    async def resume(self, base: str, response: str, after: int) -> Outcome:
        return await self.act("resume", base, response=response, after=after)

    async def cancel(self, base: str, response: str) -> Outcome:
        return await self.act("cancel", base, response=response)

    async def retrieve(self, base: str, response: str) -> Outcome:
        return await self.act("retrieve", base, response=response)
