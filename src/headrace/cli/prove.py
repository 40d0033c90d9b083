"""`headrace prove`: six promises, tried on this machine through a real nginx, and a report of what was measured."""

from __future__ import annotations

import asyncio
import functools
import http.server
from pathlib import Path

import click
from rich.console import Console

from headrace.cli.proof import show
from headrace.cli.proof.child import ended_by_signals
from headrace.cli.proof.experiments import ALL
from headrace.cli.proof.output import write, write_images
from headrace.cli.proof.results import Report
from headrace.cli.proof.run import run
from headrace.cli.proof.stage import Stage

LETTERS = "".join(experiment.letter for experiment in ALL)


def _letters(context: click.Context, parameter: click.Parameter, value: str | None) -> str:
    wanted = LETTERS if value is None else value.replace(",", "").replace(" ", "").lower()
    unknown = sorted(set(wanted) - set(LETTERS))
    if unknown or not wanted:
        raise click.BadParameter(f"letters from {LETTERS[0]} to {LETTERS[-1]}, as in a,b")
    return wanted


@click.command(epilog="\b\n" + "\n".join(f"{experiment.letter}  {experiment.title}" for experiment in ALL))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default="proof", show_default=True, help="Folder of the report.")
@click.option("--only", metavar="LETTERS", callback=_letters, help="Only these experiments, as in a,b.")
@click.option("--images", type=click.Path(file_okay=False, path_type=Path), help="Also make a README's pictures there; needs chromium.")
@click.option("--open-port", type=click.IntRange(0, 65535), help="Then show the report on this port of 127.0.0.1, until Ctrl-C.")
def command(out: Path, only: str, images: Path | None, open_port: int | None) -> None:
    """Measure on this machine what Headrace promises: through a real nginx, with a provider that says what it saw.

    Writes report.html, report.json and the figures. The exit status is 1 if a promise did not hold.
    """
    console = Console(highlight=False)
    with ended_by_signals(), Stage() as stage:
        report = measure(stage, console, only)
    page = write(report, out)
    show.summary(console, report)
    console.print(f"\nThe report: {page}", soft_wrap=True)
    for picture in write_images(report, page, images) if images is not None else ():
        console.print(f"A picture: {picture}", soft_wrap=True)
    if open_port is not None:
        _serve(out, open_port, console)
    if any(result.verdict == "failed" for result in report.results):
        raise SystemExit(1)


def measure(stage: Stage, console: Console, wanted: str = LETTERS) -> Report:
    """Run the experiments, with what happens on the console."""
    name = "headrace prove" if wanted == LETTERS else f"headrace prove --only {','.join(wanted)}"
    with show.Board(console, wanted) as board:
        return asyncio.run(run(stage, wanted, name, board.tell))


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def _serve(folder: Path, port: int, console: Console) -> None:
    """Show the report to a browser, for a machine that has none."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        console.print(f"Open http://127.0.0.1:{server.server_port}/report.html (Ctrl-C ends it)", soft_wrap=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            console.print()
