"""`headrace chat`: talk to a model through the relay, in the terminal."""

from __future__ import annotations

import asyncio
import contextlib
import io
import sys

import click
from rich.console import Console

import headrace
from headrace.cli.chat.conversation import Conversation, Outcome
from headrace.cli.chat.markdown import THEME
from headrace.cli.chat.show import PlainShow, Show, TerminalShow
from headrace.cli.chat.terminal import without_echo
from headrace.client import AsyncClient, AsyncStream

EXIT_CODES: dict[Outcome, int] = {"complete": 0, "failed": 1, "stopped": 130, "left": 130}
PROMPT = "› "


@click.command()
@click.option("--url", envvar="HEADRACE_URL", show_envvar=True, default="http://127.0.0.1:8080", show_default=True, help="The relay.")
@click.option("--model", "-m", help="The model, as the relay names it. Without one the relay decides.")
@click.option("--system", "-s", help="The system prompt.")
@click.option("--api-key", envvar="HEADRACE_API_KEY", show_envvar=True, help="The relay's key; better in the environment than here.")
@click.argument("prompt", required=False)
def command(url: str, model: str | None, system: str | None, api_key: str | None, prompt: str | None) -> None:
    """Talk to a model. With PROMPT, or with text on stdin, answer once and leave.

    Ctrl-C stops the answer and not the program; a second one leaves, and so does Ctrl-D. The exit status of a single answer is 0
    if it is complete, 1 if it failed and 130 if it was stopped.
    """
    _never_fail_to_write()
    console = Console(highlight=False, markup=False, emoji=False, theme=THEME)
    on_terminal = console.is_terminal and not console.is_dumb_terminal

    def make_show(stream: AsyncStream) -> Show:
        return TerminalShow(console, stream, model) if on_terminal else PlainShow(stream)

    once = _question(prompt)
    with asyncio.Runner() as runner:
        client = AsyncClient(url, api_key)
        conversation = Conversation(client, url, model, system, make_show)
        try:
            status = _talk(runner, conversation, url) if once is None else EXIT_CODES[_answer(runner, conversation, once)]
        finally:
            runner.run(client.aclose())
    sys.exit(status)


def _question(prompt: str | None) -> str | None:
    """Return what to ask once, or None for a conversation. What is piped in follows the argument, as what it is about."""
    if sys.stdin is None or sys.stdin.isatty():
        return prompt or None
    piped = sys.stdin.read().strip()
    question = "\n\n".join(text for text in (prompt, piped) if text)
    if not question:
        raise click.UsageError("There is nothing to ask: give PROMPT, or text on stdin.")
    return question


def _answer(runner: asyncio.Runner, conversation: Conversation, question: str) -> Outcome:
    with without_echo():
        return runner.run(conversation.ask(question))


def _talk(runner: asyncio.Runner, conversation: Conversation, url: str) -> int:
    """Ask and answer until the user leaves; return the exit status."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  # gives input() its line editing and its memory

    click.echo(f"Headrace {headrace.__version__} at {url}. Ctrl-C stops an answer, Ctrl-D leaves.")
    while True:
        try:
            question = input(f"\n{PROMPT}").strip()
        except EOFError:
            click.echo()
            return 0
        except KeyboardInterrupt:
            click.echo()
            return 130
        if question:
            click.echo()
            if _answer(runner, conversation, question) == "left":
                return 130


def _never_fail_to_write() -> None:
    """A terminal that cannot show a character gets a question mark, and not an exception in the middle of an answer."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
