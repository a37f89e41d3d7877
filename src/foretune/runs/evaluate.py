"""The figures of a model as it is, with demonstrations, calibrated, or with its head fitted."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from foretune.baselines import HeadTuning, fit_linear_probe
from foretune.data import TaskData
from foretune.data.loading import load_split
from foretune.errors import UsageError
from foretune.journal.header import jsonable
from foretune.ledger import Run
from foretune.ledger.metrics_file import numbers
from foretune.runs.config import EvaluateConfig
from foretune.runs.finished import final_model
from foretune.runs.in_context import MOST_FITTING, count_fitting, own_demonstrations, shared_demonstrations
from foretune.runs.loading import (
    ModelKind,
    adapter_kind,
    check_model_path,
    is_adapter,
    load_adapter,
    load_config,
    load_model,
    load_tokenizer,
    local_adapter,
    model_kind,
    resolve_device,
    resolve_dtype,
)
from foretune.runs.protocol import (
    AbstractProtocol,
    CausalProtocol,
    ObjectiveChoice,
    check_prompt,
    choose_objective,
    make_protocol,
)
from foretune.runs.recording import check_ledger, record_evaluations
from foretune.runs.result_file import ResultFile
from foretune.runs.rows import load_rows
from foretune.runs.task import task_of
from foretune.runs.weight_files import check_adapter_weights, check_weights
from foretune.tasks import Task
from foretune.tasks.candidates import AbstractCandidateTask

logger = logging.getLogger(__name__)


def evaluate(config: EvaluateConfig, show: Callable[[dict[str, Any]], object] = lambda results: None) -> dict[str, Any]:
    """Evaluate a model, an adapter or the final model of a run folder on the test rows of a task.

    Args:
        config: What is evaluated.
        show: Gets what is returned before it is written, so that it is not lost if it cannot be.
    Raises:
        UsageError: an option or an input file is wrong.
        IncompatibleError: the model's head cannot be fitted alone, as a baseline asks.
        LedgerError: the ledger cannot be written.
    """
    config.check()
    file = _result_file(config)
    if file is not None:
        file.check()
    check_ledger(config.ledger)
    shown = final_model(config.model)
    if not is_adapter(shown):
        check_model_path(shown)
    task = task_of(config)
    name = local_adapter(shown, revision=config.revision)
    kind = _find_kind(config, name)
    (check_adapter_weights if is_adapter(name) else check_weights)(name)
    check_prompt(task, kind, config.template)
    choice = choose_objective(task, config.objective, kind)
    _check_setting(config, task, kind, choice)
    draws = [_Draw.load(replace(config, train_set_seed=seed), task, kind) for seed in config.seeds]
    data = draws[0].data
    _check_calibration(config, data)
    if config.baseline == "linear_probe" and not _has_fixed_words(data):
        raise UsageError(
            f"--baseline linear_probe: task {task.name!r} has no label words that all rows share; use head_tuning."
        )
    model, tokenizer = _load(config, name, kind)
    protocol = make_protocol(config, task, choice, kind, model, tokenizer)
    baseline = _fit_baseline(config, protocol, model, data)
    outcomes = [_score(config, protocol, model, draw) for draw in draws]
    is_tuned = shown != config.model
    results = {
        "task": task.name,
        "template": config.template or (task.default_template if kind == "causal" else "masked"),
        "data": draws[0].describe(),
        "model": shown,
        "dtype": str(model.dtype).removeprefix("torch."),
        "setting": _describe_setting(config, outcomes, is_tuned=is_tuned),
        "baseline": baseline,
        **_combine(config, outcomes),
    }
    show(results)
    if file is not None:
        file.write(results)
    record_evaluations(config.ledger, _rows(config, results, outcomes, is_tuned=is_tuned), model.device)
    return results


def _result_file(config: EvaluateConfig) -> ResultFile | None:
    if config.output is None:
        return None
    return ResultFile(
        path=Path(config.output), option="--output", what="an evaluation", telling="setting", again="evaluate again"
    )


def _rows(
    config: EvaluateConfig, results: Mapping[str, Any], outcomes: Sequence[_Outcome], *, is_tuned: bool
) -> list[Run]:
    """Return what the ledger says of each result; `is_tuned` by a run."""
    settings = {**asdict(config), "dtype": results["dtype"]}
    method = config.baseline or ("in_context" if config.demonstrations else "tuned" if is_tuned else "zero_shot")
    return [
        Run(
            id="",
            name=f"{results['task']}, {results['setting']}",
            status="finished",
            method=method if config.calibration == "none" else f"{method}, {config.calibration}",
            task=results["task"],
            model=config.model,
            train_set_seed=outcome.seed,
            config=jsonable({**settings, "train_set_seed": outcome.seed, "demonstration_sets": None}),
            metrics=numbers({"final": outcome.figures, "majority": outcome.majority}),
            seconds=outcome.seconds,
        )
        for outcome in outcomes
    ]


@dataclass(frozen=True, slots=True)
class _Draw:
    """The rows of one result.

    Args:
        data: Test rows, and training rows where a baseline or shared demonstrations need them.
        demonstrations: The solved rows in front of each test row, as texts; None = there are none.
        origin: Where the rows in front come from, where they are not `data.train`.
    """

    data: TaskData
    demonstrations: list[tuple[str, ...]] | None = None
    origin: str = ""

    @classmethod
    def load(cls, config: EvaluateConfig, task: Task, kind: ModelKind) -> _Draw:
        """Load and draw rows.

        Raises:
            UsageError: they cannot be read.
        """
        count = MOST_FITTING if config.demonstrations == "fit" else config.demonstrations
        own = config.demonstration_sets == "per-row"
        num_train = config.num_train if config.baseline else 0 if own else count
        data = load_rows(config, task, kind, num_train=num_train, num_dev=config.num_dev if config.baseline else 0)
        if not count:
            return cls(data)
        template = task.template(config.template)
        if not own:
            return cls(data, shared_demonstrations(data, template))
        split = load_split(task, task.train_split, config.data_dir)
        return cls(data, own_demonstrations(data, split, template, count), split.origin)

    def describe(self) -> dict[str, object]:
        """Return what a record says of the rows."""
        return self.data.describe() | ({"train": self.origin} if self.origin else {})


@dataclass(frozen=True, slots=True)
class _Outcome:
    """One result.

    Args:
        seed: The seed of its draw.
        figures: Metrics and loss.
        majority: Those of the majority class.
        num_rows: Test rows.
        num_cut: How many of them were too long and lost tokens.
        num_demonstrations: Solved rows in front of each test row, before anything was cut; one 0 for none at all.
        seconds: Wall clock of the scoring.
    """

    seed: int
    figures: dict[str, float]
    majority: dict[str, float]
    num_rows: int
    num_cut: int
    num_demonstrations: tuple[int, ...]
    seconds: float


def _find_kind(config: EvaluateConfig, name: str) -> ModelKind:
    """Tell which kind of model this is, before its weights are read."""
    if is_adapter(name):
        return adapter_kind(name, trust_remote_code=config.trust_remote_code)
    return model_kind(load_config(name, revision=config.revision, trust_remote_code=config.trust_remote_code))


def _check_setting(config: EvaluateConfig, task: Task, kind: ModelKind, choice: ObjectiveChoice) -> None:
    """Refuse, before rows are read, what task, model or objective have no use for."""
    for name, unset in (("demonstrations", 0), ("calibration", "none"), ("baseline", None)):
        if kind == "masked" and (value := getattr(config, name)) != unset:
            raise UsageError(f"--{name} {value} is for causal language models, and --model {config.model} is masked.")
    if config.demonstrations and task.template_for is not None:
        raise UsageError(f"--demonstrations {config.demonstrations}: rows of task {task.name!r} are conversations.")
    if config.baseline == "head_tuning" and choice.metric is not None:
        raise UsageError(
            f"--baseline head_tuning: --objective {choice.name} has no gradient; use classification or lm."
        )


def _check_calibration(config: EvaluateConfig, data: TaskData) -> None:
    """Refuse calibration, before the model is loaded, where the task has no prompt for it."""
    if config.calibration != "none":
        try:
            data.task.calibration(data.evaluation[0].row, data.task.template(config.template))
        except UsageError as error:
            raise UsageError(f"--calibration {config.calibration}: {error}") from None


def _has_fixed_words(data: TaskData) -> bool:
    """Whether every row has the same candidates."""
    task = data.task
    rows = (*data.train, *data.evaluation)
    return isinstance(task, AbstractCandidateTask) and len({task.candidates(row.row) for row in rows}) == 1


def _load(config: EvaluateConfig, name: str, kind: ModelKind) -> tuple[Any, PreTrainedTokenizerBase]:
    device = resolve_device(config.device)
    placing: dict[str, Any] = {"dtype": resolve_dtype(config.dtype, device), "device": device}
    if is_adapter(name):
        return load_adapter(name, trust_remote_code=config.trust_remote_code, **placing)
    loading: dict[str, Any] = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    tokenizer = load_tokenizer(name, **loading)
    return load_model(name, kind=kind, **placing, **loading), tokenizer


def _fit_baseline(
    config: EvaluateConfig, protocol: AbstractProtocol, model: nn.Module, data: TaskData
) -> dict[str, Any] | None:
    """Fit the model's head on the training rows, where a baseline asks for it, and return what is to be recorded."""
    if config.baseline is None:
        return None
    rows = protocol.encode(data.train)
    if config.baseline == "linear_probe":
        report = fit_linear_probe(model, rows, batch_size=config.eval_batch_size)
    else:
        given = {field.name: getattr(config, field.name) for field in fields(HeadTuning) if hasattr(config, field.name)}
        settings = {name: value for name, value in given.items() if value is not None}
        report = HeadTuning(**settings).fit(model, rows, protocol.objective)
    return {"name": config.baseline, "num_train": len(rows), **report}


def _score(config: EvaluateConfig, protocol: AbstractProtocol, model: nn.Module, draw: _Draw) -> _Outcome:
    data, demonstrations = draw.data, draw.demonstrations
    calibration: dict[str, Any] = {}
    if isinstance(protocol, CausalProtocol):
        if config.demonstrations == "fit":
            demonstrations = _fitting(protocol, draw)
        rows = protocol.encode(data.evaluation, demonstrations)
        if config.calibration != "none":
            in_front = demonstrations if config.calibration == "icl_sfc" else None
            calibration["calibration"] = protocol.encode_calibration(data.evaluation, in_front)
    else:
        rows = protocol.encode(data.evaluation)
    num_cut = sum(row.num_cut > 0 for row in rows)
    if num_cut and demonstrations and config.demonstrations != "fit":
        logger.warning("Demonstrations on the left were cut; --demonstrations fit takes as many whole ones as fit.")
    started = time.perf_counter()
    result = protocol.evaluate(model, rows, **calibration)
    seconds = time.perf_counter() - started
    return _Outcome(
        seed=data.train_set_seed,
        figures=result.figures,
        majority=data.majority,
        num_rows=result.num_rows,
        num_cut=num_cut,
        num_demonstrations=tuple(map(len, demonstrations)) if demonstrations else (0,),
        seconds=seconds,
    )


def _fitting(protocol: CausalProtocol, draw: _Draw) -> list[tuple[str, ...]]:
    """Return, for each row, as many of its demonstrations as fit."""
    assert draw.demonstrations is not None
    texts, test_rows = draw.demonstrations, draw.data.evaluation

    def surplus(rows: Sequence[int], numbers: Sequence[int]) -> list[int]:
        in_front = [texts[row][:number] for row, number in zip(rows, numbers, strict=True)]
        return protocol.surplus([test_rows[row] for row in rows], in_front)

    numbers = count_fitting(len(test_rows), min(map(len, texts)), surplus)
    return [of_row[:number] for of_row, number in zip(texts, numbers, strict=True)]


def _describe_setting(config: EvaluateConfig, outcomes: Sequence[_Outcome], *, is_tuned: bool) -> str:
    """Name what was done to the model, for tables; `is_tuned` by a run."""
    parts = ["tuned"] if is_tuned else []
    if config.baseline:
        return ", ".join([*parts, config.baseline.replace("_", " ")])
    numbers = [number for outcome in outcomes for number in outcome.num_demonstrations]
    least, most, mean = min(numbers), max(numbers), statistics.fmean(numbers)
    if not config.demonstrations:
        parts = parts or ["zero-shot"]
    else:
        number = f"{most}" if least == most else f"{least} to {most} (mean {mean:.1f})"
        parts += [f"{number} demonstration{'' if most == 1 else 's'}"]
        parts += ["other ones for each row"] if config.demonstration_sets == "per-row" else []
    return ", ".join(parts + ([config.calibration] if config.calibration != "none" else []))


def _combine(config: EvaluateConfig, outcomes: Sequence[_Outcome]) -> dict[str, Any]:
    """Return counts, speed and figures; of several results the means, the population deviations, and each."""
    num_rows = sum(outcome.num_rows for outcome in outcomes)
    combined: dict[str, Any] = {
        "demonstrations": statistics.fmean(number for outcome in outcomes for number in outcome.num_demonstrations),
        "demonstration_sets": config.demonstration_sets,
        "calibration": config.calibration,
        "num_rows": outcomes[0].num_rows,
        "num_cut": sum(outcome.num_cut for outcome in outcomes),
        "examples_per_second": num_rows / sum(outcome.seconds for outcome in outcomes),
        "metrics": {
            "model": _by_name(statistics.fmean, [outcome.figures for outcome in outcomes]),
            "majority": _by_name(statistics.fmean, [outcome.majority for outcome in outcomes]),
        },
    }
    if isinstance(config.demonstration_sets, int):
        combined["metrics"]["spread"] = _by_name(statistics.pstdev, [outcome.figures for outcome in outcomes])
        combined["sets"] = [
            {
                "train_set_seed": outcome.seed,
                "demonstrations": statistics.fmean(outcome.num_demonstrations),
                "num_cut": outcome.num_cut,
                "metrics": outcome.figures,
            }
            for outcome in outcomes
        ]
    return combined


def _by_name(function: Any, figures: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: function([values[name] for values in figures]) for name in figures[0]}
