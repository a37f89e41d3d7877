"""The Trainer of transformers with first-order steps, under the protocol of the zeroth-order runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from foretune.errors import JournalError, NonFiniteLossError
from foretune.journal import EvaluationRecord, check_header
from foretune.journal.replay import threads_of
from foretune.parameters import collect_trainables
from foretune.trainer import checkpoint as files
from foretune.trainer.arguments import FOTrainingArguments
from foretune.trainer.base import METRICS_NAME, AbstractTrainer, Evaluator
from foretune.trainer.metrics_log import AppendedLog
from foretune.trainer.recovery import choose_checkpoint, clear_checkpoints, refuse_existing
from foretune.trainer.step_loss import Objective

RUN_NAME = "run.json"
"""The settings of a run, as a journal's header has them."""


class FOTrainer(AbstractTrainer):
    """Fine-tunes by backpropagation, as a `transformers.Trainer`: the baselines sgd, adam and adamw.

        args = FOTrainingArguments(output_dir="runs/x", method="adamw")
        FOTrainer(model, args, train_dataset=rows).train()

    Rows, objective, evaluations, logs and files are those of `ZOTrainer`, and micro-batches add up to one large
    batch. Losses are computed in train mode (dropout on) unless the baseline's `fo_eval_mode` is set. There is no
    journal, since gradients are nothing to write down: a run cannot be replayed, and
    ``train(resume_from_checkpoint=True)`` makes the steps behind the newest checkpoint again, with the same bits on
    a CPU. Its settings are in ``output_dir/run.json``.

    Args:
        model, args, ...: As in `transformers.Trainer`, except `model_init` and an optimizer.
        objective: The loss, differentiable; None takes the model's own loss as `compute_loss` does.
        evaluator: Replaces the evaluation loop: returns metrics of the model (without the ``eval_`` prefix).
        run_info: JSON-able facts that join run.json and must be equal when the run is resumed, except those under
            ``origin``.
    Raises:
        UsageError: `model_init` or an optimizer was given.
    """

    args: FOTrainingArguments  # pyrefly: ignore[bad-override-mutable-attribute]
    metrics_log: AppendedLog  # pyrefly: ignore[bad-override-mutable-attribute]
    place_class: ClassVar[type[files.Place]] = files.LogPlace
    engine_name: ClassVar[str] = "backpropagation"  # pyrefly: ignore[bad-override]

    def __init__(
        self,
        model: nn.Module,
        args: FOTrainingArguments,
        *,
        objective: Objective | None = None,
        evaluator: Evaluator | None = None,
        run_info: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self._losses: list[float] = []  # of the steps that are in no line of the log yet
        self._start = _BEGINNING
        super().__init__(model, args, objective=objective, evaluator=evaluator, run_info=run_info, **kwargs)

    # ---------------------------------------------------------------- one step

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Build the baseline's optimizer on the model."""
        if self.optimizer is None:
            trainables = collect_trainables(self.model)
            self._names = {trainable.parameter: trainable.name for trainable in trainables}
            self._torch_optimizer = self.args.recipe.optimizer(trainables)
            self.optimizer = self._torch_optimizer
        return self.optimizer

    def measure(self, model: nn.Module, batches: list[Any], num_items: Tensor | int | None) -> float:
        """Compute loss and gradient.

        Raises:
            NonFiniteLossError: the loss is nan or infinite.
            UsageError: it has no gradient.
        """
        model.train(not self.args.recipe.fo_eval_mode)
        loss = 0.0
        for term in self.step_loss(model, batches, num_items).terms():
            term.backward()
            loss += float(term.item())
        if not math.isfinite(loss):
            step, lr = self.state.global_step, self._get_learning_rate()
            raise NonFiniteLossError(f"Loss is {loss} at step {step}: the run is stopped. Lower lr ({lr:g}).")
        self._losses.append(loss)
        return loss

    def after_step(self) -> None:
        """Nothing: the loss was noted when it was measured."""

    @property
    def state_bytes(self) -> int:
        """Bytes of state that the optimizer keeps between steps, counters included; gradients come on top."""
        states = self._torch_optimizer.state.values()
        return sum(value.nbytes for state in states for value in state.values() if isinstance(value, Tensor))

    # ---------------------------------------------------------------- logs and evaluation

    def begin_logs(self) -> None:
        """Set the logs to where the run stands."""
        logged = [int(entry["step"]) for entry in self.state.log_history if "loss" in entry]
        self._globalstep_last_logged = max(logged, default=0)
        self._losses = list(self._start.unlogged)
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
            JournalError: the folder holds a run and no resume was asked for; or one of other settings, each of
                which is named.
            UsageError: the folder to go back to is no whole checkpoint of this run.
        """
        path = self._output_dir / RUN_NAME
        chosen = None if isinstance(resume_from_checkpoint, bool | None) else Path(resume_from_checkpoint)
        header = {
            "method": self.args.recipe.describe(),
            "seed": self.args.seed,
            "num_threads": torch.get_num_threads(),
            **self._header(),
        }
        folder = None
        if resume_from_checkpoint and path.exists():
            begun = files.read_json(path)
            check_header(begun, header, ignore=("foretune_version", "num_threads", "origin"))
            header = begun
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
        self.model.zero_grad()
        try:
            with threads_of(header):
                return super().train(resume_from_checkpoint=None if folder is None else str(folder), **kwargs)
        finally:
            self.is_in_train = False

    def _optimizer_state(self) -> dict[str, Any]:
        saved = self._torch_optimizer.state_dict()
        parameters = [parameter for group in self._torch_optimizer.param_groups for parameter in group["params"]]
        return {
            "param_groups": [{k: v for k, v in group.items() if k != "params"} for group in saved["param_groups"]],
            "state": {
                self._names[parameter]: {"tensors": saved["state"].get(index, {})}
                for index, parameter in enumerate(parameters)
            },
        }

    def _load_optimizer_state(self, state: dict[str, Any]) -> None:
        names = [
            self._names[parameter] for group in self._torch_optimizer.param_groups for parameter in group["params"]
        ]
        groups = self._torch_optimizer.state_dict()["param_groups"]
        self._torch_optimizer.load_state_dict(
            {
                "param_groups": [
                    {**group, **saved} for group, saved in zip(groups, state["param_groups"], strict=True)
                ],
                "state": {index: state["state"][name]["tensors"] for index, name in enumerate(names)},
            }
        )

    def _place(self) -> files.LogPlace:
        return files.LogPlace(
            epoch_ended=self.epoch_ended, num_bytes=self.metrics_log.num_bytes, unlogged=list(self._losses)
        )


_BEGINNING = files.LogPlace(epoch_ended=False, num_bytes=0, unlogged=[])
