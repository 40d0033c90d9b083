"""What the simulated models say: answers that are worth reading while they arrive, and how they fall into tokens."""

import re
from functools import cache
from itertools import cycle, islice

QUICK = (
    "A headrace is the channel that carries water to the wheel: level, smooth, and gated. "
    "This one carries words, and you read each of them at the moment it arrives."
)

STORY = '''# The Mill at Ljusnäs

The old miller kept two books. In the first she wrote how much grain came in, and in the second how much flour went out. \
Whatever the two disagreed about, she said, was still inside the mill.

Her headrace was four hundred paces of oak and clay. Water entered it at the weir, ran level along the hillside while the \
river fell away beneath, and arrived at the wheel with all of its height unspent. *A channel*, she told every apprentice, \
*does not make power. It only refuses to waste it.*

## What the apprentice tried

Émile came from the city with a better idea. He built a great tank above the wheel, let it fill for an hour, and opened it \
all at once.

| Method | Water per hour | Flour per hour |
| --- | ---: | ---: |
| Open channel | 900 m³ | 310 kg |
| Tank, then flood | 900 m³ | 95 kg |

The same river, a third of the bread. For fifty-nine minutes the stones stood still, and in the sixtieth they threw half of \
the grain on the floor. "It is the same amount," he protested. "It is not the same *when*," she said.

So she had him paint three rules above the gate:

1. Pass on what you have as soon as you have it.
2. When the wheel is full, close the gate; do not dig a pond.
3. When nobody waits for flour, let the river keep its water.

The last took him longest. On the evening of the fair a baker cancelled his order, and Émile let the wheel turn on empty \
stones until morning, because no one had walked up the hill to tell him. After that they hung a bell on a line from the village.

## What he wrote down

```python
def gate(level: float, *, is_open: bool) -> bool:
    """Close above the high mark, open below the low one."""
    if level >= 0.9:
        return False
    return is_open or level <= 0.4
```

Two marks, not one: with a single mark the gate would chatter all night. A visitor from Kyōto copied a line of her own \
beneath it, 流れる水は腐らず, *running water does not go stale*.

Nobody at the mill has ever seen the whole of the river. They have seen it pass.
'''

MARKDOWN = r'''## How long does an answer take?

Two numbers decide it. The **first token** costs a fixed wait $t_0$; every later token costs one interval of a steady \
rate $r$. For $n$ tokens the reader waits

$$
T(n) = t_0 + \frac{n - 1}{r}
$$

and sees something after $t_0$ if the path streams, but only after $T(n)$ if *anything* on the path collects.

| Path | First sight | Complete |
| :--- | ---: | ---: |
| streams | 0.4 s | 10.4 s |
| collects 4 KiB | 2.1 s | 10.4 s |
| collects everything | 10.4 s | 10.4 s |

Three usual suspects:

- a proxy that buffers responses (`X-Accel-Buffering: no` tells it not to),
- a compressor that waits for a full block,
- a client that asks for `response.text()` and so for the *end*:
  - `await response.text()` waits,
  - `for await (const part of response.body)` does not.

Measure it instead of guessing:

```python
import time


def first_and_last(chunks):
    """Return the seconds until the first and until the last chunk."""
    began = time.monotonic()
    seen = [time.monotonic() - began for _ in chunks]
    return seen[0], seen[-1]
```

> If both values are nearly equal, you have not measured a stream. You have measured a delivery.

See the notes on 'naïve' buffering in the café example, § 3, and the glossary entry 「滝」 (*taki*, waterfall).
'''.replace("\\\n", "")

REASONING = (
    "The question is where the time goes, so I should separate the parts before I add them up. "
    "A mill pond stores water, a headrace moves it. Storage adds delay even when nothing is lost: "
    "if the pond takes an hour to fill, every drop waits up to an hour. The channel adds only its length over its speed. "
    "Let me check with numbers. Four hundred paces are about 300 metres; at one metre per second that is five minutes, once, "
    "for the first drop, and after it the flow is continuous. So the two designs deliver the same volume per day and differ "
    "only in *when*. For a wheel, when is everything. The same holds for an answer that somebody is reading. "
)

CONCLUSION = (
    "The channel wins. Both designs deliver the same volume in a day, but the pond makes every drop wait until it is full, "
    "while the headrace delays only the *first* drop, by its length over its speed: 300 m at 1 m/s, or **five minutes**. "
    "After that the wheel never stands still.\n\n"
    "- Pond: up to 60 minutes of delay for every drop.\n"
    "- Headrace: 5 minutes, once.\n\n"
    "Where someone reads while the answer grows, the same arithmetic holds for tokens."
)

LOOKING_UP = "I will read the gauge at the weir before I answer."

REFUSAL = "I can't help with opening somebody else's sluice at night. I can explain how the gate is meant to be locked."

ENDLESS = (
    "The river does not know that it is being measured. It comes down past the alders, past the ford and the gauge, and the "
    "number on the gauge is already wrong when it has been written down. Below the weir it divides: one arm keeps the old bed, "
    "the other is led along the slope to the mill, and the two meet again under the bridge as if nothing had been asked of "
    "them. Über dem Wehr steht das Wasser still; darunter hört man es die ganze Nacht. 川はまた流れる。 "
)

_IDEOGRAPHS = r"\u3000-\u30ff\u3400-\u9fff\uff00-\uffef"
_TOKEN = re.compile(
    rf"[{_IDEOGRAPHS}]{{1,2}}"  # two ideographs or kana make a token
    rf"|[ ]?[^\W\d_{_IDEOGRAPHS}]{{1,7}}"  # a word's first piece carries the space before it
    r"|[ ]?\d{1,3}"
    r"|\s+"
    r"|[^\w\s]{1,3}"
    r"|."
)


@cache
def tokenise(text: str) -> tuple[str, ...]:
    """Cut `text` into pieces of about four characters, the way that models' tokenizers do; joined they are `text` again."""
    return tuple(_TOKEN.findall(text))


def of_length(pieces: tuple[str, ...], tokens: int) -> list[str]:
    """Return exactly `tokens` pieces, from the beginning again where the text is shorter; 0 means the text as it is."""
    if not tokens or not pieces:
        return list(pieces)
    return list(islice(cycle(pieces), tokens))
