"""Streams as providers send them, one for each shape that is known from the field, and what a reader makes of their events.

All of them are made up here; the shapes are the vendors'.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from headrace.protocol import events as ev
from headrace.protocol.dialects import Decoder, load
from headrace.protocol.lifecycle import Lifecycle

START = ev.StreamStart(stream_id="s", message_id="m", model="x", provider="p", protocol=1, resumable=True, expires_at=0)
DONE = b"data: [DONE]\n\n"


def data(value: object, *, event: str | None = None) -> bytes:
    name = f"event: {event}\n".encode() if event else b""
    return name + b"data: " + json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n\n"


def chunk(delta: object = None, finish: object = None, **fields: Any) -> bytes:
    """One Chat Completions chunk; `fields` stand beside `choices`."""
    choice: dict[str, Any] = {"index": 0, "delta": {} if delta is None else delta, "finish_reason": finish}
    return data({"id": "7Qx", "object": "chat.completion.chunk", "choices": [choice], **fields})


def call(index: object = 0, id: object = None, name: object = None, arguments: object = None) -> dict[str, Any]:
    """A delta with one fragment of a tool call, of the fields that are given."""
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    fragment = {key: value for key, value in (("index", index), ("id", id), ("function", function)) if value is not None}
    return {"tool_calls": [fragment]}


def usage_chunk(prompt: int = 11, completion: int = 7, **fields: Any) -> bytes:
    return data({"id": "7Qx", "choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion, **fields}})


def message(type: str, **fields: Any) -> bytes:
    """One event of a Messages stream."""
    return data({"type": type, **fields}, event=type)


def message_start(**fields: Any) -> bytes:
    shape = {"id": "msg_1", "role": "assistant", "content": [], "usage": {"input_tokens": 5, "output_tokens": 1}, **fields}
    return message("message_start", message=shape)


def block_start(index: object, **block: Any) -> bytes:
    return message("content_block_start", index=index, content_block=block)


def block_delta(index: object, **delta: Any) -> bytes:
    return message("content_block_delta", index=index, delta=delta)


def block_stop(index: object) -> bytes:
    return message("content_block_stop", index=index)


def message_end(reason: str | None = "end_turn", **fields: Any) -> bytes:
    delta = {"stop_reason": reason, "stop_sequence": None, **fields}
    return message("message_delta", delta=delta, usage={"output_tokens": 9}) + message("message_stop")


def text_block(index: int, *texts: str) -> bytes:
    deltas = b"".join(block_delta(index, type="text_delta", text=text) for text in texts)
    return block_start(index, type="text", text="") + deltas + block_stop(index)


def tool_block(index: int, id: str, name: str, *fragments: str) -> bytes:
    deltas = b"".join(block_delta(index, type="input_json_delta", partial_json=fragment) for fragment in fragments)
    return block_start(index, type="tool_use", id=id, name=name, input={}) + deltas + block_stop(index)


OPENAI_CHAT: dict[str, bytes] = {
    "text": chunk({"role": "assistant", "content": ""})
    + chunk({"content": "Bonjour"})
    + chunk({"content": ", ça va 👋?\n"})
    + chunk({}, "stop")
    + usage_chunk()
    + DONE,
    "crlf, comments and another field": (
        b": PROCESSING\r\n\r\n: PROCESSING\r\n\r\n"
        + (chunk({"content": "a"}) + b"id: 4\nevent: message\nwhatever: 1\n" + chunk({"content": "b"}, "stop") + DONE).replace(
            b"\n", b"\r\n"
        )
    ),
    "finish reason as the terminator": chunk({"content": "x"}) + chunk({}, "stop"),
    "no finish reason": chunk({"content": "4"}) + DONE,
    "filter results first": data({"choices": [], "prompt_filter_results": [{"prompt_index": 0}]}) + chunk({"content": "ok"}, "stop") + DONE,
    "usage with every chunk": b"".join(
        chunk({"content": "n"}, None, usage={"prompt_tokens": 3, "completion_tokens": n}) for n in range(1, 20)
    )
    + chunk({}, "stop", usage={"prompt_tokens": 3, "completion_tokens": 20}),
    "list content": chunk({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Let"}]}]})
    + chunk({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": " me"}]}, {"type": "text", "text": "An"}]})
    + chunk({"content": "swer"}, "stop")
    + DONE,
    "reasoning": chunk({"reasoning_content": "hm"})
    + chunk({"reasoning_content": "m", "content": None})
    + chunk({"content": "Yes"}, "stop")
    + DONE,
    "parallel calls": chunk(call(0, "call_a", "look", ""))
    + chunk(call(0, None, None, '{"q":'))
    + chunk(call(1, "call_b", "find", '{"z"'))
    + chunk(call(0, None, None, '"é"}'))
    + chunk(call(1, None, None, ":[1]}"))
    + chunk({}, "tool_calls")
    + usage_chunk()
    + DONE,
    "calls without an index": chunk(
        {"tool_calls": [call(None, "Xa", "one", "{}")["tool_calls"][0], call(None, "Xb", "two", '{"a":1}')["tool_calls"][0]]}
    )
    + chunk({}, "tool_calls")
    + DONE,
    "function_call": chunk({"function_call": {"name": "old", "arguments": ""}})
    + chunk({"function_call": {"arguments": '{"a"'}})
    + chunk({"function_call": {"arguments": ":2}"}})
    + chunk({}, "function_call")
    + DONE,
    "refusal": chunk({"refusal": "I can"}) + chunk({"refusal": "not."}) + chunk({}, "stop") + DONE,
    "error chunk": chunk({"content": "half"})
    + data({"error": {"message": "boom", "code": 500}, "choices": [{"delta": {"content": "!"}}]})
    + DONE,
    "error event": chunk({"content": "half"}) + data({"error": {"message": "no", "type": "invalid_request_error"}}, event="error"),
    "error field": chunk({"content": "half"}) + b'error: {"code":500,"message":"context shift is disabled","type":"server_error"}\n\n',
    "cut in arguments": chunk(call(0, "call_a", "look", '{"q": "unfin')),
    "length in arguments": chunk(call(0, "call_a", "look", '{"q": "unfin')) + chunk({}, "length") + usage_chunk() + DONE,
    "split surrogates": b'data: {"choices":[{"delta":{"content":"a\\ud83d"}}]}\n\ndata: {"choices":[{"delta":{"content":"\\ude00b"}}]}\n\n'
    + chunk({}, "stop")
    + DONE,
    "json body": b'{"error": {"message": "Bad model", "type": "invalid_request_error"}}',
    "html body": b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>",
    "nothing": b"",
}

ANTHROPIC: dict[str, bytes] = {
    "text": message_start() + message("ping") + text_block(0, "Hel", "lo 👋", "\n") + message_end(),
    "thinking and a call": message_start()
    + block_start(0, type="thinking", thinking="", signature="")
    + block_delta(0, type="thinking_delta", thinking="Need the weather.")
    + block_delta(0, type="signature_delta", signature="c2ln")
    + block_stop(0)
    + tool_block(1, "toolu_1", "weather", "", '{"city": "Z', 'ürich"}')
    + message_end("tool_use"),
    "redacted thinking": message_start()
    + block_start(0, type="redacted_thinking", data="b64")
    + block_stop(0)
    + text_block(1, "Hi")
    + message_end(),
    "server tools": message_start()
    + block_start(0, type="server_tool_use", id="srvtoolu_1", name="web_search", input={})
    + block_delta(0, type="input_json_delta", partial_json='{"query": "x"}')
    + block_stop(0)
    + block_start(
        1,
        type="web_search_tool_result",
        tool_use_id="srvtoolu_1",
        content=[{"type": "web_search_result", "url": "https://a.example/", "title": "A"}],
    )
    + block_stop(1)
    + block_start(2, type="text", text="", citations=[])
    + block_delta(
        2,
        type="citations_delta",
        citation={"type": "web_search_result_location", "url": "https://a.example/", "title": "A", "cited_text": "t"},
    )
    + block_delta(2, type="text_delta", text="Found.")
    + block_stop(2)
    + message_end(),
    "unknown things": message_start()
    + message("weather_report", sky="blue")
    + block_start(0, type="hologram", size=3)
    + block_delta(0, type="hologram_delta", pixel=1)
    + block_stop(0)
    + text_block(1, "still here")
    + message_end(),
    "length in arguments": message_start()
    + block_start(0, type="tool_use", id="toolu_1", name="make", input={})
    + block_delta(0, type="input_json_delta", partial_json='{"lines": ["a')
    + message_end("max_tokens"),
    "refusal": message_start()
    + message_end("refusal", stop_details={"type": "refusal", "category": "cyber", "explanation": "Against policy."}),
    "overloaded": message_start() + text_block(0, "Hel") + message("error", error={"type": "overloaded_error", "message": "Overloaded"}),
    "spliced": message_start()
    + block_start(0, type="tool_use", id="toolu_1", name="look", input={})
    + block_delta(0, type="input_json_delta", partial_json='{"v": "Spa')
    + message_start()
    + tool_block(0, "toolu_2", "look", '{"v": "whole"}')
    + message_end("tool_use"),
    "cut": message_start() + text_block(0, "Hel") + message("message_delta", delta={"stop_reason": "end_turn"}),
    "json body": b'{"type":"error","error":{"type":"authentication_error","message":"invalid x-api-key"}}',
    "nothing": b"",
}


def response(*parts: dict[str, Any], finish: str | None = None, candidate: dict[str, Any] | None = None, **fields: Any) -> bytes:
    """One event of a Gemini stream, framed as Google does; `candidate` and `fields` are added to the candidate and to the response."""
    content = {"content": {"parts": list(parts), "role": "model"}} if parts else {}
    reason = {"finishReason": finish} if finish else {}
    whole = {"candidates": [{**content, **reason, "index": 0, **(candidate or {})}], "modelVersion": "g", "responseId": "7Qx", **fields}
    return data(whole).replace(b"\n\n", b"\r\n\r\n")


def counts(prompt: int = 11, candidates: int = 7, **fields: int) -> dict[str, Any]:
    return {"usageMetadata": {"promptTokenCount": prompt, "candidatesTokenCount": candidates, **fields}}


def function_call(name: str | None = "look", **fields: Any) -> dict[str, Any]:
    return {"functionCall": ({"name": name} if name else {}) | fields}


GEMINI: dict[str, bytes] = {
    "text": response({"text": "Hel"}, **counts(candidates=1))
    + response({"text": "lo 👋\n"}, **counts(candidates=5))
    + response(finish="STOP", **counts(thoughtsTokenCount=20)),
    "one event": response({"text": "1, 2, 3"}, finish="STOP", **counts()),
    "a reason with every event": response({"text": "Hel"}, finish="STOP") + response({"text": "lo"}, finish="STOP"),
    "thoughts": response({"text": "**Plan**\n\n", "thought": True}, **counts(candidates=0, thoughtsTokenCount=4))
    + response({"text": "Look first.", "thought": True}, **counts(candidates=0, thoughtsTokenCount=8))
    + response({"text": "The answer"})
    + response({"text": "", "thoughtSignature": "c2ln"}, finish="STOP", **counts(thoughtsTokenCount=8)),
    "calls": response({"text": "I will look."})
    + response(function_call(args={"q": "søk"}, id="a1") | {"thoughtSignature": "c2ln"}, function_call("stop"))
    + response({"text": ""}, finish="STOP", **counts()),
    "a call value by value": response(function_call("plan", willContinue=True))
    + response(function_call(None, partialArgs=[{"jsonPath": "$.city", "stringValue": "New ", "willContinue": True}], willContinue=True))
    + response(function_call(None, partialArgs=[{"jsonPath": "$.city", "stringValue": "Delhi"}], willContinue=True))
    + response(function_call(None))
    + response(finish="STOP"),
    "a call value by value that never ends": response({"text": "Hm."})
    + response(function_call("plan", willContinue=True))
    + response(function_call(None, partialArgs=[{"jsonPath": "$.city", "stringValue": "New "}], willContinue=True))
    + response(finish="MAX_TOKENS"),
    "code": response({"text": "Let me count."})
    + response({"executableCode": {"language": "PYTHON", "code": "print(1)"}})
    + response({"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "1\n"}})
    + response({"text": "One."}, finish="STOP"),
    "grounded": response({"text": "Paris."}, candidate={"groundingMetadata": {"groundingChunks": [{"web": {"uri": "u", "title": "t"}}]}})
    + response(
        finish="STOP",
        candidate={"groundingMetadata": {"groundingChunks": [{"web": {"uri": "u", "title": "t"}}], "webSearchQueries": ["q"]}},
    ),
    "blocked prompt": data({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, **counts()}),
    "safety": response({"text": "Well, "}) + response(finish="SAFETY"),
    "malformed call": response({"text": "Well, "}) + response(finish="MALFORMED_FUNCTION_CALL"),
    "error inside": response({"text": "a"}) + data({"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}}),
    "cut": response({"text": "Hel"}),
    "json body": b'[{\n  "error": {\n    "code": 400,\n    "message": "Bad.",\n    "status": "INVALID_ARGUMENT"\n  }\n}\n]',
    "nothing": b"",
}


def said(type: str, **fields: Any) -> bytes:
    """One event of a Responses stream."""
    return data({"type": type, **fields}, event=type)


def created(id: str = "resp_1") -> bytes:
    return said("response.created", response={"id": id, "status": "in_progress", "output": []})


def item_added(index: object, **item: Any) -> bytes:
    return said("response.output_item.added", output_index=index, item=item)


def item_done(index: object, **item: Any) -> bytes:
    return said("response.output_item.done", output_index=index, item=item)


def ended(status: str = "completed", **fields: Any) -> bytes:
    usage = {"input_tokens": 11, "output_tokens": 7, "output_tokens_details": {"reasoning_tokens": 3}}
    return said(f"response.{status}", response={"id": "resp_1", "status": status, "usage": usage, **fields})


def text_item(index: int, *texts: str, part: int = 0, **item: Any) -> bytes:
    """A message with one part, as OpenAI sends it: every text is told four times."""
    place = {"output_index": index, "content_index": part, "item_id": f"msg_{index}"}
    whole = {"type": "output_text", "text": "".join(texts), "annotations": []}
    message = {"type": "message", "id": f"msg_{index}", "role": "assistant", **item}
    return (
        item_added(index, **message, status="in_progress", content=[])
        + said("response.content_part.added", **place, part={**whole, "text": ""})
        + b"".join(said("response.output_text.delta", **place, delta=text, logprobs=[]) for text in texts)
        + said("response.output_text.done", **place, text=whole["text"])
        + said("response.content_part.done", **place, part=whole)
        + item_done(index, **message, status="completed", content=[whole])
    )


def call_item(index: int, id: str, name: str, *fragments: str, status: str = "completed") -> bytes:
    shape = {"type": "function_call", "id": f"fc_{index}", "call_id": id, "name": name}
    whole = "".join(fragments)
    return (
        item_added(index, **shape, arguments="")
        + b"".join(said("response.function_call_arguments.delta", output_index=index, delta=fragment) for fragment in fragments)
        + said("response.function_call_arguments.done", output_index=index, arguments=whole)
        + item_done(index, **shape, arguments=whole, status=status)
    )


def summary_item(index: int, *summaries: str, sealed: str | None = "c2VhbGVk") -> bytes:
    parts = [{"type": "summary_text", "text": text} for text in summaries]
    return (
        item_added(index, type="reasoning", id=f"rs_{index}", summary=[], encrypted_content="c2")
        + b"".join(
            said("response.reasoning_summary_part.added", output_index=index, summary_index=n, part={**part, "text": ""})
            + said("response.reasoning_summary_text.delta", output_index=index, summary_index=n, delta=part["text"])
            + said("response.reasoning_summary_text.done", output_index=index, summary_index=n, text=part["text"])
            + said("response.reasoning_summary_part.done", output_index=index, summary_index=n, part=part)
            for n, part in enumerate(parts)
        )
        + item_done(index, type="reasoning", id=f"rs_{index}", summary=parts, encrypted_content=sealed)
    )


OPENAI_RESPONSES: dict[str, bytes] = {
    "text": created() + said("response.in_progress", response={}) + text_item(0, "Hel", "lo 👋", "\n") + ended(),
    "reasoning, remarks and a call": created()
    + summary_item(0, "**Plan**", "**Do**")
    + text_item(1, "I will look.", phase="commentary")
    + call_item(2, "call_1", "look", '{"q": "Z', 'ürich"}')
    + ended(),
    "sealed reasoning": created() + summary_item(0) + text_item(1, "4") + ended() + DONE,
    "reasoning that ends after the text": created()
    + item_added(0, type="reasoning", id="rs_tmp_1")
    + said("response.reasoning_text.delta", output_index=0, item_id="rs_tmp_1", content_index=0, delta="Hm.")
    + text_item(1, "Yes")
    + said("response.reasoning_text.done", output_index=0, content_index=0, text="Hm.")
    + item_done(0, type="reasoning", id="rs_tmp_2", content=[{"type": "reasoning_text", "text": "Hm."}])
    + ended(),
    "ids that change": created()
    + item_added(0, type="function_call", id="a1", call_id="call_1", name="look", arguments="")
    + said("response.function_call_arguments.delta", output_index=0, item_id="a2", delta='{"a"')
    + said("response.function_call_arguments.delta", output_index=0, item_id="a3", delta=":1}")
    + item_done(0, type="function_call", id="a4", call_id="call_1", name="look", arguments='{"a":1}')
    + item_added(1, type="message", id="b1", content=[])
    + said("response.output_text.delta", output_index=1, item_id="b2", content_index=0, delta="ok")
    + item_done(1, type="message", id="b3", content=[{"type": "output_text", "text": "ok"}])
    + ended(),
    "calls that alternate": created()
    + item_added(0, type="function_call", call_id="call_0", name="one", arguments="")
    + item_added(1, type="function_call", call_id="call_0", name="two", arguments="")
    + said("response.function_call_arguments.delta", output_index=1, delta='{"b":')
    + said("response.function_call_arguments.delta", output_index=0, delta="{}")
    + said("response.function_call_arguments.delta", output_index=1, delta="2}")
    + ended(),
    "only finished items": created()
    + item_done(0, type="reasoning", id="rs_0", summary=[{"type": "summary_text", "text": "Hm"}], encrypted_content="c2VhbGVk")
    + item_done(1, type="message", id="msg_1", content=[{"type": "output_text", "text": "Yes"}])
    + item_done(2, type="function_call", call_id="call_2", name="look", arguments='{"a":1}')
    + ended(),
    "only the response": ended(output=[{"type": "message", "content": [{"type": "output_text", "text": "all at once"}]}]),
    "tools of the provider": created()
    + item_added(0, type="web_search_call", id="ws_0", status="in_progress")
    + said("response.web_search_call.searching", output_index=0, item_id="ws_0")
    + item_done(0, type="web_search_call", id="ws_0", status="completed", action={"type": "search", "query": "x"})
    + item_added(1, type="message", id="msg_1", content=[])
    + said("response.output_text.delta", output_index=1, content_index=0, delta="Found.")
    + said(
        "response.output_text.annotation.added",
        output_index=1,
        content_index=0,
        annotation={"type": "url_citation", "url": "https://a.example/", "title": "A", "start_index": 0, "end_index": 6},
    )
    + ended(),
    "refusal": created()
    + item_added(0, type="message", content=[])
    + said("response.refusal.delta", output_index=0, content_index=0, delta="I can")
    + said("response.refusal.delta", output_index=0, content_index=0, delta="not.")
    + said("response.refusal.done", output_index=0, content_index=0, refusal="I cannot.")
    + item_done(0, type="message", content=[{"type": "refusal", "refusal": "I cannot."}])
    + ended(),
    "length in arguments": created()
    + call_item(0, "call_1", "make", '{"lines": ["a', status="incomplete")
    + ended("incomplete", incomplete_details={"reason": "max_output_tokens"}),
    "error, then failed": created()
    + text_item(0, "Hel")
    + said("error", code="server_error", message="boom", param=None)
    + ended("failed", error={"code": "server_error", "message": "boom"}),
    "failed": created() + ended("failed", error={"code": "rate_limit_exceeded", "message": "Slow down"}),
    "spliced": created() + text_item(0, "one") + created("resp_2") + text_item(0, "two") + ended(),
    "cut": created() + text_item(0, "Hel") + DONE,
    "split surrogates": created()
    + b'data: {"type":"response.output_text.delta","output_index":0,"content_index":0,"delta":"a\\ud83d"}\n\n'
    + b'data: {"type":"response.output_text.delta","output_index":0,"content_index":0,"delta":"\\ude00b"}\n\n'
    + ended(),
    "json body": b'{"error": {"message": "Bad model", "type": "invalid_request_error"}}',
    "nothing": b"",
}


STREAMS = [("openai_chat", name, body) for name, body in OPENAI_CHAT.items()] + [
    ("anthropic", name, body) for name, body in ANTHROPIC.items()
]
STREAMS += [("gemini", name, body) for name, body in GEMINI.items()]
STREAMS += [("openai_responses", name, body) for name, body in OPENAI_RESPONSES.items()]
IDS = [f"{dialect}: {name}" for dialect, name, _ in STREAMS]


def frames(body: bytes) -> list[bytes]:
    """Return the body's events, each with the blank line that ends it."""
    end = b"\r\n\r\n" if b"\r\n\r\n" in body else b"\n\n"
    return [frame + end for frame in body.split(end) if frame]


def decode(dialect: str, *chunks: bytes, quirks: dict[str, object] | None = None) -> list[ev.Event]:
    """Return all events of a body, having checked that their order is legal and that they survive their encoding."""
    decoder = load(dialect).new_decoder(quirks or {})
    return check([event for part in chunks for event in decoder.feed(part)] + decoder.finish(), decoder)


def check(events: list[ev.Event], decoder: Decoder | None = None) -> list[ev.Event]:
    lifecycle = Lifecycle()
    lifecycle.step(START)
    for event in events:
        lifecycle.step(event)
        assert ev.decode(ev.encode(event)) == event
    assert lifecycle.state == "ended"
    assert sum(isinstance(event, ev.TERMINAL) for event in events) == 1
    if decoder is not None:
        assert decoder.finished
        assert decoder.feed(b"data: {}\n\n") == decoder.finish() == []
    return events


def of(events: Iterable[ev.Event], *types: type[ev.Event]) -> list[Any]:
    return [event for event in events if isinstance(event, types)]


def text(events: Iterable[ev.Event]) -> str:
    return "".join(event.text for event in of(events, ev.Text))


def thinking(events: Iterable[ev.Event]) -> str:
    return "".join(event.text for event in of(events, ev.Thinking))


def calls(events: Iterable[ev.Event]) -> list[tuple[str, str, str, bool]]:
    """Return (id, name, raw arguments, valid) of the completed calls, and check that the fragments tell the same."""
    events = list(events)
    found = []
    for complete in of(events, ev.ToolCallComplete):
        deltas = [delta.arguments_delta for delta in of(events, ev.ToolCallDelta) if delta.tool_call_id == complete.tool_call_id]
        assert "".join(deltas) == complete.arguments_raw
        assert complete.valid is (complete.arguments is not None)
        assert complete.valid is (complete.error is None)
        found.append((complete.tool_call_id, complete.name, complete.arguments_raw, complete.valid))
    return found


def end(events: list[ev.Event]) -> str:
    """Return the finish reason, or `error/` and the code."""
    last = events[-1]
    return last.finish_reason if isinstance(last, ev.StreamEnd) else f"error/{last.code}"  # type: ignore[attr-defined]
