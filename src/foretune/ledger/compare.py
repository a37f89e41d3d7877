"""Runs side by side: where their settings differ, and their figures with the spread over seeds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from foretune.ledger.run import INCIDENTAL, SEEDS, Run, flatten

ABSENT = "-"
"""Stands for a setting that a run does not have."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and sample standard deviation (nan of a single value) of `count` values."""

    mean: float
    deviation: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise at least one value."""
        return cls(fmean(values), stdev(values) if len(values) > 1 else math.nan, len(values))


@dataclass(frozen=True, slots=True)
class Group:
    """Runs whose settings are equal but for the seeds, whichever way they ended."""

    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        """That of the first run."""
        return self.runs[0].name

    @property
    def states(self) -> Counter[str]:
        """How many of the runs are finished, failed, ..."""
        return Counter(run.state for run in self.runs)

    @property
    def seeds(self) -> tuple[tuple[int | None, int | None], ...]:
        """The seeds of each run (`seed`, `train_set_seed`)."""
        return tuple((run.seed, run.train_set_seed) for run in self.runs)

    def settings(self) -> dict[str, Any]:
        """Return the settings that all runs share, by dotted names."""
        kept = {name: value for name, value in self.runs[0].config.items() if name not in {*INCIDENTAL, *SEEDS}}
        own = {"model": self.runs[0].model, "task": self.runs[0].task, "tuning.name": self.runs[0].tuning}
        return {"method.name": self.runs[0].method, **own, **dict(flatten(kept))}

    def metrics(self) -> dict[str, Spread]:
        """Return every metric of the runs that have it."""
        names = dict.fromkeys(name for run in self.runs for name in run.metrics)
        return {name: Spread.of([run.metrics[name] for run in self.runs if name in run.metrics]) for name in names}

    def costs(self) -> dict[str, Spread]:
        """Return seconds, memory and passes of the runs that know them."""
        found = {}
        for name in ("forward_passes", "backward_passes", "seconds", "seconds_per_step", "peak_memory_bytes"):
            values = [float(value) for run in self.runs if (value := getattr(run, name)) is not None]
            if values:
                found[name] = Spread.of(values)
        return found


def group(runs: Sequence[Run]) -> list[Group]:
    """Put runs together whose source and settings are equal but for the seeds, in the order of their first.

    Imported runs of which no settings are known are left alone.
    """
    groups: dict[tuple[str | None, ...], list[Run]] = {}
    for run in runs:
        alone = run.id if run.is_imported and not run.config else None
        key = (alone, run.source, run.method, run.task, run.tuning, run.model, run.settings_hash)
        groups.setdefault(key, []).append(run)
    return [Group(tuple(members)) for members in groups.values()]


def differences(groups: Sequence[Group]) -> dict[str, list[Any]]:
    """Return the settings that are not the same in all groups, by dotted names, with the value of each group."""
    all_settings = [group.settings() for group in groups]
    names = dict.fromkeys(name for settings in all_settings for name in settings)
    table = {name: [settings.get(name, ABSENT) for settings in all_settings] for name in names}
    return {name: values for name, values in table.items() if any(value != values[0] for value in values)}
