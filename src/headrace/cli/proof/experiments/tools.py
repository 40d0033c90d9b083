"""(c) A tool call's arguments come in fragments; nobody parses them before the last one."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from headrace.cli.proof.experiments.base import Experiment, Scene
from headrace.cli.proof.probe import read
from headrace.cli.proof.stage import Relay
from headrace.protocol import events as ev

MODEL = "tool?cut=2"
LOG_S = 5.0


async def run(scene: Scene) -> None:
    told = (await scene.witness.answer(MODEL))["tool_calls"][0]["function"]
    reading = await read(scene.http, scene.stage.url, f"{MODEL}&tokens_per_s=60")
    fragments = [event.arguments_delta for event in reading.events if isinstance(event, ev.ToolCallDelta)]
    complete = [event for event in reading.events if isinstance(event, ev.ToolCallComplete)]
    line = await log_line(scene.stage.relay, request_id=reading.request_id)
    calls: list[dict[str, Any]] = line.get("tool_calls") or [{}]
    parses, counted = calls[0].get("parses"), calls[0].get("fragments")
    result = scene.result
    result.traces["reader"] = reading.trace("What the reader got")
    result.detail = {"log_line": line, "fragments": fragments, "arguments": told["arguments"], "name": told["name"]}
    result.numbers.update(fragments=len(fragments), fragments_logged=counted, parses=parses, parses_on_the_way=parses and parses - 1)
    result.finding = f"{len(fragments)} fragments, {(parses or 1) - 1} parses on the way, 1 at the end" if parses else "no parse was logged"
    scene.check(len(calls) == 1 and parses == 1, f"the relay's log says that the arguments were parsed {parses} times")
    scene.check(counted == len(fragments) > 1, f"the relay logged {counted} fragments, the reader got {len(fragments)}")
    scene.check("".join(fragments) == told["arguments"], "the fragments do not make the arguments that the provider wrote")
    scene.check(
        len(complete) == 1 and complete[0].valid and complete[0].arguments == json.loads(told["arguments"]),
        "the parsed arguments are not what the provider meant",
    )


async def log_line(relay: Relay, **fields: str | None) -> dict[str, Any]:
    """Return the relay's log line of the end of the stream that has these fields, as in `request_id="req_1"`.

    Raises:
        TimeoutError: there is none.
    """
    async with asyncio.timeout(LOG_S):
        while True:
            for line in relay.log_lines():
                if line.get("event") == "stream_end" and fields.items() <= line.items():
                    return line
            await asyncio.sleep(0.02)


EXPERIMENT = Experiment(
    letter="c",
    key="tools",
    title="Tool arguments are parsed once",
    promise="Fragments of a tool call's arguments are passed on as they are; they are parsed once, when the call is complete.",
    turn=1,
    run=run,
)
