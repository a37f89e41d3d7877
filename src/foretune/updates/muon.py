"""Muon: an average of the estimates of each matrix, orthogonalized; Adam for vectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from foretune.errors import UsageError
from foretune.matrices import as_coordinates, as_matrices, newton_schulz_
from foretune.types import AbstractUpdate, Change, Combination, Trainable, UpdateContext
from foretune.updates.adam import Adam
from foretune.updates.decay import check_weight_decay, decay_factor
from foretune.updates.state import state_tensor


@dataclass(frozen=True, kw_only=True)
class Muon(AbstractUpdate):
    """theta <- (1 - lr * weight_decay) theta - lr * sqrt(max(1, rows / columns)) * lift(O) for matrices.

        M <- beta M + (1 - beta) G,    O = newton_schulz((1 - beta) G + beta M),    G the estimate

    A matrix is a tensor of two dimensions or more, as (rows, rest) of its coordinates; the others follow `Adam` with
    betas (0.9, 0.95), eps 1e-10 and decoupled decay. The step of a matrix has spectral norm up to 1.21 lr times the
    root; the first one depends on the sign of the slopes alone where there is one direction.

    State: one number per coordinate of a matrix, two per entry of a vector; temporaries of one tensor's coordinates.

    Args:
        beta: Decay of the average, in [0, 1). Published: 0.95.
        weight_decay: Applied to matrices only.
    Raises:
        UsageError: a setting out of range.
    References:
        Jordan et al. 2024, Muon, with Nesterov's mix.
        Differs from the published code: Newton-Schulz in float32 instead of bfloat16.
    """

    beta: float = 0.95
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check_weight_decay(self.weight_decay)
        if not 0 <= self.beta < 1:
            raise UsageError(f"beta must be in [0, 1), got {self.beta}.")

    @property
    def _of_vectors(self) -> Adam:
        return Adam(betas=(0.9, 0.95), eps=1e-10, weight_decay=self.weight_decay, decoupled=True)

    def apply(self, context: UpdateContext) -> Change:
        """Advance the average, or Adam's two, and return the change."""
        shape = context.coordinate_shape
        if len(shape) < 2:
            return self._of_vectors.apply(context)
        average, gradient = state_tensor(context, "momentum"), context.gradient()
        average.lerp_(gradient, 1.0 - self.beta)
        mix = as_matrices(gradient.lerp_(average, self.beta), context.member.trainable)
        step = as_coordinates(newton_schulz_(mix), shape)
        factor = math.sqrt(max(1.0, mix.shape[-2] / mix.shape[-1]))
        return Change(decay_factor(context, self.weight_decay), Combination(dense=(-context.lr * factor, step)))

    def num_state_elements(self, trainable: Trainable, coordinate_shape: tuple[int, ...]) -> int:
        """One per coordinate of a matrix, two per entry of a vector."""
        if len(coordinate_shape) < 2:
            return self._of_vectors.num_state_elements(trainable, coordinate_shape)
        return math.prod(coordinate_shape)

    def refresh(self, tensors: Mapping[str, Tensor], transport: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Carry the average into the new basis; Adam's own way for its state."""
        if "momentum" in tensors:
            return super().refresh(tensors, transport)
        return self._of_vectors.refresh(tensors, transport)
