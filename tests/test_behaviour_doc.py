"""`docs/behaviour.md` says only what tests hold, and leaves out no code, no event and no default."""

import ast
import itertools
import re
import typing
from functools import cache
from pathlib import Path

import msgspec
import pytest

import headrace.cli.proof.child
import headrace.client  # noqa: F401  these two have codes of their own
from headrace import errors
from headrace.protocol import events as ev
from headrace.server.config import StreamConfig

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "behaviour.md").read_text("utf-8")
CODES = {code: cls for code, cls in errors.all_codes().items() if cls.__module__.startswith("headrace.")}

SENTENCE = re.compile(r"^- \*\*(\d+)\.(\d+)\*\* (.*(?:\n  .*)*)$", re.MULTILINE)
SENTENCES = {f"{found[1]}.{found[2]}": found[3] for found in SENTENCE.finditer(TEXT)}
CITATION = re.compile(r"\[`(tests/[\w/]+\.py)::([\w:]+)`\]")
CITED = sorted(set(CITATION.findall(TEXT)))


@cache
def named_in(path: str) -> frozenset[str]:
    """Return the names of a file's tests: `test_name`, or `TestClass::test_name`."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    names: set[str] = set()
    for node in ast.parse((ROOT / path).read_text("utf-8")).body:
        if isinstance(node, functions):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            names |= {f"{node.name}::{inner.name}" for inner in node.body if isinstance(inner, functions)}
    return frozenset(name for name in names if name.rpartition("::")[2].startswith("test_"))


def rows(first_column: str) -> dict[str, list[str]]:
    """Return the table whose first column has this title: by its first cell, the other cells."""
    _, _, table = TEXT.partition(f"\n| {first_column} |")
    lines = itertools.takewhile(lambda line: line.startswith("|"), table.split("\n")[2:])
    split = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return {first.strip("`"): rest for first, *rest in split}


def test_numbers_follow_each_other() -> None:
    sections = [int(number) for number in re.findall(r"^## (\d+)\. ", TEXT, re.MULTILINE)]
    assert sections == list(range(1, len(sections) + 1))
    numbers = [tuple(map(int, pair)) for pair in re.findall(r"\*\*(\d+)\.(\d+)\*\*", TEXT)]
    counts = [sum(section == number for section, _ in numbers) for number in sections]
    assert numbers == [(section, at) for section, count in zip(sections, counts, strict=True) for at in range(1, count + 1)]
    assert len(SENTENCES) == len(numbers) > 100
    assert all(counts)


@pytest.mark.parametrize("number", SENTENCES)
def test_every_sentence_ends_with_the_tests_that_hold_it(number: str) -> None:
    sentence, *cited = re.split(r"\s+(?=\[`)", SENTENCES[number])
    assert sentence.endswith(".")
    assert cited
    assert all(CITATION.fullmatch(citation) for citation in cited), cited


@pytest.mark.parametrize(("path", "name"), CITED)
def test_every_test_that_is_named_exists(path: str, name: str) -> None:
    assert (ROOT / path).is_file()
    assert name in named_in(path)


def test_every_error_code_has_its_row() -> None:
    said = rows("code")
    for code, cls in CODES.items():
        assert said[code][:2] == [str(cls.status), "yes" if cls.retryable else "no"], code
        assert said[code][2]
    assert set(said) - set(CODES) == {"not_found", "method_not_allowed"}, "what is not there has no class"


def test_every_event_type_has_its_row_and_its_fields() -> None:
    said = rows("type")
    assert list(said) == list(ev.TYPES)
    for name, cls in ev.TYPES.items():
        told = {field: not mark for field, mark in re.findall(r"`(\w+)`(\??)", said[name][0])}
        assert told == {field.name: field.required for field in msgspec.structs.fields(cls) if field.name != "seq"}, name


def test_every_finish_reason_has_its_row() -> None:
    assert set(rows("finish reason")) == set(typing.get_args(ev.FinishReason))


def test_every_default_is_the_one_that_is_said() -> None:
    defaults = StreamConfig()
    said = {cells[0].strip("`"): cells[1] for cells in rows("deadline").values()}
    assert {name for name in StreamConfig.__struct_fields__ if name.endswith(("_s", "_s_max"))} == set(said)
    assert said == {name: f"{getattr(defaults, name):g} s" for name in said}
