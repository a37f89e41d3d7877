"""Which trials are ended early, and who ends them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from optuna.pruners import BasePruner, MedianPruner, SuccessiveHalvingPruner
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial

from foretune.errors import UsageError, near_misses

Rule = Literal["hyperband", "median", "flat"]
_KEYS = {"hyperband": ("min_iter", "eta"), "median": ("min_iter",), "flat": ("patience", "min_delta")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruning:
    """`early_terminate` of a sweep file; evaluations of a trial on dev rows are counted from 1.

    Whatever the rule, a trial whose loss is not finite ends as diverged.

    Attributes:
        rule: ``hyperband`` (W&B's; successive halving): after `min_iter`, `min_iter * eta`, ... evaluations a trial
            goes on if it is among the best 1 / eta of those that came as far. ``median``: from evaluation `min_iter`
            on, a trial whose best is worse than the median of the others' ends. ``flat``: a trial ends when its last
            `patience` evaluations are not better, by more than `min_delta`, than its best before.
        min_iter: First evaluation that can end a trial.
        eta: Of hyperband.
        patience, min_delta: Of flat; `min_delta` in units of the metric.
    """

    rule: Rule
    min_iter: int = 1
    eta: int = 3
    patience: int = 3
    min_delta: float = 0.0

    def pruner(self) -> BasePruner:
        """Return Optuna's pruner for it."""
        if self.rule == "hyperband":
            return SuccessiveHalvingPruner(min_resource=self.min_iter, reduction_factor=self.eta)
        if self.rule == "median":
            return MedianPruner(n_startup_trials=3, n_warmup_steps=self.min_iter)
        return FlatPruner(patience=self.patience, min_delta=self.min_delta)


class FlatPruner(BasePruner):
    """Ends a trial that does not get better. (Optuna's PatientPruner lets a plateau go on: it waits for worse values.)

    Args:
        patience: Evaluations that may pass without progress.
        min_delta: Progress that counts.
    """

    def __init__(self, *, patience: int, min_delta: float) -> None:
        self._patience = patience
        self._min_delta = min_delta

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether the last evaluations are no better than the best before them."""
        sign = 1.0 if study.direction == StudyDirection.MINIMIZE else -1.0
        values = [sign * trial.intermediate_values[step] for step in sorted(trial.intermediate_values)]
        before, last = values[: -self._patience], values[-self._patience :]
        return bool(before) and not min(last) < min(before) - self._min_delta


def read_early_terminate(place: str, given: Any) -> Pruning | None:
    """Read `early_terminate`.

    Raises:
        UsageError: naming the key, what stands there and what would be right.
    """
    if given is None:
        return None
    if not isinstance(given, Mapping) or given.get("type") not in _KEYS:
        raise UsageError(f"{place}: early_terminate.type must be one of {', '.join(_KEYS)}; got {given!r}.")
    rule = given["type"]
    settings: dict[str, Any] = {}
    for key, value in given.items():
        if key == "type":
            continue
        if key not in _KEYS[rule]:
            raise UsageError(f"{place}: early_terminate of type {rule} has no {key!r}.{near_misses(key, _KEYS[rule])}")
        least = {"eta": 2, "min_delta": 0}.get(key, 1)
        number = isinstance(value, int) or (key == "min_delta" and isinstance(value, float))
        if isinstance(value, bool) or not number or not value >= least or not math.isfinite(value):
            kind = "a number" if key == "min_delta" else "a whole number"
            raise UsageError(f"{place}: early_terminate.{key} must be {kind} of at least {least}, got {value!r}.")
        settings[key] = value
    return Pruning(rule=rule, **settings)
