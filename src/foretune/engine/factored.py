"""Linear layers whose weight moves along thin factors: ``y = x W^T + (x V) U^T + b``, of which no copy of W is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

import torch
from torch import Tensor, nn

Factors = tuple[Tensor, Tensor]
"""U (m, r) and V (n, r): the shift of an m x n weight is ``U V^T``."""

LEAST_NUMEL = 1 << 16
"""See `is_worth_factors`."""


def is_plain_linear(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a module is ``x W^T + b`` and nothing else."""
    return isinstance(module, nn.Linear) and getattr(module.forward, "__func__", None) is nn.Linear.forward


def can_factor(x: object, weight: Tensor) -> TypeGuard[Tensor]:
    """Whether `factored_linear` does what the layer would with this input: autocast casts, and is left to it."""
    return isinstance(x, Tensor) and x.dtype == weight.dtype and not torch.is_autocast_enabled(x.device.type)


def is_worth_factors(weight: Tensor) -> bool:
    """Whether the weight is so large that a copy takes longer to make than a few products to start."""
    return weight.numel() >= LEAST_NUMEL


def factors_pay(x: Tensor, weight: Tensor) -> bool:
    """Whether to run by factors is less work than to make a copy of the weight.

    Inputs and outputs are read and written once more by the first, and the weight by the second.
    """
    m, n = weight.shape
    return x.numel() * (m + n) <= m * n * n


def factored_linear(
    x: Tensor, weight: Tensor, biases: Sequence[Tensor | None], factors: Sequence[Factors | None]
) -> Tensor:
    """Return ``x W^T + (x V) U^T + b``, each share of the rows with its own U, V and b.

    Args:
        x: Inputs, shape (..., n); the rows of the first share come first.
        weight: W, shape (m, n), of the same dtype.
        biases: A b of each share, shape (m,).
        factors: A U and V of each share; None adds nothing.
    Returns:
        Shape (..., m).
    """
    rows = x.reshape(-1, x.shape[-1])
    # the shift first, and then the product onto it: so they are rounded once, as a sum
    y = x.new_empty(len(rows), len(weight))
    shares = zip(y.chunk(len(biases)), rows.chunk(len(biases)), biases, factors, strict=True)
    for y_i, x_i, bias, pair in shares:
        if pair is None:
            y_i.zero_() if bias is None else y_i.copy_(bias)
            continue
        left, right = (factor.to(x.dtype) for factor in pair)
        if bias is None:
            torch.mm(x_i @ right, left.mT, out=y_i)
        else:
            torch.addmm(bias, x_i @ right, left.mT, out=y_i)
    return y.addmm_(rows, weight.mT).view(*x.shape[:-1], -1)
