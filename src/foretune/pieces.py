"""Large tensors, worked on in pieces: temporaries are a small share of their size, and stay in the cache."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

MAX_PIECES = 64
LEAST_NUMEL = 1 << 18
"""Numbers of a piece at least: with fewer, starting an operation would take as long as the operation."""
_STEP = 64
"""Where pieces may begin: whole vectors, and whole blocks of noise."""


def num_pieces(numel: int) -> int:
    """Return into how many pieces so many numbers are parted."""
    return max(1, min(MAX_PIECES, numel // LEAST_NUMEL))


def pieces(tensor: Tensor, dim: int = -1) -> tuple[Tensor, ...]:
    """Return views that make up a tensor along one dimension."""
    return tensor.chunk(num_pieces(tensor.numel()), dim)


def piece_bounds(numel: int) -> Iterator[tuple[int, int]]:
    """Yield where each piece of so many numbers starts and stops."""
    length = max(1, -(-numel // (num_pieces(numel) * _STEP))) * _STEP
    for start in range(0, numel, length):
        yield start, min(start + length, numel)
