"""Exponential moving average of estimates, kept in coordinates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from foretune.errors import UsageError
from foretune.types import AbstractUpdate, Change, Combination, Parts, Trainable, UpdateContext
from foretune.updates.decay import check_coupled_decay, check_weight_decay, decay_factor, decayed_estimate
from foretune.updates.state import state_tensor


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
        check_coupled_decay(self._coupled_decay, parts, trainables)

    @property
    def _coupled_decay(self) -> float:
        return 0.0 if self.decoupled else self.weight_decay

    def apply(self, context: UpdateContext) -> Change:
        """Advance N and return the change."""
        average = state_tensor(context, "momentum")
        gain = 1.0 if context.state.num_updates == 0 else 1.0 - self.beta
        estimate = decayed_estimate(context, self._coupled_decay).scaled(gain)
        estimate.accumulate_into(average, decay=self.beta, weight=context.member.trainable.parameter)
        scale = decay_factor(context, self.weight_decay) if self.decoupled else 1.0
        return Change(scale, Combination(dense=(-context.lr, average)))

    def num_state_elements(self, trainable: Trainable, coordinate_shape: tuple[int, ...]) -> int:
        """One per coordinate."""
        return math.prod(coordinate_shape)
