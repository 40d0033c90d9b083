"""The report: one HTML file that needs nothing else, drawn from a `Report` and from nothing else.

All text goes through `escape`; markup is made here and in `sections` only.
"""

from __future__ import annotations

from datetime import datetime
from html import escape
from importlib.resources import files

from headrace.cli.proof.figures import palette
from headrace.cli.proof.figures.staircase import MEDIUM, NARROW, WIDE, staircase, step_tokens
from headrace.cli.proof.results import Report, Result, failed_first, headline, summary
from headrace.cli.proof.rows import flow_of, prose, verdict
from headrace.cli.proof.sections import section

_MARK = (
    '<svg class="mark" viewBox="0 0 22 20" aria-hidden="true"><path d="M1 18h5v-5h5V8h5V3" fill="none" stroke="var(--water)" '
    'stroke-width="2.2" stroke-linecap="round" stroke-linejoin="round"/><circle cx="18.6" cy="2.4" r="2.2" fill="var(--water)"/></svg>'
)


def render(report: Report) -> str:
    """Return the whole page."""
    title = headline(report.results)
    ordered = failed_first(report.results)
    parts = [
        _header(report),
        "<main>",
        f"<h1>{escape(title)}</h1>",
        f'<p class="lede">{escape(summary(report.results))} {escape(_how(report))}</p>',
        _figures(report),
        _staircase(report),
        f'<ol class="rows">{"".join(map(_row, ordered))}</ol>',
        *(section(result) for result in report.results if result.verdict != "not_run"),
        "</main>",
        _footer(report),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n<meta name="color-scheme" content="light dark">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>Headrace proof: {escape(title)}</title>\n<style>\n{style()}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def style() -> str:
    """Return the style sheet, with the colours of both schemes and the figures' own rules."""
    own = (files("headrace.cli.proof") / "report.css").read_text("utf-8")
    light, dark = palette.variables(palette.LIGHT), palette.variables(palette.DARK)
    own = own.replace("SANS", palette.SANS).replace("MONO", palette.MONO).replace("PRINT", light)
    return f":root{{color-scheme:light dark;{light}}}\n@media (prefers-color-scheme:dark){{:root{{{dark}}}}}\n{own}{palette.FIGURE_CSS}"


def _how(report: Report) -> str:
    if not any(result.traces or result.curves for result in report.results):
        return ""
    return "Each row leads to its raw timings, and every picture is drawn from them."


def _header(report: Report) -> str:
    made = datetime.fromisoformat(report.made_at)
    machine = report.machine
    facts = [f"{made.day} {made:%b %Y, %H:%M}", f"nginx {machine.nginx}", f"headrace {machine.headrace}", f"{machine.cores} cores"]
    return (
        f'<header>{_MARK}<span class="name">Headrace</span><span class="kind">proof</span>'
        f'<span class="made">{escape(" · ".join(facts))}</span></header>'
    )


def _footer(report: Report) -> str:
    machine = report.machine
    versions = f"headrace {machine.headrace}, nginx {machine.nginx}, Python {machine.python}, {machine.system}, {machine.cores} cores"
    return (
        f"<footer><div><p>Made by <code>{escape(report.command)}</code> in {report.seconds:.0f} s. Run it again to make it anew.</p>"
        f"<p>{escape(versions)}. Provider, relay and nginx ran as processes of their own on this machine; the provider is simulated, "
        'and says itself what it wrote and when its reader left.</p><p>Everything that was measured is in <a href="report.json">'
        'report.json</a>, and each figure is a file in <a href="figures/">figures</a>.</p></div></footer>'
    )


def _figures(report: Report) -> str:
    """The four figures that matter most; what was not run is left out."""
    boxes = []
    if result := _shown(report, "arrival", "nginx_ttft_s"):
        less = f"{result.numbers['buffering_ttft_s']:.2f} s when nginx buffers"
        boxes.append(_box(result, f"{result.numbers['nginx_ttft_s']:.2f}", "s", "first token through nginx", less))
    if result := _shown(report, "stop", "closed_ms_worst"):
        boxes.append(
            _box(
                result,
                f"{result.numbers['closed_ms_worst']:.0f}",
                "ms",
                "from Stop to provider closed",
                "worst of four; promise: 20 ms or less",
            )
        )
    if result := _shown(report, "drop", "lost"):
        lost = (result.numbers["lost"] or 0) + (result.numbers["doubled"] or 0)
        boxes.append(_box(result, f"{lost}", "", "tokens lost or doubled after a drop", f"{result.numbers['replayed']} events replayed"))
    if result := _shown(report, "slow", "held_kib"):
        boxes.append(
            _box(
                result,
                f"{result.numbers['held_kib']:+.0f}",
                "KiB",
                "held for a reader that takes nothing",
                "over an idle stream; promise: 512 KiB",
            )
        )
    return f'<dl class="figures">{"".join(boxes)}</dl>' if boxes else ""


def _shown(report: Report, key: str, number: str) -> Result | None:
    result = report.result(key)
    return result if result is not None and result.numbers.get(number) is not None else None


def _box(result: Result, figure: str, unit: str, what: str, beside: str) -> str:
    small = f"<small>{unit}</small>" if unit else ""
    failed = " failed" if result.verdict == "failed" else ""
    return f'<div><p class="big{failed}">{escape(figure)}{small}</p><dt>{escape(what)}</dt><dd>{escape(beside)}</dd></div>'


def _staircase(report: Report) -> str:
    result = report.result("arrival")
    if result is None or not {"direct", "nginx", "buffering"} <= result.traces.keys():
        return ""
    drawn = ((WIDE, "wide"), (MEDIUM, "medium"), (NARROW, "narrow"))
    pictures = "".join(staircase(result, size).inline(name) for size, name in drawn)
    steps = step_tokens(result)
    title = "The staircase and the cliff" if result.numbers["is_cliff"] else "The staircase"
    return (
        f'<section class="staircase-place"><h2>{title}</h2><p class="sub">Tokens that have arrived, over time. Same answer, same machine, '
        f"three ways. One step is {steps} tokens.</p><figure>{pictures}</figure>{_causes(result)}</section>"
    )


def _causes(result: Result) -> str:
    header, tokens = "<code>X-Accel-Buffering: no</code>", result.numbers["buffering_tokens"]
    if result.numbers["is_cliff"]:
        title, rest = (
            "What made the cliff",
            f"is nginx’s default. With the relay’s {header} ignored, nginx kept all {tokens} tokens to the end.",
        )
    else:
        title, rest = "No cliff here", f"was set, and the relay’s {header} ignored, but this nginx passed the tokens on all the same."
    return (
        f'<div class="causes"><div class="cause rust"><h3>{title}</h3><p><code>proxy_buffering on;</code> {rest}</p></div>'
        f'<div class="cause"><h3>What made the staircase</h3><p>The relay sends {header} and nginx obeys it. '
        "<code>proxy_buffering off;</code> in the location does the same for any backend.</p></div></div>"
    )


def _row(result: Result) -> str:
    """One promise in one line: what it is, what was found, what it looked like, and whether it held."""
    said = (
        f'<span class="reason">{prose(result.reasons[0])}</span>'
        if result.verdict == "failed" and result.reasons
        else prose(result.finding)
    )
    if result.verdict == "not_run":
        said = prose(result.reasons[0]) if result.reasons else ""
    inner = (
        f'<span class="letter">{result.letter}</span><span class="title">{prose(result.title)}</span>'
        f'<span class="finding">{said}</span>{flow_of(result)}{verdict(result)}'
    )
    if result.verdict == "not_run":
        return f'<li class="row">{inner}</li>'
    return f'<li><a class="row" href="#{result.key}">{inner}</a></li>'
