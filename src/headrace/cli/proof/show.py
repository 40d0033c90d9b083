"""The proof in the terminal: what runs, what it found, and what that means."""

from __future__ import annotations

import time
from collections.abc import Collection

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from headrace.cli.proof.experiments import ALL, Experiment
from headrace.cli.proof.results import Report, Result, Verdict, failed_first, headline

_LOOKS: dict[Verdict, tuple[str, str]] = {
    "held": ("✓ Held", "bold cyan"),
    "failed": ("✗ Failed", "bold red"),
    "not_run": ("– Not run", "dim"),
}
_TITLES = max(len(experiment.title) for experiment in ALL)


class Board:
    """The table of the experiments while they run. On a terminal it is kept up to date; elsewhere each end is a line."""

    def __init__(self, console: Console, wanted: Collection[str]) -> None:
        self.console = console
        self._wanted = [experiment for experiment in ALL if experiment.letter in wanted]
        self._began: dict[str, float] = {}
        self._results: dict[str, Result] = {}
        self._live = Live(self, console=console, refresh_per_second=8, transient=True) if console.is_terminal else None

    def __enter__(self) -> Board:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def tell(self, experiment: Experiment, result: Result | None) -> None:
        """An experiment begins, or is over."""
        if result is None:
            self._began[experiment.letter] = time.monotonic()
            return
        self._results[experiment.letter] = result
        if self._live is None:
            self.console.print(f"{experiment.letter}  {experiment.title}: {_LOOKS[result.verdict][0][2:].lower()}", soft_wrap=True)

    def __rich__(self) -> RenderableType:
        table = _table()
        for experiment in self._wanted:
            result = self._results.get(experiment.letter)
            if result is not None:
                _add(table, result)
                continue
            began = self._began.get(experiment.letter)
            clock = f"{time.monotonic() - began:4.1f} s" if began is not None else "waits its turn"
            table.add_row(Text(f"  {clock}", "dim" if began is None else ""), experiment.letter, experiment.title, "")
        return table


def summary(console: Console, report: Report) -> None:
    """Print what held and what did not, failed first: a table for a terminal, else a line each."""
    if not console.is_terminal:
        console.print(f"\n{headline(report.results)}\n", soft_wrap=True)
        for result in failed_first(report.results):
            console.print(_line(result), soft_wrap=True)
        return
    table = _table()
    for result in failed_first(report.results):
        _add(table, result)
        for reason in result.reasons if result.verdict == "failed" else ():
            table.add_row("", "", "", Text(reason, "red"))
    console.print(Group(Text(headline(report.results), "bold"), Text(""), table))


def _table() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(min_width=14, no_wrap=True)
    table.add_column(style="dim")
    table.add_column(min_width=_TITLES, no_wrap=True)
    table.add_column(ratio=1)
    return table


def _add(table: Table, result: Result) -> None:
    words, style = _LOOKS[result.verdict]
    said = result.reasons[0] if result.verdict == "not_run" and result.reasons else result.finding
    table.add_row(Text(words, style), result.letter, result.title, Text(said, "dim" if result.verdict == "not_run" else ""))


def _line(result: Result) -> Text:
    words, style = _LOOKS[result.verdict]
    said = "; ".join(result.reasons) if result.reasons else result.finding
    return Text.assemble((f"{words:<10}", style), f" {result.letter}  {result.title}: {said}")
