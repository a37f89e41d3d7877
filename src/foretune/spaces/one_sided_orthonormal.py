"""The one-sided orthonormal subspace of ZO-Muon: ``lift(Psi) = P Psi`` with P redrawn every few steps."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from foretune.noise import Purpose
from foretune.spaces.bases import OrthonormalBases
from foretune.spaces.matrix_space import AbstractMatrixSpace
from foretune.spaces.views import stack_shape, view_shape
from foretune.types import Combination, Trainable


@dataclass(frozen=True, kw_only=True)
class OneSidedOrthonormal(AbstractMatrixSpace):
    """Matrices move along ``P Psi``; vectors (biases, norm weights) keep the full space.

        lift(Psi) = P Psi,  Psi (rho, n) the coordinates,  P (m, rho) with P^T P = I,  rho = min(rank, m)

    P is the Q of a Gaussian matrix (Haar-distributed), redrawn every `interval` steps. The coordinates are as wide as
    the matrix, and have the singular values of their lift. A tensor that holds several matrices
    (`Trainable.num_views`) has a Psi and a P for each, stacked.

    No state: P is made from its noise stream, once an epoch, and kept in memory until the next: 4 m rho bytes a
    matrix (8 for float64). The lift is one low-rank product; nothing of the tensor's size is made.

    Args:
        rank: Most columns of P. Published for OPT-13B: 64.
        interval: Steps between redraws of P (F). Published for OPT-13B: 100.
    Raises:
        UsageError: rank or interval below 1.
    References:
        arXiv:2602.17155 (ZO-Muon), the subspace of its estimator.
        Differs from the published code: every query of a step and its update use one P, also on steps where P is
        redrawn; a rank above m is cut to m.
    """

    rank: int = 64
    interval: int = 100

    @cached_property
    def _bases(self) -> OrthonormalBases:
        return OrthonormalBases()

    def matrix_coordinates(self, trainable: Trainable) -> tuple[int, ...]:
        """``(rho, n)``."""
        return stack_shape(trainable.num_views, self._rho(trainable), view_shape(trainable)[1])

    def estimate_scale(self, trainable: Trainable) -> float:
        """1, as published: ``E[lift(estimate) | P] = P P^T G``, on average over P the share rho / m of G.

        The unbiased factor m / rho would change the steps of plain descent in this space, matrix by matrix; to rules
        that orthogonalize the estimate it makes no difference.
        """
        return 1.0

    def num_basis_elements(self, trainable: Trainable) -> int:
        """``m rho`` a matrix."""
        if trainable.matrix_shape is None:
            return 0
        return trainable.num_views * view_shape(trainable)[0] * self._rho(trainable)

    def basis(self, trainable: Trainable, *, seed: int, epoch: int) -> Tensor:
        """Return P of one matrix, (m, rho) or a stack of these, in the tensor's compute dtype."""
        m, _ = view_shape(trainable)
        rho, num_views = self._rho(trainable), trainable.num_views
        return self._bases.get(trainable, m, rho, Purpose.LEFT, seed=seed, epoch=epoch, num_views=num_views)

    def factors(self, trainable: Trainable, vector: Combination, *, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
        """Return P and Psi^T."""
        psi = vector.materialize(self.coordinate_shape(trainable), trainable.parameter)
        return self.basis(trainable, seed=seed, epoch=epoch), psi.mT

    def project(self, trainable: Trainable, vector: Tensor, *, seed: int, old_epoch: int, new_epoch: int) -> Tensor:
        """Return ``P_new^T P_old Psi``, the orthogonal projection of the old lift.

        Of its square norm the share rho / m is left on average.
        """
        old = self.basis(trainable, seed=seed, epoch=old_epoch)
        new = self.basis(trainable, seed=seed, epoch=new_epoch)
        return (new.mT @ old) @ vector

    def _rho(self, trainable: Trainable) -> int:
        return min(self.rank, view_shape(trainable)[0])
