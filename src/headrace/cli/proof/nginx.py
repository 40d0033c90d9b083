"""A real nginx on loopback, without privileges, from a generated configuration in a folder of its own."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from headrace.cli.proof.child import Child, ChildFailed, free_ports, listens

MISSING = "nginx is missing: run `sudo apt-get install nginx`."
STARTS_MAX = 3  # a free port may be taken by somebody else before nginx has it

BUFFERING = """\
proxy_buffering on;
proxy_ignore_headers X-Accel-Buffering;
proxy_buffer_size 64k;
proxy_buffers 16 64k;"""

# The http block as Debian's package writes it, with what the package puts below /var moved to a folder of our own.
_CONFIGURATION = """\
daemon off;
{user}worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;

events {{
    worker_connections 768;
}}

http {{
    sendfile on;
    tcp_nopush on;
    types_hash_max_size 2048;
    default_type application/octet-stream;
    gzip on;
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{servers}
}}
"""
_SERVER = """
    server {{
        listen 127.0.0.1:{port};
        location / {{
{directives}
        }}
    }}"""


class Site(NamedTuple):
    """One port of nginx in front of `upstream` (`host:port`). Without `directives` there is `proxy_pass` and nothing else."""

    upstream: str
    directives: str = ""


class Nginx:
    """nginx as a child process, one port for each site."""

    def __init__(self, folder: Path, sites: Mapping[str, Site]) -> None:
        self.binary = find()
        self.sites = sites
        self.ports: dict[str, int] = {}
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.child = self._start()

    def url(self, site: str) -> str:
        return f"http://127.0.0.1:{self.ports[site]}"

    def _start(self) -> Child:
        for attempt in range(1, STARTS_MAX + 1):
            self.ports = dict(zip(self.sites, free_ports(len(self.sites)), strict=True))
            servers = "".join(_server(self.ports[name], site) for name, site in self.sites.items())
            child = run(self.binary, self.folder, servers)
            try:
                child.wait_for(lambda: all(map(listens, self.ports.values())) or None, "listened")
            except ChildFailed:
                child.terminate()
                child.wait()
                if attempt == STARTS_MAX or "Address already in use" not in child.output() + _error_log(self.folder):
                    raise
            else:
                return child
        raise AssertionError


def run(binary: str, folder: Path, servers: str) -> Child:
    """Check the configuration with these `server` blocks, and start it.

    Raises:
        ChildFailed: nginx refuses the configuration; the message is nginx's own.
    """
    file = folder / "nginx.conf"
    file.write_text(_CONFIGURATION.format(user=_user(), folder=folder, servers=servers))
    args = [binary, "-e", f"{folder}/error.log", "-p", str(folder), "-c", str(file)]
    checked = subprocess.run([*args, "-t"], capture_output=True, text=True, check=False)
    if checked.returncode:
        raise ChildFailed(f"nginx refuses {file}:\n{checked.stderr.strip()}")
    return Child("nginx", args, folder)


def find() -> str:
    """Return where nginx is. It lies in /usr/sbin, which is not on every user's path.

    Raises:
        ChildFailed: it is not installed; the message says how to install it.
    """
    found = shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin", "/usr/local/sbin"]))
    if found is None:
        raise ChildFailed(MISSING)
    return found


def version() -> str:
    """Return nginx's version, as in `1.22.1`."""
    said = subprocess.run([find(), "-v"], capture_output=True, text=True, check=False).stderr
    number = re.search(r"nginx/(\S+)", said)
    return number[1] if number else "unknown"


def _server(port: int, site: Site) -> str:
    lines = [f"proxy_pass http://{site.upstream};", *site.directives.splitlines()]
    return _SERVER.format(port=port, directives="\n".join(f"            {line}" for line in lines))


def _user() -> str:
    """As root nginx would give its workers to `nobody`, who may not write into the folder."""
    return f"user {pwd.getpwuid(0).pw_name};\n" if os.geteuid() == 0 else ""


def _error_log(folder: Path) -> str:
    file = folder / "error.log"
    return file.read_text("utf-8", "replace") if file.exists() else ""
