import math

import numpy as np
import pytest

from foretune.runs.lr_model import Fit, Horizon, Trial, fit

GAIN, COST, BATCH_GRADIENT = 0.12, 3e4, 40.0
LIMIT, LOSS = 0.1, 0.63


def trials_of(gain=GAIN, cost=COST, *, scale=1.0, chance=None, steps=40):
    """Trials that follow the model, with learning rates `scale` times as large; `chance` draws the rest."""
    found = []
    for lr in (1e-3, 3e-4, 1e-4, 3e-5, 1e-5):
        spread = lr * math.sqrt(steps) * BATCH_GRADIENT
        change = -gain * math.sqrt(lr * steps) + cost * lr**2 * steps / 2
        if chance is not None:
            agreed = gain / (2 * math.sqrt(lr * steps)) / BATCH_GRADIENT
            change += spread * math.sqrt(min(agreed, 1.0) + 1 / 16) * chance.standard_normal()
        found.append(Trial(lr * scale, steps, change, spread, 16))
    return found


def best_lr(gain, cost, steps):
    return (gain / (2 * cost * math.sqrt(steps))) ** (2 / 3)


@pytest.mark.parametrize(("gain", "cost"), [(0.12, 3e4), (1.2, 3e4), (0.04, 3e5), (1.0, 1e4)])
@pytest.mark.parametrize("steps", [200, 20_000])
def test_trials_that_follow_the_model_give_its_best_lr_back(gain, cost, steps):
    found = fit(trials_of(gain, cost), Horizon(steps), loss=LOSS, limit=LIMIT)
    assert abs(math.log(found.lr / best_lr(gain, cost, steps))) < math.log(1.8)
    assert 1.0 < found.factor < 3.0


def test_chance_moves_the_lr_by_no_more_than_its_factor_says():
    chance = np.random.default_rng(0)
    found = [fit(trials_of(chance=chance), Horizon(600), loss=LOSS, limit=LIMIT) for _ in range(100)]
    errors = np.array([math.log(one.lr / best_lr(GAIN, COST, 600)) for one in found])
    factors = np.array([math.log(one.factor) for one in found])
    assert np.mean(np.abs(errors) < math.log(3)) > 0.95
    assert np.mean((errors / factors) ** 2) < 1.5**2


def test_the_unit_of_lr_does_not_matter():
    usual, scaled = (fit(trials_of(scale=scale), Horizon(600), loss=LOSS, limit=LIMIT) for scale in (1.0, 1e4))
    assert scaled.lr == pytest.approx(1e4 * usual.lr, rel=1e-9)
    assert scaled.factor == pytest.approx(usual.factor, rel=1e-9)


def test_longer_runs_take_smaller_steps():
    rates = [fit(trials_of(), Horizon(steps), loss=LOSS, limit=LIMIT).lr for steps in (75, 600, 4800)]
    assert rates[0] > rates[1] > rates[2]
    assert rates[0] / rates[2] == pytest.approx(64 ** (1 / 3), rel=0.3)


def test_a_rate_that_decays_may_begin_higher():
    constant = fit(trials_of(), Horizon(600), loss=LOSS, limit=LIMIT)
    linear = fit(trials_of(), Horizon(600, mean=1 / 2, mean_square=1 / 3), loss=LOSS, limit=LIMIT)
    assert linear.lr / constant.lr == pytest.approx((math.sqrt(1 / 2) * 3) ** (2 / 3), rel=1e-9)


def test_without_a_visible_gain_what_is_usual_decides():
    """At its best lr a run gains a tenth of the loss, and a quarter of that is what its steps cost."""
    trial = Trial(1e-3, 10, COST * 1e-3**2 * 10 / 2, 1e-3 * math.sqrt(10) * BATCH_GRADIENT, 16)
    found = fit([trial], Horizon(600), loss=LOSS, limit=LIMIT)
    usual = math.sqrt(0.1 * LOSS / 4 * 2 / (COST * 600))
    assert abs(math.log(found.lr / usual)) < math.log(2)
    assert found.factor > 1.8


def test_trials_that_blew_up_do_not_count():
    broken = [Trial(1e-2, 40, 5e4, 1e4, 16), Trial(1.0, 10, math.inf, math.inf, 16)]
    expected = fit(trials_of(), Horizon(600), loss=LOSS, limit=LIMIT)
    assert fit([*broken, *trials_of()], Horizon(600), loss=LOSS, limit=LIMIT) == expected


@pytest.mark.parametrize(
    ("lr", "rounded"),
    [(1.04e-5, 1e-5), (1.8e-5, 2e-5), (2.6e-3, 3e-3), (4.1e-3, 5e-3), (0.08, 0.07), (9.3e-4, 1e-3), (63.0, 70.0)],
)
def test_rates_are_rounded_as_people_write_them(lr, rounded):
    assert Fit(lr, 1.0, 1.0, 1.0).rounded_lr == rounded
