"""Exponential moving average of estimates, kept in coordinates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from foretune.errors import IncompatibleError, UsageError
from foretune.types import AbstractUpdate, Change, Combination, Parts, Trainable, UpdateContext
from foretune.updates.decay import check_weight_decay, decay_factor


@dataclass(frozen=True, kw_only=True)
class Momentum(AbstractUpdate):
    """theta <- theta - lr * lift(N), with N an average of estimates in the coordinates of the space.

        N <- estimate                             at a tensor's first update
        N <- beta * N + (1 - beta) * estimate     afterwards; transported when the space changes its basis

    State: one number per coordinate, float32 (float64 for float64 weights): m * r for a matrix in `LowRank`,
    the tensor's size in `Identity`.

    Args:
        beta: Decay of the average, in [0, 1). 0 gives plain descent.
        weight_decay: Applied to matrices only.
        decoupled: True shrinks the weights directly (theta <- (1 - lr * weight_decay) theta - ...); False adds
            ``weight_decay * theta`` to the estimate before averaging, which needs the identity space.
    References:
        Chen et al. 2024, arXiv:2410.07698, LOZO-M.
    """

    beta: float = 0.9
    weight_decay: float = 0.0
    decoupled: bool = True

    def __post_init__(self) -> None:
        check_weight_decay(self.weight_decay)
        if not 0 <= self.beta < 1:
            raise UsageError(f"beta must be in [0, 1), got {self.beta}.")

    def check(self, parts: Parts, trainables: Sequence[Trainable]) -> None:
        """Refuse coupled decay in a space whose coordinates are not the weights."""
        if self.decoupled or self.weight_decay == 0:
            return
        lifted = next((t.name for t in trainables if t.decays and parts.space.lifts(t)), None)
        if lifted is not None:
            raise IncompatibleError(
                f"Coupled weight decay cannot be combined with {type(parts.space).__name__}: the momentum of "
                f"'{lifted}' is kept in coordinates that cannot hold weight_decay * theta. Use decoupled=True."
            )

    def apply(self, context: UpdateContext) -> Change:
        """Advance N and return the change."""
        trainable, state = context.member.trainable, context.state
        average = state.tensors.get("momentum")
        if average is None:
            average = torch.zeros(
                context.coordinate_shape, dtype=trainable.compute_dtype, device=trainable.parameter.device
            )
            state.tensors["momentum"] = average
        gain = 1.0 if state.num_updates == 0 else 1.0 - self.beta
        estimate = context.estimate.scaled(gain)
        if not self.decoupled and self.weight_decay and trainable.decays:
            theta = trainable.parameter.detach().to(trainable.compute_dtype)
            estimate += Combination(dense=(gain * self.weight_decay, theta))
        estimate.accumulate_into(average, decay=self.beta, weight=trainable.parameter)
        scale = decay_factor(context, self.weight_decay) if self.decoupled else 1.0
        return Change(scale, Combination(dense=(-context.lr, average)))

    def num_state_elements(self, trainable: Trainable, coordinate_shape: tuple[int, ...]) -> int:
        """One per coordinate."""
        return math.prod(coordinate_shape)
