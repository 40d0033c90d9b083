"""What a request asks for, read alike from both dialects, and the refusal of one that cannot be read."""

from collections.abc import Iterable
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from headrace.simulator.steps import Step


class Rejected(Exception):
    """The request cannot be answered; `status` and the message go out in the dialect's own error shape."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Ask(Struct, frozen=True):
    """One request, as far as a simulated model cares. `serial` is its number here, from which all ids are made."""

    serial: int
    model: str
    stream: bool
    last_user_text: str
    input_tokens: int
    include_usage: bool = False

    @property
    def resolved_model(self) -> str:
        """The model as the answer names it: without its options, so that a body's length does not depend on them."""
        return self.model.partition("?")[0]


class Encoder(Protocol):
    """Turns the steps of one answer into one dialect's bytes. It remembers which blocks are open."""

    def encode(self, step: Step) -> bytes: ...


class Dialect(Protocol):
    """One provider's way to say all of this."""

    name: str
    error_shapes: tuple[str, ...]  # the first is the default

    def request_id(self, serial: int) -> tuple[str, str]:
        """Return the header in which the provider names a request."""
        ...

    def read(self, body: dict[str, Any], serial: int) -> Ask: ...

    def encoder(self, ask: Ask) -> Encoder: ...

    def whole(self, ask: Ask, steps: Iterable[Step]) -> bytes: ...

    def error(self, status: int, message: str, serial: int) -> bytes: ...

    def models(self, names: Iterable[str]) -> bytes: ...


def parse_body(body: bytes) -> dict[str, Any]:
    """Return the JSON object in `body`, or reject it."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Rejected(400, f"We could not parse the JSON body of your request: {error}") from error
    if not isinstance(value, dict):
        raise Rejected(400, "The body of a request is a JSON object.")
    return value


def required_model(body: dict[str, Any]) -> str:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise Rejected(400, "model: a string is required.")
    return model


def required_messages(body: dict[str, Any]) -> list[dict[str, Any]]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Rejected(400, "messages: a list with at least one message is required.")
    for position, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise Rejected(400, f"messages.{position}: an object with a `role` is required.")
    return messages


def optional_flag(body: dict[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise Rejected(400, f"{name}: true or false is required.")
    return bool(value)


def text_of(content: object) -> str:
    """Return the text in a message's `content`, which is a string or a list of parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = (part.get("text") for part in content if isinstance(part, dict))
    return "".join(part for part in parts if isinstance(part, str))


def last_user_text(messages: list[dict[str, Any]]) -> str:
    texts = (text_of(message.get("content")) for message in reversed(messages) if message["role"] == "user")
    return next(texts, "")


def count_input(messages: list[dict[str, Any]], system: object = None) -> int:
    """Estimate the prompt's tokens: four characters each, and four for a message's frame."""
    characters = len(text_of(system)) + sum(len(text_of(message.get("content"))) for message in messages)
    return 4 * len(messages) + -(-characters // 4)
