"""Plain descent along the estimate."""

from __future__ import annotations

from dataclasses import dataclass

from foretune.types import AbstractUpdate, Change, Trainable, UpdateContext
from foretune.updates.decay import check_weight_decay, decay_factor


@dataclass(frozen=True, kw_only=True)
class SGD(AbstractUpdate):
    """theta <- theta - lr * (estimate + weight_decay * theta), for any number of directions in one pass.

    No state and no gradient buffer: the directions are regenerated while they are added. Decay uses the weights
    before the step; with this rule coupled and decoupled decay are the same thing.

    Args:
        weight_decay: Applied to matrices only (no biases, no norm weights).
    References:
        Malladi et al. 2023, arXiv:2305.17333, Algorithms 1 and 2.
    """

    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check_weight_decay(self.weight_decay)

    def apply(self, context: UpdateContext) -> Change:
        """Return the change; there is no state to advance."""
        return Change(decay_factor(context, self.weight_decay), context.estimate.scaled(-context.lr))

    def num_state_elements(self, trainable: Trainable, coordinate_shape: tuple[int, ...]) -> int:
        """None."""
        return 0
