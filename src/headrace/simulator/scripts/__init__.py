"""The behaviours that a model's name can ask for: `name?option=value&option=value`."""

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl

import msgspec

from headrace.simulator.ask import Rejected
from headrace.simulator.scripts import answers, faults, tools
from headrace.simulator.scripts.base import Script

_CLASSES: Final[tuple[type[Script], ...]] = (*answers.SCRIPTS, *tools.SCRIPTS, *faults.SCRIPTS)
SCRIPTS: Final[Mapping[str, type[Script]]] = {script.name: script for script in _CLASSES}
_ERROR_STATUS = re.compile(r"error_([45]\d\d)")
_EXAMPLES = ("error_401", "error_429", "error_500", "error_529")


def names() -> list[str]:
    """Return the names that `GET /v1/models` lists; `error_<status>` is shown by examples."""
    return [*(name for name in SCRIPTS if name not in ("replay", faults.Error.name)), *_EXAMPLES]


def parse(model: str) -> Script:
    """Return the script that `model` names, with its options.

    Raises:
        Rejected: there is no such script (404), or it has no such option or value (400).
    """
    name, _, query = model.partition("?")
    status = _ERROR_STATUS.fullmatch(name)
    script = faults.Error if status else SCRIPTS.get(name)
    if script is None or name == faults.Error.name:
        raise Rejected(404, f"The model `{name}` does not exist. The simulator has: {', '.join(SCRIPTS)}.")
    options = _options(name, script, query)
    if status:
        options["status"] = status[1]
    try:
        return msgspec.convert(options, script, strict=False)
    except msgspec.ValidationError as error:
        raise Rejected(400, f"`{name}`: {error}.") from error


def _options(name: str, script: type[Script], query: str) -> dict[str, str]:
    known = [field for field in script.__struct_fields__ if field != "status"]
    options: dict[str, str] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in known:
            raise Rejected(400, f"`{name}` has no option `{key}`. It has: {', '.join(known)}.")
        if key in options:
            raise Rejected(400, f"`{name}`: the option `{key}` is given twice.")
        options[key] = value
    return options
