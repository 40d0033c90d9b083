"""JSON Schema as the older field for it takes it: the subset of OpenAPI 3.0 that the API calls `Schema`.

https://ai.google.dev/api/caching#Schema
"""

from __future__ import annotations

from typing import Any

from headrace.protocol.lenient import DEPTH_MAX, dicts

_KEPT = (
    "type",
    "format",
    "title",
    "description",
    "nullable",
    "enum",
    "maxItems",
    "minItems",
    "required",
    "minProperties",
    "maxProperties",
    "minLength",
    "maxLength",
    "pattern",
    "minimum",
    "maximum",
    "default",
    "example",
)
_NODES_MAX = 10_000


def cleaned(schema: dict[str, Any]) -> dict[str, Any]:
    """Return `schema` in that subset: references put in, types of several kinds as `anyOf`, and what it cannot say left out.

    A schema that holds itself is cut where it begins again: there anything is allowed.
    """
    return _Cleaner(schema).node(schema, frozenset(), 0)


class _Cleaner:
    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._nodes = 0

    def node(self, schema: object, seen: frozenset[str], depth: int) -> dict[str, Any]:
        self._nodes += 1
        if not isinstance(schema, dict) or depth > DEPTH_MAX or self._nodes > _NODES_MAX:
            return {}
        reference = schema.get("$ref")
        if isinstance(reference, str):
            if reference in seen:
                return {}
            beside = {name: value for name, value in schema.items() if name != "$ref"}
            return self.node({**self._find(reference), **beside}, seen | {reference}, depth + 1)
        shape = {name: schema[name] for name in _KEPT if name in schema}
        if "const" in schema and "enum" not in shape:
            shape["enum"] = [schema["const"]]
        if isinstance(properties := schema.get("properties"), dict) and properties:
            shape["properties"] = {name: self.node(value, seen, depth + 1) for name, value in properties.items()}
        if "items" in schema:
            shape["items"] = self.node(schema["items"], seen, depth + 1)
        self._add_choices(shape, schema, seen, depth)
        self._add_types(shape)
        return shape

    def _find(self, reference: str) -> dict[str, Any]:
        """Return what a reference inside the schema stands for; others lead nowhere."""
        found: Any = self._root
        if not reference.startswith("#"):
            return {}
        for step in reference[1:].split("/")[1:]:
            found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
        return found if isinstance(found, dict) else {}

    def _add_choices(self, shape: dict[str, Any], schema: dict[str, Any], seen: frozenset[str], depth: int) -> None:
        choices = dicts(schema.get("anyOf")) + dicts(schema.get("oneOf"))
        kept = [choice for choice in choices if choice.get("type") != "null"]
        if len(kept) < len(choices):
            shape["nullable"] = True
        nodes = [self.node(choice, seen, depth + 1) for choice in kept]
        if len(nodes) == 1:
            shape |= {name: value for name, value in nodes[0].items() if name not in shape}
        elif nodes:
            shape["anyOf"] = nodes
        for part in dicts(schema.get("allOf")):
            shape |= {name: value for name, value in self.node(part, seen, depth + 1).items() if name not in shape}

    def _add_types(self, shape: dict[str, Any]) -> None:
        types = shape.get("type")
        if not isinstance(types, list):
            return
        del shape["type"]
        kept = [kind for kind in types if kind != "null"]
        if len(kept) < len(types):
            shape["nullable"] = True
        if len(kept) == 1:
            shape["type"] = kept[0]
        elif kept:
            shape.setdefault("anyOf", [{"type": kind} for kind in kept])
