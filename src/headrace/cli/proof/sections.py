"""The evidence of each experiment: its promise, its figures, its numbers, and where the raw timings are."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from html import escape

from headrace.cli.proof.experiments.arrival import HOLD_S_MAX, WAYS
from headrace.cli.proof.experiments.slow import HELD_KIB_MAX
from headrace.cli.proof.figures import charts
from headrace.cli.proof.figures.svg import Figure
from headrace.cli.proof.results import Result
from headrace.cli.proof.rows import prose, verdict

BROAD, SLIM = 700.0, 372.0
_LOGGED = ("event", "request_id", "model", "reason", "tokens", "ttft_ms", "tpot_ms", "tool_calls")


def section(result: Result) -> str:
    """Return the part of the page that belongs to `result`."""
    try:
        evidence = _EVIDENCE[result.key](result)
    except (KeyError, IndexError, ValueError):  # it broke off before there was something to draw
        evidence = ""
    reasons = "".join(f'<p class="reason">{prose(reason)}</p>' for reason in result.reasons)
    return (
        f'<section class="part" id="{result.key}"><div class="part-head"><span class="letter">{result.letter}</span>'
        f"<h2>{prose(result.title)}</h2>{verdict(result)}</div>"
        f'<p class="promise">{prose(result.promise)}</p>{reasons}{evidence}'
        f'<p class="raw">Raw timings: <a href="report.json">report.json</a>, <code>results[letter={result.letter}]</code></p></section>'
    )


def figures(result: Result) -> dict[str, Figure]:
    """Return every figure of an experiment by its name, as they become files."""
    draw = _FIGURES.get(result.key)
    try:
        return draw(result) if draw is not None else {}
    except (KeyError, IndexError, ValueError):
        return {}


def _arrival(result: Result) -> str:
    numbers = result.numbers
    rows = [[label, *(_number(numbers[f"{key}_{name}"], digits, unit) for name, digits, unit in _ARRIVAL_COLUMNS)] for key, label in WAYS]
    head = ["", "first token", "per token", "total", "longest hold"]
    late = _figure(
        lambda width: charts.holds(result, width, HOLD_S_MAX * 1000),
        "How late each token was",
        "from the provider’s write to the reader’s read",
    )
    near = _figure(lambda width: charts.ladder(result, width), "Half a second of it", "each line a token on its way through nginx")
    return _evidence(late + near, _table(head, rows))


_ARRIVAL_COLUMNS = (("ttft_s", 2, " s"), ("tpot_ms", 1, " ms"), ("total_s", 2, " s"), ("hold_ms_max", 0, " ms"))


def _stop(result: Result) -> str:
    rows = []
    for stop in result.detail["stops"]:
        claimed = stop["receipt"].get("cancel_ms")
        rows.append([stop["phase"], _number(stop["closed_ms"], 1, " ms"), _number(claimed, 1, " ms"), str(stop["tokens_written_after"])])
    head = ["stopped while", "provider saw it", "the receipt says", "tokens after"]
    return _evidence(
        _figure(lambda width: charts.stop(result, width), "Tokens written by the provider", "sampled from its own dashboard"),
        _table(head, rows),
    )


def _tools(result: Result) -> str:
    pieces = "".join(f"<span>{escape(piece)}</span>" for piece in result.detail["fragments"])
    logged = {name: result.detail["log_line"][name] for name in _LOGGED if name in result.detail["log_line"]}
    line = escape(json.dumps(logged, ensure_ascii=False), quote=False)
    for name in ("fragments", "parses"):
        value = result.numbers["fragments_logged" if name == "fragments" else name]
        line = line.replace(f'"{name}": {value}', f'<b>"{name}": {value}</b>')
    return _evidence(
        _shown("The arguments as they came", "one underline a fragment", f'<div class="pieces">{pieces}</div>'),
        _shown("The relay’s log line", "at this stream’s end, in part", f'<div class="log">{line}</div>'),
    )


def _slow(result: Result) -> str:
    readers = result.numbers["readers"]
    return _evidence(
        _figure(
            lambda width: charts.weight(result, width, HELD_KIB_MAX),
            "Memory of the relay",
            "for each reader, above an idle stream",
            half=True,
        ),
        _figure(lambda width: charts.flood(result, width), "Written by the provider", f"to {readers} readers that take nothing", half=True),
        kind="even",
    ) + (
        '<p class="sub">Tried at the relay itself. Behind nginx the first megabytes go into its and the kernel’s buffers, '
        "and the relay keeps the text of what it sent, so that it can be resumed.</p>"
    )


def _life(result: Result) -> str:
    wide, slim = charts.lives(result, 1200), charts.lives(result, SLIM)
    lines = []
    for key, trace in result.traces.items():
        first, silence = result.numbers[f"{key}_first_s"] or 0.0, result.numbers[f"{key}_silence_s"] or 0.0
        said = f"first sign after {first:.2f} s, longest silence {silence:.1f} s"
        lines.append(_shown(trace.label, said, wide[key].inline("from-medium") + slim[key].inline("narrow")))
    axis = charts.life_axis(result, 1200).inline("from-medium") + charts.life_axis(result, SLIM).inline("narrow")
    note = '<p class="sub">A ring is a sign of life without a token: the event that opens the stream, or a heartbeat.</p>'
    return f'<div class="evidence one"><div class="lives">{"".join(lines)}{axis}{note}</div></div>'


def _drop(result: Result) -> str:
    rows = [[f"{state['at_s']:.2f} s", _state_words(state)] for state in result.detail["connection"]]
    return _evidence(
        _figure(lambda width: charts.drop(result, width), "Tokens at the client", "whose network was cut and mended"),
        _table(["at", "the connection"], rows, "words"),
    )


def _state_words(state: dict[str, object]) -> str:
    words = str(state["state"])
    if state["state"] == "resumed":
        return f"resumed, {state['replayed']} events replayed"
    return f"{words}, attempt {state['attempt']}" if state["state"] == "reconnecting" else words


_EVIDENCE: dict[str, Callable[[Result], str]] = {
    "arrival": _arrival,
    "stop": _stop,
    "tools": _tools,
    "slow": _slow,
    "life": _life,
    "drop": _drop,
}
_FIGURES: dict[str, Callable[[Result], dict[str, Figure]]] = {
    "arrival": lambda result: {"holds": charts.holds(result, BROAD, HOLD_S_MAX * 1000), "ladder": charts.ladder(result, BROAD)},
    "stop": lambda result: {"stop": charts.stop(result, BROAD)},
    "slow": lambda result: {"memory": charts.weight(result, BROAD, HELD_KIB_MAX), "flood": charts.flood(result, BROAD)},
    "life": lambda result: {f"life-{key}": figure for key, figure in charts.lives(result, BROAD).items()},
    "drop": lambda result: {"drop": charts.drop(result, BROAD)},
}


def _evidence(*parts: str, kind: str = "") -> str:
    return f'<div class="evidence {kind}">{"".join(f"<div>{part}</div>" for part in parts)}</div>'


def _figure(draw: Callable[[float], Figure], title: str, rest: str, *, half: bool = False) -> str:
    """Return a figure in two widths, of which the page shows one."""
    wide = draw(576.0 if half else BROAD).inline("from-medium")
    return _shown(title, rest, wide + draw(SLIM).inline("narrow"))


def _shown(title: str, rest: str, content: str) -> str:
    return f"<figure><figcaption><b>{escape(title)}</b>, {escape(rest)}</figcaption>{content}</figure>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    titles = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table class="{kind}"><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>'


def _number(value: float | int | None, digits: int, unit: str) -> str:
    return "none" if value is None else f"{value:.{digits}f}{unit}"
