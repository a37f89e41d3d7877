"""Orthonormal bases as pure functions of a noise address, kept in memory for as long as they are in force."""

from __future__ import annotations

import torch
from torch import Tensor

from foretune import noise
from foretune.noise import Noise, Purpose
from foretune.spaces.views import stack_shape
from foretune.types import Trainable


@torch.inference_mode(False)  # it is first asked for while a loss is evaluated, and the update uses it as well
@torch.no_grad()
def orthonormal_basis(
    trainable: Trainable, size: int, rank: int, purpose: Purpose, *, seed: int, epoch: int, num_views: int = 1
) -> Tensor:
    """Return Q of ``A = Q R``, A (size, rank) of N(0, 1) and diag(R) > 0: a Haar-distributed frame.

    QR runs in the tensor's compute dtype. Equal bits on every run with one LAPACK and number of threads; with others
    the last bits may differ.

    Args:
        trainable: The tensor that the basis belongs to; A has its noise stream, dtype and device.
        size, rank: Shape of Q; rank is at most size.
        purpose: LEFT or RIGHT. A left basis is stored by rows and a right one by columns, as the lift reads them.
        seed, epoch: Key of A.
        num_views: How many independent Q to return, stacked; a single one has no such dimension.
    """
    assert rank <= size
    shape = stack_shape(num_views, rank, size)
    transposed = torch.empty(shape, dtype=trainable.compute_dtype, device=trainable.parameter.device)
    noise.fill(transposed, Noise(noise.mix(seed, epoch), trainable.stream, purpose))
    q, r = torch.linalg.qr(transposed.mT)
    q = torch.where(r.diagonal(dim1=-2, dim2=-1).unsqueeze(-2) < 0, -q, q)
    return q.contiguous() if purpose is Purpose.LEFT else q.mT.contiguous().mT


class OrthonormalBases:
    """The bases of a space that are in force, each made once an epoch.

    A space keeps one of these beside its settings: it holds nothing that could not be made again, so it is neither
    part of the state nor of what is compared or described.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[object, ...], tuple[tuple[int, int], Tensor]] = {}

    def get(
        self,
        trainable: Trainable,
        size: int,
        rank: int,
        purpose: Purpose,
        *,
        seed: int,
        epoch: int,
        num_views: int = 1,
    ) -> Tensor:
        """Return `orthonormal_basis` of these arguments; it takes the place of the same basis of another epoch."""
        device = trainable.parameter.device
        place = (trainable.stream, size, rank, purpose, num_views, trainable.compute_dtype, device)
        if place not in self._kept or self._kept[place][0] != (seed, epoch):
            self._kept.pop(place, None)  # before the new one is made: never two of them in memory
            basis = orthonormal_basis(trainable, size, rank, purpose, seed=seed, epoch=epoch, num_views=num_views)
            self._kept[place] = (seed, epoch), basis
        return self._kept[place][1]
