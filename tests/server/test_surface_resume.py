"""Coming back to an answer with the clients' own protocols: Responses in the background, and the AI SDK's resume together with its Stop."""

import json
import re
from typing import Any

import pytest

from engine.guards import until
from engine.peers import CHUNKED, LAST_CHUNK, Listener, Peer, chunk, head
from engine.wires import WIRES, data
from headrace.server.config import ProviderConfig
from server.conftest import Serve
from server.served import Connection, Served

PROVIDERS = {"p": WIRES["openai_chat"], "a": WIRES["anthropic"]}


def response_event(kind: str, number: int, **fields: Any) -> bytes:
    return data({"type": kind, "sequence_number": number, **fields}, kind)


GIVEN = {"id": "resp_given_by_the_provider", "object": "response", "status": "in_progress", "model": "m", "output": [], "vendor": {"x": 1}}
ITEM = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": []}
TEXT = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
OWN_FRAMES = [
    response_event("response.created", 0, response=GIVEN),
    response_event("response.output_item.added", 1, output_index=0, item=ITEM | {"status": "in_progress"}),
    response_event("response.output_text.delta", 2, delta="Für ", **TEXT),
    response_event("response.output_text.delta", 3, delta="dich", **TEXT),
    response_event("response.output_item.done", 4, output_index=0, item=ITEM | {"content": [{"type": "output_text", "text": "Für dich"}]}),
    response_event("response.completed", 5, response=GIVEN | {"status": "completed", "output": [ITEM]}),
]


@pytest.fixture
async def relay(serve: Serve, listener: Listener) -> Served:
    own = ProviderConfig(dialect="openai_responses", base_url=listener.address + "/v1", passthrough=True)
    served: Served = await serve(stream={"disconnect_grace_s": 5.0}, more={"r": own})
    return served


async def background(relay: Served, listener: Listener, provider: str, **more: Any) -> tuple[Connection, Peer]:
    body = {"model": f"{provider}/m", "input": "hi", "max_output_tokens": 9, "background": True, "stream": True, **more}
    client = await relay.start("POST", "/v1/responses", json.dumps(body).encode())
    peer = await listener.accept()
    request = await peer.request()
    assert b"background" not in request
    peer.send(head(CHUNKED))
    return client, peer


def numbers(body: bytes) -> list[int]:
    return [int(number) for number in re.findall(rb'"sequence_number":(\d+)', body)]


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_background_response_goes_on_without_its_caller_and_is_read_from_where_it_was(
    relay: Served, listener: Listener, provider: str
) -> None:
    client, peer = await background(relay, listener, provider)
    wire = PROVIDERS[provider]
    peer.send(chunk(wire.until("text")))
    await client.head()
    seen = bytes(await client.until(b"dich"))
    response_id = re.search(rb'"id":"(resp_[0-9a-f]{32})"', seen)
    assert response_id is not None
    client.writer.transport.abort()
    await until(lambda: not relay.relay.streams.live()[0].readers)
    peer.send(chunk(wire.whole.removeprefix(wire.until("text"))), LAST_CHUNK)
    await until(lambda: relay.relay.streams.running == 0)

    path = f"/v1/responses/{response_id[1].decode()}"
    last = numbers(seen)[-1]
    rest = await relay.get(f"{path}?stream=true&starting_after={last}")
    assert numbers(rest.body)[0] == last + 1
    assert b"response.completed" in rest.body
    everything = await relay.get(f"{path}?stream=true")
    assert everything.body == seen[: len(seen)] + rest.body
    assert numbers(everything.body) == list(range(len(numbers(everything.body))))

    whole = (await relay.get(path)).json
    assert whole["status"] == "completed"
    assert "Für dich" in json.dumps(whole["output"], ensure_ascii=False)


async def test_a_provider_s_own_frames_are_kept_with_its_own_numbers_and_id(relay: Served, listener: Listener) -> None:
    client, peer = await background(relay, listener, "r")
    peer.send(chunk(b"".join(OWN_FRAMES[:3])))
    await client.head()
    assert await client.until(OWN_FRAMES[2]) == b"".join(OWN_FRAMES[:3])
    client.writer.transport.abort()
    path = f"/v1/responses/{GIVEN['id']}"

    growing = (await relay.get(path)).json
    assert (growing["status"], growing["vendor"]) == ("in_progress", {"x": 1})
    peer.send(chunk(b"".join(OWN_FRAMES[3:])), LAST_CHUNK)
    await until(lambda: relay.relay.streams.running == 0)

    assert (await relay.get(f"{path}?stream=true&starting_after=2")).body == b"".join(OWN_FRAMES[3:])
    assert (await relay.get(f"{path}?stream=true")).body == b"".join(OWN_FRAMES)
    assert (await relay.get(path)).json == GIVEN | {"status": "completed", "output": [ITEM]}


@pytest.mark.parametrize("provider", ["a", "r"])
async def test_a_background_response_is_cancelled_once_and_the_provider_is_left(relay: Served, listener: Listener, provider: str) -> None:
    client, peer = await background(relay, listener, provider, stream=False)
    peer.send(chunk(b"".join(OWN_FRAMES[:3]) if provider == "r" else PROVIDERS[provider].until("text")))
    begun = (await client.answer()).json
    assert begun["status"] == "in_progress"
    await until(lambda: relay.relay.streams.live()[0].has_content)

    first = await relay.post(f"/v1/responses/{begun['id']}/cancel")
    await peer.gone()
    again = await relay.post(f"/v1/responses/{begun['id']}/cancel")
    assert (first.status, first.json["status"]) == (200, "cancelled")
    assert first.json == again.json
    assert "Für" in json.dumps(first.json, ensure_ascii=False)


async def test_a_response_that_was_not_asked_for_in_the_background_is_not_kept(relay: Served, listener: Listener) -> None:
    client, peer = await background(relay, listener, "a", background=False)
    peer.send(chunk(PROVIDERS["a"].whole), LAST_CHUNK)
    answer = await client.answer()
    response_id = re.search(rb'"id":"(resp_[0-9a-f]{32})"', answer.body)
    assert response_id is not None

    for path in (f"/v1/responses/{response_id[1].decode()}", "/v1/responses/resp_nobody"):
        for found in (await relay.get(path), await relay.post(path + "/cancel")):
            assert found.status == 404
            assert "background" in found.json["error"]["message"]


async def test_a_background_response_that_fails_at_once_is_an_error(relay: Served, listener: Listener) -> None:
    body = {"model": "r/m", "input": "hi", "background": True}
    client = await relay.start("POST", "/v1/responses", json.dumps(body).encode())
    peer = await listener.accept()
    await peer.request()
    peer.send(b"HTTP/1.1 400 No\r\ncontent-type: application/json\r\ncontent-length: 36\r\n\r\n" + b'{"error":{"message":"no such tool"}}')
    answer = await client.answer()

    assert answer.status == 400
    assert answer.json["error"]["message"] == "no such tool"


# --- the AI SDK ----------------------------------------------------------------------------------------------------------


async def ui_chat(relay: Served, listener: Listener, chat_id: str = "c1") -> tuple[Connection, Peer]:
    messages = [{"id": "m1", "role": "user", "parts": [{"type": "text", "text": "hi"}]}]
    body = {"id": chat_id, "messages": messages, "trigger": "submit-message", "model": "p/m"}
    client = await relay.start("POST", "/api/chat", json.dumps(body).encode())
    peer = await listener.accept()
    await peer.request()
    peer.send(head(CHUNKED), chunk(PROVIDERS["p"].until("text")))
    assert await client.head() == 200
    assert client.headers["x-vercel-ai-ui-message-stream"] == "v1"
    return client, peer


def chunks(body: bytes) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in body.decode().split("\n") if line.startswith("data: {")]


def text(body: bytes) -> str:
    return "".join(part["delta"] for part in chunks(body) if part["type"] == "text-delta")


async def test_a_chat_that_lost_its_connection_is_read_again_from_its_first_word(relay: Served, listener: Listener) -> None:
    client, peer = await ui_chat(relay, listener)
    first = bytes(await client.until(b"dich"))
    client.writer.transport.abort()

    again = await relay.start("GET", "/api/chat/c1/stream")
    assert await again.head() == 200
    assert again.headers["x-vercel-ai-ui-message-stream"] == "v1"
    await again.until(b"dich")
    wire = PROVIDERS["p"]
    peer.send(chunk(wire.whole.removeprefix(wire.until("text"))), LAST_CHUNK)
    body = await again.body()

    assert chunks(body)[0]["messageId"] == chunks(first)[0]["messageId"]
    assert text(body) == "Für dich"
    assert body.endswith(b"data: [DONE]\n\n")
    assert (await relay.get("/api/chat/c1/stream")).status == 204, "it has been read to its end"


async def test_resume_and_stop_work_together(relay: Served, listener: Listener) -> None:
    client, peer = await ui_chat(relay, listener)
    await client.until(b"dich")
    client.writer.transport.abort()
    again = await relay.start("GET", "/api/chat/c1/stream")
    await again.head()
    await again.until(b"dich")

    stopped = await relay.post("/api/chat/c1/stop")
    await peer.gone()
    body = await again.body()
    assert stopped.json["status"] == "cancelled"
    assert [part["type"] for part in chunks(body)][-1] == "abort"
    assert (await relay.post("/api/chat/c1/stop")).json["receipt"] == stopped.json["receipt"]


async def test_an_answer_that_ended_while_nobody_read_it_is_still_there(relay: Served, listener: Listener) -> None:
    client, peer = await ui_chat(relay, listener)
    await client.until(b"dich")
    client.writer.transport.abort()
    await until(lambda: not relay.relay.streams.live()[0].readers)
    wire = PROVIDERS["p"]
    peer.send(chunk(wire.whole.removeprefix(wire.until("text"))), LAST_CHUNK)
    await until(lambda: relay.relay.streams.running == 0)

    again = await relay.get("/api/chat/c1/stream")
    assert (again.status, text(again.body)) == (200, "Für dich")


async def test_a_chat_without_an_answer(relay: Served) -> None:
    assert (await relay.get("/api/chat/nobody/stream")).status == 204
    assert (await relay.post("/api/chat/nobody/stop")).status == 404


async def test_items_that_a_client_only_refers_to_are_found_while_their_answer_is_kept(relay: Served, listener: Listener) -> None:
    client, peer = await background(relay, listener, "a", background=False)
    peer.send(chunk(PROVIDERS["a"].whole), LAST_CHUNK)
    answer = await client.answer()
    done = [json.loads(line[6:]) for line in answer.body.decode().split("\n") if '"response.completed"' in line and line[:5] == "data:"]
    items = done[0]["response"]["output"]
    call = next(item for item in items if item["type"] == "function_call")

    references = [{"type": "item_reference", "id": item["id"]} for item in items]
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "42 cm"}
    again = {"model": "a/m", "input": [{"role": "user", "content": "hi"}, *references, result], "stream": True}
    client = await relay.start("POST", "/v1/responses", json.dumps(again).encode())
    request = json.loads((await peer.request()).partition(b"\r\n\r\n")[2])
    peer.send(head(CHUNKED), chunk(PROVIDERS["a"].whole), LAST_CHUNK)
    await client.answer()

    said = json.dumps(request["messages"], ensure_ascii=False)
    assert "Für dich" in said
    assert call["call_id"] in said
    assert "42 cm" in said

    lost = await relay.post("/v1/responses", again | {"input": [{"type": "item_reference", "id": "msg_unknown"}]})
    assert lost.status == 400
