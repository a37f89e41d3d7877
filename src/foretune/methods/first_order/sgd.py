"""SGD: descent along the gradient, with momentum if wanted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch

from foretune.errors import UsageError
from foretune.methods.first_order.base import BASELINES, AbstractFirstOrder


@BASELINES.register("sgd")
@dataclass(frozen=True, kw_only=True)
class SGDRecipe(AbstractFirstOrder):
    """SGD: backpropagation and a step along the gradient.

        m <- momentum m + gradient + weight_decay theta
        theta <- theta - lr m

    One forward and one backward a step; a gradient and the activations beside the weights. State: none, with
    momentum one number for every trainable one.

    Args:
        lr: Learning rate. Published grids: 1e-4 to 1e-2 (RoBERTa-large, full), 1e-7 to 1e-3 (OPT, full), 1e-6 to 1e-2
            (OPT, LoRA), 1e-3 (OPT-1.3B, prompt).
        momentum: Decay of the average of gradients, in [0, 1).
        weight_decay: Weight decay on matrices.
        max_grad_norm: Norm to which longer gradients are scaled, over all tensors; 0 for no clipping.
        fo_eval_mode: Compute losses in eval mode, without dropout.
    References:
        The baseline FO-SGD of Zhang et al. 2024, arXiv:2402.11592. `torch.optim.SGD` makes the step.
    """

    paper: ClassVar[str] = "Revisiting Zeroth-Order Optimization for LLM Fine-Tuning, arXiv:2402.11592"
    tuning_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType({"prompt": {"lr": 1e-3}})

    lr: float = 1e-3
    momentum: float = 0.0

    def check(self) -> None:
        """Refuse settings out of range."""
        super().check()
        if not 0 <= self.momentum < 1:
            raise UsageError(f"momentum must be in [0, 1), got {self.momentum}.")

    @property
    def num_state_tensors(self) -> int:
        """One with momentum."""
        return int(self.momentum > 0)

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return `torch.optim.SGD`."""
        return torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum)
