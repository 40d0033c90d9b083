"""A conversation: each turn asked, shown, stopped on demand, and remembered as far as it came."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeAlias

from headrace.cli.chat import words
from headrace.cli.chat.show import Show
from headrace.client import AsyncClient, AsyncStream, Connection, Policy, Receipt, Reply
from headrace.client.failures import error_of_event
from headrace.errors import HeadraceError, RelayUnreachable
from headrace.protocol import events as ev

FRAME_S = 1 / 15
CONFIRMED_S = 5.0
FIRST_CONTACT = Policy(connect_attempts_max=1)

Outcome: TypeAlias = Literal["complete", "failed", "stopped", "left"]
MakeShow: TypeAlias = Callable[[AsyncStream], Show]


class Conversation:
    """Holds the history; what was said of a stopped or broken answer is part of it."""

    def __init__(self, client: AsyncClient, url: str, model: str | None, system: str | None, make_show: MakeShow) -> None:
        self.messages: list[dict[str, Any]] = []
        self._client = client
        self._url = url
        self._model = model
        self._system = system
        self._make_show = make_show
        self._reached = False

    async def ask(self, prompt: str) -> Outcome:
        """Send `prompt` and show the answer. Ctrl-C stops it; a second one, before that is done, leaves."""
        self.messages.append({"role": "user", "content": prompt})
        turn = Turn(self._stream, self._make_show, self._explained)
        outcome = await turn.run()
        self._remember(turn.stream.reply, outcome)
        return outcome

    def _stream(self, on_connection: Callable[[Connection], None]) -> AsyncStream:
        def heard(connection: Connection) -> None:
            self._reached = self._reached or connection.state == "live"
            on_connection(connection)

        return self._client.stream(
            self.messages,
            model=self._model,
            system=self._system,
            on_connection=heard,
            stop_on_exit=True,
            retry=None if self._reached else FIRST_CONTACT,
        )

    def _explained(self, error: HeadraceError) -> HeadraceError:
        """Where there has never been a relay at this address, say which address, and how there can be one."""
        if isinstance(error, RelayUnreachable) and not self._reached:
            reason = error.public_message.partition(": ")[2]
            return RelayUnreachable(f"There is no relay at {self._url}: {reason} Start one with: headrace serve")
        return error

    def _remember(self, reply: Reply, outcome: Outcome) -> None:
        """Keep the turn; one without a word of an answer only if that was the answer."""
        if reply.text:
            self.messages.append({"role": "assistant", "content": reply.text})
        elif outcome != "complete":
            self.messages.pop()


class Turn:
    """One question and its answer."""

    def __init__(
        self,
        make_stream: Callable[[Callable[[Connection], None]], AsyncStream],
        make_show: MakeShow,
        explained: Callable[[HeadraceError], HeadraceError],
    ) -> None:
        self.stream = make_stream(lambda connection: self._show.connection(connection))
        self._show = make_show(self.stream)
        self._explained = explained
        self._began = time.monotonic()
        self._task: asyncio.Task[Any] | None = None
        self._stopping: asyncio.Task[Receipt | None] | None = None
        self._stopped_after_s = 0.0
        self._left = False

    async def run(self) -> Outcome:
        """Show the answer to its end, and say how it ended."""
        self._task = asyncio.current_task()
        painting = asyncio.create_task(self._paint())
        error: HeadraceError | None = None
        try:
            with _interrupts(self._interrupted):
                error = await self._read()
                receipt = await self._stopping if self._stopping is not None else None
            self._show.conclude(stop=self._stop_in_words(receipt), error=error)
        except asyncio.CancelledError:
            if not self._left:
                raise
            self._show.conclude(stop=words.stopped(None, 0.0), error=None)
        finally:
            painting.cancel()
            if self._stopping is not None:
                self._stopping.cancel()
            self._show.close()
        return self._outcome(error)

    async def _read(self) -> HeadraceError | None:
        try:
            async with self.stream as stream:
                async for event in stream:
                    self._show.take(event)
        except HeadraceError as error:
            return self._explained(error)
        end = self.stream.reply.end
        return error_of_event(end) if isinstance(end, ev.Error) else None

    async def _stop(self) -> Receipt | None:
        """Stop, and end the reading, at the latest when a user has waited long enough for the relay to confirm."""
        try:
            async with asyncio.timeout(CONFIRMED_S):
                return await self.stream.stop()
        except (HeadraceError, TimeoutError):
            return None

    async def _paint(self) -> None:
        while True:
            self._show.paint()
            await asyncio.sleep(FRAME_S)

    def _interrupted(self) -> None:
        """Ctrl-C: the first stops, the second leaves."""
        if self._stopping is None:
            self._stopped_after_s = time.monotonic() - self._began
            self._stopping = asyncio.ensure_future(self._stop())
        elif self._task is not None:
            self._left = True
            self._task.cancel()

    def _stop_in_words(self, receipt: Receipt | None) -> str | None:
        if self._stopping is not None:
            return words.stopped(receipt, self._stopped_after_s)
        return words.STOPPED_ELSEWHERE if self.stream.reply.finish_reason == "cancelled" else None

    def _outcome(self, error: HeadraceError | None) -> Outcome:
        reply = self.stream.reply
        if self._left:
            return "left"
        if self._stopping is not None and not reply.complete:
            return "stopped"
        if error is not None:
            return "failed"
        return "stopped" if reply.finish_reason == "cancelled" else "complete"


@contextlib.contextmanager
def _interrupts(call: Callable[[], None]) -> Iterator[None]:
    """Let Ctrl-C call `call`, where this thread and this system can."""
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(signal.SIGINT, call)
    except (NotImplementedError, RuntimeError, ValueError):
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
