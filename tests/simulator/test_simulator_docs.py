"""`docs/simulator.md` names every script and every option with its default."""

from pathlib import Path

import msgspec
import pytest
from msgspec.structs import fields

from headrace.simulator.connection import DIALECTS
from headrace.simulator.scripts import SCRIPTS
from headrace.simulator.scripts.base import Script
from headrace.simulator.stats import RequestRecord, Totals

PAGE = (Path(__file__).parents[2] / "docs" / "simulator.md").read_text()
ROWS = {line.split("`")[1]: line for line in PAGE.splitlines() if line.startswith("| `")}
COMMON = {field.name: field.default for field in fields(Script)}


def shown(value: object) -> str:
    match value:
        case bool():
            return "1" if value else "0"
        case float():
            return f"{value:g}"
        case msgspec.NODEFAULT:
            return "…"
        case _:
            return str(value)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_documented_with_its_own_options(name):
    own = {field.name: field.default for field in fields(SCRIPTS[name]) if field.name != "status"}

    documented = {option for option in ROWS[name].split("|")[-2].split() if option}

    assert documented == {
        f"`{option}={shown(default)}`" for option, default in own.items() if option not in COMMON or COMMON[option] != default
    }


@pytest.mark.parametrize("option", COMMON)
def test_a_common_option_is_documented(option):
    assert ROWS[option].split("|")[2].strip() == f"`{shown(COMMON[option])}`"


def test_the_page_invents_no_script():
    table = PAGE.split("## Scripts")[1].split("## Common options")[0]

    assert {line.split("`")[1] for line in table.splitlines() if line.startswith("| `")} == set(SCRIPTS)


def test_every_field_of_the_dashboard_is_documented():
    section = PAGE.split("## The dashboard")[1]
    for name in (*Totals.__struct_fields__, *RequestRecord.__struct_fields__):
        assert f"`{name}`" in section or (name.endswith("_monotonic") and f"`{name.removesuffix('_monotonic')}`" in section)


@pytest.mark.parametrize("path", [*DIALECTS, "/v1/models", "/stats", "/health"])
def test_every_path_is_documented(path):
    assert f" {path}`" in PAGE


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_says_what_it_does(name):
    assert (SCRIPTS[name].__doc__ or "").endswith(".")
