"""The choice between central and forward differences, for recipes that leave it to the user."""

from __future__ import annotations

from typing import Literal, get_args

from foretune.errors import UsageError, near_misses
from foretune.estimators.one_sided import OneSided
from foretune.estimators.two_sided import TwoSided
from foretune.estimators.weighting import Weighting

Sides = Literal["two_sided", "one_sided"]


def finite_differences(
    sides: Sides, *, zo_eps: float, num_directions: int, weighting: Weighting = "mean", ramp_steps: int = 0
) -> TwoSided | OneSided:
    """Return the estimator of that name.

    Raises:
        UsageError: an unknown name (near misses suggested), or a setting out of range.
    """
    if sides not in get_args(Sides):
        raise UsageError(f"Unknown estimator {sides!r}.{near_misses(str(sides), get_args(Sides))}")
    kind = TwoSided if sides == "two_sided" else OneSided
    return kind(zo_eps=zo_eps, num_directions=num_directions, weighting=weighting, ramp_steps=ramp_steps)
