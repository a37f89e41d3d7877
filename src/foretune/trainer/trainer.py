"""The Trainer of transformers with zeroth-order steps, by its hooks only."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sized
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, set_seed
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, SchedulerType, rotate_checkpoints

from foretune import noise
from foretune.errors import JournalError, UsageError
from foretune.journal import EvaluationRecord, Journal, JournalWriter, StepRecord, check_header, hash_weights
from foretune.journal.replay import check_base_weights, threads_of
from foretune.optimizer import Optimizer
from foretune.trainer import checkpoint as files
from foretune.trainer.arguments import ZOTrainingArguments
from foretune.trainer.metrics_log import MetricsLog, log_line
from foretune.trainer.recovery import History, find_checkpoint, refuse_existing
from foretune.trainer.step_loss import Objective, StepLoss

JOURNAL_NAME = "journal"
METRICS_NAME = "metrics.jsonl"
ARGUMENTS_NAME = "training_args.json"

Evaluator = Callable[[nn.Module], Mapping[str, float]]
"""Scores a model and returns its metrics by name."""


class ZOTrainer(Trainer):
    """Fine-tunes with forward passes only, as a `transformers.Trainer`.

        args = ZOTrainingArguments(output_dir="runs/x", method="lozo")
        ZOTrainer(model, args, train_dataset=rows).train()

    Micro-batches of one step (`gradient_accumulation_steps`) are evaluated together at each perturbed point,
    so accumulation equals one large batch. The run is journaled in ``output_dir/journal`` and logged in
    ``metrics.jsonl``; ``train(resume_from_checkpoint=True)`` goes on after a crash bit for bit where the run
    stood, and starts anew where nothing was saved. Nothing in the folder is a pickle.

    Python's, NumPy's and torch's global generators are seeded at every step and evaluation from the run's
    seed (the method itself draws nothing from them), so an evaluator that samples can be resumed too. Rows
    are collated one batch ahead: a data collator that draws random numbers is not resumed exactly.

    Args:
        model, args, ...: As in `transformers.Trainer`, except `model_init` and an optimizer.
        objective: The loss; None takes the model's own loss as `compute_loss` does.
        evaluator: Replaces the evaluation loop: returns metrics of the model (without the ``eval_`` prefix).
        run_info: JSON-able facts that join the journal's header and must be equal when the run is resumed, except
            those under ``origin``.
    Raises:
        UsageError: `model_init` or an optimizer was given.
    """

    args: ZOTrainingArguments  # pyrefly: ignore[bad-override-mutable-attribute]
    model: nn.Module  # pyrefly: ignore[bad-override-mutable-attribute]
    zo_optimizer: Optimizer
    """The method at work; made by `create_optimizer`, at the latest when training begins."""
    _metrics_log: MetricsLog

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
        if kwargs.get("model_init") is not None:
            raise UsageError("model_init would replace the model a journal began with: build the model and pass it.")
        if kwargs.get("optimizer_cls_and_kwargs") or kwargs.get("optimizers", (None, None))[0] is not None:
            raise UsageError("The method is the optimizer: name it in the arguments (method, method_options).")
        self.loss_objective = objective
        self._evaluator = evaluator
        self._run_info = dict(run_info or {})
        self._micro_batches: list[Any] = []
        self._unlogged: list[StepRecord] = []
        self._history = History()
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
        """Keep a micro-batch; with the last one of the step, measure the losses.

        The update follows in `step()`. A step that the journal holds already is not measured again.
        """
        self._micro_batches.append(inputs)
        loss = 0.0
        if self.accelerator.sync_gradients:
            batches, self._micro_batches = self._micro_batches, []
            record = self._history.next_step()
            self.repeats_step = record is not None
            if record is not None:
                self.zo_optimizer.recall(record)
                loss = record.loss
            else:
                batches = [self._prepare_inputs(batch) for batch in batches]
                loss = self.zo_optimizer.estimate(StepLoss(self, model, batches, num_items_in_batch))
        # transformers sums these for the run's mean, which one nan would spoil; logs read the records
        return torch.tensor(loss if math.isfinite(loss) else 0.0, device=self.args.device)

    def seed_generators(self, index: int, what: Literal["epoch", "step", "evaluation"]) -> None:
        """Seed Python's, NumPy's and torch's global generators for what begins now."""
        purpose = ("epoch", "step", "evaluation").index(what)
        set_seed(noise.mix(self.args.seed, index, purpose) % 2**32)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> None:
        """There is no gradient, so no norm."""

    # ---------------------------------------------------------------- logs

    def begin_logs(self) -> None:
        """Set the logs to where the run stands (called when training begins)."""
        logged = [int(entry["step"]) for entry in self.state.log_history if "loss" in entry]
        self._globalstep_last_logged = max(logged, default=0)
        self._unlogged = self._history.steps_done(self._globalstep_last_logged)
        self._metrics_log = MetricsLog(
            self._output_dir / METRICS_NAME,
            max(1, int(self.state.logging_steps)),
            self.zo_optimizer.projected_grads,
            self._history.records,
        )

    def after_step(self) -> None:
        """Log the step that has just been made (called behind the optimizer's step)."""
        record = self.zo_optimizer.last_record
        assert record is not None
        self._unlogged.append(record)
        if not self.repeats_step:
            self._history.add(record)
            self._metrics_log.add(record)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the projected gradient to the training log, and the loss in full precision."""
        if "loss" in logs and self._unlogged:
            logs |= log_line(self._unlogged, self.zo_optimizer.projected_grads)
            self._unlogged = []
        super().log(logs, start_time)

    # ---------------------------------------------------------------- evaluation

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluate; while training, record the metrics in the journal, or take them from there on resume."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if self._evaluator is None and isinstance(dataset, dict):
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)  # calls this for each of them
        step = self.state.global_step
        recorded = self._history.next_evaluation(step, metric_key_prefix) if self.is_in_train else None
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
        # while steps are repeated, the journal's place for this evaluation has passed
        if self.is_in_train and not self._history.repeating:
            record = EvaluationRecord(step, _reproducible(metrics))
            self._journal.append(record)
            self._history.add(record)
            self._metrics_log.add(record)
        return metrics

    def _announce(self, metrics: dict[str, float]) -> dict[str, float]:
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    # ---------------------------------------------------------------- the run: journal, checkpoints, resume

    # pyrefly: ignore[bad-override]
    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train; with ``resume_from_checkpoint=True`` go on where the journal in `output_dir` ends.

        A folder as `resume_from_checkpoint` goes back to that checkpoint: what the journal holds beyond it,
        and later checkpoints, are dropped.

        Raises:
            JournalError: a journal exists and no resume was asked for; it is corrupt, of another base model,
                or was begun with other settings (each is named).
            UsageError: the folder to go back to is no whole checkpoint of this run.
        """
        path = self._output_dir / JOURNAL_NAME
        resumes = bool(resume_from_checkpoint) and path.exists()
        if not resumes:
            refuse_existing(path, resume=resume_from_checkpoint)
        self.create_optimizer()
        self._micro_batches.clear()
        if resumes:
            chosen = None if resume_from_checkpoint is True else Path(resume_from_checkpoint)
            return self._resume(path, chosen, **kwargs)
        self._refuse_moved_weights()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._history = History()
        self.zo_optimizer.record_to(path, self._header())
        return self._run(None, **kwargs)

    def _resume(self, path: Path, chosen: Path | None, **kwargs: Any) -> Any:
        optimizer = self.zo_optimizer
        journal = Journal.read(path)
        expected = {**optimizer.describe(), **self._header()}
        free = (
            "foretune_version",
            "num_threads",
            "weights_hash",
            "origin",
            *(["engine"] if self.args.engine == "auto" else []),
        )
        check_header(journal.header, expected, ignore=free)
        check_base_weights(journal, self._base_weights_hash)
        optimizer.engine_name = journal.header["engine"]  # a run stays with the engine it began with
        folder, place = find_checkpoint(journal, chosen)
        if folder is None:
            self._refuse_moved_weights()
        writer = JournalWriter.reopen(path)
        if chosen is not None and folder is not None:
            writer.drop_after(files.step_of(folder))
        optimizer.continue_journal(writer)
        self._history = History(Journal.read(path).records, place)
        with threads_of(journal):
            return self._run(folder, **kwargs)

    def _run(self, folder: Path | None, **kwargs: Any) -> Any:
        try:
            return super().train(resume_from_checkpoint=None if folder is None else str(folder), **kwargs)
        finally:
            self.is_in_train = False
            if self.zo_optimizer.journal is not None:
                self.zo_optimizer.journal.close()

    def _refuse_moved_weights(self) -> None:
        if self.zo_optimizer.num_steps:
            raise JournalError(
                f"This trainer's model has made {self.zo_optimizer.num_steps} steps, and there is no checkpoint "
                "to go back to: load the base model again and make a new trainer."
            )

    @cached_property
    def _base_weights_hash(self) -> str:
        """Of the weights at the first call of `train`."""
        return hash_weights(self.model.named_parameters())

    @property
    def _output_dir(self) -> Path:
        return Path(self.args.output_dir or ".")

    @property
    def _journal(self) -> JournalWriter:
        assert self.zo_optimizer.journal is not None
        return self.zo_optimizer.journal

    def _header(self) -> dict[str, Any]:
        args = self.args
        return {
            "foretune_version": version("foretune"),
            "weights_hash": self._base_weights_hash,
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

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Save model and tokenizer as transformers does, and the arguments as JSON instead of a pickle."""
        folder = Path(output_dir or self._output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        files.save_model(self.model, folder)
        processor = self.processing_class or getattr(self.data_collator, "tokenizer", None)
        if processor is not None:
            processor.save_pretrained(folder)
        (folder / ARGUMENTS_NAME).write_text(self.args.to_json_string() + "\n")

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Save a checkpoint once the journal up to here is on the disk."""
        self._journal.sync()
        super()._save_checkpoint(model, trial)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Write state tensors as safetensors and the rest as JSON."""
        folder = Path(output_dir)
        assert self.lr_scheduler is not None
        files.save_optimizer(self.zo_optimizer.state_dict(), folder)
        files.write_json(folder / files.SCHEDULER_STATE, self.lr_scheduler.state_dict())
        files.JournalPlace(self._history.place, self.epoch_ended).save(folder)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Read what `_save_optimizer_and_scheduler` wrote."""
        if checkpoint is not None:
            assert self.lr_scheduler is not None
            self.zo_optimizer.load_state_dict(files.load_optimizer(Path(checkpoint)))
            self.lr_scheduler.load_state_dict(files.read_json(Path(checkpoint) / files.SCHEDULER_STATE))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Read the weights, an adapter into the tensors there are."""
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
        if files.JournalPlace.load(Path(resume_from_checkpoint)).epoch_ended:
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

    def __init__(self, trainer: ZOTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = self._trainer.has_stopped
        self._trainer.begin_logs()

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
