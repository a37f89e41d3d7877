"""The quantile table that turns 15 random bits into the magnitude of a standard normal.

Entry i is the mid-quantile Φ⁻¹(1/2 + (i + 1/2) / 65536) of |z|, scaled so that the mean square of the table is 1. A table
look-up is integer work: every device returns the same float32 bits, which logarithms and cosines would not.
"""

from __future__ import annotations

import functools
import math
from importlib import resources
from statistics import NormalDist

import torch
from torch import Tensor

TABLE_SIZE = 1 << 15
TABLE_SHA256 = "e230179c3827e615b4f063e99741aa697a3a8925635cf89f6dddf2f8182450ef"


def build_table() -> Tensor:
    """Compute the table from its definition in float64 and round it once to float32, shape (32768,)."""
    normal = NormalDist()
    quantiles = [normal.inv_cdf(0.5 + (i + 0.5) / (2 * TABLE_SIZE)) for i in range(TABLE_SIZE)]
    root_mean_square = math.sqrt(math.fsum(q * q for q in quantiles) / TABLE_SIZE)
    return torch.tensor([q / root_mean_square for q in quantiles], dtype=torch.float64).float()


def table_bytes() -> bytes:
    """Return the committed table: little-endian float32, the bits every backend uses."""
    return resources.files(__package__).joinpath("quantiles.bin").read_bytes()


@functools.cache
def quantile_table(device: torch.device | str = "cpu") -> Tensor:
    """Return the committed table on `device`, float32, shape (32768,); shared, never to be written."""
    words = torch.frombuffer(bytearray(table_bytes()), dtype=torch.float32)
    return words.to(device)
