"""The settings of the commands; options of the command line and keys of a YAML file are read off these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from foretune.composition import AXES
from foretune.data.sampling import MAX_SEED
from foretune.errors import UsageError

DType = Literal["auto", "float32", "bfloat16", "float16", "float64"]
Device = str
LRScheduler = Literal["constant", "constant_with_warmup", "linear", "cosine"]
Engine = Literal["auto", "layerwise", "in_place", "paired"]
OnDivergence = Literal["stop", "rollback", "ignore"]
Calibration = Literal["none", "sfc", "icl_sfc"]
Baseline = Literal["linear_probe", "head_tuning"]
ProbedObjective = Literal["lm", "classification"]

_MAX_RUN_SEED = 2**63 - 1
"""The largest integer that every part of a run can write down: the ledger's are of 64 bits, with a sign."""

EVERY = "all"
"""Among the methods to be measured: every one, where it is defined."""
SYNTHETIC = "synthetic"
"""The task whose rows are random tokens."""
_NOT_SYNTHETIC = (
    *("data", "eval_data", "data_config", "prompt", "label_words", "candidates", "label_field", "completion"),
    *("messages", "metric", "max_new_tokens", "data_dir", "template", "objective", "shots", "num_eval"),
    *("num_train", "num_dev", "eval_steps", "push_to_hub"),
)
"""Options that rows of random tokens have no use for."""


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


def _list(default: list[Any], text: str) -> Any:
    return field(default_factory=lambda: list(default), metadata={"help": text})


@dataclass(kw_only=True)
class ModelConfig:
    """What every command that loads a model and rows can be told."""

    model: str = _option("", "Model: a local folder or a hub id.")
    revision: str | None = _option(None, "Revision of a hub model (branch, tag or commit).")
    trust_remote_code: bool = _option(False, "Run modelling code that the model's repository ships.")
    dtype: DType = _option("auto", "Weights' dtype; auto: float32 on a CPU, the checkpoint's on a GPU.")
    device: Device = _option("auto", "Where to run; auto: a GPU if there is one.")

    task: str = _option("", "Task, for example sst2, or a YAML file that describes one; or give --data.")
    data: str | None = _option(None, "Own training rows: a .csv, .jsonl or .parquet file, or a hub dataset.")
    eval_data: str | None = _option(
        None, "Own test rows: a file, or a split of the hub dataset; default: cut from the training rows."
    )
    data_config: str | None = _option(None, "Configuration of the hub dataset.")
    prompt: str | None = _option(None, r'Prompt for own rows: "{text} It was {label}"; \n is a new line.')
    label_words: list[str] | None = _option(None, "Words of the labels: 0=terrible 1=great.")
    candidates: list[str] | None = _option(None, 'Candidates with fields of the row: "0={choice1}" "1={choice2}".')
    label_field: str | None = _option(None, "Field with the label, or with the right candidate; default: label.")
    completion: str | None = _option(None, 'Text to learn after the prompt, or without one: " {answer}".')
    messages: str | None = _option(None, "Field with a conversation whose last message is to be learned.")
    metric: str | None = _option(
        None, "Of a completion: f1, exact_match, rouge_l, loss (nothing is generated) or your module:function."
    )
    max_new_tokens: int | None = _option(None, "Most tokens of a generated text; default: 50 or, with rouge_l, 128.")
    data_dir: str | None = _option(None, "Folder with <task>/{train,validation}.jsonl; default: the hub.")
    template: str | None = _option(None, "Prompt version of the task; default: the task's.")
    objective: str | None = _option(None, "classification, lm, a metric, or your module:function; default: the task's.")
    shots: int | None = _option(
        None, "Few-shot setting of masked language models: training rows of each class, and as many dev rows."
    )
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
        if not self.task and self.data is None:
            raise UsageError("--task is missing: give a task, for example sst2, or rows of your own with --data.")
        for name in ("max_length", "eval_batch_size"):
            _at_least(self, name, 1)
        for name, least in (("num_eval", 1), ("train_set_seed", 0), ("shots", 1)):
            _at_least(self, name, least)
        _at_most(self, "train_set_seed", MAX_SEED)


@dataclass(kw_only=True)
class EvaluateConfig(ModelConfig):
    """`foretune evaluate`: a model, as it is or with a baseline that trains its head at most, on a task's test rows."""

    demonstrations: int | Literal["fit"] = _option(
        0, "Solved training rows in front of each prompt; fit: as many as fit there uncut, at most 32."
    )
    demonstration_sets: int | Literal["per-row"] | None = _option(
        None, "N: one result for each train_set_seed 0 to N-1; per-row: other demonstrations for every test row."
    )
    calibration: Calibration = _option(
        "none", "Subtract the candidates' scores without the row; icl_sfc: behind the demonstrations."
    )
    baseline: Baseline | None = _option(None, "Fit or train the output head alone on training rows first.")
    num_train: int | None = _option(None, "Training rows of a baseline; default: the task's.")
    num_dev: int | None = _option(None, "Rows set aside, so that a baseline has a run's training rows.")
    lr: float | None = _option(None, "Learning rate of head tuning; default: 1e-4.")
    steps: int | None = _option(None, "Steps of head tuning; default: five passes over the training rows.")
    batch_size: int | None = _option(None, "Rows of a step of head tuning; default: 8.")

    output: str | None = _option(None, "JSON file for the result.")
    ledger: str | None = _option(
        None, "Ledger of runs that gets a row for each result; default: $FORETUNE_LEDGER, else none."
    )

    @property
    def seeds(self) -> list[int]:
        """The seeds of the draws, one for each result; test rows with their own demonstrations have seed 0."""
        if isinstance(self.demonstration_sets, int):
            return list(range(self.demonstration_sets))
        return [self.train_set_seed]

    def check(self) -> None:
        """Refuse options that contradict each other or have no effect.

        Raises:
            UsageError: naming the option, the value and what would be right.
        """
        super().check()
        for name, least in {"num_train": 1, "num_dev": 0, "steps": 1, "batch_size": 1}.items():
            _at_least(self, name, least)
        if self.lr is not None and not self.lr > 0:
            raise UsageError(f"--lr must be positive, got {self.lr}.")
        if isinstance(self.demonstrations, int):
            _at_least(self, "demonstrations", 0)
        if isinstance(self.demonstration_sets, int):
            _at_least(self, "demonstration_sets", 1)
        if self.demonstration_sets is not None:
            given = f"--demonstration-sets {self.demonstration_sets}"
            if not self.demonstrations:
                raise UsageError(f"{given} has no effect without --demonstrations, for example --demonstrations 32.")
            if self.train_set_seed:
                raise UsageError(f"{given} sets the seeds of all draws; leave out --train-set-seed.")
        if self.calibration == "icl_sfc" and not self.demonstrations:
            raise UsageError("--calibration icl_sfc has demonstrations in front; give --demonstrations, or use sfc.")
        if self.baseline is not None:
            for name, unset in (("demonstrations", 0), ("calibration", "none")):
                if (value := getattr(self, name)) != unset:
                    raise UsageError(f"--{name} {value}: --baseline {self.baseline} is evaluated without.")
        _without_effect(self, ("num_train", "num_dev"), "--baseline", needed=self.baseline is None)
        tunes = self.baseline == "head_tuning"
        _without_effect(self, ("lr", "steps", "batch_size"), "--baseline head_tuning", needed=not tunes)


@dataclass(kw_only=True)
class RecipeConfig:
    """A method with its settings and changed parts, and what it tunes."""

    method: dict[str, Any] = field(default_factory=lambda: {"name": "mezo"})
    tuning: dict[str, Any] = field(default_factory=lambda: {"name": "full"})
    space: dict[str, Any] | None = None
    direction: dict[str, Any] | None = None
    update: dict[str, Any] | None = None
    schedule: dict[str, Any] | None = None
    lr: float | None = _option(None, "Learning rate; default: the method's.")
    zo_eps: float | None = _option(None, "Perturbation scale; default: the method's.")
    num_directions: int | None = _option(None, "Directions per step; default: the method's.")
    engine: Engine = _option("auto", "How perturbed losses are evaluated.")

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


@dataclass(kw_only=True)
class TrainConfig(RecipeConfig, ModelConfig):
    """`foretune train`: tune a model on a task and evaluate it before and after."""

    steps: int = _option(20_000, "Optimizer steps.")
    batch_size: int = _option(16, "Rows per step and micro-batch.")
    gradient_accumulation_steps: int = _option(1, "Micro-batches per step.")
    lr_scheduler: LRScheduler = _option("constant", "Learning-rate schedule.")
    warmup_steps: int = _option(0, "Steps of linear warm-up.")
    seed: int = _option(0, "Run seed: directions and the order of rows.")
    on_divergence: OnDivergence = _option(
        "stop", "A run that diverges ends, goes back to an earlier step with a tenth of the lr, or goes on."
    )

    sequence_length: int | None = _option(None, "Tokens of a row of --task synthetic; default: 256.")
    num_train: int | None = _option(None, "Training rows; default: the task's.")
    num_dev: int | None = _option(None, "Dev rows, cut from the training split; default: the task's.")
    eval_steps: int | None = _option(None, "Steps between dev evaluations and checkpoints; default: steps / 5.")
    log_steps: int = _option(10, "Steps between lines of the log.")
    diagnostics: int | None = _option(
        None, "Steps between lines about weights and estimate against the true gradient; default: none."
    )

    config: str | None = _option(None, "YAML file with any of these options; the command line wins.")
    output: str = _option("", "Folder of the run.")
    ledger: str | None = _option(
        None, "File with a row for every run; none: no row; default: $FORETUNE_LEDGER or runs.sqlite beside --output."
    )
    resume: bool = _option(False, "Go on with the run in the output folder; start it where nothing was saved.")
    report_to: list[str] | None = _option(
        None, "Trackers that get the figures as well: tensorboard, wandb, mlflow, trackio; their files lie in --output."
    )
    push_to_hub: bool | str | None = _option(
        None,
        "Upload the final model, its card and the run's record to this hub repository; default: one named as --output.",
    )
    hub_private_repo: bool = _option(False, "Make the repository of --push-to-hub private, if it is new.")

    @property
    def hub_repo(self) -> str | None:
        """Where the run is pushed to; None for nowhere."""
        return Path(self.output).absolute().name if self.push_to_hub is True else self.push_to_hub or None

    @property
    def resolved_sequence_length(self) -> int:
        """Tokens of a row of random tokens."""
        return self.sequence_length or 256

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
        if Path(self.model).is_dir() and Path(self.output).resolve() == Path(self.model).resolve():
            raise UsageError(f"--output {self.output} is the folder of --model; choose another folder.")
        least = {"steps": 1, "batch_size": 1, "gradient_accumulation_steps": 1, "warmup_steps": 0, "num_train": 1}
        least |= {"num_dev": 0, "eval_steps": 1, "log_steps": 1, "diagnostics": 1, "seed": 0}
        for name, smallest in least.items():
            _at_least(self, name, smallest)
        _at_most(self, "seed", _MAX_RUN_SEED)
        _at_least(self, "lr", 0)
        _at_least(self, "sequence_length", 2)
        if self.warmup_steps and self.lr_scheduler == "constant":
            raise UsageError(
                f"--warmup-steps {self.warmup_steps} has no effect with --lr-scheduler constant; use "
                "constant_with_warmup, linear or cosine."
            )
        self._check_synthetic()
        if self.hub_private_repo and self.hub_repo is None:
            raise UsageError("--hub-private-repo has no effect without --push-to-hub.")

    def _check_synthetic(self) -> None:
        """Refuse what rows of random tokens have no use for, and their length where they are not used."""
        if self.task != SYNTHETIC:
            if self.sequence_length is not None:
                raise UsageError(f"--sequence-length {self.sequence_length} has no effect without --task synthetic.")
            return
        for name in _NOT_SYNTHETIC:
            if (value := getattr(self, name)) is not None and (name, value) != ("objective", "lm"):
                raise UsageError(
                    f"--{name.replace('_', '-')} {value} has no effect with --task synthetic: random tokens, the loss "
                    "of all of them, no evaluation. Leave it out."
                )
        if self.resume:
            raise UsageError("--resume: a run with --task synthetic keeps no checkpoints. Choose another --output.")


@dataclass(kw_only=True)
class ProbeConfig(TrainConfig):
    """`foretune probe`: everything that `foretune train` can be told, of which nothing is written."""

    output: str = _option("runs/first", "Folder of the run, for the command that is recommended.")
    trial_steps: int = _option(40, "Steps of each learning rate tried; more take longer and leave less to chance.")
    json: str | None = _option(None, "JSON file for all that was measured.")

    def check(self) -> None:
        """Refuse what `foretune train` would refuse, and what a probe has no answer to.

        Raises:
            UsageError: naming the option, the value and what would be right.
        """
        super().check()
        _at_least(self, "trial_steps", 2)
        _at_least(self, "num_train", 2)
        if self.task == SYNTHETIC:
            raise UsageError(
                f"--task {SYNTHETIC}: random tokens teach nothing; foretune bench measures what steps take."
            )
        if self.lr == 0:
            raise UsageError("--lr 0: other learning rates are tried as multiples of this one; leave the option out.")


@dataclass(kw_only=True)
class EstimateConfig(RecipeConfig):
    """`foretune estimate`: the memory of a run, before anything is loaded."""

    model: str = _option("", "Model: a shape such as opt-13b, a local folder, or a hub id; its weights are not read.")
    revision: str | None = _option(None, "Revision of a hub model.")
    trust_remote_code: bool = _option(False, "Run modelling code that the model's repository ships.")
    batch_size: int = _option(16, "Rows per step and micro-batch.")
    sequence_length: int = _option(256, "Tokens of a row.")
    objective: ProbedObjective = _option("lm", "lm: the loss of all tokens; classification: of two words behind a row.")
    dtype: DType = _option("auto", "Weights' dtype; auto: float32 on a CPU, the checkpoint's on a GPU.")
    device: Device = _option("auto", "Where the run will be: cpu, cuda, or auto for what this machine has.")

    def check(self) -> None:
        """Refuse a missing model and sizes out of range.

        Raises:
            UsageError: naming the option, the value and what would be right.
        """
        if not self.model:
            raise UsageError("--model is missing: give a shape such as opt-13b, a local folder, or a hub id.")
        _at_least(self, "batch_size", 1)
        _at_least(self, "sequence_length", 2)


@dataclass(kw_only=True)
class MemoryBenchConfig:
    """`foretune bench memory`: peak memory and time a step, measured."""

    model: list[str] = _list(["mini"], "Shapes, such as opt-125m opt-13b, local folders or hub ids; random weights.")
    methods: list[str] = _list(
        ["mezo", "lozo", "zo_adam", "sgd", "adam"],
        "Methods and first-order baselines; all: every one, where it is defined.",
    )
    tunings: list[str] = _list(["full", "lora"], "What is tuned: full, lora, prefix, prompt.")
    lengths: list[int] = _list([128], "Tokens of a row.")
    batch_size: int = _option(16, "Rows per step.")
    objective: ProbedObjective = _option("lm", "lm: the loss of all tokens; classification: of two words behind a row.")
    dtype: DType = _option("auto", "Weights' dtype; auto: float32 on a CPU, the checkpoint's on a GPU.")
    device: Device = _option("auto", "Where to run; auto: a GPU if there is one.")
    engine: Engine = _option("layerwise", "How perturbed losses are evaluated.")
    steps: int = _option(3, "Steps that are timed; 0 for memory alone.")
    csv: str | None = _option(None, "File for the table; the rows are appended.")
    plot: str | None = _option(None, "File for a plot of peak memory by length: .png, .svg or .pdf.")

    def check(self) -> None:
        """Refuse sizes out of range.

        Raises:
            UsageError: naming the option, the value and what would be right.
        """
        _at_least(self, "batch_size", 1)
        _at_least(self, "steps", 0)
        if min(self.lengths) < 2:
            raise UsageError(f"--lengths must be at least 2, got {min(self.lengths)}.")


@dataclass(kw_only=True)
class StepBenchConfig:
    """`foretune bench step`: the time of a step beside its floor and the published way."""

    model: list[str] = _list(["mini"], "Shapes, such as opt-125m llama-7b, local folders or hub ids; random weights.")
    methods: list[str] = _list(["mezo", "lozo"], "Zeroth-order methods; all: every one, where it is defined.")
    tuning: list[str] = _list(["full"], "What is tuned: full, lora, prefix, prompt.")
    objective: list[ProbedObjective] = _list(
        ["classification"], "lm: the loss of all tokens; classification: of two words behind a row."
    )
    batch: list[int] = _list([16], "Rows per step.")
    tokens: list[str] = _list(["48"], "Tokens of a row; 9-58: rows of 9 to 58, evenly spread.")
    num_directions: list[int] | None = _option(None, "Directions per step; default: each method's.")
    rank: list[int] | None = _option(None, "Rank of methods that have one; default: each method's.")
    engines: list[str] = _list(["auto"], "How perturbed losses are evaluated: auto, or engines to compare.")
    dtype: DType = _option("auto", "Weights' dtype; auto: float32 on a CPU, the checkpoint's on a GPU.")
    device: Device = _option("auto", "Where to run; auto: a GPU if there is one.")
    repeats: int = _option(7, "Rounds that are counted.")
    skip_published: bool = _option(False, "Leave out the published way, which takes most of the time.")
    csv: str | None = _option(None, "File for the figures; rows are appended, each with machine, versions and commit.")

    def check(self) -> None:
        """Refuse sizes out of range.

        Raises:
            UsageError: naming the option, the value and what would be right.
        """
        _at_least(self, "repeats", 1)
        for name in ("batch", "num_directions", "rank"):
            least = min(getattr(self, name) or [1])
            if least < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be at least 1, got {least}.")


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
        if not self.run:
            raise UsageError("Name the run: foretune replay RUN -o DIR.")
        existing = next(path for path in (Path(self.output), *Path(self.output).absolute().parents) if path.exists())
        if not existing.is_dir():
            raise UsageError(f"--output {self.output}: {existing} is a file; give a folder.")
        if Path(self.output).exists() and any(Path(self.output).iterdir()):
            raise UsageError(f"--output {self.output} exists and is not empty; choose another folder.")
        _at_least(self, "step", 0)


@dataclass(kw_only=True)
class DemoConfig:
    """`foretune demo`: where, and which draw."""

    output: str | None = _option(None, "Folder; default: runs/demo, or where that is taken runs/demo-2 and so on.")
    seed: int = _option(0, "Seed of the reviews and of the run.")

    def check(self) -> None:
        """Refuse a seed out of range.

        Raises:
            UsageError: naming the option.
        """
        _at_least(self, "seed", 0)
        _at_most(self, "seed", _MAX_RUN_SEED)


@dataclass(kw_only=True)
class ImportConfig:
    """`foretune runs import`: which logs, and what they do not say themselves."""

    paths: list[str] | None = _option(None, "Files or folders; in front of other options the words alone will do.")
    format: str | None = _option(
        None, "tensorboard, wandb_run, wandb_export or trainer_state; default: whichever fits."
    )
    task: str | None = _option(None, "Task of the runs.")
    method: str | None = _option(None, "Method of the runs; spellings of published code are understood.")
    tuning: str | None = _option(None, "What was tuned: full, lora, prefix, prompt.")
    model: str | None = _option(None, "Model of the runs.")
    seed: int | None = _option(None, "Run seed.")
    train_set_seed: int | None = _option(None, "Seed of the draw of rows.")
    study: str | None = _option(None, "Sweep that the runs belong to.")
    suite: str | None = _option(None, "Suite that the runs belong to.")
    set: list[str] | None = _option(None, "Settings of the method: lr=1e-6 zo_eps=1e-3.")
    scalars: list[str] | None = _option(None, "Figures to take, as 'foretune runs show' names them; default: all.")
    metric: list[str] | None = _option(
        None, "Names that reports know: final.accuracy=max.eval_accuracy (or min. or last. of a figure)."
    )
    ledger: str | None = _option(
        None, "Ledger; default: $FORETUNE_LEDGER, else runs.sqlite here or in runs, made here where there is none."
    )

    def check(self) -> None:
        """Refuse that nothing is named.

        Raises:
            UsageError: always then.
        """
        if not self.paths:
            raise UsageError("No log was named: foretune runs import PATH...")


def _at_least(config: Any, name: str, least: int) -> None:
    value = getattr(config, name)
    if value is not None and not value >= least:
        raise UsageError(f"--{name.replace('_', '-')} must be at least {least}, got {value}.")


def _at_most(config: Any, name: str, most: int) -> None:
    if (value := getattr(config, name)) > most:
        raise UsageError(f"--{name.replace('_', '-')} must be at most {most}, got {value}.")


def _without_effect(config: Any, names: Sequence[str], option: str, *, needed: bool) -> None:
    """Refuse options that only `option` reads, where that is `needed`."""
    for name in names:
        if needed and (value := getattr(config, name)) is not None:
            raise UsageError(f"--{name.replace('_', '-')} {value} has no effect without {option}.")
