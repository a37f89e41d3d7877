"""A report as one HTML page that needs no network: Python writes tables and bars, the script beside it draws curves."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from foretune.reports.colours import DASHES, look, style_sheet
from foretune.reports.curves import AXES, Curve, quantity_factor, quantity_label
from foretune.reports.report import Report
from foretune.reports.web.elements import PANEL, swatch
from foretune.reports.web.panels import charts, heat_maps, memory_bars
from foretune.reports.web.tables import costs_tables, leaderboard_table, published_table, runs_table


def to_html(report: Report) -> str:
    """Return the page."""
    sections = [
        ("leaderboard", "Leaderboard", leaderboard_table(report.leaderboard)),
        ("curves", "Training", charts("curves", report.curves)),
        ("costs", "Cost to reach a target", costs_tables(report.costs)),
        ("memory", "Memory", memory_bars(report.memory)),
        ("sensitivity", "Sensitivity", heat_maps(report.heat_maps)),
        ("diagnostics", "Diagnostics", charts("diagnostics", report.diagnostics)),
        ("published", "Published numbers", published_table(report.published)),
        ("runs", "All runs", runs_table(report)),
    ]
    shown = [section for section in sections if section[2]]
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title, _ in shown)
    body = "".join(f'<section id="{name}"><h2>{title}</h2>{content}</section>' for name, title, content in shown)
    return _template("page.html").format(
        title=escape(report.title),
        summary=escape(_summary(report)),
        style=style_sheet() + _template("page.css"),
        links=links,
        notes=_notes(report),
        filters=_filters(report),
        body=body,
        data=_as_json(_data(report)),
        script=_template("page.js"),
    )


def _template(name: str) -> str:
    return files("foretune.reports.web").joinpath(name).read_text(encoding="utf-8")


def _as_json(value: Any) -> str:
    """Write JSON that may stand in a script element, whatever names it holds."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _data(report: Report) -> dict[str, Any]:
    """Return what the script draws."""
    names = dict.fromkeys(curve.quantity for curve in (*report.curves, *report.diagnostics))
    return {
        "axes": AXES,
        "quantities": {name: {"label": quantity_label(name), "factor": quantity_factor(name)} for name in names},
        "curves": _curves(report.curves),
        "diagnostics": _curves(report.diagnostics),
    }


def _curves(curves: Iterable[Curve]) -> list[dict[str, Any]]:
    def column(values: Sequence[float]) -> list[float | None]:
        return [float(f"{value:.5g}") if math.isfinite(value) else None for value in values]

    found = []
    for curve in curves:
        style = look(curve.cell.method)
        entry: dict[str, Any] = {name: getattr(curve.cell, name) for name in (*PANEL, "method")}
        entry |= {"quantity": curve.quantity, "hue": style.hue, "dash": DASHES[style.dash], "runs": curve.num_runs}
        entry |= {name: column(getattr(curve, name)) for name in (*AXES, "mean", "low", "high")}
        found.append(entry)
    return found


# ---------------------------------------------------------------- head of the page


def _summary(report: Report) -> str:
    def count(number: int, word: str) -> str:
        return f"{number} {word}{'' if number == 1 else 's'}"

    cells = {choice.cell for choice in report.choices}
    parts = [count(len(report.runs), "run")]
    for name, word in (("method", "method"), ("task", "task"), ("tuning", "tuning scheme"), ("model", "model")):
        parts.append(count(len({getattr(cell, name) for cell in cells}), word))
    dates = [run.started.date() for run in report.runs if run.started is not None]
    if dates:
        parts.append(f"{min(dates)}" + (f" to {max(dates)}" if max(dates) > min(dates) else ""))
    return " · ".join(parts)


def _notes(report: Report) -> str:
    entries = [*report.notes, *report.skipped]
    if not entries:
        return ""
    items = "".join(f"<li>{escape(entry)}</li>" for entry in entries)
    return f'<aside class="notes"><h2>Before comparing</h2><ul>{items}</ul></aside>'


def _filters(report: Report) -> str:
    cells = sorted({choice.cell for choice in report.choices})
    selects = []
    for name in PANEL:
        values = sorted({getattr(cell, name) for cell in cells})
        if len(values) > 1:
            options = "".join(f"<option>{escape(value)}</option>" for value in values)
            every = f'<option value="">every {name}</option>'
            selects.append(f'<select data-filter="{name}" aria-label="{name}">{every}{options}</select>')
    methods = sorted({cell.method for cell in cells})
    chips = "".join(
        f'<button type="button" class="chip" aria-pressed="true" data-chip="{escape(method)}">'
        f"{swatch(method)}{escape(method)}</button>"
        for method in methods
    )
    both = '<button type="button" id="all">all</button><button type="button" id="none">none</button>'
    return f'<div class="selects">{"".join(selects)}{both}</div><div class="chips">{chips}</div>'
