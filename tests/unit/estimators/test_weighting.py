"""What becomes of the slopes, by the docstring's table; when there is nothing to divide by."""

import pytest
import torch

from foretune.errors import UsageError
from foretune.estimators import OneSided, TwoSided
from foretune.estimators.weighting import slope_weights

SLOPES = (1.0, -2.0, 0.0, 8.0)


@pytest.mark.parametrize(
    ("weighting", "expected"),
    [
        ("mean", (0.25, -0.5, 0.0, 2.0)),
        ("sum", SLOPES),
        ("sign", (0.25, -0.25, 0.0, 0.25)),
    ],
)
def test_the_table(weighting: str, expected: tuple[float, ...]) -> None:
    assert slope_weights(SLOPES, weighting, zo_eps=1e-3) == expected
    for estimator in (TwoSided, OneSided):
        assert estimator(num_directions=4, weighting=weighting).weights(SLOPES) == expected


def test_normalized_divides_by_the_population_spread() -> None:
    slopes = torch.tensor(SLOPES, dtype=torch.float64)
    expected = slopes / (4 * slopes.std(correction=0))
    assert slope_weights(SLOPES, "normalized", zo_eps=1e-3) == pytest.approx(expected.tolist(), rel=1e-14)


@pytest.mark.parametrize("zo_eps", [1e-1, 1e-4])
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_normalized_weights_have_no_unit(scale: float, zo_eps: float) -> None:
    weights = slope_weights(tuple(scale * g for g in SLOPES), "normalized", zo_eps=zo_eps)
    assert weights == pytest.approx(slope_weights(SLOPES, "normalized", zo_eps=1e-3), rel=1e-12)


def test_losses_that_do_not_differ_make_no_step() -> None:
    """Below 1e-12; equal slopes too, however steep: their spread is exactly 0."""
    assert slope_weights((5.0, 5.0, 5.0), "normalized", zo_eps=1e-3) == (0.0, 0.0, 0.0)
    assert slope_weights((0.0, 1e-9), "normalized", zo_eps=1e-3) == (0.0, 0.0)
    assert slope_weights((0.0, 4e-9), "normalized", zo_eps=1e-3) != (0.0, 0.0)


@pytest.mark.parametrize("weighting", ["mean", "sum", "sign", "normalized"])
def test_a_bad_step_has_no_weights(weighting: str) -> None:
    assert set(slope_weights((0.0, 0.0), weighting, zo_eps=1e-3)) == {0.0}


@pytest.mark.parametrize("estimator", [TwoSided, OneSided])
def test_what_cannot_be_is_refused(estimator: type) -> None:
    with pytest.raises(UsageError, match=r"Unknown weighting 'normalised'\. Did you mean: normalized"):
        estimator(weighting="normalised")
    with pytest.raises(UsageError, match=r"num_directions must be at least 2, got 1: .* divided by the spread"):
        estimator(weighting="normalized")
    with pytest.raises(UsageError, match=r"ramp_steps must be 0, got 5: .* divided by the spread"):
        estimator(weighting="normalized", num_directions=8, ramp_steps=5)
