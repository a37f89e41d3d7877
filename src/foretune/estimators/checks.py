"""Argument checks shared by the estimators."""

from __future__ import annotations

import math

from foretune.errors import UsageError


def check_finite_difference(zo_eps: float, num_directions: int) -> None:
    """Refuse a perturbation scale that is not positive and finite, or fewer than one direction.

    Raises:
        UsageError: naming the option, the value and what would be right.
    """
    if not (zo_eps > 0 and math.isfinite(zo_eps)):
        raise UsageError(f"zo_eps must be positive and finite, got {zo_eps}. Usual values: 1e-3 (full), 1e-2 (LoRA).")
    check_num_directions(num_directions)


def check_num_directions(num_directions: int) -> None:
    """Refuse fewer than one direction.

    Raises:
        UsageError: naming the value.
    """
    if num_directions < 1:
        raise UsageError(f"num_directions must be at least 1, got {num_directions}.")
