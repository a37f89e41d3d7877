"""What an objective is to those who train on it."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn


class Objective(Protocol):
    """A loss of a model on a batch, with the denominator by which micro-batches combine."""

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return a scalar loss, float32 or better."""
        ...

    def weight(self, batch: Any) -> int:
        """Return the denominator of `loss` on this batch."""
        ...
