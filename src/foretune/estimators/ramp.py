"""A number of directions that grows over the run."""

from __future__ import annotations

from foretune.errors import UsageError


def check_ramp(ramp_steps: int) -> None:
    """Refuse a negative number of steps.

    Raises:
        UsageError: naming the option and the value.
    """
    if ramp_steps < 0:
        raise UsageError(f"ramp_steps must be 0 or more, got {ramp_steps}.")


def directions_at(step: int, num_directions: int, ramp_steps: int) -> int:
    """Return how many directions a step measures: ``max(1, floor(num_directions * step / ramp_steps))``, then all."""
    return num_directions if step >= ramp_steps else max(1, num_directions * step // ramp_steps)
