"""From the slopes along directions to the weights of these directions in the gradient estimate."""

from __future__ import annotations

from statistics import pstdev
from typing import Literal, get_args

from foretune.errors import UsageError, near_misses

Weighting = Literal["mean", "sum", "sign", "normalized"]

MIN_LOSS_STD = 1e-12
"""Losses that differ by less say nothing: rules that divide by their spread make no step (methods.md 9.1)."""


def check_weighting(weighting: Weighting, num_directions: int, ramp_steps: int) -> None:
    """Refuse an unknown weighting, and a spread of fewer than two losses.

    Raises:
        UsageError: naming the option, the value and what would be right.
    """
    if weighting not in get_args(Weighting):
        raise UsageError(f"Unknown weighting {weighting!r}.{near_misses(str(weighting), get_args(Weighting))}")
    if weighting == "normalized" and (num_directions < 2 or ramp_steps):
        right = f"ramp_steps must be 0, got {ramp_steps}" if ramp_steps else "num_directions must be at least 2, got 1"
        raise UsageError(f"{right}: the estimate is divided by the spread of its slopes, and one slope has none.")


def slope_weights(slopes: tuple[float, ...], weighting: Weighting, *, zo_eps: float) -> tuple[float, ...]:
    """Return the weight of each of q directions, given the slopes g along them.

        mean         g_k / q             the estimate of the gradient
        sum          g_k                 the same, with the learning rate multiplied by q
        sign         sign(g_k) / q       only whether the loss rises or falls; sign(0) = 0
        normalized   g_k / (q std(g))    the estimate over its own scale: the loss's unit drops out of the step

    std is the population's; zo_eps * std(g) is the spread of the losses, and below `MIN_LOSS_STD` all weights are 0.
    """
    if weighting == "sum":
        return slopes
    if weighting == "sign":
        slopes = tuple(float((g > 0) - (g < 0)) for g in slopes)
    elif weighting == "normalized":
        std = pstdev(slopes)
        slopes = tuple(g / std if zo_eps * std >= MIN_LOSS_STD else 0.0 for g in slopes)
    return tuple(g / len(slopes) for g in slopes)
