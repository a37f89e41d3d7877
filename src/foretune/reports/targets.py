"""What it costs to reach a dev figure: forward passes and seconds up to the first evaluation that does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from foretune.ledger import Point
from foretune.reports.choices import Cell, Choice, is_share, larger_is_better, total_passes
from foretune.reports.curves import dev_curve
from foretune.reports.sources import Logs

WAYS = (0.5, 0.75, 0.9)
"""Targets, where none is given: shares of the way from the first evaluations to the best of all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """How one cell reached one target.

    Attributes:
        cell: Of which method.
        metric, target: What had to be reached, on dev rows.
        num_reached, num_runs: How many of the runs did.
        passes, seconds: Means over the runs that did; None where none did, or where they are not known.
    """

    cell: Cell
    metric: str
    target: float
    num_reached: int
    num_runs: int
    passes: float | None
    seconds: float | None


def costs_to_target(choices: Sequence[Choice], logs: Logs, targets: Sequence[float] = ()) -> list[Reach]:
    """Return how every cell reached every target of its model and task, cheapest first.

    Args:
        choices: The runs.
        logs: Their figures.
        targets: Shares of 1; without any they are set for each model and task, see `WAYS`.
    """
    places: dict[tuple[str, str], list[Choice]] = {}
    for choice in choices:
        if larger_is_better(choice.metric):
            places.setdefault(choice.cell.place, []).append(choice)
    found = []
    for of_place in places.values():
        runs = [
            (choice, [c for run in choice.runs if (c := dev_curve(run, choice.metric, logs))]) for choice in of_place
        ]
        runs = [(choice, curves) for choice, curves in runs if curves]
        if runs:
            for target in targets or _targets(runs):
                found += sorted((_reach(choice, curves, target) for choice, curves in runs), key=_rank)
    return found


def _targets(runs: Sequence[tuple[Choice, list[list[Point]]]]) -> list[float]:
    metric = runs[0][0].metric
    every = [[point.figures[f"eval_{metric}"] for point in curve] for _, curves in runs for curve in curves]
    means = [fmean(max(p.figures[f"eval_{metric}"] for p in curve) for curve in curves) for _, curves in runs]
    start, best = fmean(values[0] for values in every), max(means)
    digits = 3 if is_share(metric) else 6
    found = dict.fromkeys(round(start + way * (best - start), digits) for way in WAYS)
    return [target for target in found if target > start] or [round(best, digits)]


def _reach(choice: Choice, curves: list[list[Point]], target: float) -> Reach:
    name = f"eval_{choice.metric}"
    hits = [hit for curve in curves if (hit := next((p for p in curve if p.figures[name] >= target), None))]
    passes = [spent for hit in hits if (spent := total_passes(hit.figures)) is not None]
    seconds = [hit.figures["seconds"] for hit in hits if "seconds" in hit.figures]
    return Reach(
        cell=choice.cell,
        metric=choice.metric,
        target=target,
        num_reached=len(hits),
        num_runs=len(choice.runs),
        passes=fmean(passes) if passes else None,
        seconds=fmean(seconds) if seconds else None,
    )


def _rank(reach: Reach) -> tuple[float, ...]:
    spent = reach.passes if reach.passes is not None else float("inf")
    return (-reach.num_reached / reach.num_runs, spent)
