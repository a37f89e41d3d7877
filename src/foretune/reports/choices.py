"""Which settings stand for a method: chosen on dev rows, reported on test rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from foretune.evaluation import METRICS
from foretune.ledger import Run
from foretune.ledger.compare import Spread, group
from foretune.reports.naming import UNKNOWN, model_name, number, setting, settings_of, task_name
from foretune.sweeps.selection import BACKWARD_PASSES, Goal, Selection, method_label, select_runs

ALWAYS_SHOWN = ("lr", "zo_eps")
COMPLETE = ("finished", "imported")
"""States of runs that have results."""


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """What is compared: a method, with what it tunes, on a task and a model."""

    model: str
    task: str
    tuning: str
    method: str

    @classmethod
    def of(cls, run: Run) -> Cell:
        """Return where a run belongs."""
        method = method_label(run) if run.method else run.name
        return cls(model_name(run.model), task_name(run), run.tuning or UNKNOWN, method)

    @property
    def place(self) -> tuple[str, str]:
        """Model and task: cells of one place can be compared."""
        return self.model, self.task


@dataclass(frozen=True, slots=True)
class Choice:
    """The settings a cell is reported with.

    Attributes:
        cell: Of which method.
        runs: The runs with these settings that came to an end: one for each seed.
        tried: Every run of the cell, whichever way it ended.
        selection: How the settings were chosen on dev rows; None where nothing could be, and each of the settings of
            the cell stands for itself.
    """

    cell: Cell
    runs: tuple[Run, ...]
    tried: tuple[Run, ...]
    selection: Selection | None

    @property
    def num_settings(self) -> int:
        """How many different settings were tried, seeds not counted."""
        return len(group(self.tried))

    @property
    def num_unfinished(self) -> int:
        """How many runs failed, diverged, were stopped or pruned, or died."""
        return count_unfinished(self.tried)

    @property
    def metric(self) -> str:
        """The figure that is reported; empty where the runs have none."""
        return main_metric(self.runs)

    @property
    def problems(self) -> tuple[str, ...]:
        """Why the figures are not what they seem, in a sentence each."""
        if self.selection is None:
            return ("Nothing was chosen, for want of dev figures: the best of these lines is chosen on test rows.",)
        return self.selection.problems

    def figures(self, prefix: str) -> list[float]:
        """Return the metric of each run that has it: of `final` (test), `dev` or `zero_shot`."""
        name = f"{prefix}.{self.metric}"
        return [value for run in self.runs if math.isfinite(value := run.metrics.get(name, math.nan))]

    def spread(self, prefix: str) -> Spread | None:
        """Return mean and spread of these figures; None without any."""
        values = self.figures(prefix)
        return Spread.of(values) if values else None

    def settings(self) -> dict[str, Any]:
        """Return learning rate and perturbation scale, and every other setting in which the runs tried differ."""
        chosen = settings_of(self.runs[0])
        every = [settings_of(run) for run in self.tried]
        names = [name for name in chosen if any(other.get(name) != chosen[name] for other in every)]
        shown = [*(name for name in ALWAYS_SHOWN if name in chosen), *(n for n in names if n not in ALWAYS_SHOWN)]
        return {name: chosen[name] for name in shown}

    def settings_text(self) -> str:
        """Return them on one line."""
        return ", ".join(f"{name} {setting(value)}" for name, value in self.settings().items())


def choose(runs: Sequence[Run]) -> list[Choice]:
    """Choose the settings of every cell: see `select_runs`; by dev loss, and in few-shot settings by dev accuracy.

    Runs of one model in several places are taken together. Where nothing can be chosen, as among imported runs without
    dev figures, every one of the settings is a choice of its own.
    """
    originals = {run.id: run for run in runs}
    cells: dict[Cell, list[Run]] = {}
    by_criterion: dict[tuple[str, Goal], list[Run]] = {}
    for run in runs:
        cell = Cell.of(run)
        cells.setdefault(cell, []).append(run)
        renamed = replace(run, model=cell.model, task=cell.task, tuning=cell.tuning, method=run.method or run.name)
        by_criterion.setdefault(criterion(run), []).append(renamed)
    selections = {
        Cell(str(found.model), str(found.task), str(found.tuning), found.method): found
        for (metric, goal), of_criterion in by_criterion.items()
        for found in select_runs(of_criterion, metric=metric, goal=goal)
    }
    choices = []
    for cell, tried in sorted(cells.items()):
        if chosen := tuple(originals[run.id] for run in selections[cell].runs):
            choices.append(Choice(cell, chosen, tuple(tried), selections[cell]))
            continue
        for alike in group(tried):
            if complete := tuple(run for run in alike.runs if run.state in COMPLETE):
                choices.append(Choice(cell, complete, tuple(tried), None))
    return choices


def criterion(run: Run) -> tuple[str, Goal]:
    """Return the dev figure that chooses: the one that chooses the final model of a run."""
    return ("dev.accuracy", "maximize") if run.config.get("shots") else ("dev.loss", "minimize")


def count_unfinished(runs: Sequence[Run]) -> int:
    """Return how many runs ended without a result."""
    return sum(run.state not in (*COMPLETE, "running") for run in runs)


def main_metric(runs: Sequence[Run]) -> str:
    """Return the figure that counts, by its name among test or else dev figures: a metric or loss; empty if none."""
    kinds = ("final.", "dev.")
    every = [name for kind in kinds for run in runs for name in run.metrics if name.startswith(kind)]
    names = dict.fromkeys(name.partition(".")[2] for name in every)
    known = [name for name in METRICS if name in names]
    own = [name for name in names if name != "loss"]
    return next(iter([*known, *own, *names]), "")


def is_share(metric: str) -> bool:
    """Whether a figure is a share of 1, to be shown in per cent."""
    return metric in METRICS


def larger_is_better(metric: str) -> bool:
    """Whether more of it is better."""
    return metric != "loss"


def show(value: float, metric: str) -> str:
    """Write a figure: shares in per cent with a decimal, others with four digits."""
    if not math.isfinite(value):
        return "–"
    return f"{100 * value:.1f}" if is_share(metric) else number(value)


def show_spread(spread: Spread | None, metric: str, *, sign: str = " ± ") -> str:
    """Write a mean with the sample standard deviation over seeds, where there are several."""
    if spread is None:
        return "–"
    around = "" if math.isnan(spread.deviation) else f"{sign}{show(spread.deviation, metric)}"
    return f"{show(spread.mean, metric)}{around}"


def total_passes(figures: Mapping[str, float]) -> float | None:
    """Return the forward passes up to a step, a backward pass counted as `passes_of` does; None if not known."""
    forwards = figures.get("forward_passes")
    return None if forwards is None else forwards + BACKWARD_PASSES * figures.get("backward_passes", 0.0)
