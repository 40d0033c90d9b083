"""What the protocols of front ends share: options of our own request that an application puts beside a conversation, checks that name the
field which is wrong, and our structs as JavaScript writes them.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from headrace.errors import BadRequest
from headrace.protocol import events as ev
from headrace.protocol.request import ChatRequest, check_depth

_SAID_CHARACTERS_MAX = 80
# Ours, and the names that JavaScript's SDKs have for the same.
_OPTIONS = {
    **{name: name for name in ("model", "system", "temperature", "tools", "thinking", "metadata")},
    **{name: name for name in ("max_tokens", "top_p", "top_k", "stop", "tool_choice", "parallel_tool_calls", "answer_format")},
    "maxTokens": "max_tokens",
    "maxOutputTokens": "max_tokens",
    "topP": "top_p",
    "topK": "top_k",
    "stopSequences": "stop",
    "toolChoice": "tool_choice",
    "parallelToolCalls": "parallel_tool_calls",
}


def options(body: dict[str, Any], where: str = "") -> ChatRequest:
    """Return a request with the options that are in `body`, and with no messages of its own yet. What is no option is left alone.

    Raises:
        BadRequest: one has the wrong type; `field` is its name as the caller wrote it, behind `where`.
    """
    given = {name: value for name, value in body.items() if name in _OPTIONS and value is not None}
    said = {_OPTIONS[name]: name for name in given}
    found: dict[str, Any] = {}
    for name, value in given.items():
        check_depth(value, where + name)
        found[_OPTIONS[name]] = _tool_choice(value) if name == "toolChoice" else value
    try:
        return msgspec.convert({"messages": [{"role": "user", "content": ""}], **found}, ChatRequest)
    except msgspec.ValidationError as error:
        what, _, place = str(error).partition(" - at ")
        path = place.strip("`").removeprefix("$.")
        ours = re.split(r"[.\[]", path)[0]
        field = bounded(where + said.get(ours, ours) + path.removeprefix(ours))
        raise BadRequest(f"{field}: {bounded(what)}.", field=field) from None


def _tool_choice(value: Any) -> Any:
    """The AI SDK names a tool as `{type: 'tool', toolName}`."""
    return value["toolName"] if isinstance(value, dict) and isinstance(value.get("toolName"), str) else value


def dict_at(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadRequest(f"{where}: an object.", field=where)
    return value


def list_at(value: Any, where: str, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise BadRequest(f"{where}: a list of {what}.", field=where)
    return value


def string_at(of: dict[str, Any], name: str, where: str) -> str:
    value = of.get(name)
    if not isinstance(value, str):
        raise BadRequest(f"{where}.{name}: a string.", field=f"{where}.{name}")
    return value


def named(values: list[Any], where: str) -> list[tuple[dict[str, Any], str]]:
    """Return objects of a list, each with its place."""
    return [(dict_at(value, f"{where}[{at}]"), f"{where}[{at}]") for at, value in enumerate(values)]


def shown(value: Any) -> str:
    """Return what a refusal repeats of a value that should have been another word."""
    return bounded(value) if isinstance(value, str) else type(value).__name__


def bounded(said: str) -> str:
    """What is repeated is of the caller's making, and may be as long as its body."""
    return said if len(said) <= _SAID_CHARACTERS_MAX else said[:_SAID_CHARACTERS_MAX] + "…"


def camel(struct: msgspec.Struct, *left_out: str) -> dict[str, Any]:
    """Return the fields that have something to tell, named as JavaScript does."""
    fields = ((name, getattr(struct, name)) for name in struct.__struct_fields__ if name not in left_out)
    return {_camel_name(name): value for name, value in fields if value is not None}


def metrics(terminal: ev.StreamEnd | ev.Error) -> dict[str, Any]:
    """Return how the stream went, without what is too much for a message that is kept: the times of every token, and distributions."""
    return {} if terminal.metrics is None else {"metrics": camel(terminal.metrics, "arrivals", "itl_ingress_ms", "itl_egress_ms")}


def _camel_name(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)
