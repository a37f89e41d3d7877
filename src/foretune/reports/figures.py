"""The figures of a report for papers and slides, drawn by matplotlib: SVG and PNG."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from foretune.reports.choices import is_share, larger_is_better, show
from foretune.reports.colours import GREY, LIGHT, look
from foretune.reports.curves import AXES, DIAGNOSTICS, Curve, quantity_factor, quantity_label
from foretune.reports.leaderboard import Line
from foretune.reports.memory import Bar
from foretune.reports.naming import figure_name, number
from foretune.reports.report import Report
from foretune.reports.sensitivity import HeatMap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LINE_STYLES = ("-", (0, (6, 3)), (0, (2, 3)), (0, (8, 3, 2, 3)))
RESOLUTION = 200
"""Of PNG, in dots per inch."""
_INK, _RULE = "#1b1f24", "#d0d5db"
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _RULE,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#eceef1",
    "xtick.color": _INK,
    "ytick.color": _INK,
    "svg.hashsalt": "foretune",
    "svg.fonttype": "none",
}
"""Settings of matplotlib that all figures share."""


def write_figures(report: Report, folder: Path) -> list[Path]:
    """Write every figure as SVG and as PNG; the same runs give the same bytes.

    Returns:
        The files.
    """
    import matplotlib

    found = []
    with matplotlib.rc_context(STYLE):
        for name, draw in _figures(report):
            figure = draw()
            for kind, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
                path = folder / f"{_file_name(name)}.{kind}"
                figure.savefig(path, dpi=RESOLUTION, bbox_inches="tight", metadata=metadata)
                found.append(path)
    return found


def _figures(report: Report) -> Iterator[tuple[str, Callable[[], Figure]]]:
    """Yield file names and what draws them."""
    for place in dict.fromkeys(line.cell.place for line in report.leaderboard):
        lines = [line for line in report.leaderboard if line.cell.place == place]
        bars = [bar for bar in report.memory if bar.cell.place == place]
        name = "-".join(place)
        yield f"leaderboard-{name}", lambda lines=lines: _leaderboard(lines)
        if bars:
            yield f"memory-{name}", lambda bars=bars: _memory(bars)
    for curve_name, curves in _panels(report.curves):
        for axis in AXES:
            if any(value == value for curve in curves for value in getattr(curve, axis)):
                yield f"{curve_name}-by-{axis}", lambda curves=curves, axis=axis: _curves(curves, axis)
    for place in dict.fromkeys((curve.cell.model, curve.cell.task, curve.cell.tuning) for curve in report.diagnostics):
        own = [curve for curve in report.diagnostics if (curve.cell.model, curve.cell.task, curve.cell.tuning) == place]
        yield f"diagnostics-{'-'.join(place)}", lambda own=own: _diagnostics(own)
    for heat_map in report.heat_maps:
        cell = heat_map.cell
        name = f"sensitivity-{heat_map.metric}-{cell.model}-{cell.task}-{cell.tuning}-{cell.method}"
        yield name, lambda heat_map=heat_map: _heat_map(heat_map)


def _panels(curves: Sequence[Curve]) -> list[tuple[str, list[Curve]]]:
    panels: dict[str, list[Curve]] = {}
    for curve in curves:
        cell = curve.cell
        panels.setdefault(f"{curve.quantity}-{cell.model}-{cell.task}-{cell.tuning}", []).append(curve)
    return list(panels.items())


def _new(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    return figure, figure.add_subplot()


def _leaderboard(lines: Sequence[Line]) -> Figure:
    figure, axes = _new(5.2, 0.9 + 0.24 * len(lines))
    metric = lines[0].metric
    factor = 100 if is_share(metric) else 1
    for place, line in enumerate(reversed(lines)):
        colour = LIGHT[look(line.cell.method).hue if line.choice else GREY]
        axes.plot(
            [factor * value for value in line.seeds], [place] * len(line.seeds), "o", color=colour, alpha=0.6, ms=4
        )
        axes.plot([factor * line.test.mean], [place], "|", color=colour, ms=12, mew=2)
    names = [f"{line.cell.method}, {line.cell.tuning}" if line.choice else line.cell.method for line in reversed(lines)]
    axes.set_yticks(range(len(lines)), names)
    axes.set_xlabel(f"test {figure_name(metric)}{', %' if is_share(metric) else ''}")
    axes.set_title(f"{lines[0].cell.task}, {lines[0].cell.model}", loc="left", fontsize=9, fontweight="bold")
    return figure


def _memory(bars: Sequence[Bar]) -> Figure:
    figure, axes = _new(5.2, 0.9 + 0.24 * len(bars))
    bars = bars[::-1]
    axes.barh(
        [f"{bar.cell.method}, {bar.cell.tuning}" for bar in bars],
        [bar.num_bytes / 2**30 for bar in bars],
        color=[LIGHT[look(bar.cell.method).hue] for bar in bars],
    )
    axes.set_xlabel("peak memory, GiB")
    axes.set_title(f"{bars[0].cell.task}, {bars[0].cell.model}", loc="left", fontsize=9, fontweight="bold")
    return figure


def _curves(curves: Sequence[Curve], axis: str) -> Figure:
    figure, axes = _new(5.2, 3.2)
    _draw_curves(axes, curves, axis)
    cell = curves[0].cell
    axes.set_title(f"{cell.task}, {cell.tuning} tuning, {cell.model}", loc="left", fontsize=9, fontweight="bold")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _diagnostics(curves: Sequence[Curve]) -> Figure:
    """Draw every figure of the diagnostics by steps: a column for each group of tensors."""
    from matplotlib.figure import Figure

    groups = sorted({curve.quantity.split(".")[1] for curve in curves}, key=lambda group: (group == "all", group))
    names = list(dict.fromkeys(curve.quantity.split(".")[2] for curve in curves))
    figure = Figure(figsize=(4.2 * len(groups), 2.4 * len(names)))
    for row, name in enumerate(names):
        for column, group in enumerate(groups):
            own = [curve for curve in curves if curve.quantity == f"{DIAGNOSTICS}{group}.{name}"]
            if own:
                axes = figure.add_subplot(len(names), len(groups), 1 + row * len(groups) + column)
                _draw_curves(axes, own, "steps")
                axes.set_title(quantity_label(own[0].quantity), loc="left", fontsize=8)
                axes.set_ylabel("")
                axes.legend(frameon=False, fontsize=7)
    figure.tight_layout()
    return figure


def _draw_curves(axes: Axes, curves: Sequence[Curve], axis: str) -> None:
    factor = quantity_factor(curves[0].quantity)
    for curve in curves:
        style = look(curve.cell.method)
        at = getattr(curve, axis)
        colour = LIGHT[style.hue]
        axes.plot(
            at,
            [factor * value for value in curve.mean],
            color=colour,
            linestyle=_LINE_STYLES[style.dash],
            linewidth=1.6,
            label=curve.cell.method,
        )
        if curve.num_runs > 1:
            low, high = ([factor * value for value in values] for values in (curve.low, curve.high))
            axes.fill_between(at, low, high, color=colour, alpha=0.13, linewidth=0)
    axes.set(xlabel=AXES[axis], ylabel=quantity_label(curves[0].quantity))


def _heat_map(heat_map: HeatMap) -> Figure:
    figure, axes = _new(1.4 + 0.75 * len(heat_map.rates), 1.1 + 0.45 * len(heat_map.scales))
    values = [
        [float("nan") if square is None or square.value is None else square.value for square in row]
        for row in heat_map.squares
    ]
    better_up = larger_is_better(heat_map.metric)
    axes.imshow(values, cmap="Blues" if better_up else "Blues_r", origin="lower", aspect="auto")
    axes.grid(visible=False)
    low, high = min(heat_map.values, default=0.0), max(heat_map.values, default=0.0)
    for row, squares in enumerate(heat_map.squares):
        for column, square in enumerate(squares):
            if square is None:
                continue
            text = "failed" if square.value is None else show(square.value, heat_map.metric)
            strong = square.value is not None and (square.value > (low + high) / 2) == better_up
            weight = "bold" if square.chosen else "normal"
            axes.text(column, row, text, ha="center", va="center", color="white" if strong else _INK, fontweight=weight)
    axes.set_xticks(range(len(heat_map.rates)), [number(rate) for rate in heat_map.rates])
    axes.set_yticks(range(len(heat_map.scales)), ["" if scale is None else number(scale) for scale in heat_map.scales])
    axes.set(xlabel="learning rate", ylabel="" if heat_map.scales == (None,) else "zo_eps")
    cell, unit = heat_map.cell, ", %" if is_share(heat_map.metric) else ""
    title = f"{cell.method}, {cell.tuning}, {cell.task}, {cell.model}: dev {figure_name(heat_map.metric)}{unit}"
    axes.set_title(title, loc="left", fontsize=9, fontweight="bold")
    return figure


def _file_name(name: str) -> str:
    return "".join(character if character.isalnum() or character in "-_.=" else "_" for character in name)
