"""`headrace simulate`: run the simulated provider."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import signal

import click

from headrace.errors import ConfigError


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), default=8090, show_default=True, help="Port on 127.0.0.1; 0 takes a free one.")
@click.option("--list", "list_scripts", is_flag=True, help="List the scripts that a model's name can ask for, and leave.")
def command(port: int, list_scripts: bool) -> None:
    """Run the simulated provider: no model, four dialects, and every fault that a real one has shown.

    The model's name is the script, with options: "story?first_token_s=20&tokens_per_s=60".
    """
    if list_scripts:
        _list()
        return
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(port))


async def _serve(port: int) -> None:
    from headrace.simulator import Simulator

    simulator = Simulator(port=port, log=click.echo)
    try:
        await simulator.start()
    except OSError as error:
        raise ConfigError(f"Cannot listen on 127.0.0.1:{port}: {error.strerror}. Choose another with --port.") from None
    try:
        click.echo(
            f"The simulator listens on {simulator.base_url}: /v1/chat/completions, /v1/responses, /v1/messages, /v1beta/models/…, /stats.",
            err=True,
        )
        click.echo("headrace simulate --list names its scripts. Ctrl-C ends it.", err=True)
        await _signalled()
    finally:
        await simulator.aclose()


async def _signalled() -> None:
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told.set)
    await told.wait()


def _list() -> None:
    """Print each script with what it does and the options that are its own."""
    from headrace.simulator.scripts import SCRIPTS
    from headrace.simulator.scripts.base import Script

    common = Script.__struct_fields__
    for name, script in SCRIPTS.items():
        what = " ".join((inspect.getdoc(script) or "").split("\n\n")[0].split())
        click.echo(f"{name:<16} {what}")
        own = [f"{field}={_shown(default)}" for field, default in _fields(script) if field not in common]
        if own:
            click.echo(f"{'':<16} {', '.join(own)}")
    click.echo(f"\n{'any of them':<16} {', '.join(f'{field}={_shown(default)}' for field, default in _fields(Script))}")


def _fields(script: type) -> list[tuple[str, object]]:
    import msgspec

    return [(field.name, field.default) for field in msgspec.structs.fields(script)]


def _shown(value: object) -> str:
    import msgspec

    return "…" if value is msgspec.NODEFAULT else f"{int(value) if isinstance(value, bool) else value}"
