"""Which model a turn is worth: a pure decision."""

from __future__ import annotations

from collections.abc import Callable

from headrace.errors import BadRequest
from headrace.protocol.request import ChatRequest, TextPart, ThinkingPart


def is_short(ask: Callable[[], ChatRequest], characters_max: int) -> bool:
    """Whether all that the model must read is text of at most `characters_max` characters.

    A turn with tools, images or a form of the answer is not short however little text it has, and neither is one that cannot be said in our
    words: what it holds is not known.
    """
    try:
        chat = ask()
    except BadRequest:
        return False
    if chat.tools or chat.answer_format is not None:
        return False
    characters = len(chat.system or "")
    for message in chat.messages:
        for part in message.parts():
            if not isinstance(part, TextPart | ThinkingPart):
                return False
            characters += len(part.text)
            if characters > characters_max:
                return False
    return characters <= characters_max
