"""`docs/client.md` says what the code does: every name in it exists, and every figure is the default."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import get_args

import pytest

from headrace.client import AsyncClient, AsyncStream, Client, ClientMetrics, Policy, Stream, Timeouts
from headrace.client.answers import ConnectionState
from headrace.client.asks import RequestFields
from headrace.client.recovery import RETRYABLE_STATUSES
from headrace.client.turn import LAST_WORD_S

GUIDE = (Path(__file__).parents[2] / "docs" / "client.md").read_text()


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL))
def test_every_example_is_python(code: str) -> None:
    compile(code, "docs/client.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("name", [*RequestFields.__annotations__, *ClientMetrics.__struct_fields__, *get_args(ConnectionState)])
def test_every_field_measure_and_state_is_explained(name: str) -> None:
    if name != "idle":
        assert f"`{name}`" in GUIDE


@pytest.mark.parametrize(("owner", "word"), [(AsyncStream, "stream"), (AsyncClient, "client")])
def test_every_method_is_mentioned(owner: type, word: str) -> None:
    for name, _ in inspect.getmembers(owner, lambda member: inspect.isfunction(member) or isinstance(member, property)):
        if not name.startswith("_") and name not in ("aclose", "idempotency_key", "receipt", "connection"):
            assert f"{word}.{name}" in GUIDE, name


def test_every_figure_is_the_default() -> None:
    assert "from 0.25 s to\n5 s" in GUIDE
    assert (Policy().backoff_s, Policy().backoff_s_max) == (0.25, 5.0)
    assert "eight attempts" in GUIDE
    assert Policy().attempts_max == 8
    assert "two seconds after the receipt" in GUIDE
    assert LAST_WORD_S == 2.0
    assert Timeouts().silence_s == 2.5 * 10
    assert ", ".join(str(status) for status in sorted(RETRYABLE_STATUSES)) in GUIDE


def test_both_clients_can_do_the_same() -> None:
    def names(cls: type) -> dict[str, list[str]]:
        functions = inspect.getmembers(cls, inspect.isfunction)
        return {name: list(inspect.signature(call).parameters) for name, call in functions if not name.startswith("_")}

    def blocking(shape: dict[str, list[str]]) -> dict[str, list[str]]:
        return {name.removeprefix("a") if name == "aclose" else name: parameters for name, parameters in shape.items()}

    assert blocking(names(AsyncClient)) == names(Client)
    assert blocking(names(AsyncStream)) == names(Stream)
