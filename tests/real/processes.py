"""Real processes for tests: the relay and the simulated provider, each started on a free port and ended by its own id."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

START_S = 20.0
PATIENCE_S = 15.0
_END_S = 10.0
_POLL_S = 0.01

_SERVE = "from headrace.cli.serve import command; command()"
_SIMULATE = """
import asyncio
from headrace.simulator import Simulator

async def run():
    async with Simulator() as simulator:
        print(f"listens on {simulator.base_url}", flush=True)
        await asyncio.Event().wait()

asyncio.run(run())
"""
_PROVIDERS = """
[providers.sim]
dialect = "openai_chat"
base_url = "{url}/v1"
passthrough = true

[providers.sim-anthropic]
dialect = "anthropic"
base_url = "{url}"
passthrough = true
"""
DIALECTS = {"openai_chat": "sim", "anthropic": "sim-anthropic"}

Found = TypeVar("Found")


def wait_for(look: Callable[[], Found], what: str, within_s: float = PATIENCE_S) -> Found:
    """Return what `look` finds as soon as that is true."""
    deadline = time.monotonic() + within_s
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}; last seen: {found!r}"
        time.sleep(_POLL_S)
    return found


class Process:
    """A child with its output in a file. It says there `listens on http://…`, and is killed at the end of the block.

    Attributes:
        started_at: when it was started, on the monotonic clock.
    """

    def __init__(self, name: str, args: list[str], folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        with self.log.open("wb") as log:
            self.started_at = time.monotonic()
            self.popen = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=_environment())
        self.port = 0

    def __enter__(self) -> Self:
        try:
            address = wait_for(self._address, f"{self.name} listens", START_S)
        except BaseException:
            self.end()
            raise
        self.port = int(address.rpartition(":")[2])
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.end()

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=PATIENCE_S) as response:
            return response.read()

    def get_json(self, path: str) -> Any:
        return json.loads(self.get(path))

    def output(self) -> str:
        return self.log.read_text("utf-8", "replace")

    def send(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def wait(self, within_s: float = _END_S) -> int:
        return self.popen.wait(within_s)

    def end(self) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait(_END_S)

    def _address(self) -> str | None:
        said = re.search(r"listens on (http://127\.0\.0\.1:\d+)", self.output())
        assert said or self.popen.poll() is None, f"{self.name} ended before it listened:\n{self.output()}"
        return said[1] if said else None


class Provider(Process):
    """The simulated provider in a process of its own: the witness of what reaches it."""

    def __init__(self, folder: Path) -> None:
        super().__init__("provider", [sys.executable, "-c", _SIMULATE], folder)

    def stats(self) -> dict[str, Any]:
        return self.get_json("/stats")

    def by_request_id(self) -> dict[str, dict[str, Any]]:
        return {record["x_request_id"]: record for record in self.stats()["requests"]}


class Relay(Process):
    """`headrace serve` with a configuration file of its own, in front of `provider_url` in both dialects."""

    def __init__(self, folder: Path, provider_url: str | None, extra: str = "", *, name: str = "relay", server: str = "") -> None:
        providers = _PROVIDERS.format(url=provider_url) if provider_url else ""
        file = folder / f"{name}.toml"
        file.write_text(f'[server]\nport = 0\nlog_format = "json"\n{server}\n{providers}\n{extra}\n')
        super().__init__(name, [sys.executable, "-c", _SERVE, "--config", str(file)], folder)

    def __enter__(self) -> Self:
        super().__enter__()
        wait_for(self._is_ready, "the relay is ready", START_S)
        return self

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's series that carry these labels."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        lines = self.get("/metrics").decode().splitlines()
        series = [line for line in lines if re.match(rf"{name}[ {{]", line) and all(pair in line for pair in wanted)]
        return sum(float(line.rpartition(" ")[2]) for line in series)

    def log_lines(self) -> list[dict[str, Any]]:
        """Return the structured lines of the log so far."""
        return [json.loads(line) for line in self.output().splitlines() if line.startswith("{") and line.endswith("}")]

    def _is_ready(self) -> bool:
        try:
            return self.get_json("/readyz")["status"] == "ready"
        except OSError:
            assert self.popen.poll() is None, f"the relay ended before it was ready:\n{self.output()}"
            return False


def pss_kib(pid: int) -> int:
    """Return the process's proportional share of memory, as the kernel counts it."""
    return _rollup(pid, "Pss:")


def own_kib(pid: int) -> int:
    """Return the memory that is the process's alone: for differences, since its share of a library moves with who else has it loaded."""
    return _rollup(pid, "Pss_Anon:")


def _rollup(pid: int, field: str) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith(field))


def waited_for_cpu_s(pid: int) -> float:
    """Return how long the process was ready to run while others ran: what is not its own fault."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


def percentile(values: Iterable[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def _environment() -> dict[str, str]:
    """Everything but what would make another relay of the one that is tried."""
    foreign = ("HEADRACE_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    return {name: value for name, value in os.environ.items() if not name.upper().startswith(foreign)}
