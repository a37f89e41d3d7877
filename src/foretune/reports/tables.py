"""The tables of a report as text, for Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from foretune.reports.choices import is_share, show, show_spread
from foretune.reports.leaderboard import Line
from foretune.reports.naming import duration, figure_name, memory, number, passes
from foretune.reports.report import Report
from foretune.reports.sensitivity import HeatMap
from foretune.reports.targets import Reach


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text.

    Attributes:
        title: Heading.
        heads: Names of the columns; one that starts with > is of numbers.
        rows: As wide as `heads`.
        caption: What to know when reading it.
    """

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""


def tables(report: Report) -> list[Table]:
    """Return every table that has rows."""
    made = [*_leaderboards(report), *_costs(report), *map(_heat_map, report.heat_maps)]
    return [table for table in made if table.rows]


def _leaderboards(report: Report) -> list[Table]:
    found = []
    for model, task in dict.fromkeys(line.cell.place for line in report.leaderboard):
        lines = [line for line in report.leaderboard if line.cell.place == (model, task)]
        unit = f"{figure_name(lines[0].metric)}{' %' if is_share(lines[0].metric) else ''}"
        columns: dict[str, Callable[[Line], str]] = {
            "method": lambda line: line.cell.method,
            "tuning": lambda line: line.cell.tuning,
            f">test {unit}": lambda line: show_spread(line.test, line.metric),
            ">runs": lambda line: str(len(line.seeds)) if line.choice else "",
            ">gain": lambda line: "" if line.gain is None else _signed(line.gain, line.metric),
            f">dev {unit}": lambda line: show_spread(line.dev, line.metric) if line.dev else "",
            "selected": lambda line: line.choice.settings_text() if line.choice else "",
            ">settings tried": lambda line: str(line.choice.num_settings) if line.choice else "",
            ">failed runs": lambda line: str(line.choice.num_unfinished) if line.choice else "",
            ">passes": lambda line: "" if line.passes is None else passes(line.passes),
            ">time": lambda line: "" if line.seconds is None else duration(line.seconds),
            ">peak memory": lambda line: "" if line.peak_memory_bytes is None else memory(line.peak_memory_bytes),
            "published (not measured here)": _published,
        }
        rows = tuple(tuple(write(line) for write in columns.values()) for line in lines)
        caption = (
            "Test rows, mean ± sample standard deviation over the runs (seeds); settings selected on dev rows; a "
            "backward pass counts as two forward passes. Published: P read in the paper, S in another's table or a "
            "note, F off a figure."
        )
        found.append(Table(f"{task} with {model}", tuple(columns), rows, caption))
    return found


def _published(line: Line) -> str:
    if not line.published:
        return ""
    first = line.published[0]
    return f"{first.text} ({first.model}; {first.source}, {first.where}; {first.evidence})"


def _costs(report: Report) -> list[Table]:
    found = []
    for model, task in dict.fromkeys(reach.cell.place for reach in report.costs):
        own = [reach for reach in report.costs if reach.cell.place == (model, task)]
        targets = sorted({reach.target for reach in own})
        metric = own[0].metric
        percent = " %" if is_share(metric) else ""
        heads = (
            "method",
            "tuning",
            *(f">{figure_name(metric)} ≥ {show(target, metric)}{percent}" for target in targets),
        )
        rows = []
        for cell in dict.fromkeys(reach.cell for reach in sorted(own, key=lambda reach: -reach.target)):
            of_cell = {reach.target: reach for reach in own if reach.cell == cell}
            rows.append((cell.method, cell.tuning, *(_reach(of_cell[target]) for target in targets)))
        caption = "Forward passes (and time) up to the first dev evaluation that reaches it, mean of the runs that do."
        found.append(Table(f"Cost on {task} with {model}", heads, tuple(rows), caption))
    return found


def _reach(reach: Reach) -> str:
    if not reach.num_reached:
        return "not reached"
    spent = "" if reach.passes is None else passes(reach.passes)
    time = "" if reach.seconds is None else f" ({duration(reach.seconds)})"
    share = "" if reach.num_reached == reach.num_runs else f", {reach.num_reached} of {reach.num_runs} runs"
    return f"{spent}{time}{share}"


def _heat_map(heat_map: HeatMap) -> Table:
    cell = heat_map.cell
    rows = []
    for scale, squares in zip(heat_map.scales, heat_map.squares, strict=True):
        head = "" if scale is None else number(scale)
        values: Sequence[str] = [
            "" if square is None else "failed" if square.value is None else show(square.value, heat_map.metric)
            for square in squares
        ]
        rows.append((head, *values))
    unit = f"{figure_name(heat_map.metric)}{' %' if is_share(heat_map.metric) else ''}"
    return Table(
        f"Sensitivity of {cell.method}, {cell.tuning}, {cell.task} with {cell.model}: dev {unit}",
        ("" if heat_map.scales == (None,) else "zo_eps", *(f">lr {number(rate)}" for rate in heat_map.rates)),
        tuple(rows),
        "Mean over seeds, other settings as selected.",
    )


def _signed(value: float, metric: str) -> str:
    return f"{'-' if value < 0 else '+'}{show(abs(value), metric)}"
