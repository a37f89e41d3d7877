"""The lazy low-rank space of LOZO: ``lift(U) = U V^T`` with a Gaussian V that is redrawn every few steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from foretune import noise
from foretune.noise import Noise, Purpose
from foretune.spaces.matrix_space import AbstractMatrixSpace
from foretune.spaces.views import stack_shape, view_shape
from foretune.types import Combination, Trainable


@dataclass(frozen=True, kw_only=True)
class LowRank(AbstractMatrixSpace):
    """Matrices move along ``U V^T``; vectors (biases, norm weights) keep the full space.

        lift(U) = U V^T,  U (m, r) the coordinates,  V (n, r) of N(0, 1), redrawn every `interval` steps

    A tensor that holds several matrices (`Trainable.num_views`) has a U and a V for each, stacked.

    V is regenerated from its noise stream wherever it is needed, so the space itself keeps nothing.
    E||lift(U)||^2 = m n r for unit-variance U; ``E[lift(estimate)] = gradient`` needs the paper's factor 1/r.

    Args:
        rank: r. May exceed min(m, n): nothing here needs orthogonality.
        interval: Steps between redraws of V (nu in the paper).
    Raises:
        UsageError: rank or interval below 1.
    References:
        Chen et al. 2024, arXiv:2410.07698, Algorithm 1 and its momentum form (LOZO-M).
        Differs from the published code: a direction is a pure function of (seed, step, tensor), so the update
        follows the measured direction also on the steps where V is redrawn; the paper's 1/r is applied.
    """

    rank: int = 2
    interval: int = 50

    def matrix_coordinates(self, trainable: Trainable) -> tuple[int, ...]:
        """``(m, rank)``."""
        return stack_shape(trainable.num_views, view_shape(trainable)[0], self.rank)

    def estimate_scale(self, trainable: Trainable) -> float:
        """``1 / rank`` for a matrix (E[V V^T] = r I), 1 for a vector."""
        return 1.0 if trainable.matrix_shape is None else 1.0 / self.rank

    def basis(self, trainable: Trainable, *, seed: int, epoch: int) -> Tensor:
        """Regenerate V of one matrix, shape (n, rank) or a stack of these, in the tensor's compute dtype.

        The values depend on `(seed, epoch, name)` only; the stored layout is (rank, n) transposed, so that a
        column of V is contiguous for the lift.
        """
        shape = stack_shape(trainable.num_views, self.rank, view_shape(trainable)[1])
        transposed = torch.empty(shape, dtype=trainable.compute_dtype, device=trainable.parameter.device)
        noise.fill(transposed, Noise(noise.mix(seed, epoch), trainable.stream, Purpose.RIGHT))
        return transposed.mT

    def factors(self, trainable: Trainable, vector: Combination, *, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
        """Return U and V."""
        left = vector.materialize(self.coordinate_shape(trainable), trainable.parameter)
        return left, self.basis(trainable, seed=seed, epoch=epoch)

    def project(self, trainable: Trainable, vector: Tensor, *, seed: int, old_epoch: int, new_epoch: int) -> Tensor:
        """Return ``N V_old^T V_new / n``, the cheap least-squares projection of ``N V_old^T`` (LOZO-M).

        What it carries over is r / n of the old lift on average: nearly a reset for r much smaller than n,
        but more than there was for r > n.
        """
        old = self.basis(trainable, seed=seed, epoch=old_epoch)
        new = self.basis(trainable, seed=seed, epoch=new_epoch)
        return vector @ (old.mT @ new).div_(view_shape(trainable)[1])
