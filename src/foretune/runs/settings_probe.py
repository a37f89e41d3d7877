"""What is worth asking before a run begins: which zo_eps and lr it should have, and what it will take."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import get_scheduler

from foretune.adapters import AbstractTuning, make_tuning
from foretune.engine import EngineName
from foretune.errors import IncompatibleError, UsageError
from foretune.evaluation import TextMetricObjective
from foretune.methods import AbstractMethod, make_recipe
from foretune.objectives import LMObjective
from foretune.parameters import collect_trainables
from foretune.runs import zo_eps_scan
from foretune.runs.config import EstimateConfig, ProbeConfig
from foretune.runs.costs import peak_memory_bytes, reset_peak_memory
from foretune.runs.estimate import estimate
from foretune.runs.kept_weights import kept_weights
from foretune.runs.lr_model import Fit, Horizon, Trial, fit
from foretune.runs.lr_trials import SEARCH_STEPS, LrTrials
from foretune.runs.result_file import ResultFile
from foretune.runs.sampled_loss import SampledLoss
from foretune.runs.sources import Loaded, make_source
from foretune.runs.trainers import training_arguments

_SCHEDULE_POINTS = 1000
_TIMED_ROWS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoEpsAdvice:
    """Which perturbation scale to take.

    Attributes:
        value: The scale.
        is_sound: Whether slopes can be trusted there.
        reason: One sentence.
        rounding: Standard deviation of what rounding does to a loss.
        candidates: What was found about each.
    """

    value: float
    is_sound: bool
    reason: str
    rounding: float
    candidates: tuple[zo_eps_scan.Candidate, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LrAdvice:
    """Which learning rate to take.

    Attributes:
        value: The learning rate.
        reason: One sentence.
        loss: Of held-out rows at the beginning.
        fit: The model of gain and cost.
        trials: The short runs, by learning rate.
    """

    value: float
    reason: str
    loss: float
    fit: Fit
    trials: tuple[Trial, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What the run will take.

    Attributes:
        steps: Its length.
        seconds_per_step: Measured.
        dev_evaluations, dev_seconds: How many, and how long one takes; measured on some of the rows.
        test_seconds: Of the evaluations before and after.
        peak_memory_bytes: Measured; of the whole process on a CPU.
        predicted_memory_bytes: By `foretune estimate`, without the process; None where it cannot say, for which
            `unpredicted` has the reason.
    """

    steps: int
    seconds_per_step: float
    dev_evaluations: int
    dev_seconds: float
    test_seconds: float
    peak_memory_bytes: int
    predicted_memory_bytes: int | None
    unpredicted: str

    @property
    def seconds(self) -> float:
        """All of it, without loading and checkpoints."""
        return self.steps * self.seconds_per_step + self.dev_evaluations * self.dev_seconds + self.test_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsProbe:
    """Answers.

    Attributes:
        task, method, tuning, engine: What was probed.
        zo_eps: None for a method that perturbs nothing.
        lr: The learning rate.
        forecast: The costs.
        num_forwards: Forward passes of a micro-batch that all this took.
        seconds: And the time, without loading the model.
    """

    task: str
    method: str
    tuning: str
    engine: str
    zo_eps: ZoEpsAdvice | None
    lr: LrAdvice
    forecast: Forecast
    num_forwards: int
    seconds: float


def probe_settings(
    config: ProbeConfig,
    progress: Callable[[str], object] = lambda text: None,
    show: Callable[[SettingsProbe], object] = lambda found: None,
) -> SettingsProbe:
    """Measure on a few batches which settings a run should have, and what it will take.

    The weights are those of the base model again afterwards, the global random state is as it was, and nothing is
    written but the JSON file that was asked for.

    Args:
        config: The run.
        progress: Told what begins.
        show: Gets what is returned before it is written, so that it is not lost if it cannot be.
    Raises:
        UsageError: an option or an input file is wrong; the model was not loaded yet.
        IncompatibleError: the method and the model cannot work together.
        ForetuneError: no learning rate changes the loss, all break it, or there is no room for a copy of the weights.
    """
    config.check()
    file = _result_file(config)
    if file is not None:
        file.check()
    tuning = make_tuning(config.tuning)
    method = _method(config, tuning)
    source = make_source(config, tuning)
    training_arguments(config, method, selection=source.selection)  # refuses what the run would refuse
    progress("Loading the model ...")
    loaded = source.load(tuning)
    start = time.perf_counter()
    loss = SampledLoss(
        loaded.model,
        loaded.protocol.objective(loaded.model),
        loaded.rows,
        batch_size=config.batch_size,
        num_micro_batches=config.gradient_accumulation_steps,
        seed=config.seed,
    )
    scanned = zo_eps = None
    if method.parts().estimator.zo_eps:
        progress("Perturbing the weights at several zo_eps ...")
        scanned = zo_eps_scan.measure(loaded.model, method.parts(), loss, seed=config.seed, engine=config.engine)
        zo_eps = _advise_zo_eps(scanned, method.parts().estimator.zo_eps)
    chosen = {} if zo_eps is None else {"zo_eps": zo_eps.value}
    progress("Making short runs at several lr ...")
    device = next(loaded.model.parameters()).device
    with kept_weights(collect_trainables(loaded.model)) as kept:
        reset_peak_memory(device)
        trials = LrTrials(
            loaded.model,
            lambda lr: _method(config, tuning, **chosen, lr=lr).optimizer_arguments(),
            loss,
            kept,
            engine=config.engine if scanned is None else scanned.engine,
            seed=config.seed,
        )
        lr = _advise_lr(trials, method.lr, config)
        peak = peak_memory_bytes(device)
    progress("Timing an evaluation ...")
    found = SettingsProbe(
        task=source.name,
        method=method.describe()["name"],
        tuning=tuning.name,
        engine=trials.engine,
        zo_eps=zo_eps,
        lr=lr,
        forecast=_forecast(config, loaded, trials, peak),
        num_forwards=loss.num_forwards,
        seconds=time.perf_counter() - start,
    )
    show(found)
    if file is not None:
        file.write(_jsonable(asdict(found)))
    return found


def _result_file(config: ProbeConfig) -> ResultFile | None:
    if config.json is None:
        return None
    return ResultFile(path=Path(config.json), option="--json", what="a probe", telling="forecast", again="probe again")


def _method(config: ProbeConfig, tuning: AbstractTuning, **settings: float) -> AbstractMethod:
    """Build the method of the run, with other settings where they are given.

    Raises:
        UsageError: it is no zeroth-order method, or one of its settings is wrong.
    """
    options = {**config.method_options, **settings}
    recipe = make_recipe(config.method["name"], options, total_steps=config.steps, tuning=tuning.name)
    if not isinstance(recipe, AbstractMethod):
        raise UsageError(
            f"--method {config.method['name']} follows gradients; what is probed are steps along random directions. "
            "Try its learning rates with foretune sweep."
        )
    return recipe


def _advise_zo_eps(measured: zo_eps_scan.Measured, usual: float) -> ZoEpsAdvice:
    found = zo_eps_scan.candidates(measured)
    choice = zo_eps_scan.choose(found, usual)
    return ZoEpsAdvice(
        value=choice.zo_eps,
        is_sound=choice.is_sound,
        reason=choice.reason,
        rounding=measured.rounding,
        candidates=tuple(found),
    )


def _advise_lr(trials: LrTrials, usual: float, config: ProbeConfig) -> LrAdvice:
    breaking = trials.search(usual)
    trials.make_grid(breaking, config.trial_steps)
    run = horizon(config.steps, config.lr_scheduler, config.warmup_steps)
    found = fit(trials.made, run, loss=trials.start_loss, limit=trials.limit)
    whole = max(trial.lr for trial in trials.made if trial.change <= trials.limit)
    value = min(found.rounded_lr, whole)
    reason = (
        f"after {config.steps} steps the loss is expected to be lowest there, give or take a factor of "
        f"{found.factor:.1f}; {breaking:.0e} breaks it within {SEARCH_STEPS} steps"
    )
    return LrAdvice(
        value=value,
        reason=reason,
        loss=trials.start_loss,
        fit=found,
        trials=tuple(sorted(trials.made, key=lambda trial: (trial.lr, trial.steps))),
    )


def horizon(steps: int, lr_scheduler: str, warmup_steps: int) -> Horizon:
    """Return a run's length, with the means of its learning rate and of its square by the schedule."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=1.0)
    schedule: Any = get_scheduler(lr_scheduler, optimizer, num_warmup_steps=warmup_steps, num_training_steps=steps)
    asked = sorted({round(step) for step in np.linspace(0, steps - 1, _SCHEDULE_POINTS)})
    rates = np.array([schedule.lr_lambdas[0](step) for step in asked])
    return Horizon(steps, float(rates.mean()), float((rates**2).mean()))


def _forecast(config: ProbeConfig, loaded: Loaded, trials: LrTrials, peak: int) -> Forecast:
    predicted, unpredicted = _predicted_memory(config, loaded, trials.engine)
    return Forecast(
        steps=config.steps,
        seconds_per_step=trials.seconds_per_step(config.steps),
        dev_evaluations=config.steps // config.resolved_eval_steps if loaded.dev else 0,
        dev_seconds=_evaluation_seconds(loaded, loaded.dev, only_loss=True),
        test_seconds=2 * _evaluation_seconds(loaded, loaded.test),
        peak_memory_bytes=peak,
        predicted_memory_bytes=predicted,
        unpredicted=unpredicted,
    )


def _evaluation_seconds(loaded: Loaded, rows: Sequence[Any], *, only_loss: bool = False) -> float:
    """Time the evaluation of some rows, evenly spread, and return what all will take."""
    if not rows:
        return 0.0
    sample = rows[:: max(1, len(rows) // _TIMED_ROWS)][:_TIMED_ROWS]
    loaded.score(sample[:1], only_loss=only_loss)  # makes what evaluations share
    start = time.perf_counter()
    loaded.score(sample, only_loss=only_loss)
    return (time.perf_counter() - start) * len(rows) / len(sample)


def _predicted_memory(config: ProbeConfig, loaded: Loaded, engine: EngineName) -> tuple[int | None, str]:
    """Return what `foretune estimate` says of the largest batch there may be, or why it says nothing."""
    objective = loaded.protocol.objective(loaded.model)
    if isinstance(objective, TextMetricObjective):
        return None, "the loss is that of generated texts"
    longest = sorted(loaded.rows, key=lambda row: row.length)[-config.batch_size :]
    num_sequences, num_tokens = objective.collate(longest)["input_ids"].shape
    shared = {field.name for field in fields(EstimateConfig)} & {field.name for field in fields(config)}
    settings = {name: getattr(config, name) for name in shared}
    settings |= {
        "batch_size": num_sequences,
        "sequence_length": max(2, num_tokens),
        "objective": "lm" if isinstance(objective, LMObjective) else "classification",
        "engine": engine,
    }
    try:
        return estimate(EstimateConfig(**settings)).peak, ""
    except IncompatibleError as error:
        return None, str(error)


def _jsonable(value: Any) -> Any:
    """Return numbers that are not finite as None, and sequences as lists."""
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
