"""Pieces of HTML that the parts of the page share. Text from runs is escaped where it enters one of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

from foretune.reports.choices import Cell, is_share
from foretune.reports.colours import DASHES, look
from foretune.reports.naming import figure_name

PANEL = ("model", "task", "tuning")
"""What of a cell makes a panel: methods are compared within."""


def filter_attributes(cell: Cell) -> str:
    """Return the attributes that filters look at."""
    return "".join(f' data-{name}="{escape(getattr(cell, name))}"' for name in (*PANEL, "method"))


def swatch(method: str) -> str:
    """Return a piece of the method's line."""
    style = look(method)
    dash = f' stroke-dasharray="{DASHES[style.dash]}"' if style.dash else ""
    return (
        '<svg class="swatch" width="22" height="8" aria-hidden="true">'
        f'<line x1="0" y1="4" x2="22" y2="4" stroke="var(--hue-{style.hue})"{dash}/></svg>'
    )


def method_head(method: str) -> str:
    """Return the head of a table row."""
    return f'<th scope="row"><span class="method">{swatch(method)}{escape(method)}</span></th>'


def td(text: str, value: float | str | None = None, *, kind: str = "", title: str = "") -> str:
    """Return a table cell whose `value` sorts it; one without a figure is sorted last."""
    attributes = f' class="{kind}"' if kind else ""
    if isinstance(value, float | int) and math.isfinite(value):
        attributes += f' data-value="{value:.9g}"'
    attributes += f' title="{escape(title)}"' if title else ""
    return f"<td{attributes}>{text}</td>"


def table(name: str, heads: Sequence[tuple[str, str]], rows: Iterable[str], *, caption: str = "") -> str:
    """Return a table that can be sorted by every column; heads are (text, class)."""
    cells = "".join(
        f'<th scope="col" class="{kind}"><button type="button">{text}</button></th>' for text, kind in heads
    )
    below = f'<p class="caption">{caption}</p>' if caption else ""
    body = "".join(rows)
    return (
        f'<div class="table"><div class="scroll"><table class="sortable" data-table="{name}"><thead><tr>{cells}</tr>'
        f"</thead><tbody>{body}</tbody></table></div>{below}</div>"
    )


def unit(metric: str) -> str:
    """Return the name of a metric, with its unit where it has one."""
    return f"{figure_name(metric)}{', %' if is_share(metric) else ''}"
