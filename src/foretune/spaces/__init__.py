"""Along which coordinates a tensor may move."""

from foretune.spaces.identity import Identity
from foretune.spaces.low_rank import LowRank

__all__ = ["Identity", "LowRank"]
