"""The two-sided orthonormal subspace of SubZero: ``lift(z) = s U z V^T`` with U and V redrawn every few steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

from torch import Tensor

from foretune.errors import UsageError, near_misses
from foretune.noise import Purpose
from foretune.spaces.bases import OrthonormalBases
from foretune.spaces.matrix_space import AbstractMatrixSpace
from foretune.spaces.views import near_square, stack_shape, view_shape
from foretune.types import Combination, Trainable

Reshape = Literal["auto", "always", "never"]


@dataclass(frozen=True, kw_only=True)
class Orthonormal(AbstractMatrixSpace):
    """Matrices move along ``s U z V^T``; vectors (biases, norm weights) keep the full space.

        lift(z) = s U z V^T,  z (rho, rho) the coordinates,  U (a, rho), V (b, rho) with U^T U = V^T V = I
        rho = min(rank, a, b),  s = sqrt(a b) / rho with `align`, otherwise 1

    U and V are the Q of Gaussian matrices (independent, Haar-distributed), redrawn every `interval` steps. With
    `align`, E||lift(z)||^2 = a b as for a Gaussian of the full space, and lr and zo_eps of MeZO carry over.

    a x b is the matrix itself or, where it is reshaped, its numbers row by row with a the largest divisor of their
    count that is not above its root: a 10 x 2048 prompt is seen as 128 x 160, and rho may exceed 10. A tensor that
    holds several matrices (`Trainable.num_views`) has a z, a U and a V for each, stacked.

    No state: U and V are made from their noise streams, once an epoch, and kept in memory until the next:
    4 (a + b) rho bytes a matrix (8 for float64). The lift is one low-rank product; nothing of the tensor's size is
    made.

    Args:
        rank: Most columns of U and V. Published: 8 (code default), 24 (prompt tuning of OPT-1.3B).
        interval: Steps between redraws (F). Published: 1000 (paper), 2000 (code default).
        align: Perturb as far as MeZO does. Without it the perturbation of a matrix has the norm rho, not sqrt(a b).
        reshape: Which matrices are reshaped: those of adapters (``auto``, as published), ``always`` or ``never``.
    Raises:
        UsageError: rank or interval below 1, or an unknown `reshape`.
    References:
        Yu et al. 2024, arXiv:2410.08989, with its reshaping for parameter-efficient tuning.
        Differs from the published code: rank is cut to the dimensions in the update, too; signs are fixed so that U
        and V have exactly the Haar law; they come from a counter, so they survive a resume; without `align` the
        estimate has the factor a b / rho^2 that makes it unbiased, so lr need not be rescaled.
    """

    rank: int = 8
    interval: int = 2000
    align: bool = True
    reshape: Reshape = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reshape not in get_args(Reshape):
            raise UsageError(f"Unknown reshape {self.reshape!r}.{near_misses(str(self.reshape), get_args(Reshape))}")

    @cached_property
    def _bases(self) -> OrthonormalBases:
        return OrthonormalBases()

    def view_shape(self, trainable: Trainable) -> tuple[int, int]:
        """``(a, b)`` of a matrix, as this space sees it.

        A reshaped matrix has no shorter side than before, so one whose count has no good divisors loses nothing.
        """
        m, n = view_shape(trainable)
        is_reshaped = trainable.is_adapter if self.reshape == "auto" else self.reshape == "always"
        return near_square(m * n) if is_reshaped else (m, n)

    def matrix_coordinates(self, trainable: Trainable) -> tuple[int, ...]:
        """``(rho, rho)``."""
        rho = self._rho(trainable)
        return stack_shape(trainable.num_views, rho, rho)

    def estimate_scale(self, trainable: Trainable) -> float:
        """``a b / (s rho)^2`` for a matrix, which is 1 with `align`, and 1 for a vector.

        For the gradient G of a matrix, E[lift(<G, lift(z)> z) | U, V] = s^2 U U^T G V V^T, and U U^T and V V^T
        average to (rho / a) I and (rho / b) I.
        """
        if trainable.matrix_shape is None or self.align:
            return 1.0
        return math.prod(self.view_shape(trainable)) / self._rho(trainable) ** 2

    def num_basis_elements(self, trainable: Trainable) -> int:
        """``(a + b) rho`` a matrix."""
        if trainable.matrix_shape is None:
            return 0
        return trainable.num_views * sum(self.view_shape(trainable)) * self._rho(trainable)

    def basis(self, trainable: Trainable, *, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
        """Return U and V of one matrix, (a, rho) and (b, rho) or stacks of these, in the tensor's compute dtype."""
        rho, (a, b) = self._rho(trainable), self.view_shape(trainable)
        left, right = (
            self._bases.get(trainable, size, rho, purpose, seed=seed, epoch=epoch, num_views=trainable.num_views)
            for size, purpose in ((a, Purpose.LEFT), (b, Purpose.RIGHT))
        )
        return left, right

    def factors(self, trainable: Trainable, vector: Combination, *, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
        """Return ``s U z`` and V."""
        shape = self.coordinate_shape(trainable)
        z = vector.scaled(self._lift_scale(trainable)).materialize(shape, trainable.parameter)
        u, v = self.basis(trainable, seed=seed, epoch=epoch)
        return u @ z, v

    def project(self, trainable: Trainable, vector: Tensor, *, seed: int, old_epoch: int, new_epoch: int) -> Tensor:
        """Return ``U_new^T U_old z V_old^T V_new``, the orthogonal projection of the old lift.

        Of its square norm the share rho^2 / (a b) is left on average: nearly a reset for a small rank.
        """
        u_old, v_old = self.basis(trainable, seed=seed, epoch=old_epoch)
        u_new, v_new = self.basis(trainable, seed=seed, epoch=new_epoch)
        return (u_new.mT @ u_old) @ vector @ (v_old.mT @ v_new)

    def _rho(self, trainable: Trainable) -> int:
        return min(self.rank, *self.view_shape(trainable))

    def _lift_scale(self, trainable: Trainable) -> float:
        """s."""
        return math.sqrt(math.prod(self.view_shape(trainable))) / self._rho(trainable) if self.align else 1.0
