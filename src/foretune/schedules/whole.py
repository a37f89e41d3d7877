"""Everything moves at every step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from foretune.errors import UsageError
from foretune.types import AbstractSchedule, Block, Member, Trainable


@dataclass(frozen=True, kw_only=True)
class Whole(AbstractSchedule):
    """One block with every trainable tensor, at every step.

    Args:
        matrix_lr_scale: Factor on the learning rate of matrices (not of biases and norm weights).
        vector_lr_scale: Factor on the learning rate of the others.
    Raises:
        UsageError: a factor that is not positive and finite.
    """

    matrix_lr_scale: float = 1.0
    vector_lr_scale: float = 1.0

    sequential = False

    def __post_init__(self) -> None:
        for name in ("matrix_lr_scale", "vector_lr_scale"):
            factor = getattr(self, name)
            if not (factor > 0 and math.isfinite(factor)):
                raise UsageError(f"{name} must be positive and finite, got {factor}.")

    def blocks(self, step: int, trainables: Sequence[Trainable], *, seed: int) -> Sequence[Block]:
        """Return one block."""
        members = (
            Member(trainable, lr=self.vector_lr_scale if trainable.matrix_shape is None else self.matrix_lr_scale)
            for trainable in trainables
        )
        return (Block(tuple(members)),)
