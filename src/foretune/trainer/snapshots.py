"""Runs that cannot be replayed: no journal, and an exact place to resume at in every checkpoint."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from foretune.errors import CheckpointError, JournalError
from foretune.journal import EvaluationRecord, StepRecord, check_header
from foretune.journal.replay import threads_of
from foretune.methods import AbstractRecipe
from foretune.objectives import Objective
from foretune.trainer import checkpoint as files
from foretune.trainer.arguments import GradientArguments
from foretune.trainer.base import METRICS_NAME, AbstractTrainer, Evaluator
from foretune.trainer.divergence import Diverging, stop_error
from foretune.trainer.metrics_log import AppendedLog
from foretune.trainer.recovery import choose_checkpoint, clear_checkpoints, refuse_existing
from foretune.trainer.step_loss import StepLoss

RUN_NAME = "run.json"
"""The settings of a run, as a journal's header has them."""


class SnapshotTrainer(AbstractTrainer):
    """A trainer whose steps follow gradients, which are nothing to write down: it resumes from snapshots.

    ``train(resume_from_checkpoint=True)`` makes the steps behind the newest checkpoint again, with the same bits on a
    CPU. The run's settings are in ``output_dir/run.json``.

    Args:
        model, args, ...: As in `transformers.Trainer`, except `model_init` and an optimizer.
        objective: The loss, differentiable; None takes the model's own loss as `compute_loss` does.
        evaluator: Replaces the evaluation loop: returns metrics of the model (without the ``eval_`` prefix).
        run_info: JSON-able facts that join run.json and must be equal when the run is resumed, except those under
            ``origin``.
    Raises:
        UsageError: `model_init` or an optimizer was given.
    """

    args: GradientArguments  # pyrefly: ignore[bad-override-mutable-attribute]
    metrics_log: AppendedLog  # pyrefly: ignore[bad-override-mutable-attribute]
    place_class: ClassVar[type[files.Place]] = files.LogPlace
    record_name: ClassVar[str] = RUN_NAME

    def __init__(
        self,
        model: nn.Module,
        args: GradientArguments,
        *,
        objective: Objective | None = None,
        evaluator: Evaluator | None = None,
        run_info: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self._losses: list[float] = []  # of the steps that are in no line of the log yet
        self._all_losses: list[float] = []
        self._start = _BEGINNING
        super().__init__(model, args, objective=objective, evaluator=evaluator, run_info=run_info, **kwargs)

    @property
    def recipe(self) -> AbstractRecipe:
        """The method or baseline with its settings."""
        return self.args.recipe

    # ---------------------------------------------------------------- one step

    @abc.abstractmethod
    def measure_loss(self, loss: StepLoss) -> float:
        """Do what precedes the optimizer's step; return the loss."""

    def measure(self, model: nn.Module, batches: list[Any], num_items: Tensor | int | None) -> float:
        """Compute the loss and what the step needs."""
        loss = self.measure_loss(self.step_loss(model, batches, num_items))
        self._losses.append(loss)
        return loss

    def after_step(self) -> None:
        """Let the guard look at the step that has just been made."""
        step, loss = self.state.global_step, self._losses[-1]
        self._all_losses.append(loss)
        findings = self.guard.add(_record(step, loss, self._get_learning_rate()))
        for finding in findings:
            self.metrics_log.warn(finding)
        self.guard.heed(findings)
        if (step + 1) % max(1, int(self.state.logging_steps)) == 0:
            self.guard.look_at_weights()

    @property
    @abc.abstractmethod
    def state_bytes(self) -> int:
        """Bytes of state that is kept between steps; gradients come on top."""

    # ---------------------------------------------------------------- logs and evaluation

    def begin_run(self) -> None:
        """Set logs and guard to where the run stands."""
        logged = [int(entry["step"]) for entry in self.state.log_history if "loss" in entry]
        self._globalstep_last_logged = max(logged, default=0)
        self._losses, self._all_losses = list(self._start.unlogged), list(self._start.losses)
        self.guard.begin(self.state.max_steps)
        for step, loss in enumerate(self._all_losses):
            self.guard.add(_record(step, loss))
        self.metrics_log = AppendedLog(self._output_dir / METRICS_NAME, self._start.num_bytes)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Give the loss in full precision, as the mean over the steps since the last log, and write a line."""
        if "loss" in logs and self._losses:
            logs["loss"] = fmean(self._losses)
            self._losses = []
            line = {name: logs[name] for name in ("loss", "grad_norm", "learning_rate")}
            self.metrics_log.add(self.state.global_step, line)
        super().log(logs, start_time)

    def _keep_evaluation(self, record: EvaluationRecord) -> None:
        self.metrics_log.add(record.step, record.metrics)

    # ---------------------------------------------------------------- the run: checkpoints, resume

    # pyrefly: ignore[bad-override]
    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train; with ``resume_from_checkpoint=True`` go on at the newest checkpoint in `output_dir`.

        A folder as `resume_from_checkpoint` goes back to that checkpoint; later ones are dropped.

        Raises:
            DivergedError: the run diverges, which is not to be ignored.
            JournalError: the folder holds a run and no resume was asked for; or one of other settings, each of
                which is named.
            UsageError: the folder to go back to is no whole checkpoint of this run.
        """
        self.create_optimizer()  # refuses what cannot work before the folder is a run's
        path = self._output_dir / RUN_NAME
        chosen = None if isinstance(resume_from_checkpoint, bool | None) else Path(resume_from_checkpoint)
        header = self._header()
        folder = None
        if resume_from_checkpoint and path.exists():
            self.check_begun()
            header = read_run(path)
            folder = choose_checkpoint(self._output_dir, chosen)
            clear_checkpoints(self._output_dir, folder, goes_back=chosen is not None)
        else:
            refuse_existing(path, resume=resume_from_checkpoint, what="settings file")
            path.parent.mkdir(parents=True, exist_ok=True)
        if folder is None and self.state.global_step:
            raise JournalError(
                f"This trainer's model has made {self.state.global_step} steps, and there is no checkpoint to go back "
                "to: load the base model again and make a new trainer."
            )
        files.write_json(path, header)
        self._start = _BEGINNING if folder is None else files.LogPlace.load(folder)
        self._micro_batches.clear()
        self._note_first_weights()
        self.model.zero_grad()
        try:
            with self.tracked(), threads_of(header):
                return super().train(resume_from_checkpoint=None if folder is None else str(folder), **kwargs)
        except Diverging as signal:
            raise stop_error(signal.finding, "Resume with on_divergence 'ignore' to go on as it is") from None
        finally:
            self.is_in_train = False

    def check_begun(self) -> None:
        """Compare the settings of the run in the output folder, if there is one, with those of this trainer."""
        path = self._output_dir / RUN_NAME
        if path.exists():
            check_header(read_run(path), self._header(), ignore=("foretune_version", "num_threads", "origin"))

    def _header(self) -> dict[str, Any]:
        """Return what must be equal when the run is resumed; the method among it."""
        return {
            "method": self.args.recipe.describe(),
            "seed": self.args.seed,
            "num_threads": torch.get_num_threads(),
            **super()._header(),
        }

    def _place(self) -> files.LogPlace:
        return files.LogPlace(
            epoch_ended=self.epoch_ended,
            num_bytes=self.metrics_log.num_bytes,
            unlogged=list(self._losses),
            losses=list(self._all_losses),
        )


def _record(step: int, loss: float, lr: float = 0.0) -> StepRecord:
    """Return the record of a step that was made along a gradient."""
    return StepRecord(step, (), loss, lr, zo_eps=0.0, accepted=True)


def read_run(path: Path) -> dict[str, Any]:
    """Read the settings of a run without a journal.

    Raises:
        CheckpointError: they are damaged.
    """
    try:
        settings = files.read_json(path)
        settings["method"]["name"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} is damaged, so the run cannot be gone on with: begin it again in another folder."
        ) from error
    return settings


_BEGINNING = files.LogPlace(epoch_ended=False, num_bytes=0, unlogged=[])
