"""Adam on the estimate, in the coordinates of the space."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foretune import noise
from foretune.errors import UsageError
from foretune.types import AbstractUpdate, Change, Combination, Parts, Trainable, UpdateContext
from foretune.updates.decay import check_coupled_decay, check_weight_decay, decay_factor, decayed_estimate
from foretune.updates.state import state_tensor


@dataclass(frozen=True, kw_only=True)
class Adam(AbstractUpdate):
    """theta <- theta - lr * lift(m^ / (sqrt(v^) + eps)), with averages of the estimate and of its square.

        m <- beta1 m + (1 - beta1) estimate,      m^ = m / (1 - beta1^k)
        v <- beta2 v + (1 - beta2) estimate^2,    v^ = v / (1 - beta2^k)

    k counts the tensor's own updates, so a schedule that lets it rest does not spoil the bias correction. Entries
    that a mask does not keep neither move nor change their state.

    State: two numbers per coordinate, float32 (float64 for float64 weights).

    Args:
        betas: Decay of both averages, each in [0, 1).
        eps: Added to the root, positive.
        weight_decay: Applied to matrices only.
        decoupled: True shrinks the weights directly (AdamW); False adds ``weight_decay * theta`` to the estimate,
            which needs coordinates that are the weights.
    Raises:
        UsageError: a setting out of range.
    References:
        Kingma and Ba 2015, arXiv:1412.6980, Algorithm 1. Loshchilov and Hutter 2019, arXiv:1711.05101 (decoupled).
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    decoupled: bool = False

    def __post_init__(self) -> None:
        check_weight_decay(self.weight_decay)
        check_betas(self.betas, self.eps)

    def check(self, parts: Parts, trainables: Sequence[Trainable]) -> None:
        """Refuse coupled decay in a space whose coordinates are not the weights."""
        check_coupled_decay(self._coupled_decay, parts, trainables)

    @property
    def _coupled_decay(self) -> float:
        return 0.0 if self.decoupled else self.weight_decay

    def apply(self, context: UpdateContext) -> Change:
        """Advance both averages and return the change."""
        parameter, mask = context.member.trainable.parameter, context.estimate.mask
        first, second = (state_tensor(context, name) for name in ("first_moment", "second_moment"))
        gradient = decayed_estimate(context, self._coupled_decay).materialize(context.coordinate_shape, parameter)
        moves = 1.0 if mask is None else noise.kept(mask, parameter).to(gradient.dtype)
        beta1, beta2 = self.betas
        first.lerp_(gradient, moves * (1.0 - beta1))
        second.lerp_(gradient.square_(), moves * (1.0 - beta2))
        num_updates = context.state.num_updates + 1
        step = torch.div(second, 1.0 - beta2**num_updates, out=gradient).sqrt_().add_(self.eps)
        torch.div(first, step, out=step)
        scale = decay_factor(context, self.weight_decay) if self.decoupled else 1.0
        return Change(scale, Combination(dense=(-context.lr / (1.0 - beta1**num_updates), step)))

    def num_state_elements(self, trainable: Trainable, coordinate_shape: tuple[int, ...]) -> int:
        """Two per coordinate."""
        return 2 * math.prod(coordinate_shape)

    def refresh(self, tensors: Mapping[str, Tensor], transport: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Carry m into the new basis and keep v as it is.

        v holds mean squares of coordinates: it is no vector, a linear map could even make it negative. Coordinates
        have the same scale in every basis, so the old mean squares are the best guess of the new ones.
        """
        return {**tensors, "first_moment": transport(tensors["first_moment"])}


def check_betas(betas: Sequence[float], eps: float) -> None:
    """Refuse decay rates outside of [0, 1) and a denominator that can vanish.

    Raises:
        UsageError: naming the setting and its value.
    """
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise UsageError(f"betas must be two numbers in [0, 1), got {betas}.")
    if not (eps > 0 and math.isfinite(eps)):
        raise UsageError(f"eps must be positive and finite, got {eps}.")
