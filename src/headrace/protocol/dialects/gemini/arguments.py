"""A function call whose arguments come value by value, as Vertex AI streams them.

https://cloud.google.com/vertex-ai/generative-ai/docs/multimodal/function-calling#streaming-fc

A fragment names a place (`"jsonPath": "$.stops[0].name"`) and a value, or the next piece of a string. They are no fragments of one
JSON text, and the order of their places is the model's, so the text exists only when the call is over.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any, TypeAlias

from headrace.protocol.lenient import DEPTH_MAX, dicts, raw

CHARACTERS_MAX = 16 * 1024 * 1024
_LIST_LENGTH_MAX = 10_000
_STEP = re.compile(r"""\.([^.\[\]'"\s]+) | \[(\d{1,6})\] | \['((?:[^'\\]|\\.)*)'\] | \["((?:[^"\\]|\\.)*)"\]""", re.VERBOSE)
_ESCAPE = re.compile(r"\\(.)")

_Step: TypeAlias = str | int


class _Text:
    """A string of which more may come."""

    __slots__ = ("fragments", "open")

    def __init__(self) -> None:
        self.fragments: list[str] = []
        self.open = True


class PartialCall:
    """One call that is still coming. What does not fit together makes it broken, and then it has no arguments at all."""

    __slots__ = ("_broken", "_characters", "_root", "id", "key", "name")

    def __init__(self, key: object, id: str, name: str) -> None:
        self.key = key
        self.id = id
        self.name = name
        self._root: dict[str, Any] = {}
        self._broken = False
        self._characters = 0

    def continues(self, id: str, name: str) -> bool:
        """Whether a fragment with this id and name, either of them mostly absent, belongs to this call."""
        return (not id or not self.id or id == self.id) and (not name or name == self.name)

    def feed(self, call: dict[str, Any]) -> None:
        """Take one `functionCall`."""
        if isinstance(args := call.get("args"), dict):
            self._root |= args
        for partial in dicts(call.get("partialArgs")):
            if not self._broken and not self._take(partial):
                self._broken = True
                self._root = {}

    def finish(self) -> str | None:
        """Return the arguments as JSON text, or None if there is no saying what they are."""
        if self._broken:
            return None
        return bytes(raw(_plain(self._root))).decode() or None

    def _take(self, partial: dict[str, Any]) -> bool:
        path = _steps(partial.get("jsonPath"))
        if not path:
            return False
        node = self._container(path)
        if node is None:
            return False
        last, more = path[-1], partial.get("willContinue") is True
        if isinstance(fragment := partial.get("stringValue"), str):
            self._characters += len(fragment)
            return self._characters <= CHARACTERS_MAX and _append(node, last, fragment, more)
        for kind in ("numberValue", "boolValue"):
            if isinstance(value := partial.get(kind), int | float):
                return _put(node, last, value)
        if "nullValue" in partial:
            return _put(node, last, None)
        return more or _close(node, last)

    def _container(self, path: list[_Step]) -> dict[str, Any] | list[Any] | None:
        """Return the object or list that holds the last step of `path`, made where it is missing; None if something else is there."""
        node: dict[str, Any] | list[Any] = self._root
        for step, following in pairwise(path):
            wanted = list if isinstance(following, int) else dict
            child = _at(node, step)
            if child is None:
                child = wanted()
                if not _put(node, step, child):
                    return None
            if not isinstance(child, wanted):
                return None
            node = child
        return node


def _steps(path: object) -> list[_Step]:
    """Return the steps of a path, none if it is no path to one place (RFC 9535, section 2.3: names and indexes)."""
    if not isinstance(path, str) or not path.startswith("$") or len(path) > 10_000:
        return []
    steps: list[_Step] = []
    at = 1
    while at < len(path):
        match = _STEP.match(path, at)
        if match is None or len(steps) >= DEPTH_MAX:
            return []
        name, index, single, double = match.groups()
        if index is not None:
            steps.append(int(index))
        else:
            steps.append(name if name is not None else _ESCAPE.sub(r"\1", single if single is not None else double))
        at = match.end()
    return steps if steps and isinstance(steps[0], str) else []


def _at(node: dict[str, Any] | list[Any], step: _Step) -> Any:
    if isinstance(node, dict):
        return node.get(step) if isinstance(step, str) else None
    return node[step] if isinstance(step, int) and step < len(node) else None


def _put(node: dict[str, Any] | list[Any], step: _Step, value: Any) -> bool:
    """Set the value; return whether there is such a place."""
    if isinstance(node, dict) and isinstance(step, str):
        node[step] = value
        return True
    if isinstance(node, list) and isinstance(step, int) and step < _LIST_LENGTH_MAX:
        node.extend([None] * (step + 1 - len(node)))
        node[step] = value
        return True
    return False


def _append(node: dict[str, Any] | list[Any], step: _Step, fragment: str, more: bool) -> bool:
    text = _at(node, step)
    if not isinstance(text, _Text) or not text.open:
        text = _Text()
        if not _put(node, step, text):
            return False
    text.fragments.append(fragment)
    text.open = more
    return True


def _close(node: dict[str, Any] | list[Any], step: _Step) -> bool:
    """A fragment without a value ends its string."""
    if isinstance(text := _at(node, step), _Text):
        text.open = False
    return True


def _plain(value: Any) -> Any:
    if isinstance(value, _Text):
        return "".join(value.fragments)
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value
