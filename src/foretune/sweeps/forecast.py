"""What a sweep will take, before it is run: forward passes, memory, and hours where a run has shown them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from foretune.errors import ForetuneError
from foretune.ledger import Ledger
from foretune.runs.config import EstimateConfig, TrainConfig
from foretune.runs.estimate import estimate
from foretune.sweeps.plan import Parse, Planned, arguments
from foretune.sweeps.selection import passes_of

PROBED_TOKENS = 256
"""Length of the rows that memory is estimated for; rows are not read beforehand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What the trials of a group will take.

    Attributes:
        group: Model, task, method and tuning scheme.
        num_trials: Planned, with the further seeds of chosen settings.
        forward_passes: Of all of them; a backward pass counts as two. None where that is not known.
        memory_bytes: At most; None where it cannot be predicted.
        seconds: Of one worker; None where no run like these is known.
    """

    group: str
    num_trials: int
    forward_passes: int | None
    memory_bytes: int | None
    seconds: float | None


def forecast(planned: Sequence[Planned], parse: Parse, ledger: Path | None) -> list[Forecast]:
    """Return what each group of trials will take.

    Args:
        planned: The plan.
        parse: Reads the options of `foretune train`.
        ledger: Of runs that show what such trials take; None for none.
    """
    groups: dict[str, list[Planned]] = {}
    for trial in planned:
        groups.setdefault(trial.group, []).append(trial)
    speeds = _seconds_per_pass(ledger)
    found = []
    for group, trials in groups.items():
        config = parse([*arguments(trials[0].options), "--output=trial"])
        further = len(trials[0].chosen_seeds)
        each = [trial.forward_passes for trial in (*trials, *[trials[0]] * further)]
        passes = None if None in each else sum(count for count in each if count is not None)
        speed = speeds.get(_kind(config.model, config.task, config.method["name"], config.tuning["name"]))
        found.append(
            Forecast(
                group=group,
                num_trials=len(trials) + further,
                forward_passes=passes,
                memory_bytes=_memory(config),
                seconds=None if speed is None or passes is None else speed * passes,
            )
        )
    return found


def _memory(config: TrainConfig) -> int | None:
    shared = ("model", "revision", "trust_remote_code", "batch_size", "dtype", "device", "method", "tuning")
    axes = ("space", "direction", "update", "schedule", "lr", "zo_eps", "num_directions", "engine")
    try:
        return estimate(EstimateConfig(**{name: getattr(config, name) for name in (*shared, *axes)})).peak
    except (ForetuneError, OSError):
        return None


def _kind(model: str | None, task: str | None, method: str | None, tuning: str | None) -> tuple[str | None, ...]:
    return model, task, method, tuning


def _seconds_per_pass(ledger: Path | None) -> Mapping[tuple[str | None, ...], float]:
    """Return the seconds of finished runs per forward pass, with loading and evaluations."""
    if ledger is None or not ledger.is_file():
        return {}
    found: dict[tuple[str | None, ...], list[float]] = {}
    with Ledger.open(ledger) as opened:
        for run in opened.query():
            if (passes := passes_of(run)) and run.seconds and run.state == "finished":
                kind = _kind(run.model, run.task, run.method, run.tuning)
                found.setdefault(kind, []).append(run.seconds / passes)
    return {kind: fmean(values) for kind, values in found.items()}
