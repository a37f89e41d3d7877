"""The full space: coordinates are the tensor's own entries."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from foretune.noise import Noise
from foretune.types import AbstractSpace, Combination, Trainable


@dataclass(frozen=True, kw_only=True)
class Identity(AbstractSpace):
    """Every entry of every tensor moves: ``lift(v) = v``. No basis, no state.

    References:
        Malladi et al. 2023, arXiv:2305.17333, Definition 1.
    """

    def coordinate_shape(self, trainable: Trainable) -> tuple[int, ...]:
        """The tensor's own shape."""
        return trainable.shape

    def epoch(self, step: int) -> int:
        """Always 0: there is no basis to refresh."""
        return 0

    def estimate_scale(self, trainable: Trainable) -> float:
        """1: with unit-variance entries the estimate is unbiased as it is."""
        return 1.0

    def add(
        self,
        trainable: Trainable,
        vector: Combination,
        *,
        out: Tensor,
        base: Tensor,
        seed: int,
        epoch: int,
        scale: float = 1.0,
        rounding: Noise | None = None,
        rows: Tensor | None = None,
        mirrored: Tensor | None = None,
    ) -> None:
        """Write ``out = scale * base + vector`` in one pass."""
        vector.add_to(out, base, scale=scale, rounding=rounding, rows=rows, mirrored=mirrored)

    def transport(self, trainable: Trainable, vector: Tensor, *, seed: int, old_epoch: int, new_epoch: int) -> Tensor:
        """Return `vector` itself."""
        return vector
