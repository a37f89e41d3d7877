"""The loss of a run on samples of its training rows: batches for steps, and rows that no step sees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from foretune.engine import eval_mode, read_loss
from foretune.errors import UsageError

MAX_HELD_OUT = 16
"""Batches of rows that no step sees, at most."""
MIN_HELD_OUT = 4
"""And at least: where rows are few, these batches are smaller than those of steps."""


class SampledLoss:
    """A closure whose rows can be changed: the loss of the micro-batches in use, combined as a trainer does.

        loss = SampledLoss(model, objective, rows, ...)
        for sample in loss.samples(seed): loss.use(sample); optimizer.step(loss)

    Args:
        model: What is tuned.
        objective: A `foretune.objectives.Objective` that also collates rows.
        rows: Encoded training rows. At most half of them are held out, the others serve steps.
        batch_size: Rows of a micro-batch.
        num_micro_batches: Micro-batches of a step; a step has fewer where there are not as many rows.
        seed: Of the order of rows.
    Raises:
        UsageError: fewer than two rows.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Any,
        rows: Sequence[Any],
        *,
        batch_size: int,
        num_micro_batches: int,
        seed: int,
    ) -> None:
        if len(rows) < 2:
            raise UsageError(
                f"A probe needs 2 training rows, one to step on and one to judge by; there are {len(rows)}."
            )
        self._model = model
        self._objective = objective
        self._device = next(model.parameters()).device
        self._batch_size = batch_size
        shuffled = _shuffled(rows, torch.Generator().manual_seed(seed))
        wanted = batch_size * num_micro_batches
        num_held_out = min(MAX_HELD_OUT * wanted, len(rows) // 2)
        self._rows = shuffled[num_held_out:]
        self._rows_per_step = min(wanted, len(self._rows))
        size = max(1, min(wanted, num_held_out // MIN_HELD_OUT))
        starts = range(0, num_held_out - size + 1, size)
        self._held_out = [self._batches(shuffled[start : start + size]) for start in starts]
        self._in_use = self._batches(self._rows[: self._rows_per_step])
        self.num_forwards = 0
        """Micro-batches whose loss was evaluated."""

    @property
    def num_micro_batches(self) -> int:
        """Those in use: what the choice of an engine needs to know."""
        return len(self._in_use)

    def samples(self, seed: int) -> Iterator[list[Any]]:
        """Yield the micro-batches of step after step, without end; each pass over the rows has an order of its own."""
        generator = torch.Generator().manual_seed(seed)
        while True:
            shuffled = _shuffled(self._rows, generator)
            for start in range(0, len(shuffled) - self._rows_per_step + 1, self._rows_per_step):
                yield self._batches(shuffled[start : start + self._rows_per_step])

    def use(self, sample: list[Any]) -> None:
        """Let the loss be that of these micro-batches from now on."""
        self._in_use = sample

    def __call__(self) -> Tensor | float:
        """Return the loss at the weights that the model has right now: in float64, with its derivatives if any."""
        return self._loss(self._in_use)

    @torch.inference_mode()
    def held_out(self) -> list[float]:
        """Return the losses of batches of rows that no step sees."""
        with eval_mode(self._model):
            return [read_loss(self._loss(batches)) for batches in self._held_out]

    def _loss(self, batches: Sequence[Any]) -> Tensor | float:
        self.num_forwards += len(batches)
        weights = [self._objective.weight(batch) for batch in batches]
        total: Tensor | float = 0.0
        for batch, weight in zip(batches, weights, strict=True):
            loss = self._objective.loss(self._model, batch)
            value = read_loss(loss)  # refuses half precision, which the conversion would hide
            total = total + (loss.double() if isinstance(loss, Tensor) else value) * (weight / sum(weights))
        return total

    def _batches(self, rows: Sequence[Any]) -> list[Any]:
        size = self._batch_size
        batches = [self._objective.collate(rows[start : start + size]) for start in range(0, len(rows), size)]
        return [{key: self._on_device(value) for key, value in batch.items()} for batch in batches]

    def _on_device(self, value: Any) -> Any:
        return value.to(self._device) if isinstance(value, Tensor) else value


def _shuffled(rows: Sequence[Any], generator: torch.Generator) -> list[Any]:
    return [rows[index] for index in torch.randperm(len(rows), generator=generator).tolist()]
