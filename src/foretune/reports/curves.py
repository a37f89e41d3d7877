"""Figures over a run, as curves with the spread over seeds: losses, metrics, diagnostics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from foretune.ledger import Point, Run
from foretune.reports.choices import Cell, Choice, is_share, total_passes
from foretune.reports.naming import figure_name
from foretune.reports.sources import Logs

MAX_POINTS = 240
"""Points of a curve; more are averaged in bins."""

AXES = {
    "passes": "forward passes (a backward counts as two)",
    "steps": "optimizer steps",
    "seconds": "seconds",
}
DIAGNOSTICS = "diagnostics."
_DIAGNOSTIC_WORDS = {
    "distance": "distance of {} from the start",
    "gradient_norm": "norm of the gradient, {}",
    "estimate_norm": "norm of the estimate, {}",
    "cosine": "cosine of estimate and gradient, {}",
    "relative_variance": "|estimate − gradient|² / |gradient|², {}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A figure of a cell's chosen runs over training; the lists are equally long.

    Attributes:
        cell: Whose.
        quantity: Name of the figure in metrics.jsonl.
        steps, passes, seconds: Where; nan where a run did not note what it had spent.
        mean, low, high: Over the runs that have the figure there.
        num_runs: How many those are at most.
    """

    cell: Cell
    quantity: str
    steps: tuple[float, ...]
    passes: tuple[float, ...]
    seconds: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    num_runs: int


def training_curves(choices: Sequence[Choice], logs: Logs) -> list[Curve]:
    """Return training loss, dev loss and the dev metric of every cell that has them."""
    return [
        curve
        for choice in choices
        for quantity in dict.fromkeys((f"eval_{choice.metric or 'loss'}", "eval_loss", "loss"))
        if (curve := curve_of(choice, quantity, logs)) is not None
    ]


def diagnostic_curves(choices: Sequence[Choice], logs: Logs) -> list[Curve]:
    """Return every figure of `--diagnostics`, by group of tensors: `diagnostics.lora_a.norm` and so on."""
    found = []
    for choice in choices:
        names = dict.fromkeys(
            name for run in choice.runs for point in logs.points(run) for name in point.figures if _is_diagnostic(name)
        )
        found += [curve for name in names if (curve := curve_of(choice, name, logs)) is not None]
    return found


def curve_of(choice: Choice, quantity: str, logs: Logs) -> Curve | None:
    """Return the curve of a figure; None where no chosen run has it."""
    runs = [with_spent(logs.points(run)) for run in choice.runs]
    at: dict[int, list[dict[str, float]]] = {}
    for points in runs:
        for point in points:
            if math.isfinite(point.figures.get(quantity, math.nan)):
                at.setdefault(point.step, []).append(point.figures)
    if not at:
        return None
    rows = [
        _place(step, found) + _spread([figures[quantity] for figures in found]) for step, found in sorted(at.items())
    ]
    steps, passes, seconds, mean, low, high = (tuple(column) for column in zip(*_thin(rows), strict=True))
    return Curve(
        cell=choice.cell,
        quantity=quantity,
        steps=steps,
        passes=passes,
        seconds=seconds,
        mean=mean,
        low=low,
        high=high,
        num_runs=max(map(len, at.values())),
    )


def quantity_label(name: str) -> str:
    """Return the name of a figure for an axis, with its unit where it has one."""
    if name.startswith(DIAGNOSTICS):
        _, group, figure = name.split(".")
        words = _DIAGNOSTIC_WORDS.get(figure, f"{figure_name(figure)} of {{}}")
        return words.format(group_label(group))
    metric = name.removeprefix("eval_")
    unit = ", %" if is_share(metric) else ""
    return f"{'dev' if name.startswith('eval_') else 'training'} {figure_name(metric)}{unit}"


def quantity_factor(name: str) -> float:
    """Return what a figure is multiplied with to be in that unit."""
    return 100.0 if is_share(name.removeprefix("eval_")) else 1.0


def group_label(group: str) -> str:
    """Return the name of a group of tensors."""
    return {"lora_a": "LoRA A", "lora_b": "LoRA B", "all": "all trained weights"}.get(group, group)


def with_spent(points: Sequence[Point]) -> list[Point]:
    """Return points of which none but the first lacks what the run had spent: it is that of the point before.

    Passes and seconds are noted once a step, at its first line; a note of diagnostics may come without.
    """
    names = ("forward_passes", "backward_passes", "seconds")
    spent: dict[str, float] = {}
    found = []
    for point in points:
        spent |= {name: point.figures[name] for name in names if name in point.figures}
        found.append(Point(point.step, spent | point.figures))
    return found


def dev_curve(run: Run, metric: str, logs: Logs) -> list[Point]:
    """Return the points of a run that have the dev metric, with what was spent up to there."""
    return [point for point in with_spent(logs.points(run)) if f"eval_{metric}" in point.figures]


def _is_diagnostic(name: str) -> bool:
    return name.startswith(DIAGNOSTICS)


def _place(step: int, found: Sequence[dict[str, float]]) -> list[float]:
    """Return steps, passes and seconds of a point; nan where a run does not know."""
    spent = [0.0 if step == 0 else total_passes(figures) for figures in found]
    passes = math.nan if None in spent else fmean(value for value in spent if value is not None)
    return [float(step), passes, fmean(figures.get("seconds", math.nan) for figures in found)]


def _spread(values: Sequence[float]) -> list[float]:
    return [fmean(values), min(values), max(values)]


def _thin(rows: list[list[float]]) -> list[list[float]]:
    """Average neighbours until at most `MAX_POINTS` are left; the last step stays where it is."""
    size = math.ceil(len(rows) / MAX_POINTS)
    if size == 1:
        return rows
    bins = [rows[start : start + size] for start in range(0, len(rows), size)]
    return [[*bin_[-1][:3], *(fmean(row[column] for row in bin_) for column in (3, 4, 5))] for bin_ in bins]
