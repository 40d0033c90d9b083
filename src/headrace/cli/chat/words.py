"""What the chat says: sentences and figures, from what is known and nothing else. A ≈ or "about" marks every estimate."""

from __future__ import annotations

from headrace.client import Connection, Receipt, Reply
from headrace.client.measures import ClientMetrics
from headrace.errors import HeadraceError, RelayUnreachable
from headrace.protocol import events as ev

NO_TOKEN_YET_S = 10.0
QUIET_S = 10.0
NO_SIGN_S = 20.0
RESUMED_SHOWN_S = 6.0

STOPPED_ELSEWHERE = "The answer was stopped, and not from here."

_ENDINGS = {
    "length": "Reached the length limit.",
    "content_filter": "The provider's filter ended the answer.",
    "refusal": "The model declined.",
    "pause": "The provider paused the turn. Send a message to go on.",
}
_NEVER_SENT = {
    "queued": "It was still in line: the provider never saw it.",
    "connecting": "The provider had not been reached yet.",
}


def seconds(value: float) -> str:
    """Return a time as it is read: 0.42 s, 3.4 s, 24 s."""
    if value < 0.995:
        return f"{value:.2f} s"
    return f"{value:.1f} s" if value < 9.95 else f"{value:.0f} s"


def whole_seconds(value: float) -> str:
    return f"{int(max(0.0, value))} s"


def milliseconds(value: float) -> str:
    return f"{value:.0f} ms" if value >= 1 else "less than 1 ms"


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def size(byte_count: int) -> str:
    return f"{byte_count} B" if byte_count < 1000 else f"{byte_count / 1000:.1f} kB"


def ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def in_line(queue: ev.Queue) -> str:
    """Say where the request stands in line, and for how long where that is known."""
    place = f"{ordinal(queue.position)} of {queue.depth} in line"
    return place if queue.eta_seconds is None else f"{place}, about {max(1, round(queue.eta_seconds))} s"


def waiting(model: str, waited_s: float, silent_s: float) -> str:
    """Say what is waited for; after a while also that the relay is there, or that it is not."""
    text = f"Waiting for {model}, {whole_seconds(waited_s)}"
    if silent_s >= NO_SIGN_S:
        return f"{text}. No sign from the relay for {whole_seconds(silent_s)}."
    if waited_s >= NO_TOKEN_YET_S:
        return f"{text}. No token yet. The relay is there: last sign of life {whole_seconds(silent_s)} ago."
    return text


def quiet(tokenless_s: float, silent_s: float) -> str | None:
    """Say that no token came for a while, in the middle of an answer."""
    if silent_s >= NO_SIGN_S:
        return f"No sign from the relay for {whole_seconds(silent_s)}."
    return f"Quiet for {whole_seconds(tokenless_s)}" if tokenless_s >= QUIET_S else None


def lost(connection: Connection, since_s: float) -> str:
    """Say that the connection is lost, and what is done about it."""
    wait_s = connection.delay_s - since_s
    attempt = f"Attempt {connection.attempt}" + (f" in {max(1, round(wait_s))} s" if wait_s >= 0.5 else "")
    return f"Connection lost. {attempt}. What you see is kept."


def resumed(connection: Connection) -> str:
    return f"Resumed, {count(connection.replayed, 'event')} replayed"


def thought(elapsed_s: float, tokens: int) -> str:
    return f"Thought for {seconds(elapsed_s)}, ≈ {count(tokens, 'token')}"


def stopped(receipt: Receipt | None, after_s: float) -> str:
    """Say what a Stop did, as far as the receipt knows."""
    if receipt is None:
        return "Stopped here. The relay has not confirmed yet."
    if receipt.already_ended:
        return "The answer had already ended."
    if receipt.status == "not_started":
        return f"You stopped at {seconds(after_s)}. The relay had not begun, and will not."
    sentences = [f"You stopped at {seconds(after_s)}."]
    if receipt.cancel_ms is not None:
        closed = f"The provider's connection was closed {milliseconds(receipt.cancel_ms)} later"
        tail = f"; {receipt.tokens_after:,} more {'token' if receipt.tokens_after == 1 else 'tokens'} had already left it"
        sentences.append(closed + (tail if receipt.tokens_after else "") + ".")
    elif receipt.phase in _NEVER_SENT:
        sentences.append(_NEVER_SENT[receipt.phase])
    if receipt.usage is not None and receipt.usage.output_tokens is not None:
        sentences.append(_usage(receipt.usage.output_tokens, receipt.usage.source))
    return " ".join(sentences)


def _usage(tokens: int, source: ev.UsageSource) -> str:
    if source == "provider":
        return f"Usage: {count(tokens, 'token')}, the provider's count."
    return f"Usage: about {count(tokens, 'token')}, the relay's estimate."


def failed(error: HeadraceError, *, anything_shown: bool) -> str:
    """Say what went wrong, and what that means for what is on the screen."""
    sentences = [error.public_message]
    if anything_shown:
        sentences.append("The text above is kept but not complete.")
    if error.retryable and not isinstance(error, RelayUnreachable):
        wait = f" in {max(1, round(error.retry_after_s))} s" if error.retry_after_s else ""
        sentences.append(f"It may work again{wait}.")
    return " ".join(sentences)


def ending(reply: Reply) -> str | None:
    """Say why an answer ended that did not simply end."""
    return _ENDINGS.get(reply.finish_reason or "")


def gap(event: ev.Gap) -> str:
    return f"{count(event.characters, 'character')} skipped." if event.characters else "Some text was skipped."


def figures(metrics: ClientMetrics, reply: Reply, model: str) -> str:
    """Return the foot line: TTFT, tokens a second, tokens, cost, model."""
    parts: list[str] = []
    if metrics.ttft_ms is not None:
        parts.append(f"TTFT {seconds(metrics.ttft_ms / 1000)}")
    if metrics.tokens_per_s is not None and metrics.tokens >= 5:
        parts.append(f"{metrics.tokens_per_s:.0f} tok/s")
    usage = reply.end.usage if isinstance(reply.end, ev.TERMINAL) else reply.usage
    counted = usage.output_tokens or 0 if usage is not None else 0
    if usage is not None and counted and (reply.end is not None or counted >= metrics.tokens):
        parts.append(("" if usage.source == "provider" else "≈ ") + count(counted, "token"))
    elif metrics.tokens:
        parts.append(f"≈ {count(metrics.tokens, 'token')}")
    if usage is not None and usage.cost_usd is not None:
        parts.append(f"${usage.cost_usd:.4f}")
    return " · ".join([*parts, model])
