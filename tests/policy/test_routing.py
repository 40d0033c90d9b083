"""Which turns are short: all that the model must read is a little text, and nothing else."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from headrace.errors import BadRequest
from headrace.policy.routing import is_short
from headrace.protocol.request import ChatRequest

CHARACTERS_MAX = 10
IMAGE = {"type": "image", "url": "https://example.com/a.png"}
RESULT = {"type": "tool_result", "tool_call_id": "c", "content": "ok"}
CALL = {"type": "tool_call", "tool_call_id": "c", "name": "f"}


def asked(*messages: Any, **options: Any) -> ChatRequest:
    """Return a request; a message that is no pair of role and content is the user's."""
    pairs = [message if isinstance(message, tuple) else ("user", message) for message in messages]
    return msgspec.convert({"messages": [{"role": role, "content": content} for role, content in pairs], **options}, ChatRequest)


@pytest.mark.parametrize(
    ("chat", "short"),
    [
        (asked("Hi"), True),
        (asked(""), True),
        (asked("x" * 10), True),
        (asked("x" * 11), False),
        (asked("𝄞" * 10), True),  # characters, not bytes
        (asked([{"type": "text", "text": "x" * 5}, {"type": "text", "text": "x" * 5}]), True),
        (asked([{"type": "text", "text": "x" * 5}, {"type": "text", "text": "x" * 6}]), False),
        # all that the model must read counts
        (asked("Hi", system="x" * 8), True),
        (asked("Hi", system="x" * 9), False),
        (asked(("system", "x" * 9), "Hi"), False),
        (asked("Hi", ("assistant", "x" * 6), "Ok"), True),
        (asked("Hi", ("assistant", "x" * 7), "Ok"), False),
        (asked("Hi", ("assistant", [{"type": "thinking", "text": "x" * 6}]), "Ok"), True),
        (asked("Hi", ("assistant", [{"type": "thinking", "text": "x" * 7}]), "Ok"), False),
        # what is not text
        (asked([IMAGE]), False),
        (asked([{"type": "text", "text": "Hi"}, IMAGE]), False),
        (asked("Hi", ("assistant", [CALL]), ("tool", [RESULT])), False),
        (asked([RESULT]), False),
        # what a small model is not to be trusted with
        (asked("Hi", tools=[{"name": "f"}]), False),
        (asked("Hi", tools=[]), True),
        (asked("Hi", answer_format={"type": "json_object"}), False),
        # what does not matter
        (asked("Hi", max_tokens=100000, thinking=True, stop=["x" * 20], metadata={"user_id": "x" * 20}), True),
    ],
)
def test_a_turn_is_short_if_all_that_must_be_read_is_a_little_text(chat: ChatRequest, short: bool) -> None:
    assert is_short(lambda: chat, CHARACTERS_MAX) is short


def test_a_turn_that_cannot_be_said_in_our_words_is_not_short() -> None:
    def ask() -> ChatRequest:
        raise BadRequest("An audio part cannot be translated.", field="messages[0].content[0]")

    assert is_short(ask, CHARACTERS_MAX) is False


def test_a_bug_in_reading_a_request_is_not_taken_for_a_long_turn() -> None:
    def ask() -> ChatRequest:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        is_short(ask, CHARACTERS_MAX)
