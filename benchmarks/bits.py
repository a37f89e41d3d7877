"""Comparing weights bit by bit."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

_INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16}


def copy_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of all parameters, frozen ones included."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def count_changed_bits(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> int:
    """Count the bits in which two sets of tensors of the same names and shapes differ (0.0 and -0.0 do)."""
    assert before.keys() == after.keys()
    return sum(_changed_bits(before[name], after[name]) for name in before)


def _changed_bits(a: Tensor, b: Tensor) -> int:
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    integer = _INTEGERS[a.element_size()]
    different = torch.bitwise_xor(a.detach().contiguous().view(integer), b.detach().contiguous().view(integer))
    different = different[different != 0]
    return sum(int(((different >> bit) & 1).sum()) for bit in range(8 * a.element_size()))
