"""Descent along the orthogonalized estimate of each matrix."""

from __future__ import annotations

from dataclasses import dataclass

from foretune.matrices import as_coordinates, as_matrices, exact_msign, newton_schulz_
from foretune.types import AbstractUpdate, Change, Combination, Trainable, UpdateContext
from foretune.updates.decay import check_weight_decay, decay_factor


@dataclass(frozen=True, kw_only=True)
class MSign(AbstractUpdate):
    """theta <- theta - lr * (lift(msign(estimate)) + weight_decay * theta); plain descent for vectors.

        msign(G) = U V^T  of  G = U S V^T,  G the estimate as a matrix (rows, rest)

    Every singular direction of the estimate moves by the learning rate alone, however much the losses differ: of a
    single direction, ``G = g Psi``, only the sign of g is left, so several are needed. In orthonormal bases the step
    of a matrix has spectral norm lr (Newton-Schulz: at most 1.21 lr). No state; temporaries of one tensor's
    coordinates.

    Args:
        exact: By an SVD; otherwise by five Newton-Schulz iterations.
        weight_decay: Applied to matrices only.
    References:
        arXiv:2602.17155 (ZO-Muon).
        Differs from the published code: float32 throughout, which does not overflow as float16 does.
    """

    exact: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check_weight_decay(self.weight_decay)

    def apply(self, context: UpdateContext) -> Change:
        """Return the change; there is no state to advance."""
        scale, shape = decay_factor(context, self.weight_decay), context.coordinate_shape
        if context.member.trainable.matrix_shape is None:
            return Change(scale, context.estimate.scaled(-context.lr))
        msign = exact_msign if self.exact else newton_schulz_
        step = as_coordinates(msign(as_matrices(context.gradient(), context.member.trainable)), shape)
        return Change(scale, Combination(dense=(-context.lr, step)))

    def num_state_elements(self, trainable: Trainable, coordinate_shape: tuple[int, ...]) -> int:
        """None."""
        return 0
