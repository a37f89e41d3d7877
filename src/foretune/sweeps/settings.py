"""What all workers of a study must know of its sweep; it is kept in the database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import optuna

from foretune.errors import UsageError
from foretune.sweeps.file import Goal, SearchMethod, Sweep
from foretune.sweeps.parameters import Parameter, Range, Values
from foretune.sweeps.pruning import Pruning
from foretune.sweeps.study import Study

_NAME = "settings"


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySettings:
    """Settings of a study.

    Attributes:
        metric, goal, method, pruning: As in `Sweep`.
        num_planned: Trials of the plan, before seeds for chosen settings.
        parameters: What is searched, where trials are proposed one by one.
        forward_passes: Budget of trials that are proposed.
    """

    metric: str
    goal: Goal
    method: SearchMethod
    num_planned: int
    pruning: Pruning | None = None
    parameters: Mapping[str, Parameter] | None = None
    forward_passes: int | None = None

    @classmethod
    def make(cls, sweep: Sweep, num_planned: int) -> StudySettings:
        """Return those of a sweep."""
        searched = sweep.grids[0] if sweep.method == "bayes" else None
        return cls(
            metric=sweep.metric,
            goal=sweep.goal,
            method=sweep.method,
            num_planned=num_planned,
            pruning=sweep.pruning,
            parameters=searched.parameters if searched else None,
            forward_passes=searched.forward_passes if searched else None,
        )

    @classmethod
    def of(cls, study: Study) -> StudySettings:
        """Read those of a study.

        Raises:
            UsageError: nobody has written any.
        """
        known = study.attribute(_NAME)
        if known is None:
            raise UsageError(f"Study {study.name} has no sweep: 'foretune sweep FILE' has not made it, or not yet.")
        kept = dict(known)
        pruning, parameters = kept.pop("pruning"), kept.pop("parameters")
        return cls(
            **kept,
            pruning=None if pruning is None else Pruning(**pruning),
            parameters=None if parameters is None else {name: _restore(entry) for name, entry in parameters.items()},
        )

    def keep(self, study: Study) -> None:
        """Write them into a study."""
        study.set_attribute(_NAME, asdict(self))

    def prepare(self, study: optuna.Study) -> None:
        """Have Optuna propose and prune accordingly."""
        if self.method == "bayes":
            # others' running trials count as bad ones, so that workers do not all propose the same
            study.sampler = optuna.samplers.TPESampler(constant_liar=True)
        study.pruner = optuna.pruners.NopPruner() if self.pruning is None else self.pruning.pruner()


def _restore(entry: Mapping[str, Any]) -> Parameter:
    return Values(tuple(entry["values"])) if "values" in entry else Range(**entry)
