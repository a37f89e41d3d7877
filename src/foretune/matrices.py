"""Matrices for rules that treat a tensor as one: how coordinates are seen as matrices, and the sign of a matrix.

msign(G) = U V^T  of  G = U S V^T
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from foretune.pieces import pieces
from foretune.types import Trainable

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""(a, b, c) of the quintic ``p(s) = a s + b s^3 + c s^5`` that each iteration applies to the singular values."""

_NUM_ITERATIONS = 5


def as_matrices(vector: Tensor, trainable: Trainable) -> Tensor:
    """Return coordinates of at least two dimensions as a matrix or, where the tensor has several views, as a stack.

    Coordinates are such a matrix or stack, or else the tensor's own entries: then dimensions behind the first one
    are columns, and views are blocks of them.
    """
    if trainable.num_views == 1:
        return vector.view(vector.shape[0], -1)
    return vector if vector.dim() > 2 else vector.unflatten(1, (trainable.num_views, -1)).transpose(0, 1)


def as_coordinates(matrices: Tensor, shape: Sequence[int]) -> Tensor:
    """Return what `as_matrices` made of coordinates of this shape, in that shape again."""
    if matrices.dim() > len(shape):
        matrices = matrices.transpose(0, 1)
    return matrices.reshape(tuple(shape))


def newton_schulz(matrix: Tensor) -> Tensor:
    """Return `newton_schulz_` of a copy, in float32 at least."""
    compute = torch.float64 if matrix.dtype == torch.float64 else torch.float32
    return newton_schulz_(matrix.to(compute, copy=True))


def newton_schulz_(matrix: Tensor) -> Tensor:
    """Make of a matrix nearly ``U V^T``: the same singular vectors, singular values near 1, by five iterations.

        X <- G / (||G||_F + 1e-7),    then five times    A = X X^T,  X <- a X + (b A + c A^2) X

    Singular values of at least 0.01 ||G||_F end in [0.681, 1.135]; none exceeds 1.203, and those near 0 stay small
    (0 stays 0). About ``10 k^2 max(m, n)`` multiply-adds with k = min(m, n). In place: temporaries of k x k, and of a
    few columns of X at a time.

    Args:
        matrix: G (m, n), or a stack of such, float32 or float64: in float16 the products lose what is small, and the
            result would depend on more than G's direction.
    References:
        Jordan et al. 2024, Muon (the coefficients); iterations of this kind: Bjorck and Bowie 1971.
    """
    a, b, c = _COEFFICIENTS
    x = matrix.mT if matrix.shape[-2] > matrix.shape[-1] else matrix  # the products X X^T are then the small ones
    with torch.autocast(matrix.device.type, enabled=False):  # the caller's precision is that of its forward
        x.div_(torch.linalg.matrix_norm(x, keepdim=True).add_(1e-7))
        for _ in range(_NUM_ITERATIONS):
            gram = x @ x.mT
            polynomial = (gram @ gram).mul_(c).add_(gram, alpha=b)
            for columns in pieces(x):
                columns.copy_((polynomial @ columns).add_(columns, alpha=a))
    return matrix


def exact_msign(matrix: Tensor) -> Tensor:
    """Return ``U V^T`` by an SVD, over the singular values that are not 0 to working precision (0 stays 0).

    Args:
        matrix: G (m, n), or a stack of such. float64 stays float64, everything else is computed in float32.
    """
    compute = torch.float64 if matrix.dtype == torch.float64 else torch.float32
    with torch.autocast(matrix.device.type, enabled=False):
        u, singular_values, vh = torch.linalg.svd(matrix.to(compute), full_matrices=False)
        smallest = singular_values[..., :1] * max(matrix.shape[-2:]) * torch.finfo(compute).eps
        return (u * (singular_values > smallest).unsqueeze(-2)) @ vh
