"""Along which coordinates a tensor may move."""

from foretune.spaces.identity import Identity
from foretune.spaces.low_rank import LowRank
from foretune.spaces.masked import Masked
from foretune.spaces.one_sided_orthonormal import OneSidedOrthonormal
from foretune.spaces.orthonormal import Orthonormal

__all__ = ["Identity", "LowRank", "Masked", "OneSidedOrthonormal", "Orthonormal"]
