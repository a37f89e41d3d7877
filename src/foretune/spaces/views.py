"""The matrices that low-rank spaces see in a tensor: itself, several side by side, or its numbers in another shape.

A stack of coordinates has one matrix for each view; its leading dimension is left out where there is one view only.
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import torch
from torch import Tensor

from foretune import noise
from foretune.noise import Noise
from foretune.types import Trainable


def view_shape(trainable: Trainable) -> tuple[int, int]:
    """Return ``(m, n)`` of each view of a matrix: all its rows, and its share of the columns."""
    assert trainable.matrix_shape is not None
    m, n = trainable.matrix_shape
    return m, n // trainable.num_views


@functools.cache
def near_square(count: int) -> tuple[int, int]:
    """Return ``(a, b)`` with ``a b = count``, a the largest divisor that is not above ``sqrt(count)``.

    No m x n matrix of as many numbers has a shorter side that is longer than a.
    """
    a = next(a for a in range(math.isqrt(count), 0, -1) if count % a == 0)
    return a, count // a


def stack_shape(num_views: int, rows: int, columns: int) -> tuple[int, ...]:
    """Return the shape of one ``rows x columns`` matrix for each view."""
    return (rows, columns) if num_views == 1 else (num_views, rows, columns)


def add_products(
    trainable: Trainable,
    left: Tensor,
    right: Tensor,
    *,
    out: Tensor,
    base: Tensor,
    scale: float = 1.0,
    rounding: Noise | None = None,
    rows: Tensor | None = None,
) -> None:
    """Write ``out = scale * base + left right^T``, view by view; see `noise.add_low_rank`.

    A view that is a block of columns goes through a temporary of its own size. Where the factors see the numbers of
    a view in another shape than the tensor's, `rows` are taken from a temporary of the tensor's size.

    Args:
        trainable: Its views are written.
        left: A stack of (a, r), with ``a b`` the numbers of a view, which it lists row by row.
        right: A stack of (b, r).
        out, base, scale, rounding, rows: As in `AbstractSpace.add`.
    """
    if rows is not None and left.shape[-2] != view_shape(trainable)[0]:
        whole = torch.empty_like(base)
        add_products(trainable, left, right, out=whole, base=base, scale=scale, rounding=rounding)
        out.detach()[rows] = whole[rows]
        return
    if trainable.num_views == 1:
        noise.add_low_rank(out, base, left, right, scale=scale, rounding=rounding, rows=rows)
        return
    blocks = (tensor.detach().chunk(trainable.num_views, dim=1) for tensor in (out, base))
    for view, (block, base_block) in enumerate(zip(*blocks, strict=True)):
        # rounding bits are numbered within a view: another key for each
        own = None if rounding is None else replace(rounding, key=noise.mix(rounding.key, view))
        noise.add_low_rank(block, base_block, left[view], right[view], scale=scale, rounding=own, rows=rows)
