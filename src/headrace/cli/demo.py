"""`headrace demo`: everything that matters, once, in one terminal: it streams, it stops, it resumes, and the proof of it."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from headrace.cli.proof import acts, nginx, show
from headrace.cli.proof.child import ended_by_signals
from headrace.cli.proof.output import write
from headrace.cli.proof.stage import Stage
from headrace.cli.prove import measure


@click.command()
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default="proof", show_default=True, help="Folder of the report.")
@click.option("--no-prove", is_flag=True, help="Without the measurements and their report.")
@click.option("--no-chat", is_flag=True, help="Leave at the end, where it would hand over to the chat.")
def command(out: Path, no_prove: bool, no_chat: bool) -> None:
    """See it stream, stop and resume, through a real nginx, on free ports of this machine.

    On a terminal it then hands over to the chat, through the same nginx, until you leave.
    """
    console = Console(highlight=False)
    with ended_by_signals(), Stage() as stage:
        _introduce(console, stage)
        asyncio.run(acts.play(console, stage))
        if not no_prove:
            _prove(console, stage, out)
        if not no_chat and sys.stdin.isatty() and sys.stdout.isatty():
            _chat(console, stage)


def _introduce(console: Console, stage: Stage) -> None:
    console.print(Text.assemble("\n", ("Headrace", "bold"), ("  three processes on this machine, and you in front of them", "dim")))
    places = (
        ("provider", stage.provider.url, "simulated; keeps its own account of what it writes"),
        ("relay", stage.relay.url, "headrace serve"),
        ("nginx", stage.url, f"{nginx.version()}, proxy_pass and nothing else; you are here"),
    )
    for name, url, what in places:
        console.print(Text.assemble("   ", f"{name:<10}", (f"{url:<25}", "cyan"), (what, "dim")), soft_wrap=True)


def _prove(console: Console, stage: Stage, out: Path) -> None:
    acts.title(console, 6, "The proof: six promises, about half a minute")
    console.print()
    report = measure(stage, console)
    page = write(report, out)
    show.summary(console, report)
    console.print(Text.assemble("\nThe report: ", (str(page), "cyan")), soft_wrap=True)


def _chat(console: Console, stage: Stage) -> None:
    """Hand the terminal over to the chat until its user leaves."""
    from headrace.cli.chat import command as chat

    acts.title(console, 7, "Now you")
    with contextlib.suppress(SystemExit):  # the chat's own way to leave
        chat.main(["--url", stage.url], prog_name="headrace chat", standalone_mode=False)
