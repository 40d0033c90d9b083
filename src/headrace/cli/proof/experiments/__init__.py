"""The six experiments, in the order of the report."""

from __future__ import annotations

from headrace.cli.proof.experiments import arrival, drop, life, slow, stop, tools
from headrace.cli.proof.experiments.base import Experiment, NotRun, Scene

ALL: tuple[Experiment, ...] = tuple(module.EXPERIMENT for module in (arrival, stop, tools, slow, life, drop))

__all__ = ["ALL", "Experiment", "NotRun", "Scene"]
