"""Norms of long tensors and of any dtype."""

import math

import pytest
import torch

from foretune.norms import norm


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_a_long_tensor_loses_no_digits(dtype: torch.dtype) -> None:
    """Two million times 3 have the norm 3 sqrt(2e6), also as columns."""
    values = torch.full((1000, 2000), 3.0, dtype=dtype)
    assert norm(values) == pytest.approx(3 * math.sqrt(2e6), rel=1e-12)
    assert norm(values.mT) == pytest.approx(3 * math.sqrt(2e6), rel=1e-12)


def test_several_tensors_are_as_one() -> None:
    assert norm(torch.full((2, 2), 1.0), torch.tensor([4.0, 4.0]), torch.empty(0)) == pytest.approx(6.0, rel=1e-14)


def test_small_ones() -> None:
    assert norm(torch.tensor([3.0, -4.0])) == 5.0
    assert norm(torch.zeros(3)) == 0.0
    assert norm(torch.empty(0)) == 0.0
    assert norm(torch.tensor(-2.0)) == 2.0
