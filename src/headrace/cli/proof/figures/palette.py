"""The colours of the interface, light and dark, and the style of the figures in them."""

from __future__ import annotations

import re
from collections.abc import Mapping

LIGHT = {
    "page": "#F5F7F5",
    "surface": "#FFFFFF",
    "sunken": "#EDF1EE",
    "ink": "#13211F",
    "ink-2": "#40504D",
    "ink-3": "#5C6B68",
    "hairline": "#D8E0DB",
    "edge": "#7B8A86",
    "water": "#0A6470",
    "flow": "#1A8794",
    "wash": "#DDEDED",
    "thinking": "#7C84BC",
    "thinking-text": "#545C96",
    "thinking-wash": "#E9EBF5",
    "tool": "#B4743C",
    "tool-text": "#8A5120",
    "amber": "#AE7C12",
    "amber-text": "#7D5700",
    "rust": "#C2483C",
    "rust-text": "#A2332A",
    "rust-wash": "#F9E7E3",
}
DARK = {
    "page": "#0D1517",
    "surface": "#141E21",
    "sunken": "#101A1C",
    "ink": "#E6EEEC",
    "ink-2": "#B0BFBC",
    "ink-3": "#8A9B98",
    "hairline": "#233134",
    "edge": "#637774",
    "water": "#62CBD4",
    "flow": "#3FB3BE",
    "wash": "#12302F",
    "thinking": "#7F88C8",
    "thinking-text": "#B1B8EA",
    "thinking-wash": "#1D2136",
    "tool": "#BE8450",
    "tool-text": "#E0AC7E",
    "amber": "#C9993A",
    "amber-text": "#E4B95A",
    "rust": "#DE6A5D",
    "rust-text": "#F3958A",
    "rust-wash": "#291919",
}
SANS = 'Inter, "Inter Variable", -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", "Helvetica Neue", Arial, sans-serif'
MONO = '"JetBrains Mono", ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace'

# `var(--name)` stands for a colour; in a file of its own it is replaced by the colour, for programs that know no variables.
FIGURE_CSS = """\
.fig text{font-family:SANS;font-variant-numeric:tabular-nums;font-size:12.5px;fill:var(--ink-2)}
.fig .axis{font-size:11px;fill:var(--ink-3)}
.fig .strong{font-weight:600;fill:var(--ink)}
.fig .grid{stroke:var(--hairline);stroke-width:1;fill:none}
.fig .limit{stroke:var(--ink-3);stroke-width:1;stroke-dasharray:3 4;fill:none}
.fig .leader{stroke:var(--edge);stroke-width:1;fill:none}
.fig .bed{stroke:var(--edge);stroke-width:1;fill:none}
.fig .bed-rest{stroke:var(--hairline);stroke-width:1;fill:none}
.fig .cover{stroke:var(--page);stroke-width:3;fill:none}
.fig .waiting{stroke:var(--edge);stroke-width:1.5;stroke-dasharray:2.5 2.5;fill:none}
.fig .away{stroke:var(--amber);stroke-width:1.5;stroke-dasharray:1.5 3.5;fill:none}
.fig .ring{stroke:var(--edge);stroke-width:1.5;fill:var(--page)}
.fig .area{fill:var(--wash);stroke:none}
.fig .line{stroke:var(--flow);stroke-width:2;fill:none;stroke-linejoin:round}
.fig .halo{stroke:var(--edge);stroke-width:5;fill:none;stroke-linejoin:round;opacity:.45}
.fig .cliff{stroke:var(--rust);stroke-width:2;fill:none;stroke-linejoin:round}
.fig .thin{stroke:var(--ink-3);stroke-width:1.5;fill:none;stroke-linejoin:round}
.fig .weight{stroke:var(--thinking);stroke-width:2;fill:none;stroke-linejoin:round}
.fig .hair{stroke:var(--flow);stroke-width:1.4}
.fig .text{fill:var(--flow)}
.fig .thinking{fill:var(--thinking)}
.fig .tool{fill:var(--tool)}
.fig .replayed{stroke:var(--flow);stroke-width:6;stroke-dasharray:1 1.5;fill:none}
.fig .dot{fill:var(--flow)}
.fig .gate{fill:var(--ink)}
.fig .cross{stroke:var(--rust);stroke-width:2;fill:none;stroke-linecap:round}
.fig .flow-text{fill:var(--water)}
.fig .rust-text{fill:var(--rust-text)}
.fig .amber-text{fill:var(--amber-text)}
""".replace("SANS", SANS)


def variables(colours: Mapping[str, str]) -> str:
    """Return the colours as custom properties."""
    return "".join(f"--{name}:{value};" for name, value in colours.items())


def in_colours(css: str, colours: Mapping[str, str]) -> str:
    return re.sub(r"var\(--([\w-]+)\)", lambda match: colours[match[1]], css)


def standalone_css() -> str:
    """Return the figures' style with colours in place, the dark ones where dark is preferred."""
    ground = ".ground{fill:var(--page)}\n"
    light, dark = (in_colours(ground + FIGURE_CSS, colours) for colours in (LIGHT, DARK))
    return f"{light}@media (prefers-color-scheme:dark){{\n{dark}}}\n"
