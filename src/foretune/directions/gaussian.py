"""Standard normal directions."""

from __future__ import annotations

from dataclasses import dataclass

from foretune.noise import Law, Noise, Purpose
from foretune.types import AbstractDirection, Combination, Draw, TensorState, Trainable


@dataclass(frozen=True, kw_only=True)
class Gaussian(AbstractDirection):
    """Entries z ~ N(0, 1), independent over tensors, queries and steps. No state.

    References:
        Malladi et al. 2023, arXiv:2305.17333, Definition 1.
    """

    def draw(
        self, trainable: Trainable, state: TensorState, *, key: int, step: int, coordinate_shape: tuple[int, ...]
    ) -> Draw:
        """Return z of this tensor and key."""
        address = Noise(key, trainable.stream, Purpose.DIRECTION, Law.GAUSSIAN)
        return Draw(Combination(noise=((1.0, address),)))
