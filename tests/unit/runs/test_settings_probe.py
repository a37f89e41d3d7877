"""What tests/cli/test_probe.py cannot see."""

import pytest

from foretune.runs.settings_probe import horizon


@pytest.mark.parametrize(
    ("scheduler", "warmup_steps", "mean", "mean_square"),
    [
        ("constant", 0, 1.0, 1.0),
        ("constant_with_warmup", 500, 0.75, 0.5 + 0.5 / 3),
        ("linear", 0, 1 / 2, 1 / 3),
        ("linear", 1000, 1 / 2, 1 / 3),
        ("cosine", 0, 1 / 2, 3 / 8),
    ],
)
def test_a_horizon_has_the_means_of_its_schedule(scheduler, warmup_steps, mean, mean_square):
    found = horizon(1000, scheduler, warmup_steps)
    assert found.steps == 1000
    assert (found.mean, found.mean_square) == pytest.approx((mean, mean_square), abs=2e-3)


def test_a_long_run_has_the_means_of_a_short_one():
    long, short = horizon(1_000_000, "linear", 0), horizon(1000, "linear", 0)
    assert (long.mean, long.mean_square) == pytest.approx((short.mean, short.mean_square), abs=2e-3)
