"""The quantile table that turns 13 random bits into the magnitude of a standard normal.

Entry i is the mid-quantile Φ⁻¹(1/2 + (i + 1/2) / 16384) of |z|, scaled so that the mean square of the table
is 1: kurtosis 2.997, largest magnitude 4.01. A look-up is integer work: every device returns the same
float32 bits, which logarithms and cosines would not. At 32 KB the table stays in a first-level cache.
"""

from __future__ import annotations

import functools
import math
from importlib import resources
from statistics import NormalDist

import torch
from torch import Tensor

TABLE_SIZE = 1 << 13
TABLE_SHA256 = "439f8ea8f6f6349936cfb177182eafa33ecb27723523e111dd06c2d7a7f35bcb"


def build_table() -> Tensor:
    """Compute the table from its definition in float64 and round it once to float32, shape (8192,)."""
    normal = NormalDist()
    quantiles = [normal.inv_cdf(0.5 + (i + 0.5) / (2 * TABLE_SIZE)) for i in range(TABLE_SIZE)]
    root_mean_square = math.sqrt(math.fsum(q * q for q in quantiles) / TABLE_SIZE)
    return torch.tensor([q / root_mean_square for q in quantiles], dtype=torch.float64).float()


def table_bytes() -> bytes:
    """Return the committed table: little-endian float32, the bits every backend uses."""
    return resources.files("foretune.noise").joinpath("quantiles.bin").read_bytes()


@functools.cache
def quantile_table(device: torch.device | str = "cpu") -> Tensor:
    """Return the committed table on `device`, float32, shape (8192,); shared, never to be written."""
    words = torch.frombuffer(bytearray(table_bytes()), dtype=torch.float32)
    return words.to(device)
