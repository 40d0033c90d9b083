"""The acts of the demo: an answer, a Stop, a dropped connection, a tool call, each as it happens and with what it proves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import httpx2
import msgspec
from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from headrace.cli.proof import probe
from headrace.cli.proof.cutter import Cutter
from headrace.cli.proof.experiments.tools import log_line
from headrace.cli.proof.provider import StampedRecord
from headrace.cli.proof.stage import Stage
from headrace.cli.proof.typewriter import WIDTH_MAX, Typewriter
from headrace.cli.proof.witness import Witness
from headrace.client import AsyncClient, AsyncStream, Connection, Receipt
from headrace.protocol import events as ev
from headrace.protocol.sse import SSEParser

QUESTION = "How does a mill work?"
STORY = "story?tokens=234&tokens_per_s=60"
STOPPED = "story?tokens_per_s=40"
STOP_AFTER_TOKENS = 64
LOOK_AGAIN_S = 1.0
DROPPED = "story?tokens=162&tokens_per_s=50"
CUT_AFTER_TOKENS = 51
AWAY_S = 0.6
TOOL = "tool?cut=4&tokens_per_s=60"
CLOSED = "story?tokens_per_s=41"
CLOSE_AFTER_TOKENS = 48


async def play(console: Console, stage: Stage) -> None:
    """Play all acts through the stage's nginx."""
    async with probe.client() as http, AsyncClient(stage.url, http=http) as client:
        await client.complete(QUESTION, model="simulator/quick?first_token_s=0&tokens_per_s=0")  # what is loaded on first use is no wait
        title(console, 1, "An answer, token by token, through nginx")
        await _story(console, client)
        title(console, 2, "Another one, and Stop")
        await _stop(console, client, Witness(http, stage.provider.url))
        title(console, 3, "The network drops in the middle")
        async with Cutter("127.0.0.1", stage.nginx.ports["plain"]) as network, AsyncClient(network.url, http=http) as far:
            await _drop(console, far, network)
        title(console, 4, "A tool call, fragment by fragment")
        await _tool(console, client, stage)
        title(console, 5, "What OpenAI's SDK sends, to a provider that speaks Anthropic's Messages")
        await _other_words(console, http, stage)


def title(console: Console, number: int, words: str) -> None:
    console.print()
    text = Text.assemble((f"{number}  ", "dim"), (words, "bold"))
    console.print(Rule(text, align="left", style="dim"), width=min(console.width, WIDTH_MAX))


class Telling:
    """Writes one answer as it comes, and remembers when its tokens came."""

    def __init__(self, console: Console) -> None:
        self.writer = Typewriter(console)
        self.times: list[float] = []
        self._began = time.monotonic()

    async def tell(self, stream: AsyncStream, after_each: Callable[[], None] = lambda: None) -> None:
        """Read to the end. `after_each` is called after each piece of text; a replayed piece is underlined."""
        async for event in stream:
            if isinstance(event, ev.Text):
                is_replayed = event.from_seq is not None
                self.times += [time.monotonic() - self._began] * (event.seq - (event.from_seq or event.seq) + 1)
                self.writer.write(event.text, "underline" if is_replayed else "")
                after_each()

    def say_word(self, word: str) -> None:
        """Write a word that has come now."""
        if word:
            self.times.append(time.monotonic() - self._began)
            self.writer.write(word)

    def end(self, mark: str = "│") -> None:
        self.writer.end()
        self.writer.flow(self.times, time.monotonic() - self._began, mark)


async def _story(console: Console, client: AsyncClient) -> None:
    telling = Telling(console)
    async with client.stream(QUESTION, model=f"simulator/{STORY}") as stream:
        await telling.tell(stream)
        measured = stream.metrics
    telling.end()
    ttft, tpot = measured.ttft_ms or 0.0, measured.tpot_ms or 0.0
    telling.writer.say(f"first token after {ttft:.0f} ms, then one every {tpot:.1f} ms: {measured.tokens} tokens, each when it was made")


async def _stop(console: Console, client: AsyncClient, witness: Witness) -> None:
    telling = Telling(console)
    pressed: list[asyncio.Task[tuple[float, Receipt]]] = []
    async with client.stream(QUESTION, model=f"simulator/{STOPPED}") as stream:

        def press() -> None:
            if len(telling.times) == STOP_AFTER_TOKENS:
                pressed.append(asyncio.create_task(_press(stream)))

        await telling.tell(stream, press)
        pressed_at, receipt = await pressed[0]
    telling.writer.write(" ■ Stop", "bold")
    telling.end("▌")
    record = await witness.wait_for_model(STOPPED, lambda record: record.state != "running")
    await asyncio.sleep(LOOK_AGAIN_S)
    later = await witness.wait_for_model(STOPPED, lambda record: True)
    for words in _what_stopped(receipt, pressed_at, record, later):
        telling.writer.say(words)


async def _press(stream: AsyncStream) -> tuple[float, Receipt]:
    pressed_at = time.monotonic()
    return pressed_at, await stream.stop()


def _what_stopped(receipt: Receipt, pressed_at: float, record: StampedRecord, later: StampedRecord) -> list[str]:
    left_at = record.left_at_monotonic
    closed = f"closed {(left_at - pressed_at) * 1000:.1f} ms after Stop" if left_at is not None else "not seen to close"
    relayed = f"{receipt.tokens_before} tokens relayed before, {receipt.tokens_after} after"
    usage = f"; about {receipt.usage.output_tokens} output tokens, an estimate" if receipt.usage is not None else ""
    return [
        f"the provider says: connection {closed}, {record.tokens_written} tokens written by then, "
        f"{later.tokens_written} when asked again {LOOK_AGAIN_S:.0f} s later",
        f"the receipt says: {receipt.status}, {relayed}{usage}",
    ]


async def _drop(console: Console, client: AsyncClient, network: Cutter) -> None:
    telling = Telling(console)
    mending: list[asyncio.Task[None]] = []
    replayed = 0

    def heard(connection: Connection) -> None:
        nonlocal replayed
        if connection.state == "reconnecting" and connection.attempt == 1:
            telling.writer.write(" ⨯ connection lost ", "yellow")
        elif connection.state == "reconnecting":
            telling.writer.write("· ", "yellow")
        elif connection.state == "resumed":
            replayed = connection.replayed
            telling.writer.write("back ", "yellow")

    def cut() -> None:
        if len(telling.times) >= CUT_AFTER_TOKENS and not mending:
            network.cut()
            mending.append(asyncio.create_task(_mend(network)))

    async with client.stream(QUESTION, model=f"simulator/{DROPPED}", on_connection=heard) as stream:
        await telling.tell(stream, cut)
        reply = stream.reply
    telling.end()
    whole = "nothing lost, nothing twice" if reply.complete and not reply.gaps else "not complete"
    telling.writer.say(f"{replayed} events replayed (underlined), which the provider had written meanwhile: {whole}")


async def _mend(network: Cutter) -> None:
    await asyncio.sleep(AWAY_S)
    network.mend()


async def _tool(console: Console, client: AsyncClient, stage: Stage) -> None:
    writer, fragments = Typewriter(console), 0
    async with client.stream(QUESTION, model=f"simulator/{TOOL}") as stream:
        async for event in stream:
            if isinstance(event, ev.Text):
                writer.write(event.text)
            elif isinstance(event, ev.ToolCallStart):
                writer.write(f"\n\n{event.name} ", "bold yellow")
            elif isinstance(event, ev.ToolCallDelta):
                fragments += 1
                writer.write(event.arguments_delta, "yellow" if fragments % 2 else "bright_yellow")
        stream_id = stream.stream_id
    writer.end()
    logged = await log_line(stage.relay, stream_id=stream_id)
    call = (logged.get("tool_calls") or [{}])[0]
    parsed = "parsed once, at the end" if call.get("parses") == 1 else f"parsed {call.get('parses')} times"
    console.print()
    writer.say(f"{fragments} fragments passed on as they came; the relay's log says {call.get('fragments')} fragments, {parsed}")


async def _other_words(console: Console, http: httpx2.AsyncClient, stage: Stage) -> None:
    """Read what an SDK would read, and do what its user does who has seen enough: close it."""
    telling = Telling(console)
    body = {"model": f"simulator-anthropic/{CLOSED}", "messages": [{"role": "user", "content": QUESTION}], "stream": True}
    parser = SSEParser()
    async with http.stream("POST", f"{stage.url}/v1/chat/completions", json=body) as response:
        async for chunk in response.aiter_raw():
            for frame in parser.feed(chunk):
                telling.say_word(_content(frame.data))
            if len(telling.times) >= CLOSE_AFTER_TOKENS:
                break
    closed_at = time.monotonic()
    telling.writer.write(" stream.close()", "bold")
    telling.end("▌")
    record = await Witness(http, stage.provider.url).wait_for_model(CLOSED, lambda record: record.state != "running")
    left_at = record.left_at_monotonic
    closed = f"closed {(left_at - closed_at) * 1000:.1f} ms later" if left_at is not None else "not seen to close"
    telling.writer.say(f"asked as chat.completion.chunk, answered from content_block_delta; the provider's connection {closed}")


def _content(data: bytes) -> str:
    """Return the words in a `chat.completion.chunk`."""
    choices = msgspec.json.decode(data).get("choices") if data.startswith(b"{") else None
    return (choices[0]["delta"].get("content") or "") if choices else ""
