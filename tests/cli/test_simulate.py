"""`headrace simulate`: the simulator as a command."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest
from click.testing import CliRunner

from headrace.cli import main
from headrace.simulator.scripts import SCRIPTS


def test_the_list_names_every_script_with_its_options() -> None:
    outcome = CliRunner().invoke(main, ["simulate", "--list"])
    assert outcome.exit_code == 0
    names = [line.split()[0] for line in outcome.output.splitlines() if line and not line.startswith(" ")]
    assert names == [*SCRIPTS, "any"]
    assert "first_token_s=0.2" in outcome.output


def test_a_port_that_is_taken_is_a_mistake_in_the_command() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        outcome = CliRunner().invoke(main, ["simulate", "--port", str(port)])
    assert outcome.exit_code == 2
    assert f"Cannot listen on 127.0.0.1:{port}" in outcome.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_told_to_end(number: signal.Signals) -> None:
    command = [sys.executable, "-c", "from headrace.cli import main; main()", "simulate", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            found = re.search(r"http://127\.0\.0\.1:\d+", process.stderr.readline())
            assert found
            with urllib.request.urlopen(f"{found[0]}/v1/models", timeout=10) as response:
                assert any(model["id"] == "story" for model in json.load(response)["data"])
            process.send_signal(number)
            assert process.wait(10) == 0
        finally:
            process.kill()
