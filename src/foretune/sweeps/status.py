"""Where a study stands: how many trials are over, which run, what remains, and the best so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from foretune.ledger import Ledger, Run
from foretune.sweeps.study import Goal, Progress, Study


@dataclass(frozen=True, slots=True)
class Running:
    """A trial that runs: its steps and seconds, as far as the ledger of this machine knows them."""

    folder: str
    worker: str | None
    steps: int | None
    total_steps: int | None
    seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Where a study stands.

    Attributes:
        counts: Trials by state.
        running: Those that run.
        ended: Those that are over, by folder.
        best: The best trial of each group, by group.
        seconds_left: Of work that remains, divided by the trials that run; None before there is a finished trial.
    """

    counts: Mapping[str, int]
    running: Sequence[Running]
    ended: Mapping[str, Progress]
    best: Mapping[str, Progress]
    seconds_left: float | None

    @property
    def num_trials(self) -> int:
        """All there are so far."""
        return sum(self.counts.values())


def status_of(study: Study, ledger: Path | None) -> Status:
    """Return where a study stands.

    Args:
        study: The study.
        ledger: Of this machine's runs; None if there is none.
    """
    trials = study.progress()
    runs = _runs(study.name, ledger)
    running = []
    for trial in trials:
        if trial.state == "running":
            run = runs.get(trial.item.folder)
            figures = (run.steps, run.total_steps, run.seconds) if run else (None, None, None)
            running.append(Running(trial.item.folder, trial.worker, *figures))
    ended = {trial.item.folder: trial for trial in trials if trial.state not in ("waiting", "running")}
    return Status(
        counts=Counter(trial.state for trial in trials),
        running=running,
        ended=ended,
        best=_best(trials, study.goal),
        seconds_left=_seconds_left(trials, runs, len(running)),
    )


def _runs(study: str, ledger: Path | None) -> dict[str, Run]:
    if ledger is None or not ledger.is_file():
        return {}
    with Ledger.open(ledger) as opened:
        return {run.name: run for run in opened.query() if run.study == study}


def _best(trials: Sequence[Progress], goal: Goal) -> dict[str, Progress]:
    best: dict[str, Progress] = {}
    for trial in trials:
        value, before = trial.value, best.get(trial.item.group)
        if value is None or trial.state != "finished":
            continue
        if before is None or before.value is None or (value < before.value) == (goal == "minimize"):
            best[trial.item.group] = trial
    return best


def _seconds_left(trials: Sequence[Progress], runs: Mapping[str, Run], num_running: int) -> float | None:
    """Return what remains at the mean time of a finished trial, of the same group where there is one."""
    taken: dict[str, list[float]] = {}
    for trial in trials:
        run = runs.get(trial.item.folder)
        if trial.state == "finished" and run is not None and run.seconds is not None:
            taken.setdefault(trial.item.group, []).append(run.seconds)
    if not taken:
        return None
    overall = fmean(seconds for group in taken.values() for seconds in group)
    remaining = [trial.item.group for trial in trials if trial.state in ("waiting", "running")]
    return sum(fmean(taken.get(group, [overall])) for group in remaining) / max(1, num_running)
