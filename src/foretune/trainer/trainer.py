"""The Trainer of transformers with zeroth-order steps, by its hooks only."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.trainer_utils import IntervalStrategy

from foretune.errors import JournalError, NonFiniteLossError, UsageError
from foretune.journal import (
    EvaluationRecord,
    Journal,
    JournalWriter,
    Record,
    RollbackRecord,
    StepRecord,
    check_header,
)
from foretune.journal.replay import check_base_weights, threads_of
from foretune.methods import AbstractMethod
from foretune.objectives import Objective
from foretune.optimizer import Optimizer
from foretune.trainer import checkpoint as files
from foretune.trainer.arguments import ZOTrainingArguments
from foretune.trainer.base import METRICS_NAME, AbstractTrainer, Evaluator
from foretune.trainer.divergence import Diverging, roll_back, stop_error, ways_to_go_on
from foretune.trainer.health import Cause, Finding, is_sound
from foretune.trainer.metrics_log import MetricsLog, log_line
from foretune.trainer.recovery import History, find_checkpoint, refuse_existing, sound_checkpoint

JOURNAL_NAME = "journal"


class ZOTrainer(AbstractTrainer):
    """Fine-tunes with forward passes only, as a `transformers.Trainer`.

        args = ZOTrainingArguments(output_dir="runs/x", method="lozo")
        ZOTrainer(model, args, train_dataset=rows).train()

    Micro-batches of one step (`gradient_accumulation_steps`) are evaluated together at each perturbed point,
    so accumulation equals one large batch. The run is journaled in ``output_dir/journal`` and logged in
    ``metrics.jsonl``; ``train(resume_from_checkpoint=True)`` goes on after a crash bit for bit where the run
    stood, and starts anew where nothing was saved. Nothing in the folder is a pickle. A run that diverges ends, goes
    back or goes on, as `on_divergence` says; one that learns nothing warns (`foretune.trainer.health`).

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
    zo_optimizer: Optimizer
    """The method at work; made by `create_optimizer`, at the latest when training begins."""
    metrics_log: MetricsLog  # pyrefly: ignore[bad-override-mutable-attribute]
    place_class: ClassVar[type[files.Place]] = files.JournalPlace
    record_name: ClassVar[str] = JOURNAL_NAME

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
        self._unlogged: list[StepRecord] = []
        self._history = History()
        self._saves_to: Path | None = None  # instead of the run's folder
        super().__init__(model, args, objective=objective, evaluator=evaluator, run_info=run_info, **kwargs)

    @property
    def recipe(self) -> AbstractMethod:
        """The method with its settings."""
        return self.args.zo_method

    @property
    def engine_name(self) -> str:
        """The engine that was chosen, once training has begun."""
        return self.zo_optimizer.engine_name

    @property
    def state_bytes(self) -> int:
        """Bytes of state that the method keeps between steps."""
        return self.zo_optimizer.state_bytes

    @property
    def rollbacks(self) -> list[RollbackRecord]:
        """How often the run went back, and why."""
        return self._history.rollbacks

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
            schedule = self.zo_optimizer.parts.schedule
            if schedule.follows_metrics and self.args.eval_strategy == IntervalStrategy.NO:
                raise UsageError(
                    f"{type(schedule).__name__} follows the dev metric here, but the run evaluates nothing: set "
                    "eval_strategy and eval_steps (on the command line: --num-dev)."
                )
            self.optimizer = self.zo_optimizer
        return self.optimizer

    def num_passes_at(self, step: int) -> tuple[int, int]:
        """Return the loss evaluations of a step, and no backward pass."""
        return self.zo_optimizer.num_forwards_at(step), 0

    def measure(self, model: nn.Module, batches: list[Any], num_items: Tensor | int | None) -> float:
        """Measure the losses; a step that the journal holds already is not measured again."""
        for passed in self._history.skip_to_step():
            if isinstance(passed, RollbackRecord):
                self._scale_lr(passed.lr_factor)
            else:
                self._report(passed)
        record = self._history.next_step()
        self.repeats_step = record is not None
        if record is None:
            return self.zo_optimizer.estimate(self.step_loss(model, batches, num_items))
        self.zo_optimizer.recall(record)
        return record.loss

    def _scale_lr(self, factor: float) -> None:
        """Multiply the learning rate of the next step and of all that follow, whatever their schedule."""
        assert self.lr_scheduler is not None
        for group in self.zo_optimizer.param_groups:
            group.update({name: factor * group[name] for name in ("lr", "initial_lr") if name in group})
        state = self.lr_scheduler.state_dict()
        rates = {name: [factor * lr for lr in state[name]] for name in ("base_lrs", "_last_lr")}
        self.lr_scheduler.load_state_dict({**state, **rates})

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> None:
        """There is no gradient, so no norm."""

    # ---------------------------------------------------------------- logs and evaluation

    def begin_run(self) -> None:
        """Set logs and guard to where the run stands (called when training begins)."""
        logged = [int(entry["step"]) for entry in self.state.log_history if "loss" in entry]
        self._globalstep_last_logged = max(logged, default=0)
        self._unlogged = self._history.steps_done(self._globalstep_last_logged)
        self.guard.begin(self.state.max_steps, self.zo_optimizer.projected_grads)
        self.metrics_log = MetricsLog(
            self._output_dir / METRICS_NAME,
            self._logging_interval,
            self.zo_optimizer.projected_grads,
            self._history.records,
            self.guard.add,
        )
        if self._may_go_back:
            self._keep_beginning()
        self.guard.heed_the_past()

    def after_step(self) -> None:
        """Log the step that has just been made (called behind the optimizer's step)."""
        record = self.zo_optimizer.last_record
        assert record is not None
        self._unlogged.append(record)
        if not self.repeats_step:
            self._add(record)
        if (record.step + 1) % self._logging_interval == 0:
            self.guard.look_at_weights()

    @property
    def _logging_interval(self) -> int:
        return max(1, int(self.state.logging_steps))

    def _add(self, record: Record) -> None:
        """Take a record of what was done for the first time."""
        self._history.add(record)
        self.guard.heed(self.metrics_log.add(record))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the projected gradient to the training log, and the loss in full precision."""
        if "loss" in logs and self._unlogged:
            logs |= log_line(self._unlogged, self.zo_optimizer.projected_grads)
            self._unlogged = []
        super().log(logs, start_time)

    def _recorded_evaluation(self, step: int, prefix: str) -> EvaluationRecord | None:
        record = self._history.next_evaluation(step, prefix)
        if record is not None:
            self._report(record)
        return record

    def _keep_evaluation(self, record: EvaluationRecord) -> None:
        """Record it in the journal, unless its place there has passed because steps are repeated."""
        if not self._history.repeating:
            self._journal.append(record)
            self._add(record)
            self._report(record)

    def _report(self, evaluation: EvaluationRecord) -> None:
        """Tell the method the metric by which models are selected: each evaluation that the journal holds, once."""
        name = self.args.metric_for_best_model or "loss"
        metric = evaluation.metrics.get(name if name.startswith("eval_") else f"eval_{name}")
        if metric is not None:
            self.zo_optimizer.report(-metric if self.args.greater_is_better else metric)

    # ---------------------------------------------------------------- the run: journal, checkpoints, resume

    # pyrefly: ignore[bad-override]
    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train; with ``resume_from_checkpoint=True`` go on where the journal in `output_dir` ends.

        A folder as `resume_from_checkpoint` goes back to that checkpoint: what the journal holds beyond it,
        and later checkpoints, are dropped.

        Raises:
            DivergedError: the run diverges, and is to stop then, or has gone back too often.
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
        self._note_first_weights()
        if resumes:
            chosen = None if resume_from_checkpoint is True else Path(resume_from_checkpoint)
            return self._resume(path, chosen, **kwargs)
        self._refuse_moved_weights()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._drop_beginning()  # of a run that was killed before its first step
        self._history = History()
        self.zo_optimizer.record_to(path, self._header())
        return self._run(None, **kwargs)

    def _resume(self, path: Path, chosen: Path | None, **kwargs: Any) -> Any:
        optimizer = self.zo_optimizer
        journal = Journal.read(path)
        self._check(journal)
        optimizer.engine_name = journal.header["engine"]  # a run stays with the engine it began with
        folder, place = find_checkpoint(journal, chosen)
        if self._may_go_back and chosen is None and not optimizer.num_steps and sound_checkpoint(path.parent) is None:
            folder, place = None, 0  # to write a checkpoint of the beginning on the way
        if folder is None:
            self._refuse_moved_weights()
        writer = JournalWriter.reopen(path)
        if chosen is not None and folder is not None:
            writer.drop_after(files.step_of(folder))
        optimizer.continue_journal(writer)
        self._history = History(Journal.read(path).records, place)
        with threads_of(journal.header):
            return self._run(folder, **kwargs)

    def check_begun(self) -> None:
        """Compare the journal in the output folder, if there is one, with what this trainer would write."""
        path = self._output_dir / JOURNAL_NAME
        if path.exists():
            self.create_optimizer()
            self._check(Journal.read(path))

    def _check(self, journal: Journal) -> None:
        expected = {**self.zo_optimizer.describe(), **self._header()}
        free = (
            "foretune_version",
            "num_threads",
            "weights_hash",
            "origin",
            *(["engine"] if self.args.engine == "auto" else []),
        )
        check_header(journal.header, expected, ignore=free)
        check_base_weights(journal, self.base_weights_hash)

    def _run(self, folder: Path | None, **kwargs: Any) -> Any:
        try:
            with self.tracked():
                while True:
                    try:
                        result = super().train(resume_from_checkpoint=None if folder is None else str(folder), **kwargs)
                    except Diverging as signal:
                        finding = signal.finding
                    except NonFiniteLossError as error:  # of ten steps in a row, or of an evaluation
                        if self.args.on_divergence == "ignore" or not self.zo_optimizer.num_steps:
                            raise  # nothing can be learned from here on; or the model was like that
                        finding = Finding(
                            Cause.NON_FINITE_LOSS, self.zo_optimizer.num_steps, str(error).rstrip("."), ""
                        )
                    else:
                        self._drop_beginning()
                        return result
                    folder = self._act_on(finding)
        finally:
            self.is_in_train = False
            if self.zo_optimizer.journal is not None:
                self.zo_optimizer.journal.close()

    @property
    def _may_go_back(self) -> bool:
        return self.args.on_divergence == "rollback"

    def _act_on(self, finding: Finding) -> Path:
        """Go back and return the checkpoint to go on from, or end the run."""
        if not self._may_go_back:
            raise stop_error(finding, ways_to_go_on(self._output_dir))
        folder, self._history = roll_back(self._journal, finding)
        self._micro_batches.clear()
        return folder

    def _keep_beginning(self) -> None:
        """Write a checkpoint of the beginning, beside those that are removed when there are too many."""
        folder = self._output_dir / files.BEGINNING
        if self.state.global_step or any(map(files.is_whole, files.checkpoint_folders(folder))):
            return
        self._saves_to = folder
        try:
            super()._save_checkpoint(self.model, trial=None)
        finally:
            self._saves_to = None

    def _drop_beginning(self) -> None:
        shutil.rmtree(self._output_dir / files.BEGINNING, ignore_errors=True)

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self._saves_to is None else str(self._saves_to)

    def _refuse_moved_weights(self) -> None:
        if self.zo_optimizer.num_steps:
            raise JournalError(
                f"This trainer's model has made {self.zo_optimizer.num_steps} steps, and there is no checkpoint "
                "to go back to: load the base model again and make a new trainer."
            )

    @property
    def _journal(self) -> JournalWriter:
        assert self.zo_optimizer.journal is not None
        return self.zo_optimizer.journal

    def _optimizer_state(self) -> dict[str, Any]:
        return self.zo_optimizer.state_dict()

    def _load_optimizer_state(self, state: dict[str, Any]) -> None:
        self.zo_optimizer.load_state_dict(state)

    def _place(self) -> files.JournalPlace:
        return files.JournalPlace(
            num_records=self._history.place,
            epoch_ended=self.epoch_ended,
            is_sound=is_sound(self._history.steps_done(0)) and self.guard.has_small_weights,
        )

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Save a checkpoint once the journal up to here is on the disk."""
        self._journal.sync()
        super()._save_checkpoint(model, trial)
