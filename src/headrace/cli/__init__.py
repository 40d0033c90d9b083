"""The command line. `main` is the entry point; without the server extra it is a function that says what to install."""

from __future__ import annotations

try:
    from headrace.cli.group import main
except ModuleNotFoundError as error:
    if error.name != "click":
        raise

    def main() -> None:  # type: ignore[misc]
        raise SystemExit("headrace: the command line is not installed. Install it with: pip install 'headrace[server]'")


__all__ = ["main"]
