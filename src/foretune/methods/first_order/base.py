"""What a first-order baseline is: settings that make an optimizer of torch."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from foretune.errors import UsageError
from foretune.methods.recipe import RECIPES, AbstractRecipe
from foretune.types import Trainable


@dataclass(frozen=True, kw_only=True)
class AbstractFirstOrder(AbstractRecipe):
    """Settings of a first-order baseline.

    Attributes:
        weight_decay: Weight decay on matrices.
        max_grad_norm: Norm to which longer gradients are scaled, over all tensors; 0 for no clipping.
        fo_eval_mode: Whether losses are computed in eval mode, without dropout.
    """

    family: ClassVar[str] = "First-order baselines"

    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    fo_eval_mode: bool = False

    @property
    @abc.abstractmethod
    def num_state_tensors(self) -> int:
        """Tensors of a parameter's size that the optimizer keeps for it between steps."""

    @abc.abstractmethod
    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return the optimizer of torch on these parameter groups."""

    def optimizer(self, trainables: Sequence[Trainable]) -> torch.optim.Optimizer:
        """Return the optimizer of torch on these tensors; biases and norms do not decay."""
        decaying = [trainable.parameter for trainable in trainables if trainable.decays]
        others = [trainable.parameter for trainable in trainables if not trainable.decays]
        groups = [
            {"params": decaying, "weight_decay": self.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        return self.make([group for group in groups if group["params"]])

    def check(self) -> None:
        """Refuse a rate, decay or norm below 0."""
        for name in ("lr", "weight_decay", "max_grad_norm"):
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)):
                raise UsageError(f"{name} must be 0 or more and finite, got {value}.")


BASELINES = RECIPES.of(AbstractFirstOrder)
