"""The machine under the measurement: what it is, which cores are used for what, and what a group of processes has used of it."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import os
import platform
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
DISTRIBUTIONS = ("headrace", "uvloop", "httptools", "uvicorn", "msgspec")


class CannotMeasure(Exception):
    """What is missing, or went wrong, in a sentence for whoever started the benchmark."""


def describe() -> dict[str, Any]:
    """Return what a reader of the results needs to know about where they come from."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in DISTRIBUTIONS},
            "nginx": _version_of("nginx", "-v"),
            "cc": _version_of("cc", "--version"),
        },
    }


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version_of(program: str, option: str) -> str | None:
    path = find_program(program)
    if path is None:
        return None
    said = subprocess.run([path, option], capture_output=True, text=True)
    return (said.stdout or said.stderr).splitlines()[0].removeprefix("nginx version: nginx/").removeprefix("cc ")


def find_program(name: str) -> str | None:
    """Return where `name` is, also where Debian keeps servers, outside a user's own path."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"]))


def cores() -> tuple[int, int] | None:
    """Return the core for what is measured and the one for everything around it, or None on a machine with one core."""
    ours = sorted(os.sched_getaffinity(0))
    return (ours[0], ours[1]) if len(ours) > 1 else None


@contextlib.contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """Run what is inside, and what it starts, on one core."""
    before = os.sched_getaffinity(0)
    if core is not None:
        os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def allow_open_files(count: int) -> None:
    """Raise this process' limit of open files, which those that it starts inherit.

    Raises:
        CannotMeasure: the system allows fewer.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= count:
        return
    if hard != resource.RLIM_INFINITY and hard < count:
        raise CannotMeasure(
            f"This needs {count} open files in one process and the limit is {hard}: raise it (ulimit -Hn), or ask for fewer."
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


def members(session: int) -> list[int]:
    """Return the processes of a session: a server that was started with its own, and its workers."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = _stat(int(entry.name))
            if fields and int(fields[3]) == session:
                found.append(int(entry.name))
    return found


def cpu_s(session: int) -> float:
    """Return the user and system time that a session's processes have used."""
    return sum(_process_cpu_s(pid) for pid in members(session))


def _process_cpu_s(pid: int) -> float:
    """Return it in nanosecond steps where the kernel keeps scheduling statistics, else in ticks of usually 10 ms."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").glob("*/schedstat"))
        if tasks:
            return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9
    except (OSError, IndexError):
        pass
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S if fields else 0.0


class Meter:
    """What a session of processes uses of its core while this is open, and what everybody else uses of it meanwhile.

    Attributes:
        cpu_s: user and system time of the session.
        own: the same as a share of the time that passed.
        others: the share that was used by anybody else, the host of a virtual machine included; None where nothing is pinned.
    """

    def __init__(self, session: int, core: int | None) -> None:
        self._session, self._core = session, core
        self._cpu_s, self._core_s, self._begun = cpu_s(session), _core_busy_s(core), time.monotonic()

    def stop(self) -> None:
        passed = time.monotonic() - self._begun
        self.cpu_s = cpu_s(self._session) - self._cpu_s
        self.own = round(self.cpu_s / passed, 3)
        busy = _core_busy_s(self._core) - self._core_s
        self.others = None if self._core is None else round(max(0.0, (busy - self.cpu_s) / passed), 3)


def _core_busy_s(core: int | None) -> float:
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name == f"cpu{core}":
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
            return (user + nice + system + irq + softirq + steal) / TICKS_PER_S
    return 0.0


def pss_bytes(session: int) -> int:
    """Return a session's memory, with what is shared between processes divided among them. The kernel's socket buffers are not in it."""
    total = 0
    for pid in members(session):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/<pid>/stat behind the command's name, which may itself hold spaces."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
