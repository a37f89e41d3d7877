"""Random sign directions."""

from __future__ import annotations

from dataclasses import dataclass

from foretune.noise import Law, Noise, Purpose
from foretune.types import AbstractDirection, Combination, TensorState, Trainable


@dataclass(frozen=True, kw_only=True)
class Rademacher(AbstractDirection):
    """Entries +1 or -1 with equal probability: one bit an element, ``E||estimate||^2 = d ||gradient||^2``. No state.

    References:
        Spall 1992 (SPSA); Dang et al. 2025, arXiv:2506.09034 (FZOO), section 3.
    """

    def draw(self, trainable: Trainable, state: TensorState, *, key: int, step: int) -> Combination:
        """Return z of this tensor and key."""
        return Combination(noise=((1.0, Noise(key, trainable.stream, Purpose.DIRECTION, Law.RADEMACHER)),))

    def advance(self, trainable: Trainable, state: TensorState, *, key: int, scalars: tuple[float, ...]) -> None:
        """Nothing to remember."""
