"""`headrace serve`: run the relay."""

from __future__ import annotations

import sys

import click


@click.command()
@click.option(
    "--config",
    "config_file",
    type=click.Path(dir_okay=False),
    help="TOML file. Without one: the simulator, and every provider whose key is set.",
)
@click.option("--host", help="Address to listen on. [default: 127.0.0.1]")
@click.option("--port", type=int, help="Port to listen on. [default: 8080]")
def command(config_file: str | None, host: str | None, port: int | None) -> None:
    """Run the relay until it is told to stop (SIGTERM lets running answers finish)."""
    from headrace.server.config import check, load
    from headrace.server.run import bind, serve

    config = load(config_file)
    if host is not None:
        config.server.host = host
    if port is not None:
        config.server.port = port
    check(config)
    sock = bind(config.server.host, config.server.port)
    host, port = sock.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    models = ", ".join(
        [*config.models, *(f"{name}/…" for name in config.providers), *(["simulator/…"] if config.simulator.enabled else [])]
    )
    url = f"http://{shown}:{port}"
    click.echo(f"Headrace listens on {url}, for the models {models}.", file=sys.stderr)
    click.echo(f"The base URL for OpenAI's SDKs is {url}/v1, for Anthropic's {url}, for useChat {url}/api/chat.", file=sys.stderr)
    serve(config, ready=sock)
