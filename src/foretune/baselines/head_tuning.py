"""Head tuning: the output head trains by backpropagation, the rest of the model is frozen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from foretune.baselines.head import separate_head
from foretune.errors import NonFiniteLossError


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadTuning:
    """Train a copy of the output head with Adam; lr falls linearly to 0.

    Nothing but the head has a gradient, so memory is that of inference and four times the head. The embedding table
    keeps its bits, also where the head was tied to it.

    Args:
        lr: Learning rate of the first step. Published: 1e-4 or 5e-4.
        steps: Steps; None = five passes over the rows. Published: 5 epochs.
        batch_size: Rows of a step. Published: 8.
        seed: Of the order of rows.
    References:
        The substitute for linear probing on multiple choice and question answering of Malladi et al. 2023,
        arXiv:2305.17333, table 16. Differs from the published code: the input embedding does not change with the
        head, the model is in eval mode (no dropout), and the head is float32.
    """

    lr: float = 1e-4
    steps: int | None = None
    batch_size: int = 8
    seed: int = 0

    def fit(self, model: nn.Module, rows: Sequence[Any], objective_of: Callable[[nn.Module], Any]) -> dict[str, Any]:
        """Train on encoded rows; the model has its new head afterwards.

        Args:
            model: A language model of transformers.
            rows: Training rows, encoded.
            objective_of: Makes the objective of a model: `collate(rows)` and `loss(model, batch)`.
        Returns:
            The settings, the number of steps, and the first and the last step's loss.
        Raises:
            IncompatibleError: the model's head is no linear layer.
            NonFiniteLossError: a loss is nan or infinite.
        """
        steps = self.steps or 5 * math.ceil(len(rows) / self.batch_size)
        device = next(model.parameters()).device
        head = separate_head(model)
        model.requires_grad_(False)
        head.requires_grad_(True)
        model.eval()
        objective = objective_of(model)  # after the head was replaced: it may look for a tied one
        optimizer = torch.optim.Adam(head.parameters(), lr=self.lr)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
        losses = []
        for _, indices in zip(range(steps), self._batches(len(rows)), strict=False):
            batch = objective.collate([rows[index] for index in indices])
            loss = objective.loss(model, {key: tensor.to(device) for key, tensor in batch.items()})
            losses.append(float(loss.detach()))
            if not math.isfinite(losses[-1]):
                raise NonFiniteLossError(f"Loss is {losses[-1]} at step {len(losses)}: lower --lr ({self.lr:g}).")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
        head.requires_grad_(False)
        settings = {"lr": self.lr, "steps": steps, "batch_size": self.batch_size, "seed": self.seed}
        return {**settings, "first_loss": losses[0], "last_loss": losses[-1]}

    def _batches(self, num_rows: int) -> Iterator[list[int]]:
        """Yield batches for ever, every pass in another order; the last batch of a pass may be smaller."""
        order = np.random.default_rng(self.seed)
        while True:
            indices = order.permutation(num_rows).tolist()
            for start in range(0, num_rows, self.batch_size):
                yield indices[start : start + self.batch_size]
