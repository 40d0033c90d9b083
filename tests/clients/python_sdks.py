"""The providers' own SDKs for Python, and LangChain."""

from __future__ import annotations

import time
from typing import Any

import anthropic
import openai

from .outcome import QUESTION, TOOL, Call, Client, Kind, Outcome, failure, parsed

HELLO: Any = [{"role": "user", "content": QUESTION}]
OPENAI_TOOLS: Any = [{"type": "function", "function": {**TOOL, "strict": True}}]
ANTHROPIC_TOOLS: Any = [{"name": TOOL["name"], "description": TOOL["description"], "input_schema": TOOL["parameters"]}]
PATIENCE_S = 20.0


class OpenAIChat(Client):
    """openai-python, Chat Completions, with its stream helper."""

    name = "openai-python"
    surface = "openai_chat"

    async def ask(
        self, base: str, model: str, *, stream: bool = True, leave_at: Kind | None = None, retries: int = 0, tools: bool = False
    ) -> Outcome:
        outcome = Outcome()
        request: dict[str, Any] = {"model": model, "messages": HELLO} | ({"tools": OPENAI_TOOLS} if tools else {})
        async with openai.AsyncOpenAI(base_url=base + "/v1", api_key="any", max_retries=retries, timeout=PATIENCE_S) as client:
            try:
                if stream:
                    await self._stream(client, request, outcome, leave_at)
                else:
                    self._take(await client.chat.completions.create(**request), outcome)
            except openai.LengthFinishReasonError as error:  # which the helper says where others only say the reason
                self._take(error.completion, outcome)
            except Exception as error:
                outcome.error = failure(error)
        return outcome

    async def _stream(self, client: openai.AsyncOpenAI, request: dict[str, Any], outcome: Outcome, leave_at: Kind | None) -> None:
        async with client.chat.completions.stream(**request, stream_options={"include_usage": True}) as stream:
            async for event in stream:
                if event.type != "chunk" or not event.chunk.choices:
                    continue
                delta = event.chunk.choices[0].delta
                thinking = getattr(delta, "reasoning_content", None) or ""
                arguments = any(call.function and call.function.arguments for call in delta.tool_calls or [])
                outcome.thinking += thinking
                outcome.text += delta.content or ""
                outcome.deltas += bool(delta.content)
                if leave_at in seen(delta.content, thinking, arguments):
                    outcome.left_at = time.monotonic()
                    await stream.close()
                    return
            thought = outcome.thinking
            self._take(await stream.get_final_completion(), outcome)
            outcome.thinking = thought  # the helper keeps the last piece of a field that it does not know

    def _take(self, completion: Any, outcome: Outcome) -> None:
        choice = completion.choices[0]
        message = choice.message
        outcome.id = completion.id
        outcome.text = message.content or ""
        outcome.thinking = getattr(message, "reasoning_content", None) or ""
        outcome.refusal = message.refusal or ""
        outcome.calls = [Call(c.id, c.function.name, parsed(c.function.arguments)) for c in message.tool_calls or []]
        outcome.finish = choice.finish_reason
        if completion.usage:
            outcome.usage = {"input": completion.usage.prompt_tokens, "output": completion.usage.completion_tokens}


class Anthropic(Client):
    """anthropic for Python, Messages, with its stream helper."""

    name = "anthropic-python"
    surface = "anthropic"

    async def ask(
        self, base: str, model: str, *, stream: bool = True, leave_at: Kind | None = None, retries: int = 0, tools: bool = False
    ) -> Outcome:
        outcome = Outcome()
        request: dict[str, Any] = {"model": model, "messages": HELLO, "max_tokens": 4000}
        request |= {"tools": ANTHROPIC_TOOLS} if tools else {}
        async with anthropic.AsyncAnthropic(base_url=base, api_key="any", max_retries=retries, timeout=PATIENCE_S) as client:
            try:
                if stream:
                    await self._stream(client, request, outcome, leave_at)
                else:
                    self._take(await client.messages.create(**request), outcome)
            except Exception as error:
                outcome.error = failure(error)
        return outcome

    async def _stream(self, client: anthropic.AsyncAnthropic, request: dict[str, Any], outcome: Outcome, leave_at: Kind | None) -> None:
        async with client.messages.stream(**request) as stream:
            async for event in stream:
                if event.type != "content_block_delta":
                    continue
                delta: Any = event.delta
                text, thinking = getattr(delta, "text", ""), getattr(delta, "thinking", "")
                outcome.text += text
                outcome.thinking += thinking
                outcome.deltas += bool(text)
                if leave_at in seen(text, thinking, getattr(delta, "partial_json", "")):
                    outcome.left_at = time.monotonic()
                    await stream.close()
                    return
            self._take(await stream.get_final_message(), outcome)

    def _take(self, message: Any, outcome: Outcome) -> None:
        outcome.id = message.id
        outcome.text = "".join(block.text for block in message.content if block.type == "text")
        outcome.thinking = "".join(block.thinking for block in message.content if block.type == "thinking")
        outcome.calls = [Call(b.id, b.name, parsed(b.input)) for b in message.content if b.type == "tool_use"]
        outcome.finish = message.stop_reason
        outcome.usage = {"input": message.usage.input_tokens, "output": message.usage.output_tokens}


class LangChain(Client):
    """LangChain's ChatOpenAI: what a great many applications call a model through."""

    name = "langchain"
    surface = "openai_chat"

    async def ask(
        self, base: str, model: str, *, stream: bool = True, leave_at: Kind | None = None, retries: int = 0, tools: bool = False
    ) -> Outcome:
        from langchain_openai import ChatOpenAI  # two seconds, which `make quick` need not wait for

        outcome = Outcome()
        # Its own client would live as long as the process, and longer than a test's event loop.
        async with openai.DefaultAsyncHttpxClient(timeout=PATIENCE_S) as http:
            chat: Any = ChatOpenAI(
                model=model, base_url=base + "/v1", api_key="any", max_retries=retries, stream_usage=True, http_async_client=http
            )
            chat = chat.bind_tools(OPENAI_TOOLS) if tools else chat
            try:
                if stream:
                    await self._stream(chat, outcome, leave_at)
                else:
                    self._take(await chat.ainvoke(QUESTION), outcome)
            except Exception as error:
                outcome.error = failure(error)
        return outcome

    async def _stream(self, chat: Any, outcome: Outcome, leave_at: Kind | None) -> None:
        gathered = None
        pieces = chat.astream(QUESTION)
        async for piece in pieces:
            gathered = piece if gathered is None else gathered + piece
            outcome.text += piece.text
            outcome.deltas += bool(piece.text)
            arguments = any(call["args"] for call in piece.tool_call_chunks)
            if leave_at in seen(piece.text, "", arguments):
                outcome.left_at = time.monotonic()
                await pieces.aclose()
                return
        self._take(gathered, outcome)

    def _take(self, message: Any, outcome: Outcome) -> None:
        outcome.id = message.id
        outcome.text = message.text
        outcome.refusal = message.additional_kwargs.get("refusal") or ""
        outcome.calls = [Call(call["id"], call["name"], call["args"]) for call in message.tool_calls]
        outcome.calls += [Call(call["id"], call["name"], None) for call in message.invalid_tool_calls]
        outcome.finish = message.response_metadata.get("finish_reason")
        if message.usage_metadata:
            outcome.usage = {"input": message.usage_metadata["input_tokens"], "output": message.usage_metadata["output_tokens"]}


def seen(text: object, thinking: object, arguments: object) -> list[str | None]:
    return [kind for kind, there in (("text", text), ("thinking", thinking), ("arguments", arguments)) if there]
