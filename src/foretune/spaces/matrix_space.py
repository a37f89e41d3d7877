"""What all spaces share in which matrices move along products of two thin factors."""

from __future__ import annotations

import abc
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from foretune.errors import UsageError
from foretune.noise import Noise
from foretune.spaces.views import add_products, view_shape
from foretune.types import AbstractSpace, Combination, Trainable


@dataclass(frozen=True, kw_only=True)
class AbstractMatrixSpace(AbstractSpace):
    """Matrices move along ``left right^T``, made of coordinates and a basis; vectors keep the full space.

    A tensor that holds several matrices (`Trainable.num_views`) has coordinates and a basis for each, stacked. Nothing
    of the tensor's size is made.

    Args:
        rank: Most columns of the basis.
        interval: Steps between redraws of the basis.
    Raises:
        UsageError: rank or interval below 1.
    """

    rank: int
    interval: int

    def __post_init__(self) -> None:
        for name in ("rank", "interval"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, got {getattr(self, name)}.")

    @abc.abstractmethod
    def matrix_coordinates(self, trainable: Trainable) -> tuple[int, ...]:
        """Shape of the coordinates of a matrix, a stack of them where it has several views."""

    @abc.abstractmethod
    def factors(self, trainable: Trainable, vector: Combination, *, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
        """Return left (m, r) and right (n, r) with ``lift(vector) = left right^T``, or stacks of these."""

    @abc.abstractmethod
    def project(self, trainable: Trainable, vector: Tensor, *, seed: int, old_epoch: int, new_epoch: int) -> Tensor:
        """Express the coordinates of a matrix in another basis than the one they are in."""

    def view_shape(self, trainable: Trainable) -> tuple[int, int]:
        """``(m, n)`` of each view of a matrix, as this space sees it."""
        return view_shape(trainable)

    def coordinate_shape(self, trainable: Trainable) -> tuple[int, ...]:
        """`matrix_coordinates` for a matrix, the tensor's own shape for a vector."""
        return trainable.shape if trainable.matrix_shape is None else self.matrix_coordinates(trainable)

    def lifts(self, trainable: Trainable) -> bool:
        """True for matrices, also where the shapes agree."""
        return trainable.matrix_shape is not None

    def epoch(self, step: int) -> int:
        """``step // interval``."""
        return step // self.interval

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
        """Write ``out = scale * base + left right^T``; the factors are made first, they are small."""
        assert vector.mask is None, "a masked vector in coordinates that are lifted"
        if trainable.matrix_shape is None or vector.is_zero:
            vector = Combination() if vector.is_zero else vector
            vector.add_to(out, base, scale=scale, rounding=rounding, rows=rows, mirrored=mirrored)
            return
        with _own_precision(base.device):
            left, right = self.factors(trainable, vector, seed=seed, epoch=epoch)
        if mirrored is not None:
            add_products(trainable, -left, right, out=mirrored, base=base, scale=scale, rounding=rounding, rows=rows)
        add_products(trainable, left, right, out=out, base=base, scale=scale, rounding=rounding, rows=rows)

    def matrix_factors(
        self, trainable: Trainable, vector: Combination, *, seed: int, epoch: int
    ) -> tuple[Tensor, Tensor] | None:
        """Return `factors` of a matrix that the space sees as it is: not several of them, nor in another shape."""
        if trainable.matrix_shape is None or trainable.num_views > 1 or vector.mask is not None:
            return None
        if self.view_shape(trainable) != trainable.shape:
            return None  # before anything is drawn
        with _own_precision(trainable.parameter.device):
            return self.factors(trainable, vector, seed=seed, epoch=epoch)

    def transport(self, trainable: Trainable, vector: Tensor, *, seed: int, old_epoch: int, new_epoch: int) -> Tensor:
        """Return `project` of a matrix's coordinates; those of a vector do not change."""
        if trainable.matrix_shape is None or old_epoch == new_epoch:
            return vector
        with _own_precision(vector.device):
            return self.project(trainable, vector, seed=seed, old_epoch=old_epoch, new_epoch=new_epoch)


def _own_precision(device: torch.device) -> AbstractContextManager[object]:
    """Hold off autocast: the caller's precision is that of its forward. Where it is off, this costs nothing."""
    kind = device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()
