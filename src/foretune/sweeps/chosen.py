"""Further seeds for the settings that were chosen on dev rows."""

from __future__ import annotations

from collections.abc import Sequence

from foretune.sweeps.file import Goal
from foretune.sweeps.plan import Grid, Parse, Planned, resolve
from foretune.sweeps.selection import best_settings
from foretune.sweeps.settings import StudySettings
from foretune.sweeps.study import Item, Progress, Study


def add_chosen_seeds(study: Study, parse: Parse) -> None:
    """Add the trials of every group whose search is over; those that are there already are not added again."""
    settings = StudySettings.of(study)
    first = settings.num_planned
    for trials in _searches(study.progress(), settings.num_planned).values():
        seeds = trials[0].item.chosen_seeds
        if all(trial.state not in ("waiting", "running") for trial in trials):
            chosen = _choose(trials, settings.goal)
            if chosen is not None:
                study.add(_items(chosen, seeds, first, parse))
        first += len(seeds)


def item_of(trial: Planned, number: int) -> Item:
    """Return what the database keeps of a planned trial."""
    return Item(
        key=trial.key,
        number=number,
        folder=trial.folder,
        group=trial.group,
        options=trial.options,
        settings=trial.settings,
        suite=trial.suite,
        chosen_seeds=trial.chosen_seeds,
    )


def _searches(trials: Sequence[Progress], num_planned: int) -> dict[str, list[Progress]]:
    """Return the planned trials of each group that has seeds for the chosen settings."""
    found: dict[str, list[Progress]] = {}
    for trial in trials:
        if trial.item.number < num_planned and trial.item.chosen_seeds:
            found.setdefault(trial.item.group, []).append(trial)
    return found


def _choose(trials: Sequence[Progress], goal: Goal) -> Item | None:
    """Return a trial with the best settings; None if no settings were run to the end."""
    values: dict[str, dict[int, float | None]] = {}
    items: dict[str, Item] = {}
    for trial in trials:
        item = trial.item
        if item.options is not None and item.settings is not None:
            seed = int(item.options.get("seed", 0))
            values.setdefault(item.settings, {})[seed] = trial.value if trial.state == "finished" else None
            items.setdefault(item.settings, item)
    best = best_settings(values, goal)
    return None if best is None else items[best]


def _items(chosen: Item, seeds: Sequence[int], first: int, parse: Parse) -> list[Item]:
    grid = Grid(place=chosen.folder, parameters={}, suite=chosen.suite)
    assert chosen.options is not None
    return [
        item_of(resolve({**chosen.options, "seed": seed}, grid, parse), number)
        for number, seed in enumerate(seeds, start=first)
    ]
