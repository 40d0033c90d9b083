"""`docs/configuration.md` and `docs/operations.md` say what the code does: every key, default, metric and field, and no stale one."""

from __future__ import annotations

import ast
import inspect
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
import trustme
from msgspec import Struct

from headrace.errors import ConfigError
from headrace.protocol import dialects
from headrace.protocol.dialects import anthropic, event_stream, gemini, openai_chat, openai_responses
from headrace.protocol.request import (
    AnswerFormat,
    ChatRequest,
    Message,
    ThinkingOptions,
    ThinkingPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
)
from headrace.protocol.sse import EVENT_BYTES_MAX
from headrace.server import config, observe
from headrace.server.config import Catalogue, ModelConfig, ProviderConfig, SurfaceConfig, load
from headrace.server.surfaces.ag_ui import AGUI
from headrace.server.surfaces.chat_completions import ChatCompletions
from headrace.server.surfaces.messages import Messages
from headrace.server.surfaces.responses import Responses
from headrace.server.surfaces.ui_chat import UIChat

ROOT = Path(__file__).parents[1]
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text()
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
UNIT = (ROOT / "deploy" / "systemd" / "headrace.service").read_text()
EXAMPLE, *FURTHER_EXAMPLES = re.findall(r"```toml\n(.*?)```", CONFIGURATION, re.DOTALL)
MISTAKE = "".join(re.findall(r"```text\n(.*?)\n```", CONFIGURATION, re.DOTALL))
KEYS = dict.fromkeys(re.findall(r'"env:(\w+)"', CONFIGURATION), "key")

NAMED = {"providers": ProviderConfig, "models": ModelConfig, "surfaces": SurfaceConfig}
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


def defaults_of(cls: type[Struct], prefix: str = "") -> dict[str, str]:
    """Return the default of each key, and of each key of a table that is the value of one."""
    found: dict[str, str] = {}
    for entry in msgspec.structs.fields(cls):
        found[prefix + entry.name] = default_of(entry)
        for inner in [entry.type, *get_args(entry.type)]:
            if isinstance(inner, type) and issubclass(inner, Struct):
                found |= defaults_of(inner, f"{prefix}{entry.name}.")
    return found


@pytest.mark.parametrize("name", SECTIONS)
def test_every_key_stands_there_with_its_default_and_no_other(name: str) -> None:
    said = {cells[0].strip("`"): cells[1] for cells in rows(section(CONFIGURATION, f"`[{name}"))}

    assert said == defaults_of(SECTIONS[name])


def test_a_table_inside_a_table_is_looked_into() -> None:
    assert defaults_of(ModelConfig)["short_turns.characters_max"] == "`400`"


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
    assert [target.provider.name for target in catalogue.targets("best")] == ["claude", "gemini"]
    assert {provider.dialect for provider in loaded.providers.values()} == {"openai_chat", "anthropic", "gemini"}
    assert any(provider.vendor for provider in loaded.providers.values())
    assert any(model.short_turns for model in loaded.models.values())
    for name, provider in loaded.providers.items():
        assert set(provider.quirks) <= {quirk for dialect, quirk in said_quirks() if dialect == provider.dialect}, name


@pytest.mark.parametrize("example", FURTHER_EXAMPLES, ids=lambda example: example.split("]")[0].lstrip("["))
def test_the_further_examples_are_configurations(tmp_path: Path, example: str) -> None:
    path = tmp_path / "headrace.toml"
    path.write_text(example)

    assert load(path, KEYS).providers


def test_azure_and_vertex_are_asked_where_their_documents_say(tmp_path: Path) -> None:
    path = tmp_path / "headrace.toml"
    path.write_text("".join(FURTHER_EXAMPLES))
    catalogue = Catalogue(load(path, KEYS))
    asked = {}
    for name, provider in catalogue.providers.items():
        head = provider.request_bytes(ChatRequest(messages=[Message(role="user", content="Hi")]), "the-model", "r").split(b"\r\n\r\n")[0]
        asked[name] = head.decode().split("\r\n")

    where = {name: f"{catalogue.providers[name].origin.host}{lines[0].split()[1]}" for name, lines in asked.items()}
    vertex = "publishers/google/models/the-model:streamGenerateContent?alt=sse"
    assert where["azure"] == "my-resource.openai.azure.com/openai/v1/chat/completions"
    assert where["azure-responses"] == "my-resource.openai.azure.com/openai/v1/responses"
    assert where["azure-gpt-4o"] == "my-resource.openai.azure.com/openai/deployments/my-gpt-4o/chat/completions?api-version=2024-10-21"
    assert where["vertex"] == f"aiplatform.googleapis.com/v1/{vertex}"
    assert where["vertex-project"] == (f"europe-west1-aiplatform.googleapis.com/v1/projects/my-project/locations/europe-west1/{vertex}")
    assert "authorization: Bearer key" in asked["azure"]
    assert "api-key: key" in asked["azure-gpt-4o"]
    assert "x-goog-api-key: key" in asked["vertex"]
    assert "authorization: key" in asked["vertex-project"]


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
    assert [name for _, name, _ in said] == list(loaded.providers), "the order is told as that of bare names"
    assert {(variable, name) for variable, name, _ in said} == {(entry[0], name) for name, entry in config._KEYS_OF_PROVIDERS.items()}
    assert len(said) == len(config._KEYS_OF_PROVIDERS)
    assert loaded.simulator.enabled
    assert all(provider.vendor == (name if provider.dialect == "openai_chat" else None) for name, provider in loaded.providers.items())


def test_every_dialect_stands_there_with_what_comes_behind_its_base_url() -> None:
    said = {cells[0].strip("`"): cells[2].strip("`") for cells in rows(section(CONFIGURATION, "Dialects"))}

    assert sorted(said) == sorted(dialects.PROVIDERS)
    for name, end in said.items():
        path = dialects.load(name).build_request(ChatRequest(messages=[Message(role="user", content="Hi")]), "m", {}).path
        assert path.startswith(end.rstrip("…")), name


def test_every_surface_stands_there_with_its_address_and_no_other() -> None:
    said = re.findall(r"^- `(\w+)`: `POST (\S+)`$", section(CONFIGURATION, "`[surfaces"), re.MULTILINE)

    endpoints = (ChatCompletions, Responses, Messages, UIChat, AGUI)
    assert sorted(said) == sorted((endpoint.surface_name, endpoint.path) for endpoint in endpoints)
    assert sorted(name for name, _ in said) == sorted(dialects.CLIENTS)


def test_every_provider_of_the_simulator_stands_there() -> None:
    (enabled,) = (cells[3] for cells in rows(section(CONFIGURATION, "`[simulator")) if cells[0] == "`enabled`")

    assert sorted(re.findall(r"`([\w-]+)/<script>`", enabled)) == sorted(Catalogue(load(None, {}), "http://127.0.0.1:1").providers)


# --- quirks ----------------------------------------------------------------------------------------------------------------

DIALECTS = {"openai_chat": openai_chat, "openai_responses": openai_responses, "anthropic": anthropic, "gemini": gemini}


def subsection(text: str, title: str) -> str:
    """Return what stands under a heading of the third level, up to the next one."""
    found = re.search(rf"^### {re.escape(title)}\n(.*?)(?=^### |\Z)", text, re.DOTALL | re.MULTILINE)
    assert found, title
    return found[1]


def table_of(text: str, first: str) -> dict[str, list[str]]:
    """Return the rows of the table whose first column is headed so, by their first cell."""
    found = re.search(rf"^\| {first} \|.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    return {cells[0].strip("`"): cells[1:] for cells in rows(found[1])} if found else {}


def said_quirks() -> dict[tuple[str, str], str]:
    """Return the default of each quirk as it is told, without the marks of code."""
    quirks = section(CONFIGURATION, "Quirks")
    return {
        (name, quirk): cells[0].replace("`", "")
        for name in DIALECTS
        for quirk, cells in table_of(subsection(quirks, f"`{name}`"), "Quirk").items()
    }


def test_every_quirk_that_is_read_stands_there_and_no_other() -> None:
    read: set[tuple[str, str]] = set()
    for name, package in DIALECTS.items():
        sources = [path.read_text() for path in Path(inspect.getfile(package)).parent.glob("*.py")]
        for source in [*sources, inspect.getsource(event_stream)]:
            read |= {(name, quirk) for quirk in re.findall(r"quirks(?: or \{\})?\)?\.get\(\"(\w+)\"", source)}

    assert read == set(said_quirks())


def test_every_quirk_that_is_allowed_stands_there_and_no_other() -> None:
    assert sorted(DIALECTS) == sorted(dialects.PROVIDERS)

    assert set(said_quirks()) == {(name, quirk) for name in DIALECTS for quirk in dialects.load(name).quirks}


def test_defaults_of_quirks_are_those_of_their_modules() -> None:
    said = said_quirks()
    for name, package in DIALECTS.items():
        told = re.findall(r"^- (`\w+` \([^)]+\).*)", package.request.__doc__ or "", re.MULTILINE)
        defaults = [pair for line in told for pair in re.findall(r"`(\w+)` \(([^)]+)\)", line.split("): ")[0] + ")")]
        assert len(defaults) >= len(told) >= 5, name
        for quirk, default in defaults:
            assert said[name, quirk] == default
        assert said[name, "line_bytes_max"] == str(EVENT_BYTES_MAX)


RICH = ChatRequest(
    messages=[
        Message(role="user", content="What is the weather?"),
        Message(
            role="assistant",
            content=[ThinkingPart(text="A tool knows."), ToolCallPart(tool_call_id="call_1", name="weather", arguments={"at": "Ulm"})],
        ),
        Message(role="tool", content=[ToolResultPart(tool_call_id="call_1", content="rain")]),
    ],
    system="Be brief.",
    tools=[Tool(name="weather", parameters={"type": "object", "properties": {"at": {"type": "string"}}})],
    answer_format=AnswerFormat(type="json_schema", json_schema={"type": "object"}),
    thinking=ThinkingOptions(effort="medium"),
    metadata={"user_id": "u1"},
)


@pytest.mark.parametrize("limit", [None, 20000])
def test_a_quirk_that_is_set_to_its_default_changes_nothing(limit: int | None) -> None:
    request = msgspec.structs.replace(RICH, max_tokens=limit)
    for (name, quirk), default in said_quirks().items():
        try:
            value = json.loads(default)
        except json.JSONDecodeError:
            continue  # in words
        dialect = dialects.load(name)
        plain = dialect.build_request(request, "m", {})
        assert dialect.build_request(request, "m", {quirk: value}) == plain, (name, quirk)


def test_every_vendor_stands_there_with_what_it_stands_for_and_no_other() -> None:
    quirks = section(CONFIGURATION, "Quirks")
    for name in DIALECTS:
        said = {
            vendor: tomllib.loads("\n".join(re.findall(r"`([^`]+)`", cells[0])))
            for vendor, cells in table_of(subsection(quirks, f"`{name}`"), "Vendor").items()
        }
        known = {
            vendor: {quirk: list(value) if isinstance(value, tuple) else value for quirk, value in stands_for.items()}
            for vendor, stands_for in dialects.load(name).vendors.items()
        }
        assert said == known, name


def test_no_vendor_stands_for_a_quirk_that_is_none() -> None:
    for name in DIALECTS:
        dialect = dialects.load(name)
        for vendor, stands_for in dialect.vendors.items():
            assert set(stands_for) <= dialect.quirks, (name, vendor)


@pytest.mark.parametrize("name", ["openai_chat", "openai_responses", "anthropic"])
def test_of_a_forwarded_body_those_quirks_count_that_are_said_to(name: str) -> None:
    found = re.search(r"^Of a forwarded body: ([^.]*)\.", subsection(section(CONFIGURATION, "Quirks"), f"`{name}`"), re.MULTILINE)
    assert found
    dialect = dialects.load(name)
    body = {"model": "x", "max_tokens": 9, "messages": [], "input": "Hi", "system": "Be brief.", "user": "u", "metadata": {"a": "b"}}
    marked = {"cache_system_characters_min": 1} if name == "anthropic" else {}
    other: dict[str, object] = {
        **dict.fromkeys(dialect.quirks, "other"),
        "include_usage": False,
        "max_tokens_field": "max_completion_tokens",
        "extra_body": {"more": 1},
        "cache_system_characters_min": 2,
        "line_bytes_max": 1,
    }
    counts = set()
    for quirk in dialect.quirks:
        base = {} if quirk == "cache_system_characters_min" else marked
        if dialect.forward_request(dict(body), "m", {**base, quirk: other[quirk]}) != dialect.forward_request(dict(body), "m", base):
            counts.add(quirk)

    assert counts == set(re.findall(r"`(\w+)`", found[1]))


def test_what_is_said_about_an_unknown_quirk_is_said(tmp_path: Path) -> None:
    path = tmp_path / "headrace.toml"
    path.write_text(FURTHER_EXAMPLES[0].replace("efforts =", "max_token_field ="))
    with pytest.raises(ConfigError) as wrong:
        load(path, KEYS)

    assert f"`{wrong.value.public_message}`" in CONFIGURATION


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
