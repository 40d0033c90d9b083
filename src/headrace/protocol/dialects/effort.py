"""How much a model should reason, in the words of both of OpenAI's dialects."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.protocol.request import ChatRequest

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
# The least budget of tokens that each effort stands for, from the greatest down.
_BUDGETS = ((8192, "high"), (2048, "medium"), (0, "low"))


def wished(request: ChatRequest) -> str | None:
    """Return the effort that is asked for, by its name or by a budget of tokens; None where nothing is said of it."""
    thinking = request.thinking
    if thinking is None or thinking is False:
        return None
    if thinking is True:
        return "medium"
    if thinking.effort is not None:
        return thinking.effort
    budget = thinking.budget_tokens
    return "medium" if budget is None else next(effort for least, effort in _BUDGETS if budget >= least)


def nearest(effort: str, known: object, default: Sequence[str]) -> str | None:
    """Return the effort of `known`, or of `default` if that is no list, that is nearest, the lesser of two; never another for none."""
    given = known if isinstance(known, list | tuple) else default
    there = [word for word in EFFORTS if word in given]
    if effort in there or effort == "none":
        return effort if effort in there else None
    place = EFFORTS.index(effort)
    return min((word for word in there if word != "none"), key=lambda word: abs(EFFORTS.index(word) - place), default=None)
