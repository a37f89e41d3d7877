"""The annealing of a share: its ends, its shape, and what happens where the published curve has none."""

import math
from itertools import pairwise

import pytest

from foretune.directions.annealing import annealed, annealing_times, check_annealing
from foretune.errors import UsageError

PUBLISHED = [(0.5, 1.0), (0.9, 0.1), (0.01, 1.5)]
"""Target and phi of alpha, beta1 and beta2."""


@pytest.mark.parametrize(("target", "phi"), PUBLISHED)
@pytest.mark.parametrize("times", [(25, 50, 100), (1, 2, 4), (0, 60, 100), (7, 100, 100), (1024, 16_000, 20_000)])
def test_it_falls_from_1_at_t1_to_the_target_at_t2(target: float, phi: float, times: tuple[int, int, int]) -> None:
    t1, t2, t3 = times
    shares = [annealed(t, target=target, phi=phi, t1=t1, t2=t2, t3=t3) for t in range(t3 + 5)]
    assert shares[: t1 + 1] == [1.0] * (t1 + 1)
    assert shares[t2:] == [target] * (t3 + 5 - t2)
    falling = shares[t1 : t2 + 1]
    assert all(before > after for before, after in pairwise(falling))
    # no jump at either end: a step is a small part of the whole way
    if t2 - t1 >= 25:
        assert max(a - b for a, b in pairwise(falling)) < 0.2 * (1 - target)


@pytest.mark.parametrize(("target", "phi"), PUBLISHED)
def test_its_shape_is_the_papers(target: float, phi: float) -> None:
    """Rescaled: (share - target) / (1 - target) = (a(t) - a(t2)) / (1 - a(t2)), a of equation 7 from t - t1."""

    def a(t: int) -> float:
        return 0.5 + 0.5 * math.cos(math.pi * (t - 25) / (100 - phi * (t - 25) * (100 - 50) / (50 - 25)))

    assert a(50) == pytest.approx({1.0: 0.5, 0.1: 0.839, 1.5: 0.0}[phi], abs=1e-3)
    for t in range(25, 51):
        share = annealed(t, target=target, phi=phi, t1=25, t2=50, t3=100)
        assert (share - target) / (1 - target) == pytest.approx((a(t) - a(50)) / (1 - a(50)), abs=1e-12)


@pytest.mark.parametrize("phi", [2.0, 1.6, 10.0])
def test_half_a_cosine_where_the_curve_would_turn(phi: float) -> None:
    """phi 2 makes the denominator 0 at t2, 1.6 lets the angle pass pi, 10 changes the denominator's sign."""
    for t in range(25, 51):
        expected = 0.2 + 0.8 * (0.5 + 0.5 * math.cos(math.pi * (t - 25) / 25))
        assert annealed(t, target=0.2, phi=phi, t1=25, t2=50, t3=100) == pytest.approx(expected, abs=1e-12)


def test_t1_equal_to_t2_is_a_jump() -> None:
    assert [annealed(t, target=0.3, phi=1.0, t1=4, t2=4, t3=9) for t in (3, 4, 5)] == [1.0, 0.3, 0.3]


def test_t1_may_be_0() -> None:
    assert annealed(0, target=0.3, phi=1.0, t1=0, t2=10, t3=20) == 1.0
    assert annealed(1, target=0.3, phi=1.0, t1=0, t2=10, t3=20) < 1.0
    assert annealed(0, target=0.3, phi=1.0, t1=0, t2=0, t3=20) == 0.3
    assert annealing_times(100, 0, 0, None) == (0, 0, 100)


def test_times_not_given_are_quarter_half_and_whole() -> None:
    assert annealing_times(20_000, None, None, None) == (5000, 10_000, 20_000)
    assert annealing_times(100, 7, None, 300) == (7, 50, 300)


def test_settings_out_of_range_are_named() -> None:
    with pytest.raises(UsageError, match="total_steps must be at least 1, got 0"):
        annealing_times(0, None, None, None)
    for times in ((5, 4, 9), (-1, 4, 9), (1, 10, 9)):
        with pytest.raises(UsageError, match=f"0 <= t1 <= t2 <= t3; got {times[0]}, {times[1]}, {times[2]}"):
            check_annealing(*times, targets={}, phis={})
    for target in (0.0, 1.1, math.nan):
        with pytest.raises(UsageError, match=rf"alpha_target must be in \(0, 1\], got {target}"):
            check_annealing(1, 2, 3, targets={"alpha_target": target}, phis={})
    for phi in (math.inf, math.nan, -0.5):  # a large negative one would leave the curve nothing to fall by
        with pytest.raises(UsageError, match=f"phi_beta1 must be 0 or more and finite, got {phi}"):
            check_annealing(1, 2, 3, targets={}, phis={"phi_beta1": phi})
