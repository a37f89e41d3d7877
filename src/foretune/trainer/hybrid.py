"""The Trainer of transformers with hybrid steps: zeroth-order in the shallow layers, first-order in the deep ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from foretune.hybrid import Hybrid
from foretune.trainer.arguments import HybridTrainingArguments
from foretune.trainer.snapshots import SnapshotTrainer
from foretune.trainer.step_loss import StepLoss


class HybridTrainer(SnapshotTrainer):
    """Fine-tunes the shallow layers by forwards and the deep ones by backpropagation, as a `transformers.Trainer`.

        args = HybridTrainingArguments(output_dir="runs/x", method_options={"hybrid_zo_layers": 18})
        HybridTrainer(model, args, train_dataset=rows).train()

    Rows, objective, evaluations, logs and files are those of `ZOTrainer`, and micro-batches add up to one large
    batch. All losses are computed in eval mode. Gradients are nothing to write down: a run has no journal, cannot be
    replayed, and resumes from its newest checkpoint, with the same bits on a CPU.

    Args:
        model, args, ...: As in `SnapshotTrainer`.
    """

    args: HybridTrainingArguments  # pyrefly: ignore[bad-override-mutable-attribute]

    @property
    def engine_name(self) -> str:
        """The engine of the shallow layers, once training has begun, and backpropagation."""
        return self.hybrid.engine_name

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Build both optimizers on the model."""
        if self.optimizer is None:
            self.hybrid: Hybrid = self.args.recipe.optimizer(self.model, seed=self.args.seed, engine=self.args.engine)
            self.optimizer = self.hybrid
        return self.optimizer

    def num_passes_at(self, step: int) -> tuple[int, int]:
        """Return the loss evaluations of the shallow layers, and a forward and a backward for the deep ones."""
        shallow, deep = self.hybrid.zo, self.hybrid.fo
        backwards = 0 if deep is None else 1
        return backwards + (0 if shallow is None else shallow.num_forwards_at(step)), backwards

    def measure_loss(self, loss: StepLoss) -> float:
        """Measure the losses of the shallow layers and the gradient of the deep ones."""
        return self.hybrid.measure(loss, loss.terms())

    @property
    def state_bytes(self) -> int:
        """Bytes of state that both optimizers keep between steps; gradients come on top."""
        return self.hybrid.state_bytes

    def _header(self) -> dict[str, Any]:
        return {**super()._header(), "engine": self.args.engine}

    def _optimizer_state(self) -> dict[str, Any]:
        return self.hybrid.state_dict()

    def _load_optimizer_state(self, state: dict[str, Any]) -> None:
        self.hybrid.load_state_dict(state)
