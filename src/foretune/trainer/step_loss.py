"""The loss of one step: of all its micro-batches together, at whatever weights the model has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from transformers.trainer_pt_utils import find_batch_size

from foretune.engine import read_loss
from foretune.errors import UsageError

if TYPE_CHECKING:
    from foretune.trainer.base import AbstractTrainer


@dataclass(frozen=True, slots=True)
class StepLoss:
    """The loss of all micro-batches of a step, combined by the objective's own denominator.

    Attributes:
        num_items: Denominator of the whole step, by which the model has divided each loss (transformers
            counts the labels); None if each loss is a mean over the rows of its micro-batch.
    """

    trainer: AbstractTrainer
    model: nn.Module
    batches: list[Any]
    num_items: Tensor | int | None

    @property
    def num_micro_batches(self) -> int:
        """What the choice of an engine needs to know."""
        return len(self.batches)

    def __call__(self) -> Tensor | float:
        """Return the loss at the weights the model has right now: in float64, with its derivatives if it has any."""
        total: Tensor | float = 0.0
        with self.trainer.compute_loss_context_manager():
            for batch, share in zip(self.batches, self._shares(), strict=True):
                loss = self._loss(batch)
                value = read_loss(loss)  # refuses half precision, which the conversion would hide
                total = total + (loss.double() if isinstance(loss, Tensor) else value) * share
        return total

    def terms(self) -> Iterator[Tensor]:
        """Yield the share of each micro-batch in the loss, to be backpropagated one after the other.

        Raises:
            UsageError: the loss has no gradient.
        """
        for batch, share in zip(self.batches, self._shares(), strict=True):
            with self.trainer.compute_loss_context_manager():
                loss = self._loss(batch)
            if not (isinstance(loss, Tensor) and loss.requires_grad):
                raise UsageError(
                    "The loss has no gradient: it is a number, or a tensor that does not depend on the weights. "
                    "Use a zeroth-order method, which needs none."
                )
            yield loss * share

    def _loss(self, batch: Any) -> object:
        objective = self.trainer.loss_objective
        if objective is not None:
            return objective.loss(self.model, batch)
        # a copy: transformers takes the labels out of it where it computes the loss itself
        return self.trainer.compute_loss(self.model, dict(batch), num_items_in_batch=self.num_items)

    def _shares(self) -> list[float]:
        objective = self.trainer.loss_objective
        if objective is not None:
            weights = [objective.weight(batch) for batch in self.batches]
        elif self.num_items is not None:
            return [1.0] * len(self.batches)
        else:
            weights = [find_batch_size(batch) or 1 for batch in self.batches]
        return [weight / sum(weights) for weight in weights]
