"""Directions that are products of two fresh Gaussian factors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from foretune.errors import UsageError
from foretune.noise import LowRankNoise, Noise, Purpose
from foretune.types import AbstractDirection, Combination, Draw, TensorState, Trainable


@dataclass(frozen=True, kw_only=True)
class LowRankProduct(AbstractDirection):
    """E = A B^T / sqrt(rank) for matrices, A (m, rank) and B (n, rank) Gaussian; Gaussian vectors. No state.

    Entries have mean 0 and variance 1 and are uncorrelated at every rank, so estimates are unbiased as they are;
    only the higher moments differ from the Gaussian's, by O(1 / rank). (m + n) rank numbers are drawn instead of
    m n, and a step along N directions is one product of rank N * rank.

    Args:
        rank: Of each direction. Published: 1.
    Raises:
        UsageError: rank below 1.
    References:
        Sarkar et al. 2025, arXiv:2511.16652 (EGGROLL).
    """

    draws_products: ClassVar[bool] = True

    rank: int = 1

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UsageError(f"rank must be at least 1, got {self.rank}.")

    def draw(
        self, trainable: Trainable, state: TensorState, *, key: int, step: int, coordinate_shape: tuple[int, ...]
    ) -> Draw:
        """Return E of this matrix, or z of this vector, and key."""
        if trainable.matrix_shape is None:
            return Draw(Combination(noise=((1.0, Noise(key, trainable.stream, Purpose.DIRECTION)),)))
        return Draw(Combination(products=((1.0, LowRankNoise(key, trainable.stream, self.rank)),)))
