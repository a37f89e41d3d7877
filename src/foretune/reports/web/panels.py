"""The panels of the page: bars and heat maps, and the places where the script draws curves."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from foretune.reports.choices import larger_is_better, show
from foretune.reports.colours import look
from foretune.reports.curves import AXES, Curve, group_label, quantity_label
from foretune.reports.memory import Bar
from foretune.reports.naming import figure_name, memory, number
from foretune.reports.sensitivity import HeatMap, Square
from foretune.reports.web.elements import filter_attributes, swatch, unit

_MANY = 14
"""Bars of a panel beyond which it is as wide as the page."""


def memory_bars(bars: Sequence[Bar]) -> str:
    """Return bars of peak memory, a panel for each model and task; empty without any."""
    if not bars:
        return ""
    panels = []
    for model, task in dict.fromkeys(bar.cell.place for bar in bars):
        own = [bar for bar in bars if bar.cell.place == (model, task)]
        most = max(bar.num_bytes for bar in own)
        rows = "".join(_bar(bar, most) for bar in own)
        devices = ", ".join(dict.fromkeys(bar.device for bar in own if bar.device))
        title = f"{task} with {model}{f', {devices}' if devices else ''}"
        kind = "bars many" if len(own) > _MANY else "bars"
        panels.append(
            f'<figure class="{kind}" data-model="{escape(model)}" data-task="{escape(task)}">'
            f"<figcaption>{escape(title)}</figcaption><div>{rows}</div></figure>"
        )
    text = "<p>Peak of the GPU, or of the whole process where a run had none; the largest of the runs.</p>"
    return f'{text}<div class="panels">{"".join(panels)}</div>'


def _bar(bar: Bar, most: int) -> str:
    width = 100 * bar.num_bytes / most
    return (
        f'<div class="bar"{filter_attributes(bar.cell)}><span class="name">{escape(bar.cell.method)} '
        f'<small>{escape(bar.cell.tuning)}</small></span><span class="track"><span class="fill" '
        f'style="width:{width:.2f}%;background:var(--hue-{look(bar.cell.method).hue})"></span></span>'
        f'<span class="value">{memory(bar.num_bytes)}</span></div>'
    )


def heat_maps(maps: Sequence[HeatMap]) -> str:
    """Return the heat maps; empty without any."""
    if not maps:
        return ""
    text = (
        "<p>Mean over seeds by learning rate (columns) and perturbation scale (rows), the other settings as selected. "
        "Darker is better, in the range of each map; the selected settings are framed, ✕ is one of which no run came "
        "to an end.</p>"
    )
    metrics = dict.fromkeys(heat_map.metric for heat_map in maps)
    switches = _switch("metric", {metric: f"dev {figure_name(metric)}" for metric in metrics})
    panels = "".join(map(_heat_map, maps))
    return f'{text}<div class="switches">{switches}</div><div class="panels heat-maps">{panels}</div>'


def _heat_map(heat_map: HeatMap) -> str:
    cell, values = heat_map.cell, heat_map.values
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    rows = []
    for scale, squares in zip(heat_map.scales[::-1], heat_map.squares[::-1], strict=True):
        cells = "".join(_square(square, heat_map.metric, low, high) for square in squares)
        head = "" if scale is None else f"{number(scale)}"
        rows.append(f'<tr><th scope="row">{head}</th>{cells}</tr>')
    rates = "".join(f'<th scope="col">{number(rate)}</th>' for rate in heat_map.rates)
    corner = "" if heat_map.scales == (None,) else "zo_eps"
    where = escape(f"{cell.tuning} · {cell.task} · {cell.model}")
    return (
        f'<figure class="heat" data-metric="{escape(heat_map.metric)}"{filter_attributes(cell)}>'
        f'<figcaption><span class="method">{swatch(cell.method)}'
        f"{escape(cell.method)}</span> <small>{where}</small></figcaption>"
        f'<div class="scroll"><table><tbody>{"".join(rows)}</tbody><tfoot><tr><th>{corner}</th>{rates}</tr></tfoot>'
        f'</table></div><p class="axis-name">learning rate; colour: dev {unit(heat_map.metric)}</p></figure>'
    )


def _square(square: Square | None, metric: str, low: float, high: float) -> str:
    if square is None:
        return '<td class="untried"></td>'
    runs = f"{square.num_runs} runs" + (f", {square.num_unfinished} not finished" if square.num_unfinished else "")
    kind = " chosen" if square.chosen else ""
    if square.value is None:
        return f'<td class="failed{kind}" title="{runs}">✕</td>'
    share = (square.value - low) / (high - low) if high > low else 1.0
    share = share if larger_is_better(metric) else 1 - share
    dark = " strong" if share > 0.5 else ""
    return (
        f'<td class="square{dark}{kind}" style="--share:{100 * share:.0f}%" title="{runs}">'
        f"{show(square.value, metric)}</td>"
    )


def charts(name: str, curves: Sequence[Curve]) -> str:
    """Return the switches and the place of the charts that the script draws."""
    if not curves:
        return ""
    if name == "curves":
        quantities = dict.fromkeys(curve.quantity for curve in curves)
        options = {name: quantity_label(name).partition(",")[0] for name in quantities}
        switches = _switch("quantity", options) + _switch("axis", {key: key for key in AXES})
        text = (
            "<p>The selected settings of each method: mean over seeds, and the band from the least to the most. Long "
            "curves are averaged in bins.</p>"
        )
    else:
        groups = sorted({curve.quantity.split(".")[1] for curve in curves}, key=lambda group: (group == "all", group))
        switches = _switch("group", {group: group_label(group) for group in groups})
        switches += _switch("axis", {key: key for key in AXES})
        text = (
            "<p>Weights while they are tuned, and the estimate against the gradient by backpropagation on the same "
            "batch.</p>"
        )
    return (
        f'{text}<div class="switches">{switches}</div><div class="panels charts" data-charts="{name}"></div>'
        "<noscript><p>Curves are drawn by a script in this page, which is switched off.</p></noscript>"
    )


def _switch(name: str, options: dict[str, str]) -> str:
    buttons = "".join(
        f'<button type="button" data-switch="{name}" data-choice="{escape(key)}" '
        f'aria-pressed="{"false" if index else "true"}">'
        f"{escape(text)}</button>"
        for index, (key, text) in enumerate(options.items())
    )
    return f'<div class="switch" role="group" aria-label="{name}">{buttons}</div>'
