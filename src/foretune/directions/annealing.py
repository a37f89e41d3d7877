"""The annealing of ZO-AdaMU: how a share goes from 1 to its target."""

from __future__ import annotations

import math

from foretune.errors import UsageError


def annealed(num_updates: int, *, target: float, phi: float, t1: int, t2: int, t3: int) -> float:
    """Return a share: 1 before update t1, decreasing until t2, `target` from t2 on.

        share(t) = target + (1 - target) (a(t) - a(t2)) / (1 - a(t2)),    t1 <= t < t2
        a(t) = 1/2 + 1/2 cos(pi (t - t1) / (t3 - phi (t - t1) (t3 - t2) / (t2 - t1)))

    Where a does not decrease all the way to t2 (its denominator vanishes, or its angle passes pi before), half a
    cosine takes its place: ``a(t) = 1/2 + 1/2 cos(pi (t - t1) / (t2 - t1))``. With t1 = t2 the share jumps.

    Args:
        num_updates: t, updates made so far.
        target: The share from t2 on.
        phi: Shape of the descent.
        t1, t2, t3: Ends of the warm-up, of the annealing, and of the run; ``0 <= t1 <= t2 <= t3``.
    References:
        Jiang et al. 2024, arXiv:2312.15184, equation 7.
        Differs from the paper: its numerator is read as t - t1, and the curve is rescaled so that it ends at the
        target (with the quarters t1 = T/4, t2 = T/2 and the published phi of 1, 0.1 and 1.5 it would end at 0.5,
        0.84 and 0).
    """
    if num_updates < t1:
        return 1.0
    if num_updates >= t2:
        return target
    curve = _published_curve if _decreases(phi, t1, t2, t3) else _half_cosine
    now, end = (curve(t, phi, t1, t2, t3) for t in (num_updates, t2))
    return target + (1.0 - target) * (now - end) / (1.0 - end)


def annealing_times(total_steps: int, t1: int | None, t2: int | None, t3: int | None) -> tuple[int, int, int]:
    """Return t1, t2 and t3, those not given as a quarter, a half and the whole of a run.

    Raises:
        UsageError: the run has no step.
    """
    if total_steps < 1:
        raise UsageError(f"total_steps must be at least 1, got {total_steps}.")
    return (
        total_steps // 4 if t1 is None else t1,
        total_steps // 2 if t2 is None else t2,
        total_steps if t3 is None else t3,
    )


def check_annealing(t1: int, t2: int, t3: int, targets: dict[str, float], phis: dict[str, float]) -> None:
    """Refuse times out of order, a target outside of (0, 1], and a phi that is negative or not finite.

    Raises:
        UsageError: naming the option, the value and what would be right.
    """
    if not 0 <= t1 <= t2 <= t3:
        raise UsageError(f"t1, t2 and t3 must be in order, 0 <= t1 <= t2 <= t3; got {t1}, {t2}, {t3}.")
    for name, target in targets.items():
        if not 0 < target <= 1:
            raise UsageError(f"{name} must be in (0, 1], got {target}.")
    for name, phi in phis.items():
        if not (phi >= 0 and math.isfinite(phi)):
            raise UsageError(f"{name} must be 0 or more and finite, got {phi}.")


def _decreases(phi: float, t1: int, t2: int, t3: int) -> bool:
    """Whether the published curve falls from t1 to t2: its angle grows as long as the denominator is positive."""
    denominator = t3 - phi * (t3 - t2)
    return denominator > 0 and t2 - t1 <= denominator


def _published_curve(t: int, phi: float, t1: int, t2: int, t3: int) -> float:
    return 0.5 + 0.5 * math.cos(math.pi * (t - t1) / (t3 - phi * (t - t1) * (t3 - t2) / (t2 - t1)))


def _half_cosine(t: int, phi: float, t1: int, t2: int, t3: int) -> float:
    return 0.5 + 0.5 * math.cos(math.pi * (t - t1) / (t2 - t1))
