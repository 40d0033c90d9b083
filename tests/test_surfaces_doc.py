"""`docs/surfaces.md` says what the surfaces do: their addresses and headers, how each end is said, what is dropped and what is refused."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any, get_args

import pytest
from starlette.testclient import TestClient

from headrace.errors import BadRequest
from headrace.protocol import events as ev
from headrace.protocol.dialects import CLIENTS, surface
from headrace.protocol.surface import SurfaceRequest
from headrace.server.app import create_app
from headrace.server.config import Config, SimulatorConfig, SurfaceConfig
from real.processes import Relay

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "surfaces.md").read_text("utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
BASE = "127.0.0.1:8080"

COLUMNS = ("openai_chat", "openai_responses", "anthropic", "ai_sdk", "ag_ui")
SECTIONS = dict(zip(COLUMNS, ("Chat Completions", "Responses", "Messages", "useChat", "AG-UI"), strict=True))
HI = [{"role": "user", "content": "hi"}]
BODIES: dict[str, dict[str, Any]] = {
    "openai_chat": {"messages": HI},
    "openai_responses": {"input": "hi"},
    "anthropic": {"model": "m", "messages": HI, "max_tokens": 9},
    "ai_sdk": {"id": "c", "messages": [{"id": "m", "role": "user", "parts": [{"type": "text", "text": "hi"}]}]},
    "ag_ui": {"threadId": "t", "runId": "r", "messages": [{"id": "m", "role": "user", "content": "hi"}]},
}
each_surface = pytest.mark.parametrize("name", COLUMNS)


def section(title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert found, title
    return found[1]


def rows(first_column: str, text: str = PAGE) -> dict[str, list[str]]:
    """Return the table whose first column has this title: by its first cell, the other cells."""
    _, found, table = text.partition(f"| {first_column} |" if first_column else "| | |")
    assert found, first_column
    lines = takewhile(lambda line: line.startswith("|"), table.split("\n")[2:])
    cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return {first: rest for first, *rest in cells}


def words(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


# --- addresses and headers -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(create_app(Config(simulator=SimulatorConfig(enabled=True)))) as running:
        yield running


def _named_paths() -> set[tuple[str, str]]:
    return {(method, path.partition("?")[0]) for method, path in re.findall(r"`(GET|POST) (/[^`\s]+)`", PAGE)}


def _shape(path: str) -> str:
    return re.sub(r"\{[^}]+\}", "{}", path)


def test_every_address_exists() -> None:
    paths = create_app(Config(simulator=SimulatorConfig(enabled=True))).openapi()["paths"]
    there = {(method.upper(), _shape(path)) for path, item in paths.items() for method in item}
    named = {(method, _shape(path)) for method, path in _named_paths()}
    assert len(named) > 10
    assert not named - there


def test_what_is_not_there_is_not_there(client: TestClient) -> None:
    paths = [path for path in words(section("What is not there")) if path.startswith("/v1/")]
    assert paths
    for path in paths:
        assert client.post(path, json={}).status_code in (404, 405), path


def test_every_surface_has_its_section_and_its_row() -> None:
    assert set(COLUMNS) == set(CLIENTS)
    configured = re.findall(r"`\[surfaces\.(\w+)\]`", "\n".join(",".join(cells) for cells in rows("Protocol").values()))
    assert tuple(configured) == COLUMNS
    assert all(section(title) for title in SECTIONS.values())


def test_every_option_of_a_surface_is_named() -> None:
    for option in SurfaceConfig.__struct_fields__:
        assert f"`{option}`" in PAGE or f"`{option} = " in PAGE


def test_every_link_leads_to_a_heading() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        path, _, anchor = target.partition("#")
        text = (ROOT / "docs" / path).read_text("utf-8") if path else PAGE
        anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}
        assert not anchor or anchor in anchors, target


def test_every_header_that_is_named_is_sent(client: TestClient) -> None:
    ask = BODIES["anthropic"] | {"model": "simulator/quick?tokens=1&first_token_s=0"}
    page = BODIES["ai_sdk"] | {"model": ask["model"]}
    answers = [
        client.post("/v1/messages", json=ask | {"stream": True}),
        client.post("/api/chat", json=page),
        client.post("/v1/messages", json=ask | {"model": "simulator/error_429?retry_after=60"}),
        client.post("/v1/messages", json=ask | {"model": "simulator/error_401"}),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 429, 502]
    sent = set().union(*(answer.headers for answer in answers))
    named = {word for cell in rows("Header") for word in words(cell)} | {"request-id", "x-vercel-ai-ui-message-stream"}
    assert {name for name in named if f"`{name}" in PAGE} == named
    assert not named - sent
    on_all = [name for name, (meaning,) in rows("Header").items() if "errors" not in meaning and "streams" not in meaning]
    assert all(word in answer.headers for cell in on_all for word in words(cell) for answer in answers[:2])


# --- how each end is said ------------------------------------------------------------------------------------------------

ENDS = rows("finish reason")


def _said(name: str, reason: str, *, refusal: str | None = None) -> list[dict[str, Any]]:
    """Return every JSON value that a stream of this end says."""
    encoding = surface(name).new_stream(SurfaceRequest(surface(name), dict(BODIES[name], stream=True)))
    start = ev.StreamStart(
        seq=1, stream_id="st_" + "0" * 32, message_id="msg_1", model="m", provider="p", protocol=1, resumable=True, expires_at=0.0
    )
    notice = [ev.Notice(seq=2, code="refusal", message=refusal)] if refusal else []
    data = encoding.encode([start, *notice, ev.StreamEnd(seq=3, finish_reason=reason)])  # type: ignore[arg-type]
    return [json.loads(line[6:]) for line in data.decode().split("\n") if line.startswith("data: {")]


def _chat(said: list[dict[str, Any]]) -> set[str]:
    choices = [choice for chunk in said for choice in chunk.get("choices", [])]
    refusals = {"refusal" for choice in choices if choice["delta"].get("refusal")}
    reasons = {choice["finish_reason"] for choice in choices if choice["finish_reason"]}
    return refusals | reasons | {chunk["error"]["code"] for chunk in said if "error" in chunk}


def _responses(said: list[dict[str, Any]]) -> set[str]:
    response = said[-1]["response"]
    reason = (response["incomplete_details"] or {}).get("reason")
    parts = {part["type"] for item in response["output"] for part in item["content"]}
    kind = {"response.failed"} & {said[-1]["type"]}
    return kind | parts | {response["status"]} | ({reason} if reason else set())


def _messages(said: list[dict[str, Any]]) -> set[str]:
    stops = {event["delta"]["stop_reason"] for event in said if event["type"] == "message_delta"}
    return stops | {event["error"]["type"] for event in said if event["type"] == "error"}


def _ui(said: list[dict[str, Any]]) -> set[str]:
    return {chunk.get("finishReason", chunk["type"]) for chunk in said if chunk["type"] in ("finish", "abort", "error")}


def _run(said: list[dict[str, Any]]) -> set[str]:
    return {said[-1]["outcome"]["type"]}


HEARD: dict[str, Callable[[list[dict[str, Any]]], set[str]]] = dict(zip(COLUMNS, (_chat, _responses, _messages, _ui, _run), strict=True))


def test_every_finish_reason_has_its_row() -> None:
    assert {words(first)[0] for first in ENDS} == set(get_args(ev.FinishReason))


@pytest.mark.parametrize("row", ENDS)
@each_surface
def test_every_end_is_said_as_the_table_has_it(row: str, name: str) -> None:
    reason = words(row)[0]
    said = _said(name, reason, refusal="No." if "with words" in row else None)
    assert HEARD[name](said) == set(words(ENDS[row][COLUMNS.index(name)]))


# --- what is dropped and what is refused ---------------------------------------------------------------------------------

# A value that says something, for members whose empty values would not be minded.
VALUES: dict[str, Any] = {
    "n": 2,
    "top_logprobs": 2,
    "modalities": ["text", "audio"],
    "logprobs": True,
    "functions": [{"name": "f"}],
    "resume": [{"interruptId": "i"}],
}
# Named as what stands inside of something else.
INSIDE = {"name", "detail", "strict", "reasoning", "display", "thinking", "citations", "user_id", "allowed_tools", "item_reference"}


def _members(name: str, row: str) -> list[str]:
    text = next(cells[0] for first, cells in rows("", section(SECTIONS[name])).items() if first.startswith(row))
    return [word for word in words(text) if re.fullmatch(r"\w+", word) and word not in INSIDE]


def _parse(name: str, **more: Any) -> object:
    return SurfaceRequest(surface(name), BODIES[name] | more).chat()


@each_surface
def test_what_is_dropped_changes_nothing(name: str) -> None:
    dropped = _members(name, "Dropped")
    assert dropped
    for member in dropped:
        assert _parse(name, **{member: VALUES.get(member, {"some": "thing"})}), member


@pytest.mark.parametrize("name", ["openai_chat", "openai_responses", "anthropic"])
def test_what_is_refused_is_refused_by_its_name(name: str) -> None:
    refused = _members(name, "400")
    assert len(refused) > 1
    for member in refused:
        with pytest.raises(BadRequest) as caught:
            _parse(name, **{member: VALUES.get(member, {"some": "thing"})})
        assert caught.value.field == member


def test_what_an_agent_refuses() -> None:
    for member in ("threadId", "runId", "resume"):
        assert f"`{member}`" in section("AG-UI")
        with pytest.raises(BadRequest) as caught:
            _parse("ag_ui", **{member: VALUES.get(member)})
        assert caught.value.field == member


# --- the examples --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", SNIPPETS)
def test_every_example_is_python(code: str) -> None:
    assert BASE in code
    ast.parse(code)


@pytest.mark.real
def test_every_example_runs_against_a_relay_without_a_file(tmp_path: Path) -> None:
    with Relay(tmp_path, None, "[simulator]\nenabled = true\n") as relay:
        running = [
            subprocess.Popen([sys.executable, "-c", code.replace(BASE, f"127.0.0.1:{relay.port}")], stdout=-1, stderr=-1, text=True)
            for code in SNIPPETS
        ]
        for code, process in zip(SNIPPETS, running, strict=True):
            out, err = process.communicate(timeout=60)
            assert process.returncode == 0, f"{code}\n{err}"
            assert out.strip()
