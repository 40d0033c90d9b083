"""The provider as a witness: what its own dashboard says of a request."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import httpx2
import msgspec

from headrace.cli.proof.provider import StampedRecord
from headrace.cli.proof.results import Curve

SAMPLE_S = 0.02
WAIT_S = 5.0


class _Page(msgspec.Struct):
    requests: list[StampedRecord]


class Witness:
    """Asks `GET /stats` of the simulated provider at `url`."""

    def __init__(self, http: httpx2.AsyncClient, url: str) -> None:
        self.http = http
        self.url = url

    async def wait(self, request_id: str, condition: Callable[[StampedRecord], bool]) -> StampedRecord:
        """Return the record of the request with this `x-request-id` as soon as `condition` holds.

        Raises:
            TimeoutError: it did not in time.
        """
        return await self._wait(lambda record: record.x_request_id == request_id, condition)

    async def wait_for_model(self, model: str, condition: Callable[[StampedRecord], bool]) -> StampedRecord:
        """Return the record of the last request for `model` as soon as `condition` holds.

        Raises:
            TimeoutError: it did not in time.
        """
        return await self._wait(lambda record: record.model == model, condition)

    async def _wait(self, is_meant: Callable[[StampedRecord], bool], condition: Callable[[StampedRecord], bool]) -> StampedRecord:
        async with asyncio.timeout(WAIT_S):
            while True:
                page = msgspec.json.decode((await self.http.get(f"{self.url}/stats")).content, type=_Page)
                record = next(filter(is_meant, reversed(page.requests)), None)
                if record is not None and condition(record):
                    return record
                await asyncio.sleep(SAMPLE_S)

    @contextlib.asynccontextmanager
    async def sampling(
        self, numbers: Sequence[int], curve: Curve, began: float, value: Callable[[list[StampedRecord]], float]
    ) -> AsyncIterator[None]:
        """Sample `value` of these requests into `curve` while the block runs."""
        task = asyncio.create_task(self._sample(numbers, curve, began, value))
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _sample(self, numbers: Sequence[int], curve: Curve, began: float, value: Callable[[list[StampedRecord]], float]) -> None:
        while True:
            records = [await self._by_number(number) for number in numbers]
            curve.points.append((round(time.monotonic() - began, 4), value(records)))
            await asyncio.sleep(SAMPLE_S)

    async def _by_number(self, number: int) -> StampedRecord:
        answer = await self.http.get(f"{self.url}/stats", params={"id": str(number)})
        return msgspec.json.decode(answer.content, type=StampedRecord)

    async def answer(self, model: str) -> dict[str, Any]:
        """Return the provider's own whole answer, asked for directly and not as a stream."""
        glue = "&" if "?" in model else "?"
        body = {
            "model": f"{model}{glue}tokens_per_s=0&first_token_s=0",
            "messages": [{"role": "user", "content": "How does the mill work?"}],
        }
        answer = (await self.http.post(f"{self.url}/v1/chat/completions", json=body)).raise_for_status()
        message: dict[str, Any] = answer.json()["choices"][0]["message"]
        return message
