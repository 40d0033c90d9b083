"""A provider without a model: for the demo, for tests, and as the witness of what a relay did.

It shares no code with the relay. `docs/simulator.md` lists its scripts and their options.
"""

from headrace.simulator.server import Simulator
from headrace.simulator.stats import RequestRecord, Stats, Totals

__all__ = ["RequestRecord", "Simulator", "Stats", "Totals"]
