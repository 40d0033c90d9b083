"""The command `headrace`: its subcommands, each imported when it is called for, and how errors are told."""

from __future__ import annotations

import importlib
from typing import Any

import click

import headrace
from headrace.errors import ConfigError, HeadraceError

# The help lines stand here, so that `headrace --help` imports none of them.
COMMANDS = {
    "serve": "Run the relay.",
    "demo": "See it stream, stop and resume, through a real proxy.",
    "chat": "Talk to a model through the relay, in the terminal.",
    "simulate": "Run the simulated provider.",
    "prove": "Measure on this machine what Headrace promises.",
}


class Failure(click.ClickException):
    """An error that is told in one line."""

    def show(self, file: Any = None) -> None:
        click.echo(f"headrace: {self.format_message()}", file=file, err=file is None)


class ConfigFailure(Failure):
    """A mistake in the configuration; the exit status is that of a mistake in the command."""

    exit_code = 2


class Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        try:
            command = importlib.import_module(f"headrace.cli.{cmd_name}").command
        except ModuleNotFoundError as error:
            raise _missing(error) from error
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except HeadraceError as error:
            raise (ConfigFailure if isinstance(error, ConfigError) else Failure)(error.public_message) from error
        except ModuleNotFoundError as error:
            raise _missing(error) from error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(headrace.__version__, message="headrace %(version)s")
def main() -> None:
    """A streaming relay for language models: every token at once, a Stop that stops, an answer that survives a refresh."""


def _missing(error: ModuleNotFoundError) -> Exception:
    """Return what to say about a package that is not there; a module of our own that is missing is a bug, and stays one."""
    name = (error.name or "").partition(".")[0]
    if name in ("", "headrace"):
        return error
    return Failure(f"the package {name} is not installed. Install it with: pip install 'headrace[server]'")
