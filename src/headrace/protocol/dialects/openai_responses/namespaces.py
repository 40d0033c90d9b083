"""Functions that a request groups in namespaces, for providers that know no groups.

A function of a namespace is called `<namespace>__<function>` there; in what the client gets, the two stand apart again.
"""

from __future__ import annotations

from typing import Any

from headrace.protocol.lenient import dicts


def flat_name(namespace: str, name: str) -> str:
    return f"{namespace}__{name}"


def grouped_names(tools: object) -> dict[str, tuple[str, str]]:
    """Return namespace and name of each grouped function by the name that a provider knows it by, whatever else is in `tools`."""
    found: dict[str, tuple[str, str]] = {}
    for group in dicts(tools):
        namespace = group.get("name")
        if group.get("type") == "namespace" and isinstance(namespace, str):
            for tool in dicts(group.get("tools")):
                if isinstance(name := tool.get("name"), str):
                    found[flat_name(namespace, name)] = (namespace, name)
    return found


def name_for_providers(named: dict[str, Any], name: str) -> str:
    """Return the name by which a provider knows the function that a choice or a call names."""
    namespace = named.get("namespace")
    return flat_name(namespace, name) if isinstance(namespace, str) and namespace else name
