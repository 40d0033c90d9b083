"""What is said and how it is cut."""

import json

import pytest

from headrace.simulator import texts
from headrace.simulator.scripts.tools import _CALLS, _REPORT, fragments

ALL = {name: value for name, value in vars(texts).items() if name.isupper() and isinstance(value, str) and not name.startswith("_")}


@pytest.mark.parametrize("name", ALL)
def test_tokens_joined_are_the_text(name):
    pieces = texts.tokenise(ALL[name])

    assert "".join(pieces) == ALL[name]
    assert all(pieces)
    assert 2.5 < len(ALL[name]) / len(pieces) < 5


def test_the_story_has_about_500_tokens_and_something_of_everything():
    assert 450 < len(texts.tokenise(texts.STORY)) < 560
    for part in ("# ", "| --- |", "```python", "1. ", "*when*", "É", "ō", "流れる"):
        assert part in texts.STORY


def test_a_length_is_met_exactly():
    pieces = texts.tokenise(texts.QUICK)

    assert texts.of_length(pieces, 0) == list(pieces)
    assert len(texts.of_length(pieces, 5)) == 5
    assert len(texts.of_length(pieces, 1000)) == 1000
    assert texts.of_length((), 3) == []


@pytest.mark.parametrize("arguments", [_REPORT, *(call[1] for call in _CALLS)])
def test_arguments_are_json(arguments):
    assert isinstance(json.loads(arguments), dict)


@pytest.mark.parametrize("cut", [*(str(size) for size in range(1, 40)), "random", "none"])
def test_fragments_joined_are_the_arguments(cut):
    pieces = fragments(_REPORT, cut, seed=1)

    assert "".join(pieces) == _REPORT
    if cut.isdecimal():
        assert all(len(piece.encode()) <= int(cut) or len(piece) == 1 for piece in pieces)


def test_a_cut_is_possible_between_any_two_characters():
    possible = {position for size in range(1, len(_REPORT.encode())) if (position := len(fragments(_REPORT, str(size), 0)[0]))}

    assert possible >= set(range(1, len(_REPORT)))
    assert any(_REPORT[position - 1] == "\\" for position in possible)


def test_random_fragments_depend_on_the_seed_only():
    assert fragments(_REPORT, "random", 1) == fragments(_REPORT, "random", 1)
    assert fragments(_REPORT, "random", 1) != fragments(_REPORT, "random", 2)
