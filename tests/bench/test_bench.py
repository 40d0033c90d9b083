"""The benchmark measures what it says it does. No speed is asserted here: that is for whoever runs it, and reads what else ran."""

import asyncio
import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from bench.inputs import openings, reads, texts  # noqa: E402
from bench.machine import CannotMeasure, allow_open_files, cores, describe, members, pinned  # noqa: E402
from bench.stage import (  # noqa: E402
    DIALECTS,
    Dialect,
    Load,
    Server,
    Stage,
    compile_programs,
    provider_report,
    request_to_provider,
    request_to_relay,
)

from bench import hot_path, report, side_by_side, stop  # noqa: E402
from headrace.protocol import dialects, events  # noqa: E402
from headrace.protocol.sse import SSEParser  # noqa: E402


def body_of(chunks: list[bytes]) -> bytes:
    """What is in HTTP chunks, of which each piece holds whole ones."""
    body = b""
    for chunk in chunks:
        while chunk:
            size, _, rest = chunk.partition(b"\r\n")
            length = int(size, 16)
            assert rest[length : length + 2] == b"\r\n"
            body += rest[:length]
            chunk = rest[length + 2 :]
    return body


# Inputs


def test_tokens_are_the_same_for_the_same_seed_and_others_for_another() -> None:
    assert texts(200, seed=1) == texts(200, seed=1)
    assert texts(200, seed=1) != texts(200, seed=2)


def test_tokens_are_of_many_kinds() -> None:
    tokens = texts(2000, seed=1)
    assert len(set(tokens)) > 1000
    assert all(tokens)
    assert any(not token.isascii() for token in tokens)
    assert any('"' in token for token in tokens)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_read_is_one_chunk_with_one_token_and_decodes_to_it(dialect: Dialect) -> None:
    tokens = texts(300, seed=3)
    decoder = dialects.load(dialect).new_decoder({})
    decoder.feed(body_of(openings(dialect)[1:]))
    for token, read in zip(tokens, reads(dialect, tokens), strict=True):
        decoded = decoder.feed(body_of([read]))
        assert [event.text for event in decoded if isinstance(event, events.Text)] == [token]


# The hot path


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_what_the_hot_path_takes_in_is_what_each_client_gets(dialect: Dialect) -> None:
    tokens = texts(40, seed=5)
    rig = hot_path.Rig(dialect)
    try:
        await rig.add(3, keep=True)
        for client in rig.clients:
            client.kept.clear()
        for read in reads(dialect, tokens):
            for provider in rig.providers:
                provider.data_received(read)
            rig.outbox.flush()
        for client in rig.clients:
            frames = SSEParser().feed(body_of(client.kept))
            said = [json.loads(frame.data) for frame in frames]
            assert [event["text"] for event in said if event["type"] == "text"] == tokens
    finally:
        await rig.aclose()


def test_a_measurement_of_the_hot_path_gives_a_time_for_each_run() -> None:
    runs = asyncio.run(hot_path.measure("openai_chat", 4, runs=2, tokens=40))
    assert len(runs) == 2
    assert all(0 < run < 1e6 for run in runs)


# Figures


def lane(cpu_us: float, pace: float = 1.0) -> dict[str, Any]:
    return dict.fromkeys(side_by_side.PAIRED, 1.0) | {"cpu_us_per_token": cpu_us, "pace": pace}


def paired(nginx: dict[str, Any], headrace: dict[str, Any]) -> dict[str, Any]:
    return {"nginx": nginx, "headrace": headrace, "ratio": headrace["cpu_us_per_token"] / nginx["cpu_us_per_token"]}


def test_the_ratio_is_the_median_of_the_pairs() -> None:
    rounds = [paired(lane(10), lane(12)), paired(lane(20), lane(28)), paired(lane(10), lane(30))]
    found = side_by_side.summary(rounds)
    assert found["ratio"] == 1.4
    assert found["ratio_range"] == [1.2, 3.0]
    assert found["headrace"]["cpu_us_per_token"] == 28


def test_a_round_that_fell_behind_its_pace_is_not_counted() -> None:
    found = side_by_side.summary([paired(lane(10), lane(20)), paired(lane(10), lane(10, pace=0.5))])
    assert (found["ratio"], found["rounds_held"]) == (2.0, 1)


def test_where_every_round_fell_behind_all_are_counted() -> None:
    found = side_by_side.summary([paired(lane(10), lane(11, pace=0.5)), paired(lane(10), lane(13, pace=0.5))])
    assert (found["ratio"], found["rounds_held"]) == (1.2, 0)


def test_percentiles_are_values_that_were_measured() -> None:
    assert stop.percentiles([3.0]) == {"p50": 3.0, "p99": 3.0, "max": 3.0}
    assert stop.percentiles([float(n) for n in range(200, -1, -1)]) == {"p50": 100.0, "p99": 198.0, "max": 200.0}


def test_a_missed_target_is_said() -> None:
    results = {"idle": {"bytes_each": 40 * 1024}}
    assert report.verdicts(results) == ["an idle stream weighs 40.0 KiB, the target is 32"]
    assert report.verdicts({"idle": {"bytes_each": 20 * 1024}}) == []


# The machine


def test_what_runs_pinned_runs_on_one_core_and_only_meanwhile() -> None:
    before = os.sched_getaffinity(0)
    core = min(before)
    with pinned(core):
        assert os.sched_getaffinity(0) == {core}
    assert os.sched_getaffinity(0) == before


def test_measured_and_measuring_have_different_cores() -> None:
    both = cores()
    assert both is None or both[0] != both[1]


def test_more_open_files_than_the_system_allows_is_said_before_anything_starts() -> None:
    with pytest.raises(CannotMeasure, match="open files"):
        allow_open_files(2**40)


def test_a_missing_nginx_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("bench.stage.find_program", lambda name: None)
    provider = Server("provider", 1, None, tmp_path / "log", None)  # type: ignore[arg-type]
    with pytest.raises(CannotMeasure, match="nginx is missing"), Stage(tmp_path).nginx(provider):
        pass


def test_a_missing_compiler_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("bench.stage.find_program", lambda name: None)
    with pytest.raises(CannotMeasure, match="compiler"):
        compile_programs(tmp_path)


# Real processes


@pytest.mark.real
def test_the_programs_compile_without_a_warning(tmp_path: Path) -> None:
    compile_programs(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["provider", "readers"]


@pytest.mark.real
@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_provider_speaks_its_dialect(dialect: Dialect) -> None:
    with Stage.open() as stage, stage.provider(gap_us=1000) as provider:
        head, _, body = request_to_provider(dialect, 7).partition(b"\r\n\r\n")
        url = f"http://127.0.0.1:{provider.port}{head.split()[1].decode()}"
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, body, timeout=10) as answer:
            decoded = dialects.load(dialect).new_decoder({}).feed(answer.read())
    assert [len(event.text) for event in decoded if isinstance(event, events.Text)] == [9] * 7
    assert isinstance(decoded[-1], events.StreamEnd)
    usage = [event.output_tokens for event in decoded if isinstance(event, events.Usage)]
    assert usage[-1] == 7


@pytest.mark.real
def test_a_server_that_fails_is_no_measurement() -> None:
    with Stage.open() as stage, stage.provider(gap_us=1000) as provider, stage.relay(provider, "openai_chat") as server:
        request = request_to_relay(3).replace(b"messages", b"massages")
        with pytest.raises(CannotMeasure, match=r"HTTP/1\.1 4"):
            stage.read(server, request, Load(readers=2, streams_each=1, tokens=3), seconds_max=10)


@pytest.mark.real
def test_a_small_run_beside_nginx_gives_sane_figures() -> None:
    load = Load(readers=5, streams_each=1, tokens=10)
    plan = side_by_side.Plan(load=load, warm_up=load, rounds=1)
    with Stage.open() as stage:
        results = side_by_side.run(stage, plan, lambda text: None)
    for dialect in DIALECTS:
        figures = results["dialects"][dialect]
        for name in ("nginx", "headrace"):
            row = figures["rounds"][0][name]
            assert row["tokens"] == 50
            assert 0 <= row["delay_p50_us"] <= row["delay_p99_us"] < 60e6
            assert 0 < row["ttft_p50_us"] <= row["ttft_p99_us"] < 60e6
            assert 1 << 20 < row["pss_idle_bytes"] <= row["pss_peak_bytes"] < 1 << 30
            assert 0 < row["pace"] <= 1
        assert figures["direct"]["tokens"] == 50


@pytest.mark.real
def test_every_stop_reaches_its_provider_and_its_receipt_says_when() -> None:
    with Stage.open() as stage:
        results = stop.run(stage, 5, lambda text: None)
    for way in ("spaced", "at_once"):
        row = results[way]
        assert 0 <= row["cancel_ms"]["p50"] <= row["cancel_ms"]["p99"] < 60e3
        assert 0 < row["provider_ms"]["p50"] < 60e3


@pytest.mark.real
def test_nothing_is_left_running() -> None:
    with Stage.open() as stage, stage.provider(gap_us=1000) as provider, stage.relay(provider, "openai_chat") as server:
        assert provider_report(provider)["started"] == 0
        started = [provider.process.pid, server.process.pid]
        assert all(members(pid) for pid in started)
    assert not any(members(pid) for pid in started)


@pytest.mark.real
def test_the_command_measures_one_part_and_prints_it(tmp_path: Path) -> None:
    code = f"import sys; from pathlib import Path; import bench.__main__ as b; b.RESULTS = Path({str(tmp_path)!r}) / 'a/b/c.json'; "
    code += "b.RESULTS.parent.parent.mkdir(); sys.exit(b.main())"
    command = [sys.executable, "-c", code, "idle", "--streams", "20"]
    outcome = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert outcome.returncode == 0, outcome.stderr
    assert "Idle streams" in outcome.stdout
    kept = json.loads((tmp_path / "a/b/c.json").read_text())
    assert kept["idle"]["streams"] == 20
    assert kept["machine"]["versions"]["python"] == describe()["versions"]["python"]
