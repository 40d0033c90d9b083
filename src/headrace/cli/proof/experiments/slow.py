"""(d) Readers that take nothing: the provider is paused, and the relay's memory stays where it was.

They sit at the relay itself: behind nginx its buffers would take the first megabytes for them. There are four of them because
one alone is smaller than the steps in which an allocator grows.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator

from headrace.cli.proof import memory
from headrace.cli.proof.experiments.base import Experiment, NotRun, Scene
from headrace.cli.proof.probe import Reading, ask, monotonic, read
from headrace.cli.proof.provider import StampedRecord
from headrace.cli.proof.results import Curve

READERS = 4
HELD_KIB_MAX = 512
WAITING_MIB = 64
MODEL = "endless?first_token_s=0&tokens_per_s=0"  # as fast as it is taken, and never at an end
IDLE_S = 2.0
STALLED_S = 5.0
SETTLED_S = 2.0  # after the last of them has begun


async def run(scene: Scene) -> None:
    stage, result = scene.stage, scene.result
    if not memory.is_told():
        raise NotRun("this system does not tell how much memory a process has (Linux does)")
    for _ in range(3):  # what is loaded on first use is no cost of a reader
        await read(scene.http, stage.spare.url, "quick?tokens_per_s=0")
    began = monotonic()
    weight = Curve(label="Memory of the relay", unit="KiB", points=[])
    written = Curve(label="Written by the provider", unit="MiB", points=[])
    result.curves.update(weight=weight, written=written)
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(memory.sampling(stage.spare.pid, weight, began))
        for _ in range(READERS):
            await stack.enter_async_context(_idle_stream(scene))
        idle_s = monotonic() - began
        await asyncio.sleep(IDLE_S)
        stalled_s = monotonic() - began
        names = [await stack.enter_async_context(_stalled_reader(scene, number)) for number in range(READERS)]
        records = [await scene.witness.wait(name, lambda record: True) for name in names]
        await stack.enter_async_context(scene.witness.sampling([r.id for r in records], written, began, _mebibytes))
        await asyncio.sleep(STALLED_S)
        after = [await scene.witness.wait(name, lambda record: True) for name in names]
    _judge(scene, idle_s, stalled_s, still_running=all(record.state == "running" for record in after))


def _mebibytes(records: list[StampedRecord]) -> float:
    return round(sum(record.bytes_written for record in records) / 2**20, 3)


def _judge(scene: Scene, idle_s: float, stalled_s: float, *, still_running: bool) -> None:
    weight, written = (scene.result.curves[key].points for key in ("weight", "written"))
    idle_kib = min(kib for at, kib in weight if idle_s <= at < stalled_s)
    held = (max(kib for at, kib in weight if at >= stalled_s + SETTLED_S) - idle_kib) / READERS
    peak = (max(kib for at, kib in weight if at >= stalled_s) - idle_kib) / READERS
    settled = [mib for at, mib in written if at >= stalled_s + SETTLED_S]
    paused_s = next(at for at, mib in written if mib == written[-1][1]) - stalled_s
    scene.result.numbers.update(
        readers=READERS,
        stalled_s=round(stalled_s, 3),
        idle_kib=idle_kib,
        held_kib=round(held, 1),
        peak_kib=round(peak, 1),
        written_mib=written[-1][1],
        paused_s=round(paused_s, 2),
    )
    scene.result.finding = f"{held:+.0f} KiB each, provider paused after {paused_s:.1f} s"
    scene.check(held <= HELD_KIB_MAX, f"the relay held {held:.0f} KiB for each reader that takes nothing")
    scene.check(len(set(settled)) == 1, "the provider went on writing")
    scene.check(still_running and written[-1][1] < WAITING_MIB * READERS, "the provider was not held up")


@contextlib.asynccontextmanager
async def _idle_stream(scene: Scene) -> AsyncIterator[None]:
    """Keep a stream open in which nothing happens: what the stalled one is compared with."""
    reading = Reading()
    task = asyncio.create_task(read(scene.http, scene.stage.spare.url, "stall?after=1", reading))
    await reading.opened.wait()
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@contextlib.asynccontextmanager
async def _stalled_reader(scene: Scene, number: int) -> AsyncIterator[str]:
    """Ask for an answer without an end, read the beginning of its head, and then nothing. Yields the request's id."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    host, _, port = scene.stage.spare.address.rpartition(":")
    body = json.dumps(ask(MODEL)).encode()
    request_id = f"req_reader_that_takes_nothing_{number}"
    head = f"POST /v1/chat/stream HTTP/1.1\r\nhost: relay\r\ncontent-type: application/json\r\nx-request-id: {request_id}\r\n"
    try:
        await loop.sock_connect(sock, (host, int(port)))
        await loop.sock_sendall(sock, f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        await loop.sock_recv(sock, 256)
        yield request_id
    finally:
        sock.close()


EXPERIMENT = Experiment(
    letter="d",
    key="slow",
    title="A stalled reader costs little",
    promise=(
        f"A reader that takes nothing while more than {WAITING_MIB} MiB wait upstream costs the relay at most {HELD_KIB_MAX} KiB, "
        "and the provider is paused."
    ),
    turn=3,
    run=run,
)
