"""One item of the output while it is open, and what its finished form says."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from typing import Any, Literal, TypeAlias

from headrace.protocol import events as ev
from headrace.protocol.lenient import dicts, encodable, string

NAME_CHARACTERS_MAX = 64
_SOURCES_MAX = 1000

ItemKind: TypeAlias = Literal["message", "reasoning", "call", "opaque"]
PartKind: TypeAlias = Literal["text", "refusal", "raw", "summary"]
PartKey: TypeAlias = tuple[int, PartKind, Hashable]

KINDS: dict[str, ItemKind] = {"message": "message", "reasoning": "reasoning", "function_call": "call"}
PARTS: dict[str, PartKind] = {
    "output_text": "text",
    "text": "text",
    "refusal": "refusal",
    "reasoning_text": "raw",
    "summary_text": "summary",
}

# Ids have no colon, and neither have the signatures of other dialects, which are base64.
# Gemini's decoder seals with its own name.
_SEAL = re.compile(r"(?!gemini:)([^:\s]{0,1000}):(.+)", re.DOTALL)


class Item:
    """What has come of an item.

    Attributes:
        number: counts the items of the answer, so that a place in the output that is used twice is no place of the same block.
        shape: the item as it was announced.
        told: the parts of which something came.
        streamed: whether anything came in pieces; the finished item then only repeats it.
        annotated: the parts whose annotations came one by one.
        thinking: the open block of reasoning, which a signature may still follow.
    """

    __slots__ = ("annotated", "kind", "number", "shape", "streamed", "thinking", "told")

    def __init__(self, number: int, shape: dict[str, Any], kind: ItemKind) -> None:
        self.number = number
        self.shape = shape
        self.kind = kind
        self.told: set[Hashable] = set()
        self.streamed = False
        self.annotated: set[Hashable] = set()
        self.thinking: PartKey | None = None

    def key(self, kind: PartKind, index: Hashable) -> PartKey:
        """Return what the writer knows the block of a part by."""
        return self.number, kind, index or 0

    @property
    def call_key(self) -> tuple[int, str]:
        return self.number, "call"


def kind_of(shape: dict[str, Any]) -> ItemKind:
    return KINDS.get(string(shape.get("type")), "opaque")


def identity(shape: dict[str, Any]) -> tuple[str, str]:
    """Return what tells one item from another in the same place."""
    return string(shape.get("type")), string(shape.get("call_id")) or string(shape.get("id"))


def seal(shape: dict[str, Any]) -> str:
    """Return the sealed reasoning of a finished item with the item's id, which some vendors want back with it; empty for none."""
    sealed, id = string(shape.get("encrypted_content")), string(shape.get("id"))
    if not sealed:
        return ""
    return told if _SEAL.fullmatch(told := f"{id}:{sealed}") else f":{sealed}"


def unseal(told: str | None) -> tuple[str, str] | None:
    """Return id and `encrypted_content` of what `seal` told; None for the signature of any other dialect."""
    match = _SEAL.fullmatch(told or "")
    return (match[1], match[2]) if match else None


def parts(shape: dict[str, Any]) -> Iterator[tuple[PartKind | None, int, dict[str, Any]]]:
    """Yield kind, position and form of each part of a finished item; the kind is None where it is not known here."""
    content = shape.get("content")
    if isinstance(content, str):
        content = [{"type": "output_text", "text": content}]
    summaries = dicts(shape.get("summary"))
    for position, part in enumerate(summaries):
        yield "summary", position, part
    for position, part in enumerate(dicts(content)):
        kind = PARTS.get(string(part.get("type")))
        # A model's reasoning may stand there in both forms, of which one is enough.
        if kind != "raw" or not summaries:
            yield kind, position, part


def annotation_event(annotation: dict[str, Any], index: int | None) -> ev.Event:
    """Return the annotation as a source where it is one, and else as it is. A file has a name but no address."""
    match annotation.get("type"):
        case "url_citation":
            nested = annotation.get("url_citation")
            citation = nested if isinstance(nested, dict) else annotation
            return ev.Source(url=string(citation.get("url")), title=string(citation.get("title")) or None, index=index)
        case "file_citation":
            title = string(annotation.get("filename")) or string(annotation.get("file_id")) or None
            return ev.Source(url="", title=title, index=index, text=string(annotation.get("quote")) or None)
        case _:
            return data_event(annotation, "annotation")


def result_sources(shape: dict[str, Any]) -> list[ev.Source]:
    """Return what a search of the provider's own found, as Perplexity tells it."""
    return [
        ev.Source(url=url, title=string(result.get("title")) or None, text=string(result.get("snippet")) or None)
        for result in dicts(shape.get("results"))[:_SOURCES_MAX]
        if (url := string(result.get("url")))
    ]


def data_event(shape: dict[str, Any], otherwise: str) -> ev.Data:
    """Carry what has no event of its own."""
    name = string(shape.get("type"))[:NAME_CHARACTERS_MAX] or otherwise
    return ev.Data(name=f"openai_responses.{name}", data=encodable(shape))
