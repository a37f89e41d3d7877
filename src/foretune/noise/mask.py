"""Which elements of a tensor a call may change, as a recipe that is evaluated where it is needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from foretune.errors import UsageError
from foretune.noise.address import Noise

NUM_LANES = 1 << 16


@dataclass(frozen=True, slots=True)
class LaneMask:
    """Keeps an element whose lane lies in ``[start, stop)``: with probability ``(stop - start) / 65536``.

    Two masks of one address with adjoining intervals split a tensor into disjoint groups.

    Args:
        address: Where the 16-bit lanes come from; its law is not used.
        start, stop: Interval of lanes, within [0, 65536].
    Raises:
        UsageError: no such interval.
    """

    address: Noise
    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.stop <= NUM_LANES:
            raise UsageError(
                f"A lane mask keeps [start, stop) within [0, {NUM_LANES}]; found {self.start}, {self.stop}."
            )


@dataclass(frozen=True, slots=True)
class MagnitudeMask:
    """Keeps an element of `base` with ``|base| <= limit``, compared in float32 (float64 for float64 tensors)."""

    limit: float


@dataclass(frozen=True, slots=True, eq=False)
class RowMask:
    """Keeps the elements of some rows. Compared by identity.

    Args:
        rows: Distinct indexes along the first dimension, int64 (R,), on the tensor's device.
    """

    rows: Tensor


ElementMask: TypeAlias = LaneMask | MagnitudeMask
"""What backends know: masks that are decided element by element."""

Mask: TypeAlias = ElementMask | RowMask
