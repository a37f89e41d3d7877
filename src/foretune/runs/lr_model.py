"""From short runs to the learning rate of a long one: what steps gain, and what their noise costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

USUAL_DROP = 0.1
"""By which share a run lowers its loss, before anything is known of it."""
DROP_FACTOR = 10.0
"""What that share may be off by, as a factor; one standard deviation, as all of these."""
COST_FACTOR = math.e
"""What the cost may be off by that one trial shows."""
GAIN_ERROR, COST_ERROR = 0.5, 0.4
"""Relative errors of the model in a trial."""
EXPLAINED = 4.0
"""Rises of the loss, as multiples of one that breaks it, up to which it is taken as quadratic."""
RANGE = 40.0
"""And how far below the largest learning rate that is left: with smaller ones, gains do not diminish yet."""

_ROUND = (1.0, 2.0, 3.0, 5.0, 7.0, 10.0)

Grid = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Trial:
    """A short run from the weights that the run would begin with.

    Attributes:
        lr: Its learning rate, constant.
        steps: Its length.
        change: Of the loss of held-out rows; infinite where a loss was not finite.
        spread: Standard deviation of the change between batches of these rows.
        num_batches: Of these rows.
    """

    lr: float
    steps: int
    change: float
    spread: float
    num_batches: int


@dataclass(frozen=True, slots=True)
class Horizon:
    """The run that is asked about.

    Attributes:
        steps: Its length.
        mean, mean_square: Of the learning rate over the run, and of its square, for a largest one of 1.
    """

    steps: int
    mean: float = 1.0
    mean_square: float = 1.0


@dataclass(frozen=True, slots=True)
class Fit:
    """What the trials say of the run.

    Attributes:
        lr: Learning rate after which the loss is expected to be lowest.
        factor: Its uncertainty, one standard deviation, as a factor.
        gain, cost: k and B of the model.
    """

    lr: float
    factor: float
    gain: float
    cost: float

    @property
    def rounded_lr(self) -> float:
        """The learning rate in one digit, as people write them."""
        power = 10.0 ** math.floor(math.log10(self.lr))
        digit = min(_ROUND, key=lambda digit: abs(math.log(digit * power / self.lr)))
        return float(f"{digit * power:.0e}")


def fit(trials: Sequence[Trial], horizon: Horizon, *, loss: float, limit: float) -> Fit:
    """Fit a model of two numbers to short runs, and return the learning rate that is best for a long one by it.

    n steps with learning rate lr change the loss by

        -k sqrt(lr n) + B lr^2 n / 2        which is lowest at  lr = (k / (2 B sqrt(n)))^(2/3)

    The cost B is the curvature along a step, of which nearly all is noise of directions and batches, so it adds up over
    steps. Gains diminish, since what is steep comes first. The square root is what we found on one model; it lies
    between gains that go on as they begin and gains that end, and makes the best lr fall with ``n^(-1/3)``.

    In a short run chance outweighs the gain. How much it does is known: a displacement at random changes the loss of
    each held-out batch in another way, so the spread s of these changes tells the length of a batch's gradient,
    ``g^2 = s / (lr sqrt(n))``, as the slope of the gain tells that of the mean gradient; and chance has the variance
    ``s^2 (k / (2 sqrt(lr n)) / g^2 + 1 / batches)``. What trials leave open is filled in with what runs usually reach:
    at its best lr, ``k sqrt(lr n)`` is the share `USUAL_DROP` of the loss, give or take `DROP_FACTOR`. The result is
    the mean of log(lr) over k and B, weighted by how well they explain the trials.

    Args:
        trials: Short runs, one at least that raised the loss by less than `EXPLAINED` times the limit.
        horizon: The run that is asked about.
        loss: At the start.
        limit: A rise of the loss that breaks it.
    """
    explained = [trial for trial in trials if trial.change < EXPLAINED * limit]
    largest = max(trial.lr for trial in explained)
    costs = _shown_cost(explained, limit) * COST_FACTOR ** np.linspace(-4.0, 4.0, 81)[:, None]
    usual = USUAL_DROP * (abs(loss) or limit)
    drops = usual * np.exp(np.linspace(-7.0, 5.0, 121))[None, :]
    gains = (drops * (2 * costs / horizon.steps) ** (1 / 3)) ** 0.75
    log_weights = -0.5 * (np.log(drops / usual) / math.log(DROP_FACTOR)) ** 2
    log_weights = log_weights - 0.5 * np.linspace(-4.0, 4.0, 81)[:, None] ** 2
    for trial in explained:
        if trial.lr * RANGE >= largest:
            log_weights = log_weights + _log_likelihood(trial, gains, costs)
    weights = np.exp(log_weights - log_weights.max())
    weights /= weights.sum()
    log_lr = 2 / 3 * np.log(gains * math.sqrt(horizon.mean / horizon.steps) / (2 * costs * horizon.mean_square))
    center = float((weights * log_lr).sum())
    return Fit(
        lr=math.exp(center),
        factor=math.exp(math.sqrt(float((weights * (log_lr - center) ** 2).sum()))),
        gain=math.exp(float((weights * np.log(gains)).sum())),
        cost=math.exp(float((weights * np.log(costs)).sum())),
    )


def _shown_cost(trials: Sequence[Trial], limit: float) -> float:
    """Return B by the trial whose rise of the loss stands out most over chance; at least what would hide in chance."""
    floor = 1e-12 * limit
    best = max(trials, key=lambda trial: (trial.change / (trial.spread + floor) if trial.change > 0 else 0.0, trial.lr))
    return 2 * max(best.change, best.spread / 4, floor) / (best.lr**2 * best.steps)


def _log_likelihood(trial: Trial, gains: Grid, costs: Grid) -> Grid:
    """Return the log-likelihood of what a trial found, for each pair of a gain and a cost."""
    way = math.sqrt(trial.lr * trial.steps)
    gain, cost = gains * way, costs * (trial.lr * way) * way / 2
    spread = max(trial.spread, 1e-300)
    batch_gradient = spread / (trial.lr * math.sqrt(trial.steps))
    agreed = np.minimum(gains / (2 * way) / batch_gradient, 1.0)
    variance = spread**2 * (agreed + 1 / trial.num_batches) + (GAIN_ERROR * gain) ** 2 + (COST_ERROR * cost) ** 2
    return -0.5 * (trial.change + gain - cost) ** 2 / variance - 0.5 * np.log(variance)
