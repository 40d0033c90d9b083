"""Markdown in pieces: where a block ends, and that nothing is lost whatever comes."""

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from headrace.cli.chat.markdown import THEME, Answer, Blocks

ANSWER = """# Title
Two lines
of one paragraph.

- first
- second

  still the second
- third

| a | b |
|---|---|
| 1 | 2 |
```python
x = 1

y = 2
```
After it.
~~~
``` not the end
~~~

1. one

2. two
"""


def blocks_of(text: str, size: int) -> list[str]:
    blocks = Blocks()
    done = [block for at in range(0, len(text), size) for block in blocks.feed(text[at : at + size])]
    return done + blocks.finish()


def shown(source: str) -> str:
    console = Console(width=60, theme=THEME)
    with console.capture() as capture:
        console.print(Answer(source))
    return capture.get()


def test_where_blocks_end() -> None:
    assert blocks_of(ANSWER, 1) == [
        "# Title",
        "Two lines\nof one paragraph.",
        "- first\n- second\n\n  still the second\n- third",
        "| a | b |\n|---|---|\n| 1 | 2 |",
        "```python\nx = 1\n\ny = 2\n```",
        "After it.",
        "~~~\n``` not the end\n~~~",
        "1. one",
        "2. two",
    ]


def test_a_block_is_over_as_soon_as_it_can_be() -> None:
    blocks = Blocks()
    assert blocks.feed("One.\n\n") == []
    assert blocks.feed("T") == []
    assert blocks.feed("wo.\n") == ["One."]
    assert blocks.feed("# Three\n") == ["Two.", "# Three"]
    assert blocks.feed("```\nx\n```\n") == ["```\nx\n```"]


def test_an_open_fence_says_what_arrives() -> None:
    blocks = Blocks()
    blocks.feed("```python title\nx = 1\ny =")
    assert blocks.arriving_code == "python"
    assert blocks.tail_lines(10) == ["x = 1", "y ="]
    assert blocks.tail_lines(1) == ["y ="]
    blocks.feed(" 2\n```\n")
    assert blocks.arriving_code is None


@given(st.text(alphabet="a b\n#`~-|1.>* \t", max_size=200), st.integers(1, 20))
def test_cuts_change_nothing(text: str, size: int) -> None:
    assert blocks_of(text, size) == blocks_of(text, len(text) + 1)


@given(st.text(alphabet="ab\n#`~- ", max_size=200))
def test_every_line_is_in_exactly_one_block(text: str) -> None:
    lines = [line for block in blocks_of(text, 7) for line in block.split("\n") if line.strip()]
    assert lines == [line for line in text.split("\n") if line.strip()]


def test_html_is_shown_and_not_obeyed() -> None:
    assert "<div onclick=x>hi</div>" in shown("<div onclick=x>hi</div>")
    assert "</kbd></kbd>" in shown("</kbd></kbd> text")


def test_links_show_where_they_lead_and_images_are_not_loaded() -> None:
    assert "bank (http://evil.test)" in shown("[bank](http://evil.test)")
    assert "Image not loaded: http://x.test/i.png" in shown("![alt](http://x.test/i.png)")


def test_headings_have_no_box() -> None:
    assert shown("# Title").strip() == "Title"
