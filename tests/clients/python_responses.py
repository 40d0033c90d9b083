"""openai-python, Responses: stream, whole answer, background, resume, cancel."""

from __future__ import annotations

import time
from typing import Any

import openai

from .outcome import QUESTION, TOOL, Call, Client, Failure, Kind, Outcome, failure, parsed
from .python_sdks import PATIENCE_S, seen

TOOLS: Any = [{"type": "function", **TOOL, "strict": False}]
OVER = ("response.completed", "response.incomplete", "response.failed", "response.cancelled")


class OpenAIResponses(Client):
    """openai-python, Responses, with its stream helper."""

    name = "openai-python-responses"
    surface = "openai_responses"

    async def ask(
        self, base: str, model: str, *, stream: bool = True, leave_at: Kind | None = None, retries: int = 0, tools: bool = False
    ) -> Outcome:
        outcome = Outcome()
        request: dict[str, Any] = {"model": model, "input": QUESTION} | ({"tools": TOOLS} if tools else {})
        async with openai.AsyncOpenAI(base_url=base + "/v1", api_key="any", max_retries=retries, timeout=PATIENCE_S) as client:
            try:
                if stream:
                    async with client.responses.stream(**request) as events:
                        await self._follow(events, outcome, leave_at)
                        if outcome.status == "completed":
                            self._take(await events.get_final_response(), outcome)
                else:
                    self._take(await client.responses.create(**request), outcome)
            except Exception as error:
                outcome.error = failure(error)
        return outcome

    async def begin(self, base: str, model: str, *, leave_after: int | None = None) -> Outcome:
        """Start an answer in the background and read its stream, to event `leave_after` or to the end."""
        outcome = Outcome()
        async with openai.AsyncOpenAI(base_url=base + "/v1", api_key="any", max_retries=0, timeout=PATIENCE_S) as client:
            events: Any = await client.responses.create(model=model, input=QUESTION, background=True, stream=True)
            await self._follow(events, outcome, leave_after=leave_after)
        return outcome

    async def resume(self, base: str, response: str, after: int) -> Outcome:
        outcome = Outcome()
        async with openai.AsyncOpenAI(base_url=base + "/v1", api_key="any", max_retries=0, timeout=PATIENCE_S) as client:
            try:
                events: Any = await client.responses.retrieve(response, stream=True, starting_after=after)
                await self._follow(events, outcome)
            except Exception as error:
                outcome.error = failure(error)
        return outcome

    async def cancel(self, base: str, response: str) -> Outcome:
        return await self._single(base, "cancel", response)

    async def retrieve(self, base: str, response: str) -> Outcome:
        return await self._single(base, "retrieve", response)

    async def _single(self, base: str, act: str, response: str) -> Outcome:
        outcome = Outcome()
        async with openai.AsyncOpenAI(base_url=base + "/v1", api_key="any", max_retries=0, timeout=PATIENCE_S) as client:
            try:
                self._take(await getattr(client.responses, act)(response), outcome)
            except Exception as error:
                outcome.error = failure(error)
        return outcome

    async def _follow(self, events: Any, outcome: Outcome, leave_at: Kind | None = None, leave_after: int | None = None) -> None:
        async for event in events:
            outcome.numbers.append(event.sequence_number)
            outcome.through = event.sequence_number
            text, thinking, arguments = pieces(event)
            outcome.text += text
            outcome.thinking += thinking
            outcome.deltas += bool(text)
            if event.type == "response.created":
                outcome.id, outcome.status = event.response.id, event.response.status
            elif event.type == "error":
                outcome.error = Failure(["error"], event.message, code=event.code)
            elif event.type in OVER:
                self._take(event.response, outcome)
            if leave_at in seen(text, thinking, arguments) or (leave_after is not None and outcome.through >= leave_after):
                outcome.left_at = time.monotonic()
                await events.close()
                return

    def _take(self, response: Any, outcome: Outcome) -> None:
        outcome.id = response.id
        outcome.status = response.status
        outcome.text = response.output_text or (outcome.text if response.status in ("failed", "cancelled") else "")
        outcome.thinking = "".join(thought(item) for item in response.output if item.type == "reasoning")
        contents = [part for item in response.output if item.type == "message" for part in item.content]
        outcome.refusal = "".join(part.refusal for part in contents if part.type == "refusal")
        outcome.calls = [Call(i.call_id, i.name, parsed(i.arguments)) for i in response.output if i.type == "function_call"]
        if response.status in ("completed", "incomplete"):
            outcome.finish = response.incomplete_details.reason if response.incomplete_details else response.status
        if response.usage:
            outcome.usage = {"input": response.usage.input_tokens, "output": response.usage.output_tokens}
        if response.error:
            outcome.error = Failure(["response.failed"], response.error.message, code=response.error.code)


def pieces(event: Any) -> tuple[str, str, str]:
    match event.type:
        case "response.output_text.delta":
            return event.delta, "", ""
        case "response.reasoning_summary_text.delta" | "response.reasoning_text.delta":
            return "", event.delta, ""
        case "response.function_call_arguments.delta":
            return "", "", event.delta
    return "", "", ""


def thought(item: Any) -> str:
    return "".join(part.text for part in [*(item.summary or []), *(item.content or [])])
