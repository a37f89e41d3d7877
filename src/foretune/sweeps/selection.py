"""An honest choice among runs: settings by dev rows, figures by test rows, and everything that was tried is counted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any, Literal

from foretune.composition import AXES
from foretune.errors import UsageError
from foretune.ledger import Run
from foretune.ledger.compare import Spread

Goal = Literal["minimize", "maximize"]

BACKWARD_PASSES = 2
"""Forward passes that a backward pass counts as: it costs about two."""
BUDGET_TOLERANCE = 0.05
"""Difference between budgets that is no difference: steps are whole, and a step of some methods is 30 passes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What came of a method on a task, with one tuning scheme and model.

    Attributes:
        model, task, method, tuning: As in the ledger; the method with its replaced parts.
        variant: Values of the further names that selections were made apart by.
        runs: Those with the chosen settings, a run a seed, in the order of seeds; empty if nothing could be chosen.
        settings: The chosen ones that were searched: that differ among the runs that were tried.
        dev, test: The figures of these runs by name (`loss`, `accuracy`), mean and standard deviation over seeds.
        num_settings: How many settings were tried.
        num_trials: How many runs were made in all, further seeds of the chosen settings included.
        states: How these ended.
        forward_passes: A run's, on average; a backward pass counts as two. None where it is not known.
        problems: Why the figures are not what they seem, in a sentence each; empty if there is no reason.
    """

    model: str | None
    task: str | None
    method: str
    tuning: str | None
    variant: Mapping[str, Any] = field(default_factory=dict)
    runs: tuple[Run, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    dev: Mapping[str, Spread] = field(default_factory=dict)
    test: Mapping[str, Spread] = field(default_factory=dict)
    num_settings: int = 0
    num_trials: int = 0
    states: Mapping[str, int] = field(default_factory=dict)
    forward_passes: float | None = None
    problems: tuple[str, ...] = ()

    @property
    def num_failed(self) -> int:
        """Runs that did not reach their end: failed, diverged, pruned, stopped or dead."""
        return sum(count for state, count in self.states.items() if state not in ("finished", "running"))


def best_settings(values: Mapping[str, Mapping[int, float | None]], goal: Goal) -> str | None:
    """Return the settings with the best mean over the seeds that all have been tried with.

    Settings whose run with such a seed has no value (it failed) are not chosen; of equal ones the first is.

    Args:
        values: For each of the settings the metric by seed; None where there is none.
        goal: Whether less or more is better.
    Returns:
        A key of `values`; None if every one has failed.
    """
    seeds = set.intersection(*(set(of_seed) for of_seed in values.values())) if values else set()
    scores: dict[str, float] = {}
    for name, of_seed in values.items():
        counted = [of_seed[seed] for seed in sorted(seeds or of_seed)]
        whole = [value for value in counted if value is not None and math.isfinite(value)]
        if whole and len(whole) == len(counted):
            scores[name] = fmean(whole) if goal == "minimize" else -fmean(whole)
    return min(scores, key=lambda name: scores[name]) if scores else None


def select_runs(
    runs: Iterable[Run], *, metric: str = "dev.loss", goal: Goal = "minimize", apart: Sequence[str] = ()
) -> list[Selection]:
    """Choose settings for every model, task, method and tuning scheme.

    The choice is by `metric`, over seeds that all settings have; figures are those of test rows, over all seeds of the
    chosen settings. Selections of one model and task are meant to stand beside each other: `problems` names what is in
    the way of that, other budgets among them.

    Args:
        runs: Of the ledger, however they ended.
        metric: A dev figure.
        goal: Whether less or more of it is better.
        apart: Names of settings, such as `method.rank`, that lines of a table differ in, and are not chosen.
    Raises:
        UsageError: the metric is no dev figure.
    """
    if not metric.startswith("dev."):
        raise UsageError(f"Settings are chosen on dev rows: {metric} is none of dev.loss, dev.accuracy, ...")
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        variant = tuple(_setting(run, name) for name in apart)
        groups.setdefault((run.model, run.task, method_label(run), run.tuning, repr(variant)), []).append(run)
    found = [_select(group, metric, goal, apart) for group in groups.values()]
    return _compare_budgets(found)


def method_label(run: Run) -> str:
    """Return the method with the parts that were replaced, for example `lozo, update adam`."""
    method = run.config.get("method")
    changed = [f"{axis} {part['name']}" for axis in AXES if (part := _part(method, axis)) and "name" in part]
    return ", ".join([run.method or "?", *changed])


def passes_of(run: Run) -> int | None:
    """Return the budget that a run has used: its forward passes, a backward pass counted as two."""
    if run.forward_passes is None:
        return None
    return run.forward_passes + BACKWARD_PASSES * (run.backward_passes or 0)


def _select(runs: Sequence[Run], metric: str, goal: Goal, apart: Sequence[str]) -> Selection:
    by_settings: dict[str, dict[int, Run]] = {}
    repeated = 0
    for run in runs:
        of_seed = by_settings.setdefault(run.settings_hash, {})
        seed = hash((run.seed, run.train_set_seed))
        before = of_seed.get(seed)
        repeated += before is not None
        if before is None or (run.state == "finished" and before.state != "finished"):
            of_seed[seed] = run
    values = {
        settings: {seed: run.metrics.get(metric) if run.state == "finished" else None for seed, run in of_seed.items()}
        for settings, of_seed in by_settings.items()
    }
    first = runs[0]
    best = best_settings(values, goal)
    selection = Selection(
        model=first.model,
        task=first.task,
        method=method_label(first),
        tuning=first.tuning,
        variant={name: _setting(first, name) for name in apart},
        num_settings=len(by_settings),
        num_trials=len(runs),
        states=dict(Counter(run.state for run in runs)),
    )
    problems = [f"{repeated} runs repeat settings and seed of another; one of each counts."] if repeated else []
    if best is None:
        without = [run for run in runs if run.state == "finished" and metric not in run.metrics]
        reason = f"{len(without)} finished runs have no {metric}" if without else "no run finished"
        return replace(selection, problems=(*problems, f"Nothing can be chosen: {reason}."))
    tried = by_settings[best].values()
    chosen = sorted(
        (run for run in tried if run.state == "finished"), key=lambda run: (run.seed or 0, run.train_set_seed or 0)
    )
    passes = [used for run in chosen if (used := passes_of(run)) is not None]
    return replace(
        selection,
        runs=tuple(chosen),
        settings=_searched(chosen[0], [next(iter(of_seed.values())) for of_seed in by_settings.values()]),
        dev=_figures(chosen, "dev."),
        test=_figures(chosen, "final."),
        forward_passes=fmean(passes) if passes else None,
        problems=(*problems, *_problems(values, best, list(tried), chosen, runs)),
    )


def _problems(
    values: Mapping[str, Mapping[int, float | None]],
    best: str,
    tried: Sequence[Run],
    chosen: Sequence[Run],
    runs: Sequence[Run],
) -> list[str]:
    found = []
    shared = set.intersection(*(set(of_seed) for of_seed in values.values()))
    if len(values) > 1 and not shared:
        found.append("No seed was tried with all settings; the choice compares different seeds.")
    if failed := len(tried) - len(chosen):
        found.append(f"{failed} of {len(tried)} runs with the chosen settings did not finish, and are not in the mean.")
    if len(chosen) == 1:
        found.append("One seed: there is no spread.")
    overlap = max(run.metrics.get("overlap.dev_test", 0.0) for run in runs)
    if overlap == 1.0:
        found.append("Dev and test rows are the same: the figure is of rows that the settings were chosen on.")
    elif overlap > 0:
        found.append(f"{100 * overlap:.2g} % of the dev rows are test rows as well.")
    if len({run.data_hash for run in runs if run.data_hash and (run.train_set_seed or 0) == 0}) > 1:
        found.append("Settings were tried on different training or dev rows.")
    budgets = [used for run in runs if run.state == "finished" and (used := passes_of(run))]
    if budgets and max(budgets) > (1 + BUDGET_TOLERANCE) * min(budgets):
        found.append(f"Settings had different budgets: {min(budgets)} to {max(budgets)} forward passes.")
    return found


def _compare_budgets(selections: Sequence[Selection]) -> list[Selection]:
    """Flag what had another budget than most of the same model and task."""
    found = []
    for selection in selections:
        beside = [
            other.forward_passes
            for other in selections
            if (other.model, other.task) == (selection.model, selection.task) and other.forward_passes
        ]
        usual = sorted(beside)[len(beside) // 2] if beside else None
        own = selection.forward_passes
        if own is not None and usual and abs(own - usual) > BUDGET_TOLERANCE * usual:
            problem = f"Its budget was {own:.0f} forward passes, that of most others {usual:.0f}."
            selection = replace(selection, problems=(*selection.problems, problem))
        found.append(selection)
    return found


def _searched(chosen: Run, tried: Sequence[Run]) -> dict[str, Any]:
    """Return the settings of the chosen run in which those that were tried differ, by dotted names."""
    kept = {run.id: run.values() for run in (chosen, *tried)}
    mine = kept[chosen.id]
    unlike = ("config.seed", "config.train_set_seed", "config.output", "config.ledger", "config.resume")
    return {
        name.removeprefix("config."): value
        for name, value in mine.items()
        if name.startswith("config.")
        and name not in unlike
        and any(other.get(name) != value for other in kept.values())
    }


def _figures(runs: Sequence[Run], prefix: str) -> dict[str, Spread]:
    names = dict.fromkeys(name for run in runs for name in run.metrics if name.startswith(prefix))
    return {
        name.removeprefix(prefix): Spread.of([run.metrics[name] for run in runs if name in run.metrics])
        for name in names
    }


def _setting(run: Run, name: str) -> Any:
    return run.values().get(f"config.{name.removeprefix('config.')}")


def _part(method: Any, axis: str) -> Mapping[str, Any] | None:
    part = method.get(axis) if isinstance(method, Mapping) else None
    return part if isinstance(part, Mapping) else None
