"""Large tensors, worked on in pieces so that temporaries are a share of their size."""

from __future__ import annotations

from torch import Tensor

NUM_PIECES = 16
LARGE_NUMEL = 1 << 20
"""Numbers from which on a tensor is parted; what is made for a smaller one does not matter."""


def pieces(tensor: Tensor, dim: int = -1) -> tuple[Tensor, ...]:
    """Return views that make up a tensor along one dimension: one of a small tensor, `NUM_PIECES` of a large one."""
    return tensor.chunk(NUM_PIECES if tensor.numel() >= LARGE_NUMEL else 1, dim)
