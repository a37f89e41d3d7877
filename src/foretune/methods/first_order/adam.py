"""Adam: steps in units of the gradients' own size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from foretune.methods.first_order.abstract_adam import AbstractAdam
from foretune.methods.first_order.base import BASELINES


@BASELINES.register("adam")
@dataclass(frozen=True, kw_only=True)
class AdamRecipe(AbstractAdam):
    """Adam: backpropagation and Adam on the gradient.

        g = gradient + weight_decay theta
        m <- beta1 m + (1 - beta1) g,      v <- beta2 v + (1 - beta2) g^2
        theta <- theta - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

    One forward and one backward a step; a gradient and the activations beside the weights. State: two numbers for
    every trainable one.

    Args:
        lr: Learning rate. Published for OPT: 1e-5 to 8e-5 (full), 1e-4 to 5e-4 (LoRA), 1e-2 to 5e-2 (prefix).
        betas: Decay of the averages of gradients and of their squares, each in [0, 1).
        eps: Added to the root, positive.
        weight_decay: Weight decay on matrices.
        max_grad_norm: Norm to which longer gradients are scaled, over all tensors; 0 for no clipping.
        fo_eval_mode: Compute losses in eval mode, without dropout.
    References:
        Kingma and Ba 2015, arXiv:1412.6980, Algorithm 1. `torch.optim.Adam` makes the step.
        Settings: Malladi et al. 2023, arXiv:2305.17333, tables 15 and 16 (FT).
    """

    paper: ClassVar[str] = "Adam: A Method for Stochastic Optimization, arXiv:1412.6980"

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return `torch.optim.Adam`."""
        return torch.optim.Adam(groups, lr=self.lr, betas=self.betas, eps=self.eps)
