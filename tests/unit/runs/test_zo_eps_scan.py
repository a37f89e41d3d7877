import math

import numpy as np
import pytest
import torch
from torch import nn

from foretune.directions import Gaussian
from foretune.estimators import ForwardMode, OneSided, Population, SecondDifference, TwoSided
from foretune.methods import make_method
from foretune.runs.zo_eps_scan import Candidate, Measured, candidates, choose, measure, measures_both_sides, rounding_of
from foretune.types import Parts
from sampled import linear_model, linear_rows, sampled_loss
from toys import differing_bits, weights_of

SCALES = np.array([1e-5, 1e-4, 1e-3, 1e-2, 1e-1])


def measured_of(slope, curvature, third, *, noise=0.0, both_sides=True, seed=0):
    """Losses of ``1 + slope t + curvature t^2 / 2 + third t^3 / 6``, slopes of shape (directions, batches)."""
    generator = np.random.default_rng(seed)
    slope = np.asarray(slope)[..., None]
    plus, minus = (
        1
        + slope * t
        + curvature * t**2 / 2
        + third * t**3 / 6
        + noise * generator.standard_normal((*slope.shape[:2], 5))
        for t in (SCALES, -SCALES)
    )
    return Measured(SCALES, np.ones(slope.shape[1]), plus, minus, noise, both_sides, "layerwise")


SLOPES = np.array([[3.0, 3.0], [-4.0, -4.0]])


def test_figures_of_a_smooth_loss_are_those_of_its_series():
    found = candidates(measured_of(SLOPES, 50.0, 6.0))
    rms = math.sqrt(12.5)
    assert [candidate.zo_eps for candidate in found] == list(SCALES)
    for candidate, scale in zip(found[2:], SCALES[2:], strict=True):
        assert candidate.difference == pytest.approx(2 * scale * rms, rel=0.02)
        assert candidate.curvature == pytest.approx(50.0, rel=1e-3)
        assert candidate.error == pytest.approx(scale**2 / rms, abs=1e-5)  # third / 6 * t^2 over the slope
        assert candidate.roundings == math.inf
    one_sided = candidates(measured_of(SLOPES, 50.0, 6.0, both_sides=False))
    assert one_sided[3].error == pytest.approx(25 * 1e-2 / rms, rel=1e-3)  # curvature / 2 * t
    assert one_sided[3].difference == pytest.approx(1e-2 * math.sqrt((3.25**2 + 3.75**2) / 2), rel=1e-3)


def test_rounding_spoils_small_scales_and_curvature_large_ones():
    found = candidates(measured_of(np.resize(SLOPES, (40, 2)), 50.0, 6e3, noise=1e-4))
    assert [candidate.is_sound for candidate in found] == [False, False, True, True, False]
    assert found[1].roundings == pytest.approx(2e-4 * math.sqrt(12.5) / (math.sqrt(2) * 1e-4), rel=0.05)
    assert found[1].error == pytest.approx(1e-4 / math.sqrt(2) / 1e-4 / math.sqrt(12.5), rel=0.2)
    assert math.isnan(found[0].curvature)


def test_batches_that_agree_and_batches_that_do_not():
    assert candidates(measured_of(SLOPES, 0.0, 0.0))[3].between_batches > 1e5
    mean, spread = np.repeat([[6.0], [-6.0]], 3, axis=1), np.array([[2.0, 0.0, -2.0]] * 2)
    ratio = math.sqrt(36 - 4 / 3) / 2
    assert candidates(measured_of(mean + spread, 0.0, 0.0))[3].between_batches == pytest.approx(ratio, rel=1e-4)
    assert candidates(measured_of(spread, 0.0, 0.0))[3].between_batches == 0.0


def test_a_loss_that_is_not_finite_is_an_infinite_error():
    measured = measured_of(SLOPES, 0.0, 0.0)
    measured.plus[0, 0, 4] = math.nan
    found = candidates(measured)
    assert found[4].error == math.inf
    assert [candidate.is_sound for candidate in found] == [True] * 4 + [False]


def candidate(zo_eps, *, error=0.01, roundings=100.0):
    return Candidate(zo_eps, 1e-3, roundings, error, 1.0, 1.0)


def test_the_usual_scale_is_kept_if_it_is_sound():
    choice = choose([candidate(scale) for scale in SCALES], 1e-3)
    assert (choice.zo_eps, choice.is_sound) == (1e-3, True)
    assert choice.reason.startswith("the usual value is sound: the loss difference is 100 times rounding")


def test_else_the_nearest_sound_one_is_taken():
    found = [candidate(1e-5), candidate(1e-4), candidate(1e-3, error=0.5), candidate(1e-2), candidate(1e-1)]
    choice = choose(found, 1e-3)
    assert (choice.zo_eps, choice.is_sound) == (1e-2, True)
    assert choice.reason.startswith("at the usual 0.001 the slope is off by 50%; here the loss difference is")
    found[3] = candidate(1e-2, roundings=2.0)
    assert choose(found, 1e-3).zo_eps == 1e-4
    assert "at the usual 0.01 the loss difference is only 2 times rounding" in choose(found, 1e-2).reason


def test_where_none_is_sound_the_least_error_counts_and_is_said():
    choice = choose([candidate(1e-4, error=0.9), candidate(1e-3, error=0.4), candidate(1e-2, error=0.7)], 1e-2)
    assert (choice.zo_eps, choice.is_sound) == (1e-3, False)
    assert "error 40%" in choice.reason


def test_rounding_is_what_third_differences_leave():
    points = np.arange(9.0)
    smooth = np.stack([1 + 0.1 * points, 2 - 0.3 * points**2])
    assert rounding_of(smooth) == pytest.approx(0.0, abs=1e-12)
    errors = 1e-3 * np.random.default_rng(0).standard_normal((500, 9))
    assert rounding_of(np.tile(smooth, (250, 1)) + errors) == pytest.approx(1e-3, rel=0.05)


def test_what_an_estimator_asks_for_tells_its_sides():
    assert measures_both_sides(TwoSided())
    assert measures_both_sides(SecondDifference())
    assert measures_both_sides(Population(num_directions=2, antithetic=True))
    assert not measures_both_sides(OneSided())
    assert not measures_both_sides(Population(num_directions=2))
    assert not measures_both_sides(ForwardMode())


@pytest.mark.parametrize("method", ["mezo", "lozo", "subzero", "hizoo", "fzoo", "es", "zo_adamu", "rgs_bcd"])
def test_a_scan_of_a_quadratic_finds_its_derivatives_and_moves_nothing(method):
    model = linear_model(torch.float64)
    before = weights_of(model)
    state = torch.random.get_rng_state()
    loss = sampled_loss(model, linear_rows(dtype=torch.float64))
    measured = measure(model, make_method(method, {}).parts(), loss, seed=1, engine="auto")
    assert differing_bits(weights_of(model), before) == []
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert measured.plus.shape[1:] == (3, 5)
    assert len(measured.plus) >= 6
    assert 0 < measured.rounding < 1e-12
    central = (measured.plus - measured.minus) / (2 * measured.zo_eps)
    np.testing.assert_allclose(central[..., 3], central[..., 4], rtol=1e-6, atol=1e-6)
    curvature = (measured.plus + measured.minus - 2 * measured.clean[None, :, None]) / measured.zo_eps**2
    np.testing.assert_allclose(curvature[..., 3], curvature[..., 4], rtol=1e-6, atol=1e-6)
    assert (curvature[..., 4] > 0).all()


def test_a_step_function_has_no_sound_scale():
    class Steps(nn.Linear):
        """Predictions that move in steps, as an accuracy does."""

        def forward(self, inputs):
            return super().forward(inputs).sign()

    model = Steps(4, 2)
    model.load_state_dict(linear_model().state_dict())
    parts = Parts(
        **{name: getattr(make_method("mezo", {}).parts(), name) for name in ("space", "update", "schedule")},
        direction=Gaussian(),
        estimator=TwoSided(zo_eps=1e-3),
    )
    found = candidates(measure(model, parts, sampled_loss(model), seed=0, engine="auto"))
    assert not choose(found, 1e-3).is_sound
