"""AdamW: Adam with weight decay beside the gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from foretune.methods.first_order.abstract_adam import AbstractAdam
from foretune.methods.first_order.base import BASELINES


@BASELINES.register("adamw")
@dataclass(frozen=True, kw_only=True)
class AdamWRecipe(AbstractAdam):
    """AdamW: backpropagation, and Adam with decoupled weight decay.

        theta <- (1 - lr weight_decay) theta
        m <- beta1 m + (1 - beta1) gradient,      v <- beta2 v + (1 - beta2) gradient^2
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
        Loshchilov and Hutter 2019, arXiv:1711.05101, Algorithm 2. `torch.optim.AdamW` makes the step.
        Settings: Malladi et al. 2023, arXiv:2305.17333, tables 15 and 16 (FT).
    """

    paper: ClassVar[str] = "Decoupled Weight Decay Regularization, arXiv:1711.05101"

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return `torch.optim.AdamW`."""
        return torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps)
