"""The stage of the proof: provider, relay and nginx, each a process of its own, on free ports of loopback."""

from __future__ import annotations

import json
import re
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2

from headrace.cli.proof import nginx
from headrace.cli.proof.child import Child, stop_all

_RELAY = """\
[server]
port = 0
log_format = "json"
drain_timeout_s = 0
default_model = "simulator/story"

[providers.simulator]
dialect = "openai_chat"
base_url = "{provider}/v1"
passthrough = true

[providers.simulator-anthropic]
dialect = "anthropic"
base_url = "{provider}"
passthrough = true
"""
_SERVE = "from headrace.cli import main; main()"


class Server:
    """A child that says in its output where it listens."""

    def __init__(self, name: str, args: list[str], folder: Path) -> None:
        self.child = Child(name, args, folder)
        self.url = ""

    def wait(self, ready_path: str) -> Self:
        """Wait until it answers on `ready_path`."""
        self.url = self.child.wait_for(self._said_address, "said where it listens").rstrip("/")
        self.child.wait_for(lambda: answers(self.url + ready_path), "answered")
        return self

    @property
    def pid(self) -> int:
        return self.child.pid

    @property
    def address(self) -> str:
        return self.url.removeprefix("http://")

    def _said_address(self) -> str | None:
        said = re.search(r"listens on (http://[\w.:\[\]]+\d)", self.child.output())
        return said[1] if said else None


class Relay(Server):
    """`headrace serve` with a configuration of its own; what follows `extra` is added to it."""

    def __init__(self, folder: Path, provider_url: str, *, name: str = "relay", extra: str = "") -> None:
        file = folder / f"{name}.toml"
        file.write_text(_RELAY.format(provider=provider_url) + extra)
        super().__init__(name, [sys.executable, "-c", _SERVE, "serve", "--config", str(file)], folder)

    def log_lines(self) -> list[dict[str, Any]]:
        """Return the structured lines of its log so far."""
        return [json.loads(line) for line in self.child.output().splitlines() if line.startswith("{") and line.endswith("}")]


class Provider(Server):
    """The simulated provider."""

    def __init__(self, folder: Path) -> None:
        super().__init__("provider", [sys.executable, "-m", "headrace.cli.proof.provider"], folder)


class Stage:
    """Everything that the experiments need, from `with` on until its end.

    Attributes:
        relay: the relay that is tried.
        spare: a second one for the experiment that weighs the process, so that the others' streams are not on the scales.
    """

    provider: Provider
    relay: Relay
    spare: Relay
    nginx: nginx.Nginx

    def __init__(self) -> None:
        nginx.find()
        self.folder = Path()
        self._children: list[Child] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-", ignore_cleanup_errors=True)))
        self._stack.callback(lambda: stop_all(self._children))
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._stack.close()

    def _start(self) -> None:
        self.provider = Provider(self.folder)
        self._children.append(self.provider.child)
        self.provider.wait("/health")
        self.relay = Relay(self.folder, self.provider.url)
        self._children.append(self.relay.child)
        self.spare = Relay(self.folder, self.provider.url, name="relay-for-the-scales")
        self._children.append(self.spare.child)
        for relay in (self.relay, self.spare):
            relay.wait("/readyz")
        sites = {
            "plain": nginx.Site(self.relay.address),
            "buffering": nginx.Site(self.relay.address, nginx.BUFFERING),
            "spare": nginx.Site(self.spare.address),
        }
        self.nginx = nginx.Nginx(self.folder / "nginx", sites)
        self._children.append(self.nginx.child)

    @property
    def url(self) -> str:
        """Where a user would be: nginx with nothing but `proxy_pass`, in front of the relay."""
        return self.nginx.url("plain")


def answers(url: str) -> bool | None:
    """True as soon as `url` answers with 200, else None."""
    try:
        return True if httpx2.get(url, timeout=2.0, trust_env=False).status_code == 200 else None
    except httpx2.TransportError:
        return None
