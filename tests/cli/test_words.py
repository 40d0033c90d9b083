"""What the chat says, word by word."""

import pytest

from headrace.cli.chat import words
from headrace.client import ClientMetrics, Connection, Receipt, Reply
from headrace.errors import RelayUnreachable, UpstreamAuth, UpstreamOverloaded
from headrace.protocol import events as ev

ESTIMATED = ev.UsageTotals(source="estimated", output_tokens=182)
COUNTED = ev.UsageTotals(source="provider", output_tokens=1)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.00 s"),
        (0.423, "0.42 s"),
        (0.994, "0.99 s"),
        (0.996, "1.0 s"),
        (3.44, "3.4 s"),
        (9.96, "10 s"),
        (23.6, "24 s"),
        (120, "120 s"),
    ],
)
def test_seconds(value: float, text: str) -> None:
    assert words.seconds(value) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1, "1st"),
        (2, "2nd"),
        (3, "3rd"),
        (4, "4th"),
        (11, "11th"),
        (12, "12th"),
        (13, "13th"),
        (21, "21st"),
        (112, "112th"),
        (123, "123rd"),
    ],
)
def test_ordinals(number: int, text: str) -> None:
    assert words.ordinal(number) == text


@pytest.mark.parametrize(
    ("queue", "text"),
    [
        (ev.Queue(position=4, depth=11, eta_seconds=6.2, reason="r"), "4th of 11 in line, about 6 s"),
        (ev.Queue(position=1, depth=1, eta_seconds=0.1, reason="r"), "1st of 1 in line, about 1 s"),
        (ev.Queue(position=2, depth=3, reason="r"), "2nd of 3 in line"),
    ],
)
def test_in_line(queue: ev.Queue, text: str) -> None:
    assert words.in_line(queue) == text


@pytest.mark.parametrize(
    ("waited_s", "silent_s", "text"),
    [
        (2.9, 2.9, "Waiting for gpt-5-mini, 2 s"),
        (24.0, 3.2, "Waiting for gpt-5-mini, 24 s. No token yet. The relay is there: last sign of life 3 s ago."),
        (30.0, 21.0, "Waiting for gpt-5-mini, 30 s. No sign from the relay for 21 s."),
    ],
)
def test_waiting(waited_s: float, silent_s: float, text: str) -> None:
    assert words.waiting("gpt-5-mini", waited_s, silent_s) == text


@pytest.mark.parametrize(
    ("tokenless_s", "silent_s", "text"),
    [(9.0, 9.0, None), (23.0, 3.0, "Quiet for 23 s"), (23.0, 23.0, "No sign from the relay for 23 s.")],
)
def test_quiet(tokenless_s: float, silent_s: float, text: str | None) -> None:
    assert words.quiet(tokenless_s, silent_s) == text


@pytest.mark.parametrize(
    ("since_s", "text"),
    [(0.1, "Connection lost. Attempt 2 in 4 s. What you see is kept."), (3.9, "Connection lost. Attempt 2. What you see is kept.")],
)
def test_lost(since_s: float, text: str) -> None:
    assert words.lost(Connection(state="reconnecting", attempt=2, delay_s=4.0), since_s) == text


def test_resumed() -> None:
    assert words.resumed(Connection(state="resumed", replayed=34)) == "Resumed, 34 events replayed"
    assert words.resumed(Connection(state="resumed", replayed=1)) == "Resumed, 1 event replayed"


@pytest.mark.parametrize(
    ("receipt", "text"),
    [
        (None, "Stopped here. The relay has not confirmed yet."),
        (Receipt(status="not_started"), "You stopped at 3.4 s. The relay had not begun, and will not."),
        (Receipt(status="completed", already_ended=True), "The answer had already ended."),
        (
            Receipt(status="cancelled", cancel_ms=8.0, tokens_after=3, usage=ESTIMATED, phase="text"),
            "You stopped at 3.4 s. The provider's connection was closed 8 ms later; 3 more tokens had already left it. "
            "Usage: about 182 tokens, the relay's estimate.",
        ),
        (
            Receipt(status="cancelled", cancel_ms=0.05, tokens_after=1, usage=COUNTED, phase="text"),
            "You stopped at 3.4 s. The provider's connection was closed less than 1 ms later; 1 more token had already left it. "
            "Usage: 1 token, the provider's count.",
        ),
        (
            Receipt(status="cancelled", cancel_ms=2.0, phase="first_token"),
            "You stopped at 3.4 s. The provider's connection was closed 2 ms later.",
        ),
        (Receipt(status="cancelled", phase="queued"), "You stopped at 3.4 s. It was still in line: the provider never saw it."),
        (Receipt(status="cancelled", phase="connecting"), "You stopped at 3.4 s. The provider had not been reached yet."),
        (Receipt(status="cancelled", phase="a phase of a later version"), "You stopped at 3.4 s."),
    ],
)
def test_stopped(receipt: Receipt | None, text: str) -> None:
    assert words.stopped(receipt, 3.4) == text


def test_failed() -> None:
    busy = UpstreamOverloaded("The provider is overloaded.", retry_after_s=7.6)
    assert words.failed(busy, anything_shown=False) == "The provider is overloaded. It may work again in 8 s."
    assert words.failed(UpstreamAuth("Refused."), anything_shown=True) == "Refused. The text above is kept but not complete.", (
        "what is not retryable makes no promise"
    )
    assert words.failed(RelayUnreachable("Not there."), anything_shown=False) == "Not there."


def test_gap() -> None:
    event = ev.Gap(from_seq=2, to_seq=9, reason="slow_reader", recoverable=True)
    assert words.gap(event) == "Some text was skipped."
    event.characters = 1412
    assert words.gap(event) == "1,412 characters skipped."


def test_sizes() -> None:
    assert [words.size(n) for n in (0, 96, 999, 1000, 12_345)] == ["0 B", "96 B", "999 B", "1.0 kB", "12.3 kB"]


def test_figures_mark_an_estimate_until_the_provider_has_counted() -> None:
    reply = Reply()
    metrics = ClientMetrics(ttft_ms=423.0, tpot_ms=16.4, tokens=180)
    assert words.figures(ClientMetrics(), reply, "m") == "m"
    assert words.figures(metrics, reply, "m") == "TTFT 0.42 s · 61 tok/s · ≈ 180 tokens · m"
    reply.feed(ev.Usage(seq=1, source="provider", output_tokens=1))
    assert "≈ 180 tokens" in words.figures(metrics, reply, "m"), "a count from the answer's beginning is none"
    reply.feed(ev.StreamEnd(seq=2, finish_reason="stop", usage=ev.UsageTotals(source="provider", output_tokens=182, cost_usd=0.00123)))
    assert words.figures(metrics, reply, "m") == "TTFT 0.42 s · 61 tok/s · 182 tokens · $0.0012 · m"


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("stop", None),
        ("tool_calls", None),
        ("cancelled", None),
        ("length", "Reached the length limit."),
        ("refusal", "The model declined."),
    ],
)
def test_endings(reason: ev.FinishReason, text: str | None) -> None:
    reply = Reply()
    reply.feed(ev.StreamEnd(seq=1, finish_reason=reason))
    assert words.ending(reply) == text
