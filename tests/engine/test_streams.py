"""The registry: who finds what, for how long, under which key, and what happens at the end of the day."""

import asyncio

import pytest

from engine.guards import turns, until
from engine.peers import CHUNKED, LAST_CHUNK, Peer, chunk, chunked, head
from engine.rig import Clock, FakeSink, Rig
from engine.wires import OPENAI, Wire
from headrace.engine import streams as streams_module
from headrace.engine.stream import Stream
from headrace.errors import BadRequest, ExpiredStream, IdempotencyConflict, QueueFull, ServerShutdown, TooManyStreams, UnknownStream
from headrace.policy.admission import Line

HELLO = OPENAI.plain("Hello")


async def finished(rig: Rig, **request: object) -> Stream:
    """A stream that has come to its end."""
    stream = rig.ask(**request)  # type: ignore[arg-type]
    peer = await rig.listener.accept()
    await peer.request()
    peer.send(head(CHUNKED, "connection: close"), chunk(HELLO), LAST_CHUNK)
    await rig.ended(stream)
    return stream


async def answering(rig: Rig, **request: object) -> tuple[Stream, FakeSink, Peer]:
    stream, sink, peer = await rig.begin(**request)  # type: ignore[arg-type]
    peer.send(head(CHUNKED), chunk(OPENAI.until("text")))
    await until(lambda: stream.phase == "text")
    return stream, sink, peer


# --- users -----------------------------------------------------------------------------------------------------------------


async def test_users_do_not_see_each_other_s_streams(rig: Rig) -> None:
    mine, _, peer = await answering(rig, user="me", key="k")

    assert rig.streams.find(mine.id, "me") is mine
    with pytest.raises(UnknownStream):
        rig.streams.find(mine.id, "you")
    assert rig.streams.claimed("you", "k", b"hi") is None
    assert rig.streams.cancel_by_key("you", "k") is None
    assert not mine.ended
    peer.fin()
    await rig.ended(mine)
    with pytest.raises(UnknownStream):
        rig.streams.find(mine.id, "you")


async def test_a_stream_that_is_gone_is_gone_for_its_user_and_unknown_to_others(rig: Rig, clock: Clock) -> None:
    stream = await finished(rig, user="me")
    await clock.jump(601)

    with pytest.raises(ExpiredStream):
        rig.streams.find(stream.id, "me")
    with pytest.raises(UnknownStream):
        rig.streams.find(stream.id, "you")


async def test_ids_cannot_be_guessed(rig: Rig) -> None:
    ids = {rig.ask().id for _ in range(50)}

    assert len(ids) == 50
    assert all(len(id) == 35 and int(id[3:], 16) for id in ids)
    for wrong in ("", "st_", "st_" + "0" * 32, next(iter(ids))[:-1], next(iter(ids)).upper()):
        with pytest.raises(UnknownStream):
            rig.streams.find(wrong, "u")


# --- retention -------------------------------------------------------------------------------------------------------------


async def test_an_answer_is_kept_for_its_time(rig: Rig, clock: Clock) -> None:
    stream = await finished(rig)
    await clock.jump(599)

    late = rig.read(rig.streams.find(stream.id, "u"))
    assert late.text == "Hello"
    await clock.jump(2)
    with pytest.raises(ExpiredStream):
        rig.streams.find(stream.id, "u")
    assert rig.streams.retained_bytes == 0


async def test_each_answer_has_its_own_time(rig: Rig, clock: Clock) -> None:
    first = await finished(rig)
    await clock.jump(400)
    second = await finished(rig)
    await clock.jump(201)

    with pytest.raises(ExpiredStream):
        rig.streams.find(first.id, "u")
    assert rig.streams.find(second.id, "u") is second
    await clock.jump(400)
    with pytest.raises(ExpiredStream):
        rig.streams.find(second.id, "u")


async def test_a_running_stream_is_never_too_old(rig: Rig, clock: Clock) -> None:
    rig.set(retention_s=1.0)
    stream, _, _ = await answering(rig)
    await clock.jump(50)
    await finished(rig)

    assert rig.streams.find(stream.id, "u") is stream


async def test_past_the_bound_the_oldest_go_first(rig: Rig) -> None:
    rig.set(retained_bytes_max=1)
    first = await finished(rig)
    assert rig.streams.find(first.id, "u") is first  # one is always kept: somebody may be about to come back for it

    second = await finished(rig)
    with pytest.raises(ExpiredStream):
        rig.streams.find(first.id, "u")
    assert rig.streams.find(second.id, "u") is second
    assert rig.streams.retained_bytes == second.log.size


async def test_a_reader_that_is_still_at_it_is_closed_with_the_answer(rig: Rig, clock: Clock) -> None:
    rig.set(slow_reader_s=10_000.0)
    stream, sink, peer = await answering(rig)
    sink.hold()
    peer.send(chunk(OPENAI.whole[len(OPENAI.until("text")) :]), LAST_CHUNK)
    await rig.ended(stream)

    await clock.jump(601)

    assert sink.aborted
    assert sink.reader is not None
    assert await sink.reader.closed == "expired"


async def test_so_many_ids_are_remembered_and_no_more(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams_module, "REMEMBERED_IDS_MAX", 3)
    rig.set(retained_bytes_max=1)
    old = [await finished(rig, key=f"k{n}") for n in range(6)]

    with pytest.raises(UnknownStream):
        rig.streams.find(old[0].id, "u")
    with pytest.raises(ExpiredStream):
        rig.streams.find(old[4].id, "u")
    assert len(rig.streams._expired) == len(rig.streams._claims) == 3


# --- idempotency -----------------------------------------------------------------------------------------------------------


async def test_the_same_key_and_body_join_the_stream(rig: Rig) -> None:
    stream, sink, peer = await answering(rig, key="k")

    joined = rig.streams.claimed("u", "k", b"hi")
    assert joined is stream
    other = rig.read(joined)
    peer.send(chunk(OPENAI.whole[len(OPENAI.until("text")) :]), LAST_CHUNK)
    await rig.ended(stream)

    assert sink.text == other.text == "Für dich"
    assert rig.streams.claimed("u", "k", b"hi") is stream
    assert rig.listener.accepted == 1


async def test_the_same_key_with_another_body_is_a_mistake(rig: Rig) -> None:
    await answering(rig, key="k")

    with pytest.raises(IdempotencyConflict):
        rig.streams.claimed("u", "k", b"something else")
    assert rig.streams.claimed("u", "other", b"something else") is None


async def test_a_key_whose_answer_is_gone_says_so(rig: Rig, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams_module, "REMEMBERED_IDS_MAX", 1)
    await finished(rig, key="k")
    await clock.jump(601)
    with pytest.raises(ExpiredStream):
        rig.streams.claimed("u", "k", b"hi")

    await finished(rig)  # the id is forgotten, the key is not
    await clock.jump(601)
    with pytest.raises(ExpiredStream):
        rig.streams.claimed("u", "k", b"hi")


async def test_a_key_is_new_again_some_day(rig: Rig, clock: Clock) -> None:
    await finished(rig, key="k")
    await clock.jump(1800 + 600 + 1)

    assert rig.streams.claimed("u", "k", b"something else") is None


async def test_a_key_of_a_request_that_was_refused_is_free(rig: Rig) -> None:
    rig.set(concurrent_streams=1)
    running, _, _ = await answering(rig)
    with pytest.raises(TooManyStreams):
        rig.ask(key="k", text="one")
    running.cancel("user")

    assert rig.streams.claimed("u", "k", b"two") is None
    assert rig.ask(key="k", text="two")


async def test_a_stop_by_key(rig: Rig) -> None:
    stream, sink, peer = await answering(rig, key="k")

    assert rig.streams.cancel_by_key("u", "k") is stream
    assert rig.streams.cancel_by_key("u", "k") is stream

    await peer.gone()
    assert sink.end["finish_reason"] == "cancelled"


async def test_a_stop_that_comes_before_its_request(rig: Rig) -> None:
    assert rig.streams.cancel_by_key("u", "k") is None
    assert rig.streams.cancel_by_key("u", "k") is None

    stream = rig.ask(key="k")
    sink = rig.read(stream)

    assert sink.end["finish_reason"] == "cancelled"
    await turns()
    assert rig.listener.accepted == 0
    assert rig.streams.claimed("u", "k", b"hi") is stream  # a retry gets the same answer


async def test_a_stop_that_came_too_early_is_forgotten(rig: Rig, clock: Clock) -> None:
    rig.streams.cancel_by_key("u", "k")
    await clock.jump(61)

    stream = rig.ask(key="k")
    await rig.listener.accept()
    assert not stream.ended


# --- limits ----------------------------------------------------------------------------------------------------------------


async def test_so_many_streams_for_one_user(rig: Rig) -> None:
    rig.set(concurrent_streams=2)
    mine = [rig.ask(user="me") for _ in range(2)]

    with pytest.raises(TooManyStreams) as refused:
        rig.ask(user="me")
    assert "2 answers" in refused.value.public_message
    assert refused.value.retry_after_s == 1
    rig.ask(user="you")

    mine[0].cancel("user")
    rig.ask(user="me")
    with pytest.raises(TooManyStreams):
        rig.ask(user="me")


async def test_a_request_that_cannot_be_said_takes_no_place(rig: Rig) -> None:
    rig.set(concurrent_streams=1)
    provider = rig.provider(line=Line(1))
    for _ in range(3):
        with pytest.raises(BadRequest):
            rig.ask(provider, tool_choice="no such tool")

    assert (rig.streams.running, provider.line.active) == (0, 0)
    assert not rig.ask(provider).in_line


async def test_a_line_that_is_full(rig: Rig) -> None:
    provider = rig.provider(line=Line(1, depth_max=1))
    rig.ask(provider)
    rig.ask(provider)

    with pytest.raises(QueueFull):
        rig.ask(provider)
    assert rig.streams.running == 2


# --- the end of the day --------------------------------------------------------------------------------------------------------


async def test_who_drains_takes_no_new_streams_and_lets_the_running_ones_end(rig: Rig) -> None:
    stream, sink, peer = await answering(rig, key="k")
    rig.streams.drain()

    with pytest.raises(ServerShutdown) as refused:
        rig.ask()
    assert refused.value.retry_after_s == 1
    assert rig.streams.claimed("u", "k", b"hi") is stream
    idle = asyncio.create_task(rig.streams.wait_idle())
    await turns()
    assert not idle.done()

    peer.send(chunk(OPENAI.whole[len(OPENAI.until("text")) :]), LAST_CHUNK)
    await idle
    assert sink.end["finish_reason"] == "tool_calls"


async def test_nothing_to_wait_for(rig: Rig) -> None:
    await finished(rig)
    await rig.streams.wait_idle()


async def test_what_still_runs_at_the_end_is_told_so(rig: Rig, wire: Wire) -> None:
    provider = rig.provider(wire.dialect, line=Line(2))
    streams = [rig.ask(provider) for _ in range(4)]
    sinks = [rig.read(stream) for stream in streams]
    peer, silent = await rig.listener.accept(), await rig.listener.accept()
    await peer.request()
    peer.send(head(CHUNKED), chunk(wire.until("tool_arguments")))
    await until(lambda: any(stream.phase == "tool_arguments" for stream in streams))

    rig.streams.end_all()

    for sink in sinks:
        assert (sink.end["code"], sink.end["retryable"]) == ("server_shutdown", True)
        sink.assert_gapless()
    assert sorted(sink.end["partial"] for sink in sinks) == [False, False, False, True]
    await peer.gone()
    await silent.gone()
    await rig.streams.wait_idle()


async def test_closing_everything(rig: Rig) -> None:
    stream, sink, peer = await answering(rig)
    never_began = rig.ask()
    tasks = [stream.task, never_began.task]

    await rig.streams.aclose()

    assert sink.end["code"] == "server_shutdown"
    assert [task is not None and task.done() for task in tasks] == [True, True]
    assert never_began.ended
    await peer.gone()
    assert rig.streams.running == 0
    await rig.streams.aclose()  # once more does nothing


async def test_an_engine_that_was_never_used_closes_too(rig: Rig) -> None:
    await rig.streams.aclose()


# --- what a stream keeps -----------------------------------------------------------------------------------------------------------


async def test_what_is_kept_for_late_readers_is_the_answer_and_not_the_question(rig: Rig) -> None:
    stream = await finished(rig, text="a long question " * 1000)

    assert stream.request.messages == []


async def test_many_streams_one_after_the_other_leave_nothing_behind(rig: Rig) -> None:
    provider = rig.provider()
    peer: Peer | None = None
    for n in range(100):
        stream = rig.ask(provider)
        sink = rig.read(stream)
        peer = peer or await rig.listener.accept()
        await peer.request()
        peer.send(chunked(OPENAI.plain(str(n))))
        await rig.ended(stream)
        assert sink.reader is not None
        stream.detach(sink.reader, "complete")
        await until(lambda: rig.pool.statistics()["idle"] == 1)

    assert rig.streams.running == 0
    assert rig.listener.accepted == 1
    assert rig.streams.live() == []
