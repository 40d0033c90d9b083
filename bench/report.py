"""Results as tables: on the terminal, and as docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

KIB, MIB = 1024, 1024 * 1024
TARGETS = {"ratio": 1.5, "ttft_p50_ms": 1.0, "ttft_p99_ms": 25.0, "stop_p99_ms": 20.0, "idle_kib": 32.0}

Row = Sequence[str]
Table = tuple[str, Row, Sequence[Row]]

BIAS = """\
These figures were made by the authors of the relay, on one machine, with a load of their own choosing. What the choice favours:

- **For nginx:** it passes bytes on and writes no log here. The relay runs with everything on that is on by default: every event is \
parsed, typed, kept for resuming, metered and written anew, with deadlines, heartbeats, a log line a stream and Prometheus figures.
- **For the relay:** both are confined to one core, where nginx takes more cores with one line of configuration.
- **For the relay:** its frames are shorter than the provider's, so its readers get fewer bytes than nginx' readers do.
- **For both:** the provider is nearer and more regular than any in the world. TLS, retries, slow readers and other distances are not \
measured here.
- **Against both:** provider and readers share the other core. What they cost by themselves stands in the row *nothing between*.

A time in microseconds belongs to the machine and to what else ran on it. The ratio of two that were taken in turns is what can be \
carried elsewhere, and even that moves with the processor's cache and the kernel's price of a write."""

BUSY = """\
**The machine was busy with other work during this run.** Delays and TTFT are then those of waiting for a core, the ratio moves by \
half from round to round, and nothing here says how fast the relay is on a machine of its own."""

METHOD = """\
`make bench` needs Linux, nginx and a C compiler, and takes less than four minutes. `make bench ARGS=--quick` takes less than one, and \
`make bench ARGS="idle --streams 8000"` measures one thing. Results go to `bench/results/latest.json`, and `--write-docs` renders this \
page from a whole run.

Provider and readers are C programs of one epoll loop each (`bench/provider.c`, `bench/readers.c`), compiled for the run. The text of \
each token is the time at which the provider wrote it, on the clock that the readers read, so that the way of every single token is \
measured. What is measured has the first core to itself, as far as the machine grants it; provider, readers and the measuring itself \
have the second. Beside each figure stands how much of its core a process used, and how much others did: beside a busy neighbour a \
token waits, and delays and TTFT tell of the neighbour. CPU time per token does not count the waiting, but a neighbour empties the \
cache as well, which the relay, with more to touch for each token, feels more than nginx does. *Pace* is 1 where \
the streams took as long as they should; a round below 0.9 is shown, and not counted where another held it, because what comes late \
comes in bunches, which cost less.

**CPU per token** is the time that the whole process ran, user and system, from /proc, over a round of streams from their requests to \
their ends, divided by the tokens that arrived; a round in which one is missing is no round. **Delay** is from the provider's write to the \
reader's read. **TTFT** is from the request's sending to the first token; the provider answers at once, so that all of it is added. \
**Memory** is PSS, without the kernel's socket buffers.

**Stop** is measured from both sides: by the relay's receipt (from its taking up the request to the closing of its socket to the \
provider), and from the Stop's sending to the provider's seeing its connection closed. All at once, the last Stop waits until the relay \
has read all the others."""


def tables(results: dict[str, Any]) -> list[Table]:
    """Return (title, head, rows) of each part that was measured."""
    parts = [("hot_path", _hot_path), ("side_by_side", _side_by_side), ("stop", _stop), ("idle", _idle)]
    return [table for name, make in parts if name in results for table in make(results[name])]


def for_terminal(results: dict[str, Any]) -> str:
    """Return the tables with their columns aligned."""
    blocks = [f"\n{_machine(results['machine'])}"]
    for title, head, rows in tables(results):
        widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
        lines = [
            "  ".join(cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True)))
            for row in [head, *rows]
        ]
        blocks.append("\n".join([f"\n{title}", *(f"  {line.rstrip()}" for line in lines)]))
    return "\n".join(blocks)


def for_docs(results: dict[str, Any]) -> str:
    """Return the page docs/benchmarks.md."""
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    parts = [
        "# Benchmarks",
        "<!-- Written by `python -m bench --write-docs`. Change bench/report.py instead. -->",
        "## Bias first",
        BIAS,
        "## How it is measured",
        METHOD,
        "## The last run",
        *([BUSY] if _was_busy(machine) else []),
        f"{_machine(machine)}\n\n{versions}, Linux {machine['kernel']}.",
    ]
    for title, head, rows in tables(results):
        parts.append(f"### {title}")
        parts.append("\n".join([_line(head), _line(["---", *(["---:"] * (len(head) - 1))]), *map(_line, rows)]))
    return "\n\n".join(parts) + "\n"


def verdicts(results: dict[str, Any]) -> list[str]:
    """Return what misses its target, in a sentence each. A target is a promise about a quiet machine."""
    missed = []
    for dialect, figures in results.get("side_by_side", {}).get("dialects", {}).items():
        if not figures["median"]["rounds_held"]:
            missed.append(f"{dialect}: no round held its pace, so there is nothing to judge: there was no whole core for it")
            continue
        ratio = figures["median"]["ratio"]
        if ratio > TARGETS["ratio"]:
            missed.append(f"{dialect}: {ratio:.2f} times nginx' CPU per token, the target is {TARGETS['ratio']:g}")
        for share in ("p50", "p99"):
            ttft_ms = figures["median"]["headrace"][f"ttft_{share}_us"] / 1000
            if ttft_ms > TARGETS[f"ttft_{share}_ms"]:
                missed.append(f"{dialect}: TTFT {share} {ttft_ms:.1f} ms, the target is {TARGETS[f'ttft_{share}_ms']:g}")
    for way in ("spaced", "at_once"):
        p99 = results["stop"][way]["cancel_ms"]["p99"] if "stop" in results else 0.0
        if p99 > TARGETS["stop_p99_ms"]:
            missed.append(f"Stop, {way}: p99 {p99:.1f} ms, the target is {TARGETS['stop_p99_ms']:g}")
    if "idle" in results and results["idle"]["bytes_each"] > TARGETS["idle_kib"] * KIB:
        missed.append(f"an idle stream weighs {results['idle']['bytes_each'] / KIB:.1f} KiB, the target is {TARGETS['idle_kib']:g}")
    return missed


def _machine(machine: dict[str, Any]) -> str:
    loads = " ".join(f"{load:.2f}" for load in machine["load_average"])
    after = " ".join(f"{load:.2f}" for load in machine.get("load_average_after", []))
    until = f" and after {after}" if after else ""
    return f"{machine['date']}, {machine['cpu']}, {machine['cores']} cores, load average before {loads}{until}."


def _was_busy(machine: dict[str, Any]) -> bool:
    """Whether anybody else wanted a core when the run began. At its end the load is our own."""
    return bool(machine["load_average"][0] > 0.5)


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _hot_path(figures: dict[str, Any]) -> list[Table]:
    counts = list(next(iter(figures.values())))
    head = ["Dialect", *(f"{count} stream{'s' if count != '1' else ''}" for count in counts)]
    rows = [[dialect, *(f"{row[count]['best_us']:.2f}" for count in counts)] for dialect, row in figures.items()]
    return [("The hot path without sockets: µs per token, best of its runs, by how many streams take turns", head, rows)]


def _side_by_side(figures: dict[str, Any]) -> list[Table]:
    load = figures["load"]
    found: list[Table] = []
    rate = 1e6 / load["gap_us"]
    what = f"{load['readers']} streams × {rate:g} tokens/s × {load['tokens']} tokens, {load['streams_each']} in a row on each connection"
    head = ["", "CPU µs/token", "delay p50 µs", "p99", "TTFT p50 ms", "p99", "PSS idle MiB", "peak", "core: itself", "others", "pace"]
    for dialect, lanes in figures["dialects"].items():
        rows: list[Row] = []
        for number, round_ in enumerate(lanes["rounds"], 1):
            rows += [_lane(f"{lane}, round {number}", round_[lane]) for lane in ("nginx", "headrace")]
        rows.append(_lane("nothing between", {**lanes["direct"], "cpu_us_per_token": None, "pss_idle_bytes": None, "pss_peak_bytes": None}))
        rows += [_lane(f"**{lane}, median**", lanes["median"][lane]) for lane in ("nginx", "headrace")]
        found.append((f"{dialect}: {what}", head, rows))
    ratios = [
        [
            dialect,
            *(f"{round_['ratio']:.2f}" for round_ in lanes["rounds"]),
            f"{lanes['median']['ratio']:.2f}",
            str(lanes["median"]["rounds_held"]),
        ]
        for dialect, lanes in figures["dialects"].items()
    ]
    rounds = range(1, len(ratios[0]) - 2)
    found.append(
        (
            "CPU per token, relay to nginx",
            ["Dialect", *(f"round {number}" for number in rounds), "median", "rounds that held the pace"],
            ratios,
        )
    )
    return found


def _lane(name: str, row: dict[str, Any]) -> Row:
    def cell(key: str, unit: float, digits: int) -> str:
        value = row.get(key)
        return "–" if value is None else f"{value / unit:.{digits}f}"

    return [
        name,
        cell("cpu_us_per_token", 1, 1),
        cell("delay_p50_us", 1, 0),
        cell("delay_p99_us", 1, 0),
        cell("ttft_p50_us", 1000, 2),
        cell("ttft_p99_us", 1000, 2),
        cell("pss_idle_bytes", MIB, 1),
        cell("pss_peak_bytes", MIB, 1),
        cell("core_own", 1, 2),
        cell("core_others", 1, 2),
        cell("pace", 1, 2),
    ]


def _stop(figures: dict[str, Any]) -> list[Table]:
    head = ["", "receipt p50 ms", "p99", "at the provider p50", "p99", "answered p50", "p99", "core: itself", "others"]
    rows = []
    for way, name in (("spaced", "one every {:g} ms"), ("at_once", "all at once")):
        row = figures[way]
        cells = [f"{row[kind][share]:.2f}" for kind in ("cancel_ms", "provider_ms", "answer_ms") for share in ("p50", "p99")]
        shares = ["–" if row[key] is None else f"{row[key]:.2f}" for key in ("core_own", "core_others")]
        rows.append([name.format(row["gap_us"] / 1000), *cells, *shares])
    return [(f"Stop, with {figures['streams']} streams of 50 tokens/s running", head, rows)]


def _idle(figures: dict[str, Any]) -> list[Table]:
    head = ["Streams", "KiB each", "PSS before MiB", "PSS open", "all open after s", "opened per s", "CPU µs to open one"]
    row = [
        str(figures["streams"]),
        f"{figures['bytes_each'] / KIB:.1f}",
        f"{figures['pss_before_bytes'] / MIB:.1f}",
        f"{figures['pss_open_bytes'] / MIB:.1f}",
        f"{figures['open_s']:.2f}",
        str(figures["opened_per_s"]),
        f"{figures['cpu_us_each']:.0f}",
    ]
    return [("Idle streams", head, [row])]
