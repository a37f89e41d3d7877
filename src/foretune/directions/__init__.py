"""How a coordinate vector is drawn."""

from foretune.directions.gaussian import Gaussian
from foretune.directions.hessian_scaled import HessianScaled
from foretune.directions.low_rank_product import LowRankProduct
from foretune.directions.momentum_guided import MomentumGuided
from foretune.directions.rademacher import Rademacher

__all__ = ["Gaussian", "HessianScaled", "LowRankProduct", "MomentumGuided", "Rademacher"]
