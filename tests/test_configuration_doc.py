"""`docs/configuration.md` and `docs/operations.md` say what the code does: every key, default, metric and field, and no stale one."""

from __future__ import annotations

import ast
import inspect
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme
from msgspec import Struct

from headrace.errors import ConfigError
from headrace.protocol.dialects import anthropic, event_stream, openai_chat
from headrace.protocol.sse import EVENT_BYTES_MAX
from headrace.server import config, observe
from headrace.server.config import Catalogue, ModelConfig, ProviderConfig, load

ROOT = Path(__file__).parents[1]
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text()
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
UNIT = (ROOT / "deploy" / "systemd" / "headrace.service").read_text()
EXAMPLE = "".join(re.findall(r"```toml\n(.*?)```", CONFIGURATION, re.DOTALL))
MISTAKE = "".join(re.findall(r"```text\n(.*?)\n```", CONFIGURATION, re.DOTALL))
KEYS = {"OPENAI_API_KEY": "one", "ANTHROPIC_API_KEY": "two"}

NAMED = {"providers": ProviderConfig, "models": ModelConfig}
SECTIONS: dict[str, type[Struct]] = {
    f.name: NAMED.get(f.name) or f.default_factory  # type: ignore[misc]
    for f in msgspec.structs.fields(config.Config)
}


def section(text: str, title: str) -> str:
    """Return what stands under a heading that begins with `title`, up to the next one of its level."""
    found = re.search(rf"^## {re.escape(title)}.*?\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    assert found, title
    return found[1]


def rows(text: str) -> Iterator[list[str]]:
    """Return the cells of each row whose first cell is code."""
    for line in text.splitlines():
        if line.startswith("| `"):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))]


def default_of(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    value: Any = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()  # type: ignore[operator]
    return "none" if value is None else f"`{json.dumps(value)}`"


@pytest.mark.parametrize("name", SECTIONS)
def test_every_key_stands_there_with_its_default_and_no_other(name: str) -> None:
    said = {cells[0].strip("`"): cells[1] for cells in rows(section(CONFIGURATION, f"`[{name}"))}

    assert said == {field.name: default_of(field) for field in msgspec.structs.fields(SECTIONS[name])}


@pytest.mark.parametrize("name", SECTIONS)
def test_units_are_those_of_the_names(name: str) -> None:
    for cells in rows(section(CONFIGURATION, f"`[{name}")):
        key, unit = cells[0].strip("`"), cells[2]
        if "_bytes" in key:
            size = int(cells[1].strip("`"))
            assert unit in (f"bytes ({size // 1024} KiB)", f"bytes ({size // 1024**2} MiB)")
        else:
            assert (unit == "s") == bool(re.search(r"_s(_max)?$", key)), key


def test_every_key_that_is_named_elsewhere_exists() -> None:
    for text in (CONFIGURATION, OPERATIONS):
        for name, key in re.findall(r"`([a-z]+)(?:\.<\w+>)?\.([a-z_]+)`", text):
            if name in SECTIONS:
                assert key in SECTIONS[name].__struct_fields__, f"{name}.{key}"
        for variable in re.findall(r"HEADRACE_([A-Z_]+)", text):
            name, _, key = variable.lower().partition("_")
            assert key in SECTIONS[name].__struct_fields__, variable


def test_the_example_is_a_configuration(tmp_path: Path) -> None:
    path = tmp_path / "headrace.toml"
    authority = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(authority)
    path.write_text(EXAMPLE.replace("/etc/ssl/internal-ca.pem", str(authority)))
    loaded = load(path, KEYS)
    catalogue = Catalogue(loaded, "http://127.0.0.1:1")

    assert set(tomllib.loads(EXAMPLE)) == set(SECTIONS)
    assert catalogue.default_model() == "fast"
    assert [target.provider.name for target in catalogue.targets("fast")] == ["local", "openai"]
    assert catalogue.targets("openai/anything")[0].model == "anything"
    for name, provider in loaded.providers.items():
        assert set(provider.quirks) <= {quirk for dialect, quirk in said_quirks() if dialect == provider.dialect}, name


def test_the_mistake_is_a_real_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("headrace.toml").write_text("[stream]\nheartbeats_s = 5\n")
    with pytest.raises(ConfigError) as wrong:
        load("headrace.toml", {})

    assert f"headrace: {wrong.value.public_message}" == MISTAKE


def test_what_there_is_without_a_file() -> None:
    said = [[cell.strip("`") for cell in cells] for cells in rows(section(CONFIGURATION, "Without a file"))]
    loaded = load(None, {variable: "key" for variable, _, _ in said})

    assert {name: provider.dialect for name, provider in loaded.providers.items()} == {name: dialect for _, name, dialect in said}
    assert len(said) == len(config._KEYS_OF_PROVIDERS)
    assert loaded.simulator.enabled


# --- quirks ----------------------------------------------------------------------------------------------------------------


def said_quirks() -> dict[tuple[str, str], str]:
    return {(cells[0].strip("`"), cells[1].strip("`")): cells[2].strip("`") for cells in rows(section(CONFIGURATION, "Quirks"))}


def test_every_quirk_that_is_read_stands_there_and_no_other() -> None:
    read: set[tuple[str, str]] = set()
    for name, package in (("openai_chat", openai_chat), ("anthropic", anthropic)):
        sources = [path.read_text() for path in Path(inspect.getfile(package)).parent.glob("*.py")]
        for source in [*sources, inspect.getsource(event_stream)]:
            read |= {(name, quirk) for quirk in re.findall(r"quirks(?: or \{\})?\)?\.get\(\"(\w+)\"", source)}

    assert read == set(said_quirks())


def test_defaults_of_quirks_are_those_of_their_modules() -> None:
    said = said_quirks()
    for name, module in (("openai_chat", openai_chat.request), ("anthropic", anthropic.request)):
        for quirk, default in re.findall(r"^- `(\w+)` \(([^)]+)\)", module.__doc__ or "", re.MULTILINE):
            assert said[name, quirk] == default
        assert said[name, "line_bytes_max"] == str(EVENT_BYTES_MAX)


# --- what operators see ----------------------------------------------------------------------------------------------------


def table(title: str) -> dict[str, list[str]]:
    return {cells[0].strip("`"): cells[1:] for cells in rows(section(OPERATIONS, title))}


def test_every_metric_stands_there_with_its_type_and_labels_and_no_other() -> None:
    there: dict[str, tuple[str, list[str]]] = {}
    observatory = observe.Observatory("json")
    for metric in set(observatory.registry._collector_to_names):
        (family,) = metric.describe()
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = list(metric._labelnames)  # type: ignore[attr-defined]
        common = labels[: len(observe._LABELS)] == observe._LABELS
        there[name] = (family.type, ["model labels", *(f"`{label}`" for label in labels[3:])] if common else [f"`{x}`" for x in labels])
    for name in re.findall(r'"(headrace_\w+)": \(', inspect.getsource(observe._StreamsCollector)):
        there[name] = ("gauge", [])

    said = {name: (cells[0], [label for label in cells[1].split(", ") if label]) for name, cells in table("Metrics").items()}
    assert said == there
    assert f"past {observe.MODEL_LABELS_MAX} models" in OPERATIONS


def test_every_field_of_the_log_line_stands_there_and_no_other() -> None:
    tree = ast.parse("class _:\n" + inspect.getsource(observe.Observatory._log_end))
    (line,) = (node.value for node in ast.walk(tree) if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Dict))

    assert list(table("The log")) == [key.value for key in line.keys if isinstance(key, ast.Constant)]


def test_the_unit_leaves_time_to_drain_and_descriptors_to_stream() -> None:
    settings = dict(re.findall(r"^(\w+)=(.*)$", UNIT, re.MULTILINE))

    assert int(settings["TimeoutStopSec"].removesuffix("s")) > config.ServerConfig().drain_timeout_s + 1
    assert f"server.drain_timeout_s ({config.ServerConfig().drain_timeout_s:.0f} s)" in UNIT
    assert int(settings["LimitNOFILE"]) > 2 * 30_000
    assert settings["Type"] == "exec"
