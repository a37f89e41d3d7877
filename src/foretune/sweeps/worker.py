"""A worker: takes a trial, runs it as `foretune train` would, and takes the next, until the study is over."""

from __future__ import annotations

import fcntl
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from foretune.errors import DivergedError, PrunedError, UsageError
from foretune.ledger.metrics_file import read_points
from foretune.runs.config import TrainConfig
from foretune.runs.costs import reset_peak_memory
from foretune.runs.loading import resolve_device
from foretune.runs.recording import Membership
from foretune.runs.train import train
from foretune.sweeps.chosen import add_chosen_seeds
from foretune.sweeps.code import check_code
from foretune.sweeps.plan import Parse, arguments
from foretune.sweeps.proposals import propose
from foretune.sweeps.settings import StudySettings
from foretune.sweeps.study import Claim, Lost, Outcome, Study
from foretune.trainer.base import METRICS_NAME

logger = logging.getLogger(__name__)

_LOCK_NAME = ".lock"
_POLL_SECONDS = (0.5, 10.0)
"""Between two looks for a trial, at first and at most: one that runs elsewhere may come free."""

Report = Callable[[Claim, Outcome, float | None, str | None], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """What a worker needs to know.

    Attributes:
        study: Where trials are taken from.
        parse: Reads the options of `foretune train`.
        output: Folder of the trials' folders; the same for all workers of a machine.
        ledger: As `foretune train` takes it.
        report: Called with every trial that has ended.
    """

    study: Study
    parse: Parse
    output: Path
    ledger: str | None
    report: Report

    def work(self, *, any_code: bool = False) -> None:
        """Run trials until none waits and none runs elsewhere.

        Args:
            any_code: Whether to go on though other workers have another version of foretune; it is recorded.
        Raises:
            UsageError: they have.
            KeyboardInterrupt: the trial it ran is left to be gone on with.
        """
        check_code(self.study, any_code=any_code)
        settings = StudySettings.of(self.study)
        settings.prepare(self.study.optuna_study)
        pause = _POLL_SECONDS[0]
        while True:
            add_chosen_seeds(self.study, self.parse)
            claim = self.study.claim()
            if claim is not None:
                self._run(claim, settings)
                pause = _POLL_SECONDS[0]
            elif self.study.is_over():
                return
            else:
                time.sleep(pause)
                pause = min(2 * pause, _POLL_SECONDS[1])

    def _run(self, claim: Claim, settings: StudySettings) -> None:
        value = error = None
        try:
            with claim.held():
                try:
                    outcome: Outcome = "finished"
                    value = self._train(claim, settings)
                except DivergedError as found:
                    outcome, error = "diverged", str(found)
                except PrunedError as found:
                    outcome, error = "pruned", str(found)
                except Lost:
                    raise
                except Exception as found:  # whatever one trial dies of, the others are to be run
                    outcome, error = "failed", f"{type(found).__name__}: {' '.join(str(found).split())}"
                    logger.debug("Trial %s failed.", claim.item.folder, exc_info=True)
                except KeyboardInterrupt:
                    claim.release()
                    raise
                if value is not None and not math.isfinite(value):
                    outcome, error, value = "diverged", f"{settings.metric} is {value}", None
                claim.finish(outcome, value=value, error=error)
        except Lost:
            logger.warning("Trial %s was silent for too long, and another worker has it now.", claim.item.folder)
            return
        self.report(claim, outcome, value, error)

    def _train(self, claim: Claim, settings: StudySettings) -> float:
        """Run the trial, or what is left of it, and return its metric."""
        if claim.item.options is None:
            propose(claim, settings, self.parse)
        item = claim.item
        folder = self.output / item.folder
        words = [*arguments(item.options or {}), f"--output={folder}", "--resume"]
        config = self.parse(words if self.ledger is None else [*words, f"--ledger={self.ledger}"])
        folder.mkdir(parents=True, exist_ok=True)
        reset_peak_memory(resolve_device(config.device))
        with _locked(folder / _LOCK_NAME):
            watch = _Watch(claim, settings, config)
            membership = Membership(study=self.study.name, trial=item.number, suite=item.suite)
            results = train(config, [watch], membership=membership)
        return _metric_of(folder, settings.metric, results)


class _Watch(TrainerCallback):
    """Ends a trial that is another worker's by now, or not worth going on with."""

    def __init__(self, claim: Claim, settings: StudySettings, config: TrainConfig) -> None:
        self._claim = claim
        self._metric = settings.metric
        self._is_pruned = settings.pruning is not None
        self._every = config.resolved_eval_steps

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look whether the trial is still ours."""
        self._claim.check()

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        """Report the metric, and end the trial if the rule says so; one that is at its end may finish."""
        value = (metrics or {}).get(_eval_name(self._metric))
        if not self._is_pruned or value is None or state.global_step >= state.max_steps:
            return
        if self._claim.report(value, state.global_step // self._every):
            raise PrunedError(f"{self._metric} {value:.4g} after {state.global_step} steps")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a trial's folder: a worker that was taken for dead may still be in it, and soon leaves."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _metric_of(folder: Path, metric: str, results: dict[str, Any]) -> float:
    """Return the dev figure of the model that was chosen as final."""
    step = int((results["final_model"] or {}).get("step", 0))
    with (folder / METRICS_NAME).open() as file:
        figures = {point.step: point.figures for point in read_points(file) if _is_evaluation(point.figures)}
    found = figures.get(step, {})
    if _eval_name(metric) not in found:
        known = ", ".join(name.replace("eval_", "dev.", 1) for name in found if name.startswith("eval_")) or "none"
        raise UsageError(f"the sweep's metric {metric} is no dev figure of this run; there are: {known}.")
    return found[_eval_name(metric)]


def _is_evaluation(figures: dict[str, float]) -> bool:
    return any(name.startswith("eval_") for name in figures)


def _eval_name(metric: str) -> str:
    return metric.replace("dev.", "eval_", 1)
