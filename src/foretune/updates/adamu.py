"""Descent along a direction that remembers, each entry divided by the direction's own uncertainty (ZO-AdaMU)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foretune.errors import IncompatibleError, UsageError
from foretune.pieces import piece_bounds
from foretune.types import AbstractUpdate, Change, Combination, Draw, Parts, Trainable, UpdateContext
from foretune.updates.decay import check_weight_decay, decay_factor

NEEDED_PARTS = ("fresh", "history")


@dataclass(frozen=True, kw_only=True)
class AdaMU(AbstractUpdate):
    """theta <- theta - lr * (lift(estimate / sqrt(v + sigma)) + weight_decay * theta),   estimate = g m.

        v = beta2 fresh^2 + (1 - beta2) history^2,    m = beta1 fresh + (1 - beta1) history

    v is made of the step's own direction: it is no average over time, and no entry of ``m / sqrt(v)`` exceeds
    ``sqrt(beta1^2/beta2 + (1 - beta1)^2/(1 - beta2))``, 9.0 at the published targets. While the direction is plain
    noise the step is ``lr * g * sign(z)``. A tensor whose direction has no such parts takes plain descent.

    No state: the direction keeps m. Temporaries: one of a tensor's coordinates, and three of a piece of it.

    Args:
        sigma: Keeps the root from 0.
        vectors_only: Divide the steps of vectors (biases, norm weights) alone; matrices take plain descent.
        weight_decay: Applied to matrices only.
    Raises:
        UsageError: a setting out of range.
    References:
        Jiang et al. 2024, arXiv:2312.15184, Algorithm 1.
        Differs from the published code: the measured direction and the one stepped along are the same.
    """

    sigma: float = 1e-8
    weight_decay: float = 0.0
    vectors_only: bool = False

    def __post_init__(self) -> None:
        check_weight_decay(self.weight_decay)
        if not (self.sigma > 0 and math.isfinite(self.sigma)):
            raise UsageError(f"sigma must be positive and finite, got {self.sigma}.")

    def check(self, parts: Parts, trainables: Sequence[Trainable]) -> None:
        """Refuse a direction that has no fresh and remembered part."""
        if not set(NEEDED_PARTS) <= set(parts.direction.part_names):
            raise IncompatibleError(
                f"AdaMU cannot be combined with {type(parts.direction).__name__}: it divides by the fresh and "
                "remembered parts of the direction, which only some directions have. Use MomentumGuided."
            )

    def apply(self, context: UpdateContext) -> Change:
        """Return the change; there is no state to advance."""
        scale = decay_factor(context, self.weight_decay)
        (draw,) = context.draws
        is_plain = not draw.parts or (self.vectors_only and context.member.trainable.matrix_shape is not None)
        if is_plain or context.estimate.is_zero:
            return Change(scale, context.estimate.scaled(-context.lr))
        trainable = context.member.trainable
        step = trainable.parameter.new_empty(context.coordinate_shape, dtype=trainable.compute_dtype)
        for start, stop in piece_bounds(step.numel()):
            self._write_part(step, start, stop, draw, context)
        return Change(scale, Combination(dense=(-context.lr, step)))

    def _write_part(self, step: Tensor, start: int, stop: int, draw: Draw, context: UpdateContext) -> None:
        """Write elements `start` to `stop` - 1 of the step; what it makes for that is gone when it returns."""
        shape, weight = context.coordinate_shape, context.member.trainable.parameter
        vectors = (*(draw.parts[name] for name in NEEDED_PARTS), context.estimate)
        fresh, history, estimate = (vector.materialize_part(start, stop, shape, weight) for vector in vectors)
        root = fresh.square_().addcmul_(history, history).add_(self.sigma).sqrt_()
        torch.div(estimate, root, out=step.view(-1)[start:stop])

    def num_state_elements(self, trainable: Trainable, coordinate_shape: tuple[int, ...]) -> int:
        """None."""
        return 0
