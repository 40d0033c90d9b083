"""A web page with `useChat`, as its user sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from .node_clients import Driver

PATIENCE_S = 15.0

State = dict[str, Any]


class Page:
    """One open page. `state` is what is on the screen: status, error, messages; and what its callbacks heard so far.

    Attributes:
        states: all states that were on the screen, oldest first.
    """

    def __init__(
        self, driver: Driver, base: str, *, chat: str, model: str, resume: bool = False, messages: list[Any] | None = None
    ) -> None:
        self.states: list[State] = []
        self._changed = asyncio.Event()
        self._closed = asyncio.Event()
        self._driver = driver
        self._failure: object = None
        page = {"base": base, "chat": chat, "model": model, "resume": resume, "messages": messages or []}
        self._number = driver.start({"client": "use_chat", "act": "open", **page}, self._hear)

    @property
    def state(self) -> State:
        return self.states[-1] if self.states else {}

    @property
    def answer(self) -> dict[str, Any]:
        """The assistant's last message."""
        message = self.state["messages"][-1]
        assert message["role"] == "assistant", message
        found: dict[str, Any] = message
        return found

    @property
    def text(self) -> str:
        return "".join(part["text"] for part in self.parts("text"))

    def parts(self, kind: str) -> list[dict[str, Any]]:
        """The parts of the answer whose type begins with `kind`; none while there is no answer."""
        messages = self.state.get("messages") or []
        if not messages or messages[-1]["role"] != "assistant":
            return []
        return [part for part in messages[-1]["parts"] if part["type"].startswith(kind)]

    def tell(self, what: str, **words: Any) -> None:
        self._driver.send({"id": self._number, "tell": what, **words})

    async def send(self, text: str = "How high is the river?") -> None:
        await self.until(lambda: self.states, "the page is there")
        self.tell("send", text=text)

    async def until(self, condition: Callable[[], object], what: str) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not condition():
                    assert not self._closed.is_set(), f"the page is gone: {self._failure}"
                    await self._changed.wait()
                    self._changed.clear()
        except TimeoutError:
            raise AssertionError(f"not within {PATIENCE_S} s: {what}; on the screen: {self.state}") from None

    async def over(self) -> None:
        """Wait until the answer that is being streamed is over, however it ends."""
        await self.until(lambda: self.state.get("finishes") and self.state["status"] in ("ready", "error"), "the answer is over")

    async def close(self) -> None:
        """Close the page. The last that the relay sees of it is that its connection ends."""
        if not self._closed.is_set():
            self._driver.send({"id": self._number, "abort": True})
        async with asyncio.timeout(PATIENCE_S):
            await self._closed.wait()
        self._driver.forget(self._number)
        assert self._failure is None, self._failure

    def _hear(self, line: dict[str, Any]) -> None:
        if "outcome" in line:
            self._failure = line["outcome"].get("error")
            self._closed.set()
        else:
            self.states.append(line["seen"])
        self._changed.set()
