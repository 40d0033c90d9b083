"""`useChat` of the AI SDK: stream, resume and Stop, all at once and without code of the user's own."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from headrace.simulator import texts

from .conftest import Stage
from .node_clients import Driver
from .page import Page
from .roster import PROVIDERS, model_of
from .tap import Tap, heartbeats
from .test_stop import PROMPTLY_S

pytestmark = pytest.mark.real

SOON = "first_token_s=0&tokens_per_s=0"
TOKENS = 250
STORY = "".join(texts.tokenise(texts.STORY)[:TOKENS])
PACED = f"tokens={TOKENS}&first_token_s=0&tokens_per_s=200"

each_provider = pytest.mark.parametrize("provider", ["simulator", "simulator-anthropic"])
every_provider = pytest.mark.parametrize("provider", PROVIDERS)
_chats = itertools.count(1)

Open = Callable[..., Page]


def new_chat() -> str:
    return f"chat-{next(_chats)}"


@pytest.fixture
async def pages(stage: Stage, browser: Driver) -> AsyncIterator[Open]:
    """Open pages; they are closed at the end."""
    async with AsyncExitStack() as stack:

        def page(model: str, base: str = stage.url, **options: Any) -> Page:
            opened = Page(browser, base, model=model, **{"chat": new_chat(), **options})
            stack.push_async_callback(opened.close)
            return opened

        yield page


@every_provider
async def test_an_answer_streams_and_is_ready(pages: Open, provider: str) -> None:
    page = pages(model_of(provider, "story?first_token_s=0&tokens_per_s=60&tokens=60"))
    await page.send()
    await page.over()

    assert page.state["status"] == "ready"
    assert page.text == "".join(texts.tokenise(texts.STORY)[:60])
    statuses = list(dict.fromkeys(state["status"] for state in page.states))
    assert statuses == ["ready", "submitted", "streaming"]
    lengths = {len(page_text(state)) for state in page.states}
    assert len(lengths) > 5, "the text came all at once"
    assert page.state["finishes"] == [{"isAbort": False, "isDisconnect": False, "isError": False, "finishReason": "stop"}]


def page_text(state: dict[str, Any]) -> str:
    return "".join(part.get("text", "") for message in state["messages"][1:] for part in message["parts"])


@every_provider
async def test_reasoning_is_a_part_of_its_own(pages: Open, provider: str) -> None:
    page = pages(model_of(provider, f"thinking?{SOON}"))
    await page.send()
    await page.over()

    assert "".join(part["text"] for part in page.parts("reasoning")) == texts.REASONING
    assert page.text == texts.CONCLUSION
    assert all(part["state"] == "done" for part in [*page.parts("reasoning"), *page.parts("text")])


@every_provider
async def test_parallel_calls_are_parts_with_parsed_input(pages: Open, provider: str) -> None:
    page = pages(model_of(provider, "tools?calls=3&cut=2&first_token_s=0&tokens_per_s=100"))
    await page.send()
    await page.over()

    calls = [*page.parts("tool-"), *page.parts("dynamic-tool")]
    assert [call["state"] for call in calls] == ["input-available"] * 3
    assert all(isinstance(call["input"], dict) and call["input"] for call in calls)
    assert len({call["toolCallId"] for call in calls}) == 3
    if provider != "simulator-gemini":  # which has no fragments of arguments
        assert any("input-streaming" in json.dumps(state["messages"]) for state in page.states), "the arguments came all at once"


async def test_heartbeats_break_no_page(stage: Stage, pages: Open, tap: Tap) -> None:
    page = pages("simulator/quick?headers_s=0.7&first_token_s=0.7&progress=0&tokens=4&tokens_per_s=2", tap.url)
    await page.send()
    await page.over()

    assert page.state["status"] == "ready"
    assert page.text == "".join(texts.tokenise(texts.QUICK)[:4])
    assert heartbeats(tap.body()) >= 6


@each_provider
@pytest.mark.parametrize("script", ["die?after=20", "die?of=tool&after=40", "stream_error?after=20"])
async def test_an_error_in_the_middle_is_an_error_on_the_page(pages: Open, provider: str, script: str) -> None:
    page = pages(f"{provider}/{script}&{SOON}")
    await page.send()
    await page.over()

    assert page.state["status"] == "error"
    assert page.text, "what came before is gone"
    errors = [part["data"] for part in page.state["data"] if part["type"] == "data-error"]
    assert len(errors) == 1
    assert errors[0]["message"] == page.state["error"]
    assert errors[0]["retryable"] is True
    assert errors[0]["code"].startswith("upstream_")
    assert page.state["finishes"][-1]["isError"] is True
    assert page.state["finishes"][-1].get("finishReason") is None


@pytest.mark.parametrize(("model", "words"), [("simulator/error_429", "limit"), ("nobody/has-this", "nobody/has-this")])
async def test_an_error_before_the_stream_is_an_error_on_the_page(pages: Open, model: str, words: str) -> None:
    page = pages(model)
    await page.send()
    await page.over()

    assert page.state["status"] == "error"
    assert words in page.state["error"]
    assert page.text == ""
    assert page.state["messages"][0]["role"] == "user"


@each_provider
async def test_a_dropped_answer_resumes_as_one_message(stage: Stage, pages: Open, tap: Tap, provider: str) -> None:
    model = stage.witness.tag(f"{provider}/story?{PACED}")
    page = pages(model, tap.url)
    await page.send()
    await page.until(lambda: len(page.text) > 200, "some text")
    name = page.answer["id"]

    tap.cut()
    await page.until(lambda: page.state["status"] == "error", "the drop is seen")
    kept = page.text
    page.tell("resume")
    await page.until(lambda: page.state["status"] == "ready", "the rest came")

    assert kept
    assert page.text == STORY
    assert page.answer["id"] == name
    assert [message["role"] for message in page.state["messages"]] == ["user", "assistant"]
    assert [record["state"] for record in stage.witness.records(model)] == ["finished"], "it was generated twice"


async def test_a_page_that_is_loaded_again_shows_the_same_message(stage: Stage, pages: Open) -> None:
    chat, model = new_chat(), stage.witness.tag(f"simulator/story?{PACED}")
    first = pages(model, chat=chat)
    await first.send()
    await first.until(lambda: len(first.text) > 200, "some text")
    question, name = first.state["messages"][0], first.answer["id"]
    await first.close()

    second = pages(model, chat=chat, resume=True, messages=[question])
    await second.until(lambda: second.text, "the replay")
    await second.over()

    assert second.text == STORY
    assert second.answer["id"] == name
    assert [message["role"] for message in second.state["messages"]] == ["user", "assistant"]
    assert [record["state"] for record in stage.witness.records(model)] == ["finished"]


async def test_parallel_calls_resume_in_the_middle_of_their_arguments(stage: Stage, pages: Open, tap: Tap) -> None:
    page = pages("simulator/tools?calls=2&cut=2&first_token_s=0&tokens_per_s=40", tap.url)
    await page.send()
    await page.until(lambda: len([*page.parts("tool-"), *page.parts("dynamic-tool")]) == 2, "both calls have begun")

    tap.cut()
    await page.until(lambda: page.state["status"] == "error", "the drop is seen")
    page.tell("resume")
    await page.until(lambda: page.state["status"] == "ready", "the rest came")

    calls = [*page.parts("tool-"), *page.parts("dynamic-tool")]
    assert [call["state"] for call in calls] == ["input-available"] * 2
    assert len({call["toolCallId"] for call in calls}) == 2


@each_provider
async def test_stop_from_a_second_client_reaches_all_who_read_and_the_provider(stage: Stage, pages: Open, tap: Tap, provider: str) -> None:
    """Dropped, resumed, read by two, and stopped by a third: what the AI SDK's own documentation calls incompatible."""
    chat, model = new_chat(), stage.witness.tag(f"{provider}/endless?first_token_s=0&tokens_per_s=50")
    first = pages(model, tap.url, chat=chat)
    await first.send()
    await first.until(lambda: first.text, "some text")
    tap.cut()
    await first.until(lambda: first.state["status"] == "error", "the drop is seen")
    first.tell("resume")
    second = pages(model, chat=chat, resume=True, messages=first.state["messages"][:1])
    for page in (first, second):
        await page.until(lambda page=page: page.state["status"] == "streaming" and page.text, "both read")

    status, receipt = await stage.call("POST", f"/api/chat/{chat}/stop")
    again = await stage.call("POST", f"/api/chat/{chat}/stop")

    assert status == 200
    assert again == (200, receipt)
    for page in (first, second):
        await page.until(lambda page=page: page.state["status"] == "ready", "the end is seen")
        assert page.state["error"] is None
        assert page.text
    assert first.text == second.text
    assert first.answer["id"] == second.answer["id"]
    record = await stage.witness.record(model, lambda record: record["state"] != "running", "the provider saw it")
    assert record["state"] == "left"
    assert (await stage.call("GET", f"/api/chat/{chat}/stream"))[0] == 204


PHASES = {
    "no-status-yet": ("slow_headers?headers_s=60", None, "before_headers"),
    "no-token-yet": ("quick?first_token_s=60", None, "before_first_token"),
    "thinking": ("thinking?first_token_s=0&thinking_s=60", "reasoning", "streaming"),
    "text": ("endless?first_token_s=0&tokens_per_s=20", "text", "streaming"),
    "tool-arguments": ("tool?first_token_s=0&tokens_per_s=20&cut=3", "tool-", "tool_arguments"),
}


@each_provider
@pytest.mark.parametrize("phase", PHASES)
async def test_the_provider_sees_a_stop_in_every_phase(stage: Stage, pages: Open, provider: str, phase: str) -> None:
    script, shown, seen_as = PHASES[phase]
    chat, model = new_chat(), stage.witness.tag(f"{provider}/{script}")
    page = pages(model, chat=chat)
    await page.send()
    if shown:
        await page.until(lambda: page.parts(shown) or (shown == "tool-" and page.parts("dynamic-tool")), f"{shown} is shown")
    record = await stage.witness.record(model, lambda record: record["state"] == "running", "the provider was asked")

    before = time.monotonic()
    status, _ = await stage.call("POST", f"/api/chat/{chat}/stop")
    record = await stage.witness.record(model, lambda record: record["state"] != "running", "the provider saw it")
    await page.until(lambda: page.state["status"] == "ready", "the page saw it")

    assert status == 200
    assert (record["state"], record["phase_when_left"]) == ("left", seen_as)
    assert record["left_at_monotonic"] - before < PROMPTLY_S
    assert page.state["error"] is None


async def test_the_pages_own_stop_is_a_drop_and_resumes(stage: Stage, pages: Open) -> None:
    """`stop()` of the hook only closes the connection; the answer goes on for its grace time."""
    model = stage.witness.tag(f"simulator/story?{PACED}")
    page = pages(model)
    await page.send()
    await page.until(lambda: page.text, "some text")
    page.tell("stop")
    await page.until(lambda: page.state["status"] == "ready", "the page has let go")

    assert stage.witness.records(model)[-1]["state"] == "running"
    page.tell("resume")
    await page.until(lambda: page.text == STORY and page.state["status"] == "ready", "the whole answer")
    assert stage.witness.records(model)[-1]["state"] == "finished"


async def test_nothing_to_resume_is_204_and_changes_nothing(stage: Stage, pages: Open) -> None:
    chat = new_chat()
    status, _ = await stage.call("GET", f"/api/chat/{chat}/stream")
    page = pages(f"simulator/quick?{SOON}", chat=chat, resume=True)
    await page.until(lambda: page.states, "the page is there")

    assert status == 204
    await page.send()
    # Not `over`: the page's own attempt to resume may be answered only now, and is an end as well.
    await page.until(lambda: page.text == texts.QUICK and page.state["status"] == "ready", "the whole answer")
    assert (await stage.call("GET", f"/api/chat/{chat}/stream"))[0] == 204, "read to its end"
    page.tell("resume")
    await page.until(lambda: page.state["status"] == "ready", "nothing happened")
    assert page.text == texts.QUICK


async def test_a_stopped_chat_goes_on_with_the_next_question(stage: Stage, pages: Open) -> None:
    chat = new_chat()
    page = pages("simulator/endless?first_token_s=0&tokens_per_s=50", chat=chat)
    await page.send()
    await page.until(lambda: page.text, "some text")
    await stage.call("POST", f"/api/chat/{chat}/stop")
    await page.until(lambda: page.state["status"] == "ready", "it is stopped")
    stopped = page.answer

    page.tell("send", text="And now?")
    await page.until(lambda: len(page.state["messages"]) == 4 and page.text, "the next answer begins")

    assert page.answer["id"] != stopped["id"]
    assert page.state["messages"][1] == stopped
    await stage.call("POST", f"/api/chat/{chat}/stop")
    await page.until(lambda: page.state["status"] == "ready", "it is stopped")


async def test_an_answer_that_is_asked_for_again_takes_the_place_of_the_first(pages: Open) -> None:
    page = pages(f"simulator/quick?{SOON}")
    await page.send()
    await page.over()
    first = page.answer

    page.tell("again")
    await page.until(lambda: len(page.state["finishes"]) == 2 and page.state["status"] == "ready", "it is there again")

    assert [message["role"] for message in page.state["messages"]] == ["user", "assistant"]
    assert page.answer["id"] != first["id"]
    assert page.text == texts.QUICK
