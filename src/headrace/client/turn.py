"""The reading of one answer, from the first request to its last event, and what is asked of the relay beside it.

Written once, as coroutines over a `Port` that awaits or blocks. What to do is decided elsewhere (`session`, `recovery`); here it is
done.
"""

from __future__ import annotations

import logging
from collections import deque

import msgspec

from headrace.client import asks
from headrace.client.answers import Receipt, StreamState
from headrace.client.asks import Ask
from headrace.client.failures import error_of_event, keep_reply, refusal
from headrace.client.measures import ClientMetrics
from headrace.client.port import Body, Port
from headrace.client.recovery import Dropped, Finish, GiveUp, Policy, Refused, Setback, decide_wait, failure
from headrace.client.session import Plan, Session
from headrace.errors import HeadraceError, RemoteProtocolError
from headrace.protocol import events as ev

LAST_WORD_S = 2.0  # for the terminal event to come, once the relay has confirmed a Stop
ERROR_BYTES_MAX = 64 * 1024
ANSWER_BYTES_MAX = 64 * 1024 * 1024
EXIT_POLICY = Policy(attempts_max=2)

_NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

log = logging.getLogger("headrace.client")


class Calls:
    """Requests whose answer is one JSON object. All of them may be made twice, and are where that may help."""

    def __init__(self, port: Port, base_url: str, policy: Policy) -> None:
        self.port = port
        self.policy = policy
        self._base_url = base_url

    async def call(self, ask: Ask, policy: Policy | None = None) -> bytes:
        """Return the body of the answer.

        Raises:
            HeadraceError: the relay said no, or could not be reached in all attempts.
        """
        failures = 0
        while True:
            try:
                return await self._fetch(ask)
            except (Dropped, Refused) as setback:
                wait = decide_wait(policy or self.policy, failures, setback, chance=self.port.chance())
                if wait is None:
                    raise failure(setback) from setback
            failures += 1
            await self.port.patience().sleep(wait)

    async def cancel(self, ask: Ask, policy: Policy | None = None) -> Receipt:
        content = await self.call(ask, policy)
        try:
            return Receipt.decode(content)
        except _NOT_JSON as error:
            raise RemoteProtocolError("The relay's answer to a Stop is not a receipt.", detail=str(error)) from None

    async def state(self, stream_id: str) -> StreamState:
        content = await self.call(asks.state(stream_id))
        try:
            return msgspec.json.decode(content, type=StreamState)
        except _NOT_JSON as error:
            raise RemoteProtocolError("The relay's answer is not a stream's state.", detail=str(error)) from None

    async def refused(self, ask: Ask, body: Body) -> Refused:
        """Return what a response says that is not what was asked for, and close it."""
        try:
            content = await _read(body, ERROR_BYTES_MAX)
        finally:
            await body.aclose()
        return refusal(body.status, body.headers, content, url=self._base_url + ask.path.partition("?")[0])

    async def _fetch(self, ask: Ask) -> bytes:
        body = await self.port.open(ask, streaming=False)
        if body.status not in (200, 202) or not body.headers.get("content-type", "").startswith("application/json"):
            raise await self.refused(ask, body)
        try:
            content = await _read(body, ANSWER_BYTES_MAX)
        except BaseException:
            await body.aclose()
            raise
        await body.finish()
        return content


class Turn:
    """One answer being read."""

    def __init__(self, calls: Calls, plan: Plan) -> None:
        self.session = Session(plan)
        self.receipt: Receipt | None = None
        self.plan = plan
        self._calls = calls
        self._port = calls.port
        self._patience = calls.port.patience()
        self._ready: deque[ev.Event] = deque()
        self._setback: Setback | None = None
        self._body: Body | None = None

    def metrics(self) -> ClientMetrics:
        return self.session.stopwatch.metrics(self._port.now())

    def silent_s(self) -> float:
        heard_at = self.session.heard_at
        return 0.0 if heard_at is None else self._port.now() - heard_at

    async def next(self) -> ev.Event | None:
        """Return the next event, or None when there will be no more.

        Raises:
            IncompleteStream: the answer broke off, and every attempt to get the rest was in vain.
            HeadraceError: the relay refused, or could not be reached at all.
        """
        while not self._ready:
            if self.session.over:
                await self._let_go()
                return None
            await self._step()
        return self.session.deliver(self._ready.popleft())

    async def collect(self) -> None:
        """Read to the end.

        Raises:
            HeadraceError: as `next`, and where the answer ended with an `error` event, the error that it names.
        """
        while await self.next() is not None:
            pass
        reply = self.session.reply
        if isinstance(reply.end, ev.Error):
            raise keep_reply(error_of_event(reply.end), reply)

    async def stop(self, policy: Policy | None = None) -> Receipt:
        """Stop the generation; what is being read ends with what the relay then sends, or without it.

        Raises:
            HeadraceError: the relay did not confirm. Reading is over all the same.
        """
        self.session.ask_stop()
        if self._body is None and self.session.stream_id is not None:
            self._patience.hurry(0)  # between two attempts: there is nothing to wait for
        try:
            if self.receipt is None:
                self.receipt = await self._ask_receipt(policy)
            return self.receipt
        finally:
            confirmed = self.receipt is not None and self.receipt.status != "not_started"
            self._patience.hurry(LAST_WORD_S if confirmed else 0)

    async def aclose(self) -> None:
        """Leave: stop the generation if that was agreed, else only disconnect."""
        session = self.session
        try:
            if self.plan.stop_on_exit and not session.over and not session.stop_asked:
                await self.stop(EXIT_POLICY)
        except HeadraceError as error:
            log.warning("stop_on_exit: the relay did not confirm (%s)", error)
        finally:
            await self._let_go()
            session.finish(self._port.now())

    async def _step(self) -> None:
        setback, self._setback = self._setback, None
        if setback is None:
            setback = await self._read()
        if setback is not None and self._ready:
            self._setback = setback  # what came before it is handed out first
        elif setback is not None:
            await self._recover(setback)

    async def _read(self) -> Setback | None:
        """Read once, after opening where nothing is open."""
        session = self.session
        try:
            async with self._patience:
                body = self._body or await self._open()
                chunk = await body.read()
        except (Dropped, Refused) as setback:
            return setback
        batch = session.take(chunk, self._port.now())
        self._ready.extend(batch.events)
        return batch.fault

    async def _open(self) -> Body:
        session = self.session
        ask = session.ask(self._port.now())
        body = await self._port.open(ask, streaming=True)
        if not session.is_stream(body.status, body.headers):
            raise await self._calls.refused(ask, body)
        self._body = body
        session.opened(body.headers, self._port.now())
        return body

    async def _recover(self, setback: Setback) -> None:
        session = self.session
        await self._let_go()
        decision = session.decide(setback, chance=self._port.chance(), now=self._port.now())
        if isinstance(decision, GiveUp):
            raise keep_reply(decision.error, session.reply) from setback
        if isinstance(decision, Finish):
            return
        try:
            async with self._patience:
                await self._patience.sleep(decision.delay_s)
        except Dropped:
            pass
        if session.stop_asked:
            session.finish(self._port.now())

    async def _let_go(self) -> None:
        """Close the connection, or leave it for the next request if its response is at its end."""
        body, self._body = self._body, None
        if body is None:
            return
        if self.session.over:
            await body.finish()
        else:
            await body.aclose()

    async def _ask_receipt(self, policy: Policy | None) -> Receipt:
        session = self.session
        if not session.sent:
            session.finish(self._port.now())
            return Receipt(status="not_started")
        known = session.stream_id
        return await self._calls.cancel(asks.cancel(known) if known is not None else asks.cancel_by_key(self.plan.key), policy)


async def _read(body: Body, bytes_max: int) -> bytes:
    content = bytearray()
    while len(content) < bytes_max and (piece := await body.read()) is not None:
        content += piece
    return bytes(content)
