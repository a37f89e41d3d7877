"""A study is made of a sweep, or found again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from foretune.errors import UsageError
from foretune.sweeps.chosen import item_of
from foretune.sweeps.file import Sweep
from foretune.sweeps.parameters import Values
from foretune.sweeps.plan import Parse, Planned, plan, resolve
from foretune.sweeps.settings import StudySettings
from foretune.sweeps.study import Item, Study

_PLAN = "plan"


def create_study(name: str, url: str, sweep: Sweep, items: Sequence[Item]) -> Study:
    """Return the study with these trials, made if it is missing; any number of processes may do so at once.

    Args:
        name: Of the study.
        url: Of the database.
        sweep: What it is made of.
        items: Its trials.
    Raises:
        UsageError: the study is there with other trials, or the database cannot be opened.
    """
    study = Study.create(name, url, goal=sweep.goal)
    digest = hashlib.sha256("\n".join(item.key for item in items).encode()).hexdigest()
    known = study.attribute(_PLAN)
    if known not in (None, digest):
        raise UsageError(
            f"Study {name} is there already, with other trials than these: choose another --study, or go on with it: "
            f"foretune sweep work --study {name}."
        )
    if known is None:
        StudySettings.make(sweep, len(items)).keep(study)
        study.add(items)
        study.set_attribute(_PLAN, digest)  # last: a process that was killed before this begins again
    return study


def items_of(sweep: Sweep, planned: Sequence[Planned]) -> list[Item]:
    """Return the trials of a sweep as the database keeps them; proposed ones have their settings later."""
    if sweep.method != "bayes":
        return [item_of(trial, number) for number, trial in enumerate(planned)]
    seeds = sweep.grids[0].chosen_seeds
    return [
        Item(key=f"proposal-{number}", number=number, folder=f"proposal-{number}", group=sweep.name, chosen_seeds=seeds)
        for number in range(sweep.run_cap or 0)
    ]


def plan_or_check(sweep: Sweep, parse: Parse, where: Sequence[str] = ()) -> list[Planned]:
    """Return the plan; where trials are proposed one by one, check an example of them and return that.

    Raises:
        UsageError: as `plan`.
    """
    from foretune.ledger import Condition

    if sweep.method != "bayes":
        return plan(sweep, parse, where=[Condition.parse(text) for text in where])
    if where:
        raise UsageError(f"--where {where[0]}: method bayes has no trials before it is run; leave it out.")
    grid = sweep.grids[0]
    example = {
        name: parameter.values[0] if isinstance(parameter, Values) else parameter.low
        for name, parameter in grid.parameters.items()
    }
    for name, parameter in grid.parameters.items():
        for value in parameter.values if isinstance(parameter, Values) else (parameter.low, parameter.high):
            resolve({**example, name: int(value) if _is_whole(parameter) else value}, grid, parse)
    return [resolve({n: int(v) if _is_whole(grid.parameters[n]) else v for n, v in example.items()}, grid, parse)]


def _is_whole(parameter: object) -> bool:
    return getattr(parameter, "integer", False)
