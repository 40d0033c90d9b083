"""What a provider does, step by step, before any dialect gives it bytes.

A script is a sequence of these steps. Some become bytes (an encoder's work), some pass time or end the connection (the player's).
"""

from collections.abc import Iterable, Iterator
from typing import ClassVar, Literal

from msgspec import Struct

FinishReason = Literal["stop", "length", "tool_calls", "refusal", "pause"]
HangUp = Literal["fin", "rst", "short_chunk"]
ErrorShape = Literal["openai", "groq", "openrouter", "llama_box", "responses", "failed", "anthropic", "gemini"]


class _Silent(Struct, frozen=True, gc=False):
    """A step that generates no token."""

    tokens: ClassVar[int] = 0


class _Token(Struct, frozen=True, gc=False):
    """A step that generates one token."""

    tokens: ClassVar[int] = 1


class Open(_Silent, frozen=True, gc=False):
    """The message begins: Anthropic's `message_start`, OpenAI's chunk that carries only the role."""


class Text(_Token, frozen=True, gc=False):
    piece: str


class Think(_Token, frozen=True, gc=False):
    piece: str


class Sealed(_Silent, frozen=True, gc=False):
    """Reasoning that is kept from the reader: signed but empty, or (with `data`) redacted."""

    data: str = ""


class ToolStart(_Silent, frozen=True, gc=False):
    """A call opens. `index` counts the calls of one answer; `by_server` marks a tool that the provider runs itself."""

    index: int
    call_id: str
    name: str
    by_server: bool = False


class ToolArgs(_Token, frozen=True, gc=False):
    index: int
    fragment: str


class Refuse(_Token, frozen=True, gc=False):
    piece: str


class Ping(_Silent, frozen=True, gc=False):
    """A sign of life without content."""


class Noise(_Silent, frozen=True, gc=False):
    """Something lawful that a reader has never heard of; `kind` picks which of the dialect's kinds."""

    kind: int


class Finish(_Silent, frozen=True, gc=False):
    """The reason for the end, with the usage."""

    reason: FinishReason


class Done(_Silent, frozen=True, gc=False):
    """The dialect's terminator."""


class Fail(_Silent, frozen=True, gc=False):
    """An error inside a stream that began well."""

    shape: ErrorShape


class Raw(Struct, frozen=True, gc=False):
    """Bytes that no encoder touches; `tokens` says how many they stand for."""

    data: bytes
    tokens: int = 0


class Wait(_Silent, frozen=True, gc=False):
    seconds: float


class Die(_Silent, frozen=True):
    """The connection breaks, `short_chunk` in the middle of the bytes of `during`."""

    how: HangUp
    during: "Step | None" = None


Step = Open | Text | Think | Sealed | ToolStart | ToolArgs | Refuse | Ping | Noise | Finish | Done | Fail | Raw | Wait | Die


def up_to_token(steps: Iterable[Step], count: int) -> Iterator[Step]:
    """Yield `steps` until `count` tokens have gone by, and nothing after the last of them."""
    left = count
    for step in steps:
        if left <= 0 and step.tokens:
            return
        left -= step.tokens
        yield step
        if left <= 0 and step.tokens:
            return


def token_number(steps: Iterable[Step], number: int) -> Step | None:
    """Return the step that generates token `number`, counted from 0, if there is one."""
    tokens = (step for step in steps if step.tokens)
    return next((step for position, step in enumerate(tokens) if position == number), None)


class Block(Struct):
    """One content block of a whole message."""

    kind: Literal["text", "thinking", "redacted", "refusal", "tool"]
    text: str = ""
    call_id: str = ""
    name: str = ""
    by_server: bool = False


class Message(Struct):
    """What a run of steps says, all together."""

    blocks: list[Block]
    reason: FinishReason = "stop"
    output_tokens: int = 0
    reasoning_tokens: int = 0


def fold(steps: Iterable[Step]) -> Message:
    """Gather `steps` into the message that they stream."""
    message = Message([])
    calls: dict[int, Block] = {}
    for step in steps:
        message.output_tokens += step.tokens
        match step:
            case Text(piece):
                _block(message, "text").text += piece
            case Think(piece):
                _block(message, "thinking").text += piece
                message.reasoning_tokens += 1
            case Refuse(piece):
                _block(message, "refusal").text += piece
            case Sealed(data):
                message.blocks.append(Block("redacted" if data else "thinking", data))
            case ToolStart(index, call_id, name, by_server):
                calls[index] = Block("tool", "", call_id, name, by_server)
                message.blocks.append(calls[index])
            case ToolArgs(index, fragment):
                calls[index].text += fragment
            case Finish(reason):
                message.reason = reason
            case _:
                pass
    return message


def _block(message: Message, kind: Literal["text", "thinking", "refusal"]) -> Block:
    if not message.blocks or message.blocks[-1].kind != kind:
        message.blocks.append(Block(kind))
    return message.blocks[-1]
