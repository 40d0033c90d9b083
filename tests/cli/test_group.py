"""The command line as a whole: what it loads, and how it says that something is wrong."""

from __future__ import annotations

import importlib
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

import headrace
from headrace.cli import main
from headrace.cli.group import COMMANDS
from headrace.errors import ConfigError, UpstreamIdle


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)


def test_the_help_lists_every_command_and_loads_none() -> None:
    code = (
        "import sys; sys.argv = ['headrace', '--help']\nfrom headrace.cli import main\ntry: main()\nfinally: "
        "print([m for m in ('rich', 'httpx2', 'uvicorn', 'fastapi', 'asyncio') if m in sys.modules], file=sys.stderr)"
    )
    outcome = python(code)
    assert outcome.stderr.strip() == "[]"
    for name, help_line in COMMANDS.items():
        assert f"  {name}" in outcome.stdout
        assert help_line in outcome.stdout


@pytest.mark.parametrize("name", ["serve", "chat", "simulate"])
def test_every_command_explains_itself(name: str) -> None:
    outcome = CliRunner().invoke(main, [name, "--help"])
    assert outcome.exit_code == 0, outcome.output
    assert "Usage: " in outcome.output


def test_the_version() -> None:
    assert CliRunner().invoke(main, ["--version"]).output == f"headrace {headrace.__version__}\n"


def test_a_command_that_is_not_there() -> None:
    outcome = CliRunner().invoke(main, ["serv"])
    assert outcome.exit_code == 2
    assert "No such command" in outcome.stderr


@pytest.mark.parametrize(("error", "status"), [(UpstreamIdle("The provider is quiet."), 1), (ConfigError("port: a number."), 2)])
def test_an_error_is_one_line_and_a_status(monkeypatch: pytest.MonkeyPatch, error: Exception, status: int) -> None:
    @click.command()
    def command() -> None:
        raise error

    monkeypatch.setattr(importlib.import_module("headrace.cli.simulate"), "command", command)
    outcome = CliRunner().invoke(main, ["simulate"])
    assert outcome.exit_code == status
    assert outcome.stderr == f"headrace: {error.public_message}\n"  # type: ignore[attr-defined]
    assert outcome.stdout == ""


def test_a_bug_stays_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "headrace.cli.simulate", None)
    outcome = CliRunner().invoke(main, ["simulate"])
    assert isinstance(outcome.exception, ModuleNotFoundError)


@pytest.mark.parametrize(("missing", "command"), [("click", "serve"), ("rich", "chat"), ("uvicorn", "serve")])
def test_without_the_server_extra_it_says_what_to_install(missing: str, command: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; sys.argv = ['headrace', {command!r}]\nfrom headrace.cli import main\nmain()"
    outcome = python(code)
    assert outcome.returncode == 1
    assert "pip install 'headrace[server]'" in outcome.stderr
    assert "Traceback" not in outcome.stderr
