"""The settings of the commands; options of the command line and keys of a YAML file are read off these."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from foretune.composition import AXES
from foretune.errors import UsageError

DType = Literal["auto", "float32", "bfloat16", "float16", "float64"]
Device = Literal["auto", "cpu", "cuda"]
LRScheduler = Literal["constant", "constant_with_warmup", "linear", "cosine"]
Engine = Literal["auto", "layerwise", "in_place"]


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(kw_only=True)
class ModelConfig:
    """What every command that loads a model and rows can be told."""

    model: str = _option("", "Model: a local folder or a hub id.")
    revision: str | None = _option(None, "Revision of a hub model (branch, tag or commit).")
    trust_remote_code: bool = _option(False, "Run modelling code that the model's repository ships.")
    dtype: DType = _option("auto", "Weights' dtype; auto: float32 on a CPU, the checkpoint's on a GPU.")
    device: Device = _option("auto", "Where to run; auto: a GPU if there is one.")

    task: str = _option("", "Task, for example sst2.")
    data_dir: str | None = _option(None, "Folder with <task>/{train,validation}.jsonl; default: the hub.")
    template: str | None = _option(None, "Prompt version of the task; default: the task's.")
    num_eval: int | None = _option(None, "Test rows, drawn from the validation split; default: the task's.")
    train_set_seed: int = _option(0, "Seed of the draw of train, dev and test rows.")
    max_length: int = _option(2048, "Most tokens of a sequence; longer prompts are cut on the left.")
    eval_batch_size: int = _option(32, "Rows per batch in evaluations.")

    def check(self) -> None:
        """Refuse missing options and values out of range, before anything is loaded.

        Raises:
            UsageError: naming the option, the value and what would be right.
        """
        if not self.model:
            raise UsageError("--model is missing: give a local folder or a hub id, for example facebook/opt-1.3b.")
        if not self.task:
            raise UsageError("--task is missing: give a task, for example sst2.")
        for name in ("max_length", "eval_batch_size"):
            _at_least(self, name, 1)
        for name, least in (("num_eval", 1), ("train_set_seed", 0)):
            _at_least(self, name, least)


@dataclass(kw_only=True)
class EvaluateConfig(ModelConfig):
    """`foretune evaluate`: the accuracy of a model, as it is, on a task's test rows."""

    output: str | None = _option(None, "JSON file for the result.")


@dataclass(kw_only=True)
class TrainConfig(ModelConfig):
    """`foretune train`: tune a model on a task and evaluate it before and after."""

    method: dict[str, Any] = field(default_factory=lambda: {"name": "mezo"})
    tuning: dict[str, Any] = field(default_factory=lambda: {"name": "full"})
    space: dict[str, Any] | None = None
    direction: dict[str, Any] | None = None
    update: dict[str, Any] | None = None
    schedule: dict[str, Any] | None = None
    steps: int = _option(20_000, "Optimizer steps.")
    lr: float | None = _option(None, "Learning rate; default: the method's.")
    zo_eps: float | None = _option(None, "Perturbation scale; default: the method's.")
    num_directions: int | None = _option(None, "Directions per step; default: the method's.")
    batch_size: int = _option(16, "Rows per step and micro-batch.")
    gradient_accumulation_steps: int = _option(1, "Micro-batches per step.")
    lr_scheduler: LRScheduler = _option("constant", "Learning-rate schedule.")
    warmup_steps: int = _option(0, "Steps of linear warm-up.")
    seed: int = _option(0, "Run seed: directions and the order of rows.")
    engine: Engine = _option("auto", "How perturbed losses are evaluated.")

    num_train: int | None = _option(None, "Training rows; default: the task's.")
    num_dev: int | None = _option(None, "Dev rows, cut from the training split; default: the task's.")
    eval_steps: int | None = _option(None, "Steps between dev evaluations and checkpoints; default: steps / 5.")
    log_steps: int = _option(10, "Steps between lines of the log.")
    diagnostics: int | None = _option(
        None, "Steps between lines about weights and estimate against the true gradient; default: none."
    )

    config: str | None = None  # the file these settings were read from; only the command line uses it
    output: str = _option("", "Folder of the run.")
    resume: bool = _option(False, "Go on with the run in the output folder; start it where nothing was saved.")

    @property
    def method_options(self) -> dict[str, Any]:
        """The method's own settings that were given: `--method.*`, the general options it shares, and changed parts."""
        shared = {name: getattr(self, name) for name in ("lr", "zo_eps", "num_directions")}
        own = {name: value for name, value in self.method.items() if name != "name" and value is not None}
        for name, value in shared.items():
            if value is not None and own.setdefault(name, value) != value:
                raise UsageError(f"--{name.replace('_', '-')} {value} contradicts --method.{name} {own[name]}.")
        for axis in AXES:
            change = {name: value for name, value in (getattr(self, axis) or {}).items() if value is not None}
            if change:
                own[axis] = change
        return own

    @property
    def resolved_eval_steps(self) -> int:
        """Steps between dev evaluations."""
        return self.eval_steps or max(1, self.steps // 5)

    def check(self) -> None:
        """Refuse what cannot work, before anything is loaded.

        Raises:
            UsageError: naming the option, the value and what would be right.
        """
        super().check()
        if not self.output:
            raise UsageError("--output is missing: give a folder for the run, for example runs/first.")
        least = {"steps": 1, "batch_size": 1, "gradient_accumulation_steps": 1, "warmup_steps": 0, "num_train": 1}
        least |= {"num_dev": 0, "eval_steps": 1, "log_steps": 1, "diagnostics": 1, "seed": 0}
        for name, smallest in least.items():
            _at_least(self, name, smallest)
        _at_least(self, "lr", 0)


@dataclass(kw_only=True)
class ReplayConfig:
    """`foretune replay`: rebuild tuned weights from the base model and a journal, without data."""

    run: str = _option("", "Folder of the run, or its journal file.")
    output: str = _option("", "Folder for the rebuilt model.")
    model: str | None = _option(None, "Base model; default: the one the journal names.")
    revision: str | None = _option(None, "Revision of a hub model.")
    trust_remote_code: bool = _option(False, "Run modelling code that the model's repository ships.")
    device: Device = _option("auto", "Where to run; use the run's kind of device for equal bits.")
    step: int | None = _option(None, "Steps to replay; default: those of the run's final model.")

    def check(self) -> None:
        """Refuse missing options.

        Raises:
            UsageError: naming the option.
        """
        if not self.output:
            raise UsageError("--output is missing: give a folder for the rebuilt model.")
        if Path(self.output).exists() and any(Path(self.output).iterdir()):
            raise UsageError(f"--output {self.output} exists and is not empty; choose another folder.")
        _at_least(self, "step", 0)


def _at_least(config: Any, name: str, least: int) -> None:
    value = getattr(config, name)
    if value is not None and not value >= least:
        raise UsageError(f"--{name.replace('_', '-')} must be at least {least}, got {value}.")
