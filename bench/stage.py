"""The processes of a measurement: a provider and readers (in C, compiled here), and what stands between them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from bench.machine import CannotMeasure, Meter, allow_open_files, cores, find_program, pinned, pss_bytes

HERE = Path(__file__).parent
PROGRAMS = ("provider", "readers")
START_S_MAX = 30.0
END_S_MAX = 2.0

Dialect = Literal["openai_chat", "anthropic"]
DIALECTS: tuple[Dialect, ...] = ("openai_chat", "anthropic")
PATHS: dict[Dialect, str] = {"openai_chat": "/v1/chat/completions", "anthropic": "/v1/messages"}

NGINX = """\
daemon off; master_process off; worker_processes 1; worker_rlimit_nofile {files};
pid {folder}/nginx.pid; error_log {folder}/nginx.log warn;
events {{ worker_connections {files}; }}
http {{
    access_log off;
    client_body_temp_path {folder}/client; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    upstream provider {{ server 127.0.0.1:{provider}; keepalive 1024; }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://provider;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_read_timeout 300s;
        }}
    }}
}}
"""

RELAY = """\
[server]
log_format = "json"

[providers.bench]
dialect = "{dialect}"
base_url = "http://127.0.0.1:{provider}{prefix}"
api_key = "sk-bench"
passthrough = true
"""
# Not the installed `headrace`: what is measured is the code of this checkout, run by this Python.
SERVE = [sys.executable, "-c", "from headrace.cli.serve import command; command()"]


class Server(NamedTuple):
    """A process that listens on `port`, in a session of its own, and on one core (None: on any)."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path
    core: int | None

    def meter(self) -> Meter:
        """Begin to measure what it uses."""
        return Meter(self.process.pid, self.core)

    @property
    def pss_bytes(self) -> int:
        return pss_bytes(self.process.pid)


class Load(NamedTuple):
    """How many readers, how many streams each in a row, of how many tokens, and how far apart the readers begin."""

    readers: int
    streams_each: int
    tokens: int
    ramp_us: int = 1000


class Stage:
    """A folder with the compiled programs, and one clock for all of them. Use `with Stage.open() as stage`.

    What is measured runs on one core, everything else on another, where there are two.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.epoch_ns = time.monotonic_ns()
        both = cores()
        self.core_measured = both[0] if both else None
        self.core_around = both[1] if both else None

    @classmethod
    @contextlib.contextmanager
    def open(cls) -> Iterator[Stage]:
        with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
            stage = cls(Path(folder))
            compile_programs(stage.folder)
            allow_open_files(4096)
            with pinned(stage.core_around):
                yield stage

    @contextlib.contextmanager
    def provider(self, gap_us: int) -> Iterator[Server]:
        """Run the provider, with `gap_us` between the tokens of a stream."""
        command = [str(self.folder / "provider"), str(self.epoch_ns), str(gap_us)]
        with self._running("provider", command, None, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            yield Server("provider", int(process.stdout.readline()), process, self.folder / "provider.log", self.core_around)

    @contextlib.contextmanager
    def nginx(self, provider: Server) -> Iterator[Server]:
        program = find_program("nginx")
        if program is None:
            raise CannotMeasure("nginx is missing, and it is what the relay is measured against (on Debian: apt-get install nginx-light).")
        port = _free_port()
        config = self.folder / "nginx.conf"
        config.write_text(NGINX.format(folder=self.folder, provider=provider.port, port=port, files=8192))
        command = [program, "-e", str(self.folder / "nginx.log"), "-p", str(self.folder), "-c", str(config)]
        with self._listening("nginx", command, port) as server:
            yield server

    @contextlib.contextmanager
    def relay(self, provider: Server, dialect: Dialect) -> Iterator[Server]:
        """Run the relay as `headrace serve` does, with everything on that is on by default, logging to a file."""
        port = _free_port()
        config = self.folder / "headrace.toml"
        prefix = "/v1" if dialect == "openai_chat" else ""
        config.write_text(RELAY.format(dialect=dialect, provider=provider.port, prefix=prefix))
        with self._listening("headrace", [*SERVE, "--config", str(config), "--port", str(port)], port) as server:
            yield server

    def read(self, server: Server, request: bytes, load: Load, *, seconds_max: float) -> dict[str, Any]:
        """Let readers have their streams from `server`, and return what they report.

        Raises:
            CannotMeasure: a stream failed, or it took too long.
        """
        with self.readers(server, request, load) as process:
            return report(process, seconds_max=seconds_max, log=server.log)

    @contextlib.contextmanager
    def readers(self, server: Server, request: bytes, load: Load, *mode: str) -> Iterator[subprocess.Popen[bytes]]:
        """Start readers in one of their modes."""
        file = self.folder / "request"
        file.write_bytes(request)
        numbers = [server.port, file, self.epoch_ns, load.readers, load.streams_each, load.ramp_us]
        command = [str(self.folder / "readers"), *map(str, numbers), *mode]
        with self._running("readers", command, None, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            yield process

    @contextlib.contextmanager
    def _listening(self, name: str, command: list[str], port: int) -> Iterator[Server]:
        with self._running(name, command, self.core_measured) as process:
            server = Server(name, port, process, self.folder / f"{name}.log", self.core_measured)
            _wait_until_it_listens(server)
            yield server

    @contextlib.contextmanager
    def _running(self, name: str, command: list[str], core: int | None, **streams: Any) -> Iterator[subprocess.Popen[bytes]]:
        with (self.folder / f"{name}.log").open("wb") as log, pinned(core):
            streams.setdefault("stdout", log)
            process = subprocess.Popen(command, stderr=log, start_new_session=True, env=_environment(), **streams)
        try:
            yield process
        finally:
            _end(process)


def compile_programs(folder: Path) -> None:
    """Compile the C programs into `folder`.

    Raises:
        CannotMeasure: there is no compiler, or it says no.
    """
    compiler = find_program("cc")
    if compiler is None:
        raise CannotMeasure(
            "A C compiler (cc) is missing: the provider and the readers are compiled here (on Debian: apt-get install gcc libc6-dev)."
        )
    for name in PROGRAMS:
        command = [compiler, "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(folder / name), str(HERE / f"{name}.c")]
        outcome = subprocess.run(command, capture_output=True, text=True)
        if outcome.returncode:
            raise CannotMeasure(f"{name}.c did not compile:\n{outcome.stderr}")


def request_to_provider(dialect: Dialect, tokens: int) -> bytes:
    """Return the request for a stream of `tokens` tokens in the provider's own language."""
    body: dict[str, Any] = {"model": f"mock-{tokens}", "messages": [{"role": "user", "content": "Tell me."}], "stream": True}
    if dialect == "anthropic":
        body["max_tokens"] = 4096
    return _post(PATHS[dialect], body)


def request_to_relay(tokens: int) -> bytes:
    """Return the request for the same stream in the relay's native protocol."""
    return _post("/v1/chat/stream", {"model": f"bench/mock-{tokens}", "messages": [{"role": "user", "content": "Tell me."}]})


def _post(path: str, body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: bench",
        "Content-Type: application/json",
        "Accept: text/event-stream",
        "X-Request-Id: bench-########",  # the readers put the stream's number there, and the relay passes it on
        f"Content-Length: {len(data)}",
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def report(process: subprocess.Popen[bytes], *, seconds_max: float, log: Path) -> dict[str, Any]:
    """Return the one line that readers print at their end, or when all of them have their first token."""
    assert process.stdout is not None
    watchdog = time.monotonic() + seconds_max
    os.set_blocking(process.stdout.fileno(), False)
    line = b""
    while not line.endswith(b"\n"):
        line += process.stdout.read() or b""
        if time.monotonic() > watchdog:
            raise CannotMeasure(f"The readers did not come to an end within {seconds_max:g} s.{_tail(log)}")
        if process.poll() is not None and not line.endswith(b"\n"):
            line += process.stdout.read() or b""
            if not line.endswith(b"\n"):
                raise CannotMeasure(f"The readers ended with {process.returncode} and without a report.{_tail(log)}")
        time.sleep(0.02)
    told: dict[str, Any] = json.loads(line)
    if told["errors"]:
        raise CannotMeasure(f"{told['errors']} of {told['streams']} streams failed, the first so: {told['first_error']}.{_tail(log)}")
    return told


def provider_report(provider: Server) -> dict[str, Any]:
    """Return the provider's counts."""
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"http://127.0.0.1:{provider.port}/", timeout=10) as answer:
        told: dict[str, Any] = json.load(answer)
    return told


def _tail(log: Path) -> str:
    lines = log.read_text("utf-8", "replace").splitlines()[-5:] if log.exists() else []
    return "".join(f"\n    {line[:300]}" for line in lines)


def _environment() -> dict[str, str]:
    """What is measured must not depend on the settings of whoever measures, and a proxy of theirs must not come between."""
    return {k: v for k, v in os.environ.items() if not k.startswith("HEADRACE_") and not k.lower().endswith("_proxy")}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def _wait_until_it_listens(server: Server) -> None:
    deadline = time.monotonic() + START_S_MAX
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", server.port), timeout=1):
            return
        time.sleep(0.02)
    raise CannotMeasure(f"{server.name} does not listen on 127.0.0.1:{server.port}.{_tail(server.log)}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process that was started here, with what it started."""
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_S_MAX if sign == signal.SIGTERM else None)
            return
