"""What a reader must know before comparing the lines of a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from foretune.ledger import Run
from foretune.reports.choices import COMPLETE, Choice

_MOST_NAMES = 6


def notes(runs: Sequence[Run], choices: Sequence[Choice]) -> list[str]:
    """Return sentences; none where all is equal and complete."""
    found = []
    states = Counter(run.state for run in runs if run.state not in COMPLETE)
    if states:
        counted = ", ".join(f"{count} {state}" for state, count in states.most_common())
        found.append(f"{states.total()} of {len(runs)} runs have no result ({counted}); they count as trials.")
    places: dict[tuple[str, str], list[Choice]] = {}
    for choice in choices:
        places.setdefault(choice.cell.place, []).append(choice)
    for (model, task), of_place in places.items():
        found += [f"{task} with {model}: {note}" for note in _trials(of_place)]
    return [*found, *_problems(choices)]


def _trials(choices: Sequence[Choice]) -> list[str]:
    counts = [choice.num_settings for choice in choices]
    if max(counts) == min(counts):
        return []
    return [f"methods were tuned unequally, with {min(counts)} to {max(counts)} settings; more trials look better."]


def _problems(choices: Sequence[Choice]) -> list[str]:
    """Return what is the matter with single lines; equal sentences once, with the lines they are about."""
    about: dict[str, list[str]] = {}
    for choice in choices:
        cell = choice.cell
        for problem in choice.problems:
            name = f"{cell.method} ({cell.tuning}, {cell.task})"
            if name not in about.setdefault(problem, []):
                about[problem].append(name)
    found = []
    for problem, names in about.items():
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        found.append(f"{', '.join(names[:_MOST_NAMES])}{more}: {problem[0].lower()}{problem[1:]}")
    return found
