"""One look for each method, the same in every report: a hue and a kind of line.

Eight hues that stay apart for readers with any common colour deficiency, and on light and dark ground; methods beyond
eight share a hue and differ in the line. Baselines with gradients are grey.
"""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

LIGHT = ("#106bf3", "#cd1603", "#00723d", "#dc42b6", "#009bf3", "#ac8452", "#511cb9", "#65133f", "#6b7280")
DARK = ("#22a7ff", "#ff7147", "#99d68a", "#ed69e4", "#81e9f0", "#f9ba08", "#9e87b0", "#ab716a", "#a7afbc")
"""Hues on a light and on a dark ground; the last is grey."""
GREY = len(LIGHT) - 1

DASHES = ("", "6 3", "2 3", "8 3 2 3")
"""Kinds of line, as SVG's stroke-dasharray."""


@dataclass(frozen=True, slots=True)
class Look:
    """A hue and a kind of line, as places in `LIGHT`, `DARK` and `DASHES`."""

    hue: int
    dash: int


_LOOKS = {
    "mezo": (0, 0),
    "lozo": (1, 0),
    "subzero": (2, 0),
    "zobcd": (3, 0),
    "zo_adam": (4, 0),
    "hizoo": (5, 0),
    "fzoo": (6, 0),
    "zo_adamu": (7, 0),
    "zo_sign": (0, 1),
    "lozo_m": (1, 1),
    "subzero_adamu": (2, 1),
    "mgs_bcd": (3, 1),
    "zo_momentum": (4, 1),
    "zo_muon": (5, 1),
    "es": (6, 1),
    "zo_conservative": (7, 1),
    "forward_grad": (0, 2),
    "subzero_muon": (2, 2),
    "rgs_bcd": (3, 2),
    "eggroll": (6, 2),
    "hybrid": (1, 2),
    "adam": (GREY, 0),
    "adamw": (GREY, 1),
    "sgd": (GREY, 2),
}


def look(method: str) -> Look:
    """Return the look of a method; any other name has one that depends on the name alone."""
    if method in _LOOKS:
        return Look(*_LOOKS[method])
    digest = crc32(method.encode())
    base = method.partition(", ")[0]
    hue = _LOOKS[base][0] if base in _LOOKS else digest % GREY
    return Look(hue, 1 + digest // GREY % (len(DASHES) - 1))


def style_sheet() -> str:
    """Return the hues as CSS variables --hue-0, ... for both grounds."""

    def block(hues: tuple[str, ...]) -> str:
        return "".join(f"--hue-{index}:{hue};" for index, hue in enumerate(hues))

    dark = block(DARK)
    return (
        f":root{{{block(LIGHT)}}}"
        f"@media (prefers-color-scheme: dark){{:root:not([data-theme=light]){{{dark}}}}}"
        f":root[data-theme=dark]{{{dark}}}"
    )
