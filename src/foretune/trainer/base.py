"""What both trainers share: whole steps, seeded generators, folders without pickle, and an exact place to resume at."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Mapping, Sized
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import TrainerCallback, set_seed
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, SchedulerType, rotate_checkpoints

from foretune import noise
from foretune.errors import UsageError
from foretune.journal import EvaluationRecord, hash_weights
from foretune.objectives import Objective
from foretune.trainer import checkpoint as files
from foretune.trainer.arguments import RunArguments
from foretune.trainer.divergence import Guard
from foretune.trainer.step_loss import StepLoss
from foretune.trainer.tracking import TrackedTrainer

METRICS_NAME = "metrics.jsonl"
ARGUMENTS_NAME = "training_args.json"

Evaluator = Callable[[nn.Module], Mapping[str, float]]
"""Scores a model and returns its metrics by name."""


class NoteTaker(Protocol):
    """A log that takes lines of any kind."""

    def note(self, step: int, values: Mapping[str, Any]) -> None:
        """Write a line after `step` steps."""
        ...


class AbstractTrainer(TrackedTrainer, abc.ABC):
    """A `transformers.Trainer`, by its hooks, whose runs can be interrupted and resumed bit for bit.

    Micro-batches of one step (`gradient_accumulation_steps`) are handed to `measure` together. Python's, NumPy's
    and torch's global generators are seeded at every step and evaluation from the run's seed, so nothing of them is
    saved. Nothing in the folder is a pickle.

    Args:
        model, args, ...: As in `transformers.Trainer`, except `model_init` and an optimizer.
        objective: The loss; None takes the model's own loss as `compute_loss` does.
        evaluator: Replaces the evaluation loop: returns metrics of the model (without the ``eval_`` prefix).
        run_info: JSON-able facts about the run that must be equal when it is resumed, except those under ``origin``.
    Raises:
        UsageError: `model_init` or an optimizer was given.
    """

    metrics_log: NoteTaker
    """metrics.jsonl; there once training has begun."""
    guard: Guard
    """What watches whether the run diverges; there once training has begun."""
    place_class: ClassVar[type[files.Place]]
    """What a checkpoint says about where the run stood."""

    def __init__(
        self,
        model: nn.Module,
        args: RunArguments,
        *,
        objective: Objective | None = None,
        evaluator: Evaluator | None = None,
        run_info: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if kwargs.get("model_init") is not None:
            raise UsageError("model_init would replace the model a journal began with: build the model and pass it.")
        if kwargs.get("optimizer_cls_and_kwargs") or kwargs.get("optimizers", (None, None))[0] is not None:
            raise UsageError("The method is the optimizer: name it in the arguments (method, method_options).")
        self.loss_objective = objective
        self._evaluator = evaluator
        self._run_info = dict(run_info or {})
        self._micro_batches: list[Any] = []
        self.last_loss: StepLoss | None = None
        self.repeats_step = False
        self.epoch_ended = False
        self.has_stopped = False
        if objective is not None:
            args.remove_unused_columns = False  # the objective reads the rows, not the model's signature
        if evaluator is not None and kwargs.get("eval_dataset") is None:
            kwargs["eval_dataset"] = []  # transformers insists on one; the evaluator has its own
        # first in line: generators are seeded and records counted when the user's callbacks run
        callbacks = [_Bookkeeping(self), *(kwargs.pop("callbacks", None) or [])]
        super().__init__(model=model, args=args, callbacks=callbacks, **kwargs)

    @property
    @abc.abstractmethod
    def engine_name(self) -> str:
        """How losses are evaluated."""

    # ---------------------------------------------------------------- one step

    @abc.abstractmethod
    def num_passes_at(self, step: int) -> tuple[int, int]:
        """Return the loss evaluations and the backward passes of a step, once training has begun."""

    @abc.abstractmethod
    def measure(self, model: nn.Module, batches: list[Any], num_items: Tensor | int | None) -> float:
        """Do what precedes the optimizer's step on all micro-batches of a step; return the loss."""

    @abc.abstractmethod
    def after_step(self) -> None:
        """Note the step that has just been made (called behind the optimizer's step)."""

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Keep a micro-batch; with the last one of the step, `measure`. The update follows in the optimizer's step."""
        self._micro_batches.append(inputs)
        loss = 0.0
        if self.accelerator.sync_gradients:
            batches, self._micro_batches = self._micro_batches, []
            loss = self.measure(model, batches, num_items_in_batch)
        # transformers sums these for the run's mean, which one nan would spoil; logs read the steps' own figures
        return torch.tensor(loss if math.isfinite(loss) else 0.0, device=self.args.device)

    def step_loss(self, model: nn.Module, batches: list[Any], num_items: Tensor | int | None) -> StepLoss:
        """Return the loss of a step, its micro-batches on the device; `last_loss` until the next step."""
        self.last_loss = StepLoss(self, model, [self._prepare_inputs(batch) for batch in batches], num_items)
        return self.last_loss

    def seed_generators(self, index: int, what: Literal["epoch", "step", "evaluation"]) -> None:
        """Seed Python's, NumPy's and torch's global generators for what begins now."""
        purpose = ("epoch", "step", "evaluation").index(what)
        set_seed(noise.mix(self.args.seed, index, purpose) % 2**32)

    def _note_first_weights(self) -> None:
        """Make the guard, at the first call of `train` and before a checkpoint is loaded."""
        if not hasattr(self, "guard"):
            self.guard = Guard(self.model, self.args.on_divergence)

    # ---------------------------------------------------------------- logs and evaluation

    @abc.abstractmethod
    def begin_run(self) -> None:
        """Set logs and guard to where the run stands (called when training begins)."""

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluate; while training, keep the metrics."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if self._evaluator is None and isinstance(dataset, dict):
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)  # calls this for each of them
        step = self.state.global_step
        recorded = self._recorded_evaluation(step, metric_key_prefix) if self.is_in_train else None
        if recorded is not None:
            return self._announce(dict(recorded.metrics))
        if self.is_in_train:
            self.seed_generators(step, "evaluation")
        if self._evaluator is None:
            metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        else:
            self.model.eval()
            scores = self._evaluator(self.model)
            metrics = self._announce({f"{metric_key_prefix}_{name}": float(value) for name, value in scores.items()})
        if self.is_in_train:
            self._keep_evaluation(EvaluationRecord(step, _reproducible(metrics)))
        return metrics

    def _recorded_evaluation(self, step: int, prefix: str) -> EvaluationRecord | None:
        """Return the metrics of an evaluation that a resumed run need not make again."""
        return None

    @abc.abstractmethod
    def _keep_evaluation(self, record: EvaluationRecord) -> None:
        """Keep the metrics of an evaluation made while training."""

    def _announce(self, metrics: dict[str, float]) -> dict[str, float]:
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    # ---------------------------------------------------------------- the run: checkpoints and resume

    @cached_property
    def base_weights_hash(self) -> str:
        """Digest of the weights at the first call of `train`."""
        return hash_weights(self.model.named_parameters())

    def _header(self) -> dict[str, Any]:
        """Return what must be equal when the run is resumed."""
        args = self.args
        return {
            "foretune_version": version("foretune"),
            "weights_hash": self.base_weights_hash,
            "trainer": {
                "batch_size": args.per_device_train_batch_size,
                "gradient_accumulation_steps": args.gradient_accumulation_steps,
                "max_steps": args.max_steps,
                "num_train_epochs": args.num_train_epochs,
                "num_train_rows": len(self.train_dataset) if isinstance(self.train_dataset, Sized) else None,
                "data_seed": args.data_seed,
                "drop_last": args.dataloader_drop_last,
                "sampling": args.train_sampling_strategy,
                "lr_scheduler": SchedulerType(args.lr_scheduler_type).value,
                "lr_scheduler_options": args.lr_scheduler_kwargs,
                "warmup_steps": args.warmup_steps,
                "bf16": args.bf16,
                "label_smoothing": args.label_smoothing_factor,
                "metric_for_best_model": args.metric_for_best_model,
                "greater_is_better": args.greater_is_better,
            },
            **self._run_info,
        }

    @abc.abstractmethod
    def _optimizer_state(self) -> dict[str, Any]:
        """Return the optimizer's state as `checkpoint.save_optimizer` takes it."""

    @abc.abstractmethod
    def _load_optimizer_state(self, state: dict[str, Any]) -> None:
        """Restore what `_optimizer_state` returned."""

    @abc.abstractmethod
    def _place(self) -> files.Place:
        """Return where the run stands."""

    @abc.abstractmethod
    def check_begun(self) -> None:
        """Refuse a run in the output folder that `train` would refuse to resume, before anything is evaluated.

        Raises:
            JournalError: it is of other settings, rows or base weights, or its record cannot be read.
        """

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Save a checkpoint, or name the one that cannot be written."""
        with files.writing(self._output_dir / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"):
            super()._save_checkpoint(model, trial)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Save model and tokenizer as transformers does, and the arguments as JSON instead of a pickle."""
        folder = Path(output_dir or self._output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        files.save_model(self.model, folder)
        processor = self.processing_class or getattr(self.data_collator, "tokenizer", None)
        if processor is not None:
            processor.save_pretrained(folder)
        (folder / ARGUMENTS_NAME).write_text(self.args.to_json_string() + "\n")

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Write state tensors as safetensors and the rest as JSON."""
        folder = Path(output_dir)
        assert self.lr_scheduler is not None
        files.save_optimizer(self._optimizer_state(), folder)
        files.write_json(folder / files.SCHEDULER_STATE, self.lr_scheduler.state_dict())
        self._place().save(folder)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Read what `_save_optimizer_and_scheduler` wrote."""
        if checkpoint is not None:
            assert self.lr_scheduler is not None
            with files.reading(Path(checkpoint)):
                self._load_optimizer_state(files.load_optimizer(Path(checkpoint)))
                self.lr_scheduler.load_state_dict(files.read_json(Path(checkpoint) / files.SCHEDULER_STATE))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Read the weights, an adapter into the tensors there are."""
        with files.reading(Path(resume_from_checkpoint)):
            if isinstance(self.model, PeftModel):
                files.load_adapter(self.model, Path(resume_from_checkpoint))
            else:
                super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        """Read the best checkpoint's weights."""
        assert self.state.best_model_checkpoint is not None
        self._load_from_checkpoint(self.state.best_model_checkpoint)

    def _save_rng_state(self, output_dir: str) -> None:
        """Nothing to save: the global generators are seeded at every step."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Nothing to load."""

    def _init_training_state(
        self,
        max_steps: int,
        num_update_steps_per_epoch: int,
        num_train_epochs: int,
        resume_from_checkpoint: str | None,
        trial: Any,
    ) -> tuple[int, int]:
        """Return the epoch to begin with, and how many of its batches to skip.

        transformers would make one step more after the last one, and leave out what follows on the end of an
        epoch if the run died between a checkpoint at its last step and that.
        """
        start = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
        )
        self.has_stopped = False
        if resume_from_checkpoint is None:
            return start
        self.has_stopped = self.control.should_training_stop  # as the checkpoint restored it
        self.control._new_step()  # what that step asked for (a log, a checkpoint) was done
        self._tidy_checkpoints()
        if self.state.global_step == 0:
            return start
        if self.place_class.load(Path(resume_from_checkpoint)).epoch_ended:
            return (num_train_epochs, 0) if self.has_stopped else start
        _, num_skipped = start
        if num_skipped > 0 and not self.has_stopped:
            return start
        all_batches = num_update_steps_per_epoch * self.args.gradient_accumulation_steps
        return (self.state.global_step - 1) // num_update_steps_per_epoch, all_batches

    def _tidy_checkpoints(self) -> None:
        """Find the best checkpoint of a folder that was moved; remove what the run had no time to."""
        best = self._output_dir / f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}"
        if best.is_dir():
            self.state.best_model_checkpoint = str(best)
        rotate_checkpoints(
            str(self._output_dir),
            self.args.save_total_limit,
            best_model_checkpoint=self.state.best_model_checkpoint,
        )


class _Bookkeeping(TrainerCallback):
    """Follows the Trainer's loop."""

    def __init__(self, trainer: AbstractTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = self._trainer.has_stopped
        self._trainer.begin_run()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer.epoch_ended = False
        self._trainer.seed_generators(int(state.epoch), "epoch")

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer.seed_generators(state.global_step, "step")

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer.after_step()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer.epoch_ended = True


def _reproducible(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Keep the metrics that a second run would repeat: numbers, but no times and rates."""
    clocks = ("_runtime", "_per_second", "_preparation_time")
    return {
        name: float(value)
        for name, value in metrics.items()
        if isinstance(value, int | float) and name != "epoch" and not name.endswith(clocks)
    }
