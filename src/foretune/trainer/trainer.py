"""The Trainer of transformers with zeroth-order steps, by its hooks only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback

from foretune.engine import read_loss
from foretune.errors import JournalError
from foretune.journal import EvaluationRecord, StepRecord, hash_weights
from foretune.optimizer import Optimizer
from foretune.trainer import checkpoint as files
from foretune.trainer.arguments import ZOTrainingArguments
from foretune.trainer.metrics_log import MetricsLog, log_line
from foretune.trainer.recovery import recover

JOURNAL_NAME = "journal"
METRICS_NAME = "metrics.jsonl"
ARGUMENTS_NAME = "training_args.json"

Evaluator = Callable[[nn.Module], Mapping[str, float]]
"""Scores a model and returns its metrics by name."""


class Objective(Protocol):
    """A loss of a model on a batch, with the denominator by which micro-batches combine."""

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return a scalar loss, float32 or better."""
        ...

    def weight(self, batch: Any) -> int:
        """Return the denominator of `loss` on this batch."""
        ...


class ZOTrainer(Trainer):
    """Fine-tunes with forward passes only, as a `transformers.Trainer`.

        ZOTrainer(model=model, args=ZOTrainingArguments(output_dir="runs/x", method="lozo"), train_dataset=rows).train()

    Micro-batches of one step (`gradient_accumulation_steps`) are evaluated together at each perturbed point, so
    accumulation equals one large batch. The run is journaled in ``output_dir/journal`` and logged in
    ``metrics.jsonl``; ``train(resume_from_checkpoint=True)`` goes on after a crash bit for bit where the run
    stood, and starts anew where nothing was saved. Nothing in the folder is a pickle.

    Args:
        model, args, ...: As in `transformers.Trainer`.
        objective: The loss; None takes the model's own loss as `compute_loss` does.
        evaluator: Replaces the evaluation loop: returns metrics of the model (without the ``eval_`` prefix).
        run_info: JSON-able facts that join the journal's header and must be equal when the run is resumed.
    """

    def __init__(
        self,
        model: nn.Module,
        args: ZOTrainingArguments,
        *,
        objective: Objective | None = None,
        evaluator: Evaluator | None = None,
        run_info: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self._objective = objective
        self._evaluator = evaluator
        self._run_info = dict(run_info or {})
        self._micro_batches: list[Any] = []
        self._unlogged: list[StepRecord] = []
        self._metrics_log: MetricsLog | None = None
        self._recovered: Path | None = None
        self.zo_optimizer: Optimizer | None = None
        super().__init__(model=model, args=args, **kwargs)

    # ---------------------------------------------------------------- one step

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Build the method's optimizer on the model."""
        if self.optimizer is None:
            self.zo_optimizer = Optimizer(
                self.model,
                **self.args.zo_method.optimizer_arguments(),
                seed=self.args.seed,
                engine=self.args.engine,
            )
            self.optimizer = self.zo_optimizer
        return self.optimizer

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Keep a micro-batch; with the last one of the step, measure the losses. The update follows in `step()`."""
        self._micro_batches.append(self._prepare_inputs(inputs))
        loss = 0.0
        if self.accelerator.sync_gradients:
            batches, self._micro_batches = self._micro_batches, []
            loss = self.zo_optimizer.estimate(_StepLoss(self, model, batches, num_items_in_batch))
        return torch.tensor(loss, dtype=torch.float64, device=self.args.device)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> None:
        """There is no gradient, so no norm."""

    # ---------------------------------------------------------------- logs

    def after_step(self) -> None:
        """Log the step that has just been made (called by the callback behind the optimizer's step)."""
        record = self.zo_optimizer.last_record
        self._unlogged.append(record)
        self._metrics_log.add(record)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the projected gradient to the training log."""
        if "loss" in logs and self._unlogged:
            logs |= log_line(self._unlogged)
            self._unlogged.clear()
        super().log(logs, start_time)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluate, and record the metrics in the journal while training."""
        if self._evaluator is None:
            metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        else:
            metrics = {f"{metric_key_prefix}_{name}": value for name, value in self._evaluator(self.model).items()}
            self.log(dict(metrics))
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        if self.is_in_train and self.zo_optimizer.journal is not None:
            record = EvaluationRecord(self.state.global_step, _reproducible(metrics))
            self.zo_optimizer.journal.append(record)
            self._metrics_log.add(record)
        return metrics

    # ---------------------------------------------------------------- the run: journal, checkpoints, resume

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train; with ``resume_from_checkpoint=True`` go on where the journal in `output_dir` ends.

        A folder as `resume_from_checkpoint` goes back to that checkpoint: what the journal holds beyond it is
        dropped.

        Raises:
            JournalError: a journal exists and no resume was asked for; it is corrupt, of another base model, or
                was begun with other settings (each is named).
        """
        output_dir = Path(self.args.output_dir)
        output_dir.mkdir(parents=True, exist_ok=True)
        self.create_optimizer()
        path = output_dir / JOURNAL_NAME
        header = self._header()
        self._recovered = None
        records = []
        if resume_from_checkpoint and path.exists():
            chosen = None if resume_from_checkpoint is True else Path(resume_from_checkpoint)
            self._recovered, records = recover(self, path, header, chosen)
        else:
            if path.exists():
                raise JournalError(f"{path} exists: resume that run (resume_from_checkpoint=True) or choose another folder.")
            self.zo_optimizer.record_to(path, header)
        self._metrics_log = MetricsLog(output_dir / METRICS_NAME, max(1, int(self.args.logging_steps)), records)
        self._unlogged.clear()
        self.add_callback(_AfterStep(self))
        try:
            return super().train(resume_from_checkpoint=self._recovered and str(self._recovered), **kwargs)
        finally:
            self.pop_callback(_AfterStep)
            if self.zo_optimizer.journal is not None:
                self.zo_optimizer.journal.close()

    def _header(self) -> dict[str, Any]:
        args = self.args
        return {
            "foretune_version": version("foretune"),
            "weights_hash": hash_weights(self.model.named_parameters()),
            "trainer": {
                "batch_size": args.per_device_train_batch_size,
                "gradient_accumulation_steps": args.gradient_accumulation_steps,
                "max_steps": args.max_steps,
                "num_train_epochs": args.num_train_epochs,
                "num_train_rows": len(self.train_dataset) if hasattr(self.train_dataset, "__len__") else None,
                "data_seed": args.data_seed,
                "lr_scheduler": str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)),
                "warmup_steps": args.warmup_steps,
                "bf16": args.bf16,
                "metric_for_best_model": args.metric_for_best_model,
                "greater_is_better": args.greater_is_better,
            },
            **self._run_info,
        }

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Save model and tokenizer as transformers does, and the arguments as JSON instead of a pickle."""
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        files.save_model(self.model, folder, state_dict)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(folder)
        (folder / ARGUMENTS_NAME).write_text(self.args.to_json_string() + "\n")

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Save a checkpoint once the journal up to here is on the disk."""
        self.zo_optimizer.journal.sync()
        super()._save_checkpoint(model, trial)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Write state tensors as safetensors and the rest as JSON."""
        files.save_optimizer(self.zo_optimizer.state_dict(), Path(output_dir))
        files.write_json(Path(output_dir) / files.SCHEDULER_STATE, self.lr_scheduler.state_dict())

    def _save_rng_state(self, output_dir: str) -> None:
        """Write the global generators' state as JSON."""
        files.save_random_state(Path(output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Load weights, unless recovery has already rebuilt later ones."""
        if self._recovered is None or Path(resume_from_checkpoint) != self._recovered:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass over the training rows."""
        batches = len(self.get_train_dataloader())
        return -(-batches // self.args.gradient_accumulation_steps)

    def load_weights(self, folder: Path) -> None:
        """Load the weights of a checkpoint folder into the model."""
        super()._load_from_checkpoint(str(folder))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Bring the schedule to the step at which the recovered optimizer stands."""
        if checkpoint is None:
            return
        state = files.read_json(Path(checkpoint) / files.SCHEDULER_STATE)
        if state is not None:
            self.lr_scheduler.load_state_dict(state)
        behind = self.zo_optimizer.num_steps - self.lr_scheduler.last_epoch
        self.optimizer._opt_called = True  # the replayed updates count as the steps the schedule waits for
        for _ in range(behind):
            self.lr_scheduler.step()

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Restore the global generators."""
        if checkpoint is not None:
            files.load_random_state(Path(checkpoint))


class _StepLoss:
    """The loss of all micro-batches of a step, combined by the objective's own denominator."""

    def __init__(self, trainer: ZOTrainer, model: nn.Module, batches: list[Any], num_items: Tensor | int | None) -> None:
        self._trainer = trainer
        self._model = model
        self._batches = batches
        self._num_items = num_items
        self.num_micro_batches = len(batches)

    def __call__(self) -> float:
        return sum(self._parts())

    def _parts(self) -> list[float]:
        trainer, objective = self._trainer, self._trainer._objective
        parts = []
        with trainer.compute_loss_context_manager():
            if objective is None:
                # with a number of items the model's losses are already shares of the whole; else means of equal weight
                share = 1.0 if self._num_items is not None else 1.0 / len(self._batches)
                for batch in self._batches:
                    loss = trainer.compute_loss(self._model, batch, num_items_in_batch=self._num_items)
                    parts.append(share * read_loss(loss))
            else:
                total = sum(objective.weight(batch) for batch in self._batches)
                for batch in self._batches:
                    loss = read_loss(objective.loss(self._model, batch))
                    parts.append(loss * objective.weight(batch) / total)
        return parts


class _AfterStep(TrainerCallback):
    """Tells the trainer that an update has been made."""

    def __init__(self, trainer: ZOTrainer) -> None:
        self._trainer = trainer

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer.after_step()


def _reproducible(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Keep the metrics that a second run would repeat: no times, no rates."""
    clocks = ("_runtime", "_per_second", "epoch", "_time")
    return {
        name: float(value)
        for name, value in metrics.items()
        if isinstance(value, int | float) and not name.endswith(clocks)
    }
