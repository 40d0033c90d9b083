"""An answer on a terminal, moment by moment: what is printed for good, and what stands below it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, RenderableType

from headrace.cli.chat.markdown import THEME
from headrace.cli.chat.view import AnswerView
from headrace.client import ClientMetrics, Connection, Reply
from headrace.errors import UpstreamIdle
from headrace.protocol import events as ev

START = ev.StreamStart(seq=1, stream_id="s", message_id="m", model="mill-1", provider="p", protocol=1, resumable=True, expires_at=0)
METRICS = ClientMetrics(ttft_ms=400.0, tokens=3)


def lines(renderables: Sequence[RenderableType]) -> list[str]:
    console = Console(width=100, theme=THEME)
    shown: list[str] = []
    for renderable in renderables:
        with console.capture() as capture:
            console.print(renderable)
        text = [line.rstrip() for line in capture.get().split("\n")]
        shown += [line for line in text if line] or [""]
    return shown


class Watched:
    """A view with a clock that is set by hand."""

    def __init__(self, model: str | None = "mill") -> None:
        self.reply = Reply()
        self.now = 100.0
        self.silent_s = 0.0
        self.view = AnswerView(model, self.reply, self.now)

    def at(self, seconds: float, *events: ev.Event) -> Watched:
        self.now = 100.0 + seconds
        for event in events:
            self.reply.feed(event)
            self.view.take(event, self.now)
        return self

    def told(self, **connection: object) -> Watched:
        self.view.connection(Connection(**connection), self.now)  # type: ignore[arg-type]
        return self

    @property
    def finished(self) -> list[str]:
        return lines(self.view.finished())

    @property
    def region(self) -> list[str]:
        """What stands at the foot, without the figures."""
        shown = lines(self.view.region(self.now, 20, METRICS, self.silent_s))
        assert shown[-1].endswith("Ctrl-C stops")
        return shown[:-1]

    def conclude(self, stop: str | None = None, error: Exception | None = None) -> list[str]:
        return lines(self.view.conclude(self.now, METRICS, stop=stop, error=error))  # type: ignore[arg-type]


def text(piece: str, index: int = 0) -> ev.Event:
    return ev.Text(index=index, text=piece)


def test_what_is_waited_for_is_said_as_it_becomes_known() -> None:
    watched = Watched(model=None)
    watched.told(state="connecting")
    assert watched.region == ["Connecting."]
    watched.told(state="connecting", attempt=2, delay_s=0.25)
    assert watched.region == ["Connecting. Attempt 2."]
    watched.told(state="live").at(1.0)
    assert watched.region == ["Waiting for the model, 1 s"]
    watched.at(2.0, START)
    assert watched.region == ["Waiting for mill-1, 2 s"]
    watched.at(2.0, ev.Queue(seq=2, position=4, depth=11, eta_seconds=6, reason="provider_concurrency"))
    assert watched.region == ["4th of 11 in line, about 6 s"]
    watched.at(5.0, text("Now"))
    assert watched.region == ["Now", ""]


def test_thinking_is_open_while_it_comes_and_one_line_afterwards() -> None:
    watched = Watched().at(1.0, ev.Thinking(index=0, text="First,\nthe weir", kind="raw"))
    assert watched.region == ["Thinking… 0 s", "First,", "the weir", ""]
    assert watched.finished == []
    watched.at(13.4, ev.Thinking(index=0, text=".", kind="raw", seq=9, from_seq=7), ev.BlockEnd(index=0, kind="thinking"))
    assert watched.finished == ["Thought for 12 s, ≈ 4 tokens"]
    assert watched.finished == []
    assert watched.at(14.0, text("Yes.", 1)).region == ["", "Yes.", ""]


def test_hidden_thinking_says_so_and_a_signature_alone_nothing() -> None:
    hidden = ev.Thinking(index=0, text="", kind="raw", redacted="opaque")
    assert Watched().at(1.0, hidden, ev.BlockEnd(index=0, kind="thinking")).finished == ["The provider keeps this reasoning hidden."]
    signature = ev.Thinking(index=0, text="", kind="raw", signature="sig")
    assert Watched().at(1.0, signature, ev.BlockEnd(index=0, kind="thinking")).finished == []


def test_text_is_printed_block_by_block_and_its_rest_is_drawn() -> None:
    watched = Watched().at(1.0, text("# Mill\nThe water\n\nis "))
    assert watched.finished == ["Mill"]
    assert watched.region == ["", "The water", "is", ""]
    watched.at(1.1, text("**level**"))
    assert watched.finished == []
    watched.at(1.2, text(".\n"))
    assert watched.finished == ["", "The water"]
    watched.at(1.3, ev.BlockEnd(index=0, kind="text"))
    assert watched.finished == ["", "is level."]
    assert watched.region == [""]


def test_code_arrives_plainly_and_is_printed_when_it_is_whole() -> None:
    watched = Watched().at(1.0, text("```python\nx = 1\ny"))
    assert watched.region == ["python, arriving", "  x = 1", "  y", ""]
    watched.at(1.1, text(" = 2\n```\n"))
    assert watched.finished == ["  x = 1", "  y = 2"]


def test_a_paragraph_without_end_costs_a_screenful() -> None:
    watched = Watched().at(1.0, text("water " * 100_000))
    assert len(watched.region) < 100


def test_a_call_shows_its_name_at_once_then_its_size_then_its_arguments() -> None:
    watched = Watched().at(1.0, ev.ToolCallStart(index=0, tool_call_id="c", name="get_level"))
    assert watched.region == ["get_level  Writing, 0 B", ""]
    raw = '{"station":"Weir","å":[1,2]}'
    watched.at(1.1, ev.ToolCallDelta(tool_call_id="c", arguments_delta=raw))
    assert watched.region == ["get_level  Writing, 29 B", f"  {raw}", ""]
    complete = ev.ToolCallComplete(
        tool_call_id="c", name="get_level", arguments={"station": "Weir", "å": [1, 2]}, arguments_raw=raw, valid=True
    )
    watched.at(1.2, complete, ev.BlockEnd(index=0, kind="tool_call"))
    shown = watched.finished
    assert shown[0] == "get_level  Ready, for your app to run"
    assert '    "station": "Weir",' in shown
    watched.at(2.0, ev.ToolResult(tool_call_id="c", ok=True, content="80 cm", duration_ms=840))
    assert watched.finished == ["", "get_level  Done in 0.84 s"]
    watched.at(2.0, ev.ToolResult(tool_call_id="c", ok=False, content="no", duration_ms=10_000))
    assert watched.finished == ["", "get_level  Failed after 10 s"]


def test_arguments_that_are_not_json_are_kept_as_sent() -> None:
    watched = Watched().at(1.0, ev.ToolCallStart(index=0, tool_call_id="c", name="get_level"))
    broken = ev.ToolCallComplete(tool_call_id="c", name="get_level", arguments=None, arguments_raw='{"station": "We', valid=False)
    watched.at(1.1, broken, ev.BlockEnd(index=0, kind="tool_call"))
    assert watched.finished == ["get_level  Arguments are not valid JSON, kept as sent", '  {"station": "We']


def test_calls_at_once_are_printed_in_the_order_of_the_answer() -> None:
    watched = Watched().at(1.0, *(ev.ToolCallStart(index=n, tool_call_id=f"c{n}", name=f"tool_{n}") for n in range(2)))
    done = ev.ToolCallComplete(tool_call_id="c1", name="tool_1", arguments={}, arguments_raw="", valid=True)
    watched.at(1.1, done, ev.BlockEnd(index=1, kind="tool_call"))
    assert watched.finished == []
    assert watched.region == ["tool_0  Writing, 0 B", ""]
    watched.at(1.2, ev.BlockEnd(index=0, kind="tool_call"))
    assert watched.finished == ["tool_0  Stopped while writing", "", "tool_1  Ready, for your app to run"]


def test_a_drop_a_resume_and_silence_are_told() -> None:
    watched = Watched().at(1.0, text("The "))
    watched.told(state="reconnecting", attempt=2, delay_s=4.0, reason="lost")
    assert watched.region[-1] == "Connection lost. Attempt 2 in 4 s. What you see is kept."
    watched.at(5.0).told(state="live")
    watched.told(state="resumed", replayed=34)
    assert watched.region[-1] == "Resumed, 34 events replayed"
    watched.at(12.0)
    assert watched.region[-1] == "Quiet for 11 s"
    watched.silent_s = 21.0
    assert watched.at(26.0).region[-1] == "No sign from the relay for 21 s."
    assert watched.told(state="stopping").region[-1] == "Stopping"


def test_the_end_keeps_everything_and_says_what_happened() -> None:
    watched = Watched().at(1.0, START, text("The water is"))
    assert watched.conclude(stop="You stopped at 1.0 s.") == [
        "The water is", "", "You stopped at 1.0 s.", "", "TTFT 0.40 s · ≈ 3 tokens · mill-1"
    ]  # fmt: skip
    watched = Watched().at(1.0, START, text("The water is"))
    assert watched.conclude(error=UpstreamIdle("Quiet.")) == [
        "The water is", "", "Quiet. The text above is kept but not complete. It may work again.", "", "TTFT 0.40 s · ≈ 3 tokens · mill-1"
    ]  # fmt: skip


def test_what_is_withdrawn_or_skipped_is_told() -> None:
    watched = Watched().at(1.0, text("First."), ev.BlockEnd(index=0, kind="text"))
    assert watched.finished == ["First."]
    watched.at(2.0, ev.Reset(seq=9, from_seq=2, reason="retry"), text("Second."), ev.BlockEnd(index=0, kind="text"))
    assert watched.finished == ["", "The first attempt failed and was withdrawn.", "", "Second."]
    watched.at(3.0, ev.Gap(seq=20, from_seq=10, to_seq=20, reason="slow_reader", recoverable=True, characters=412))
    watched.at(3.0, ev.Notice(code="fallback_model", message="mill-2 answers instead."), ev.Source(url="http://x.test", title="X"))
    assert watched.finished == ["", "412 characters skipped.", "", "mill-2 answers instead.", "", "Source: X (http://x.test)"]
