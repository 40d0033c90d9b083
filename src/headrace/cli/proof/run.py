"""Runs the experiments: those that would disturb each other's figures one after the other, the rest at the same time."""

from __future__ import annotations

import asyncio
import os
import platform
import time
from collections.abc import Callable, Collection
from datetime import datetime
from itertools import groupby

import httpx2

import headrace
from headrace.cli.proof import nginx, probe
from headrace.cli.proof.experiments import ALL, Experiment, NotRun, Scene
from headrace.cli.proof.results import Machine, Report, Result
from headrace.cli.proof.stage import Stage
from headrace.cli.proof.witness import Witness

LIMIT_S = 60.0  # for one experiment

Listener = Callable[[Experiment, Result | None], None]
"""Told that an experiment begins (without a result) or is over."""


async def run(stage: Stage, wanted: Collection[str], command: str, tell: Listener = lambda experiment, result: None) -> Report:
    """Run the experiments whose letters are in `wanted`, and return what they found."""
    began = time.monotonic()
    async with probe.client() as http:
        for url in (stage.relay.url, stage.url, stage.nginx.url("buffering")):  # what is loaded on first use is no wait for a token
            await probe.read(http, url, "quick?first_token_s=0&tokens_per_s=0")
        results = await _run_all(stage, http, wanted, tell)
    return Report(
        made_at=datetime.now().astimezone().isoformat(timespec="seconds"),
        command=command,
        seconds=round(time.monotonic() - began, 1),
        machine=machine(),
        results=results,
    )


async def _run_all(stage: Stage, http: httpx2.AsyncClient, wanted: Collection[str], tell: Listener) -> list[Result]:
    witness = Witness(http, stage.provider.url)
    found: dict[str, Result] = {experiment.letter: experiment.blank() for experiment in ALL}
    for letter in found.keys() - set(wanted):
        found[letter].reasons = ["not asked for"]

    async def one(experiment: Experiment) -> None:
        tell(experiment, None)
        result = found[experiment.letter]
        await _try(experiment, Scene(stage, http, witness, result))
        tell(experiment, result)

    async def turns() -> None:
        in_turn = sorted((e for e in ALL if e.turn and e.letter in wanted), key=lambda e: e.turn)
        for _, experiments in groupby(in_turn, key=lambda e: e.turn):
            await asyncio.gather(*map(one, experiments))

    await asyncio.gather(turns(), *(one(e) for e in ALL if not e.turn and e.letter in wanted))
    return list(found.values())


async def _try(experiment: Experiment, scene: Scene) -> None:
    """Run one experiment; whatever goes wrong in it is its result."""
    result = scene.result
    try:
        async with asyncio.timeout(LIMIT_S):
            await experiment.run(scene)
    except NotRun as reason:
        result.reasons = [str(reason)]
        return
    except Exception as error:
        result.reasons.append(f"it could not be finished: {type(error).__name__}: {error}")
        result.finding = "could not be finished"
    result.verdict = "failed" if result.reasons else "held"


def machine() -> Machine:
    """Return what the figures depend on."""
    return Machine(
        headrace=headrace.__version__,
        nginx=nginx.version(),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
    )
