"""The leaderboard: what each method came to on test rows, at which cost, chosen among how many trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from foretune.ledger.compare import Spread
from foretune.reports.choices import Cell, Choice, larger_is_better
from foretune.reports.published import Published, beside
from foretune.sweeps.selection import passes_of

ZERO_SHOT = "zero-shot"
MAJORITY = "majority class"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of the leaderboard; figures of test rows are shares of 1 or a loss.

    Attributes:
        cell: What it is about; the method is `ZERO_SHOT` or `MAJORITY` in lines to compare with.
        metric: What `test`, `seeds` and `dev` are.
        test, dev: Mean and spread over the runs; dev figures chose the settings and are no result.
        seeds: The test figure of each run.
        gain: Mean test figure less that of the model before tuning; None where that is not known.
        choice: The settings and runs behind it; None in lines to compare with.
        passes: Forward passes of a run, a backward pass counted as two; None where they are not known.
        seconds: Of a run, with loading and evaluations.
        peak_memory_bytes: The largest of the runs.
        published: Numbers of others, the most telling first; see `beside`.
    """

    cell: Cell
    metric: str
    test: Spread
    dev: Spread | None = None
    seeds: tuple[float, ...] = ()
    gain: float | None = None
    choice: Choice | None = None
    passes: float | None = None
    seconds: float | None = None
    peak_memory_bytes: int | None = None
    published: tuple[Published, ...] = ()


def leaderboard(choices: Sequence[Choice]) -> list[Line]:
    """Return the lines of every model and task, best mean test figure first."""
    places: dict[tuple[str, str], list[Line]] = {}
    for choice in choices:
        line = _line(choice)
        if line is not None:
            places.setdefault(choice.cell.place, []).append(line)
    found = []
    for (model, task), lines in sorted(places.items()):
        lines += _references(model, task, lines)
        sign = -1 if larger_is_better(lines[0].metric) else 1
        found += sorted(lines, key=lambda line: sign * line.test.mean)
    return found


def _line(choice: Choice) -> Line | None:
    test = choice.spread("final")
    if test is None:
        return None
    zero_shot = choice.spread("zero_shot")
    peaks = [run.peak_memory_bytes for run in choice.runs if run.peak_memory_bytes is not None]
    return Line(
        cell=choice.cell,
        metric=choice.metric,
        test=test,
        dev=choice.spread("dev"),
        seeds=tuple(choice.figures("final")),
        gain=None if zero_shot is None else test.mean - zero_shot.mean,
        choice=choice,
        passes=_mean([passes_of(run) for run in choice.runs]),
        seconds=_mean([run.seconds for run in choice.runs]),
        peak_memory_bytes=max(peaks, default=None),
        published=tuple(beside(choice.cell)),
    )


def _references(model: str, task: str, lines: Sequence[Line]) -> list[Line]:
    """Return the lines of the model before tuning and of the most frequent answer, over the draws of test rows."""
    found = []
    for prefix, name in (("zero_shot", ZERO_SHOT), ("majority", MAJORITY)):
        draws: dict[int | None, float] = {}
        for line in lines:
            assert line.choice is not None
            for run in line.choice.runs:
                if (full := f"{prefix}.{line.metric}") in run.metrics:
                    draws[run.train_set_seed] = run.metrics[full]
        if draws:
            cell = Cell(model, task, "none", name)
            values = tuple(draws.values())
            found.append(
                Line(
                    cell=cell,
                    metric=lines[0].metric,
                    test=Spread.of(values),
                    seeds=values,
                    published=tuple(beside(cell)),
                )
            )
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
