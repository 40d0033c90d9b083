"""Which tool call a fragment belongs to, when a vendor does not number its calls as the specification says.

1. A call is known by its `index`; without one by its `id`; without both it is the last one.
2. A different id together with a name, on an index that is taken, is another call. A different id alone is not: some vendors make
   up a new id for every fragment.
3. Where no id tells, another name after arguments have begun is another call, and so is a name with `{` after a `}`, which inside
   one object can never follow each other.
4. A name that comes again is no news. Without index and id, a name begins another call.
"""

from __future__ import annotations

# No ids, whatever the vendor means by them.
_NO_IDS = frozenset(("null", "none", "None", "undefined"))


class Call:
    """One call: the number that it has here, what the vendor called it, and the last fragment of its arguments."""

    __slots__ = ("id", "last", "name", "number")

    def __init__(self, number: int, id: str) -> None:
        self.number = number
        self.id = id
        self.name = ""
        self.last = ""


class Calls:
    """All calls of one answer.

    Attributes:
        count: how many there have been.
    """

    __slots__ = ("_last", "_places", "count")

    def __init__(self) -> None:
        self.count = 0
        self._places: dict[int | str, Call] = {}
        self._last: Call | None = None

    def find(self, index: object, id: str, name: str, arguments: str) -> tuple[Call, Call | None]:
        """Return the fragment's call, and the call that it replaces at its place, which is then over."""
        id = "" if not id or id in _NO_IDS else id
        number = index if index.__class__ is int else _number(index)
        place = number if number is not None else id
        keyed = place != ""
        call = self._places.get(place) if keyed else self._last
        if call is not None and not (name and _is_another(call, id, name, arguments, keyed=keyed)):
            call.id = call.id or id
            return call, None
        self.count += 1
        new = self._last = Call(self.count, id)
        if keyed:
            self._places[place] = new
        if id:
            self._places[id] = new
        return new, call


def _is_another(call: Call, id: str, name: str, arguments: str, *, keyed: bool) -> bool:
    """Whether a fragment with a name, at the place of `call`, begins another call."""
    if id and call.id:
        return id != call.id
    if not call.name:
        return False
    closed_before = call.last.rstrip().endswith("}") and arguments.lstrip().startswith("{")
    return not keyed or (bool(call.last) and (name != call.name or closed_before))


def _number(index: object) -> int | str | None:
    """An index is a number, or a number in quotes; any other string will do as well."""
    if isinstance(index, str):
        return int(index) if index.isascii() and index.isdigit() and len(index) < 10 else index or None
    return int(index) if isinstance(index, int | float) and abs(index) < 2**31 else None
