"""Which losses give which scalars."""

from foretune.estimators.finite_differences import finite_differences
from foretune.estimators.forward_mode import ForwardMode
from foretune.estimators.one_sided import OneSided
from foretune.estimators.population import Population
from foretune.estimators.second_difference import SecondDifference
from foretune.estimators.two_sided import TwoSided

__all__ = ["ForwardMode", "OneSided", "Population", "SecondDifference", "TwoSided", "finite_differences"]
