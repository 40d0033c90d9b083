"""What a client made of an answer, in words that all clients share, and what every client can be asked to do."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Literal

QUESTION = "How high is the river?"
TOOL: dict[str, Any] = {
    "name": "file_report",
    "description": "File a report.",
    "parameters": {"type": "object", "properties": {"station": {"type": "string"}}, "required": ["station"]},
}
Kind = Literal["text", "thinking", "arguments"]


@dataclass
class Failure:
    """An error that the client raised. `kinds` are the names of its class and of all bases, so that a test can ask for any of them."""

    kinds: list[str]
    message: str
    status: int | None = None
    code: str | None = None
    retry_after: str | None = None

    def __post_init__(self) -> None:
        self.message = str(self.message)


@dataclass
class Call:
    """A tool call as the client's own helper gathered it; `arguments` are parsed, and None if they are no JSON."""

    id: str
    name: str
    arguments: dict[str, Any] | None


@dataclass
class Outcome:
    """One answer.

    Attributes:
        text: what came, also when an error or a Stop ended it.
        finish: the client's own word for why the answer is over; None if it is not.
        left_at: when the client closed the stream, on the monotonic clock.
        through: the last `sequence_number`, for clients that have them.
        deltas: how many pieces the text came in.
    """

    text: str = ""
    thinking: str = ""
    refusal: str = ""
    calls: list[Call] = field(default_factory=list)
    finish: str | None = None
    usage: dict[str, int] | None = None
    id: str | None = None
    error: Failure | None = None
    left_at: float | None = None
    deltas: int = 0
    status: str | None = None
    through: int | None = None
    numbers: list[int] = field(default_factory=list)

    def whole(self) -> Outcome:
        """Return it, if nothing went wrong with it."""
        assert self.error is None, f"{self.error}, after {self.text[-80:]!r}"
        assert self.finish, f"no finish: {self}"
        return self

    @property
    def said(self) -> tuple[object, ...]:
        """What a streamed answer and a whole one have in common."""
        calls = [(call.name, call.arguments) for call in self.calls]
        return self.text, self.thinking, self.refusal, calls, self.finish, self.usage


def from_json(value: dict[str, Any]) -> Outcome:
    """Return what a driver in another language printed."""
    error = value.get("error")
    calls = [Call(call["id"], call["name"], parsed(call["arguments"])) for call in value.get("calls") or []]
    return Outcome(**{**value, "calls": calls, "error": Failure(**error) if error else None})


def parsed(arguments: object) -> dict[str, Any] | None:
    if isinstance(arguments, dict):
        return arguments
    try:
        value = json.loads(str(arguments))
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def failure(error: BaseException) -> Failure:
    """Describe what a Python client raised."""
    response = getattr(error, "response", None)
    return Failure(
        kinds=[kind.__name__ for kind in type(error).__mro__],
        message=getattr(error, "message", None) or str(error),
        status=getattr(error, "status_code", None),
        code=getattr(error, "code", None) or getattr(error, "type", None),
        retry_after=response.headers.get("retry-after") if response is not None else None,
    )


class Client(ABC):
    """One way in which people call a model. To stop it before anything came, cancel the task that asks."""

    name: str
    surface: str

    @abstractmethod
    async def ask(
        self, base: str, model: str, *, stream: bool = True, leave_at: Kind | None = None, retries: int = 0, tools: bool = False
    ) -> Outcome:
        """Ask the relay at `base`, and return what came of it, an error included.

        Args:
            leave_at: close the stream, as this client's users do, at the first piece of this kind.
            retries: how often the client may ask again by itself.
            tools: whether the request has a tool.
        """
