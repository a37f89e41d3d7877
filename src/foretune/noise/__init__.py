"""Counter-based noise: z as a pure function of (key, stream, purpose, element), the same bits on every
device.

The format is described in docs/noise.md. `VERSION` names it; a journal records it.
"""

from foretune.noise.address import Law, LowRankNoise, Noise, Purpose, mix, stream_id
from foretune.noise.layout import Window
from foretune.noise.mask import NUM_LANES, LaneMask, MagnitudeMask, Mask, RowMask
from foretune.noise.ops import add, add_low_rank, fill, kept, lanes, low_rank_factors, use_backend

VERSION = 1

__all__ = [
    "NUM_LANES",
    "VERSION",
    "LaneMask",
    "Law",
    "LowRankNoise",
    "MagnitudeMask",
    "Mask",
    "Noise",
    "Purpose",
    "RowMask",
    "Window",
    "add",
    "add_low_rank",
    "fill",
    "kept",
    "lanes",
    "low_rank_factors",
    "mix",
    "stream_id",
    "use_backend",
]
