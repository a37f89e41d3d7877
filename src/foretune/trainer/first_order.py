"""The Trainer of transformers with first-order steps, under the protocol of the zeroth-order runs."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import nn

from foretune.errors import NonFiniteLossError
from foretune.named_state import load_named_state, named_state, state_bytes
from foretune.parameters import collect_trainables
from foretune.trainer.arguments import FOTrainingArguments
from foretune.trainer.snapshots import SnapshotTrainer
from foretune.trainer.step_loss import StepLoss


class FOTrainer(SnapshotTrainer):
    """Fine-tunes by backpropagation, as a `transformers.Trainer`: the baselines sgd, adam and adamw.

        args = FOTrainingArguments(output_dir="runs/x", method="adamw")
        FOTrainer(model, args, train_dataset=rows).train()

    Rows, objective, evaluations, logs and files are those of `ZOTrainer`, and micro-batches add up to one large
    batch. Losses are computed in train mode (dropout on) unless the baseline's `fo_eval_mode` is set. There is no
    journal, since gradients are nothing to write down: a run cannot be replayed, and
    ``train(resume_from_checkpoint=True)`` makes the steps behind the newest checkpoint again, with the same bits on
    a CPU. Its settings are in ``output_dir/run.json``.

    Args:
        model, args, ...: As in `SnapshotTrainer`.
    """

    args: FOTrainingArguments  # pyrefly: ignore[bad-override-mutable-attribute]
    engine_name: ClassVar[str] = "backpropagation"  # pyrefly: ignore[bad-override]

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Build the baseline's optimizer on the model."""
        if self.optimizer is None:
            trainables = collect_trainables(self.model)
            self._names = {trainable.parameter: trainable.name for trainable in trainables}
            self._torch_optimizer = self.args.recipe.optimizer(trainables)
            self.optimizer = self._torch_optimizer
        return self.optimizer

    def num_passes_at(self, step: int) -> tuple[int, int]:
        """Return one forward and one backward."""
        return 1, 1

    def measure_loss(self, loss: StepLoss) -> float:
        """Compute loss and gradient.

        Raises:
            NonFiniteLossError: the loss is nan or infinite.
            UsageError: it has no gradient.
        """
        loss.model.train(not self.args.recipe.fo_eval_mode)
        value = 0.0
        for term in loss.terms():
            term.backward()
            value += float(term.item())
        if not math.isfinite(value):
            step, lr = self.state.global_step, self._get_learning_rate()
            raise NonFiniteLossError(f"Loss is {value} at step {step}: the run is stopped. Lower lr ({lr:g}).")
        return value

    @property
    def state_bytes(self) -> int:
        """Bytes of state that the optimizer keeps between steps, counters included; gradients come on top."""
        return state_bytes(self._torch_optimizer)

    def _optimizer_state(self) -> dict[str, Any]:
        return named_state(self._torch_optimizer, self._names)

    def _load_optimizer_state(self, state: dict[str, Any]) -> None:
        load_named_state(self._torch_optimizer, self._names, state)
