"""Random sign directions."""

from __future__ import annotations

from dataclasses import dataclass

from foretune.noise import Law, Noise, Purpose
from foretune.types import AbstractDirection, Combination, Draw, TensorState, Trainable


@dataclass(frozen=True, kw_only=True)
class Rademacher(AbstractDirection):
    """Entries +1 or -1 with equal probability: one bit an element, ``E||estimate||^2 = d ||gradient||^2``. No state.

    References:
        Spall 1992 (SPSA); Dang et al. 2025, arXiv:2506.09034 (FZOO), section 3.
    """

    def draw(
        self, trainable: Trainable, state: TensorState, *, key: int, step: int, coordinate_shape: tuple[int, ...]
    ) -> Draw:
        """Return z of this tensor and key."""
        address = Noise(key, trainable.stream, Purpose.DIRECTION, Law.RADEMACHER)
        return Draw(Combination(noise=((1.0, address),)))
