"""How a coordinate vector is drawn."""

from foretune.directions.gaussian import Gaussian
from foretune.directions.hessian_scaled import HessianScaled
from foretune.directions.rademacher import Rademacher

__all__ = ["Gaussian", "HessianScaled", "Rademacher"]
