"""Which perturbation scales measure slopes: differences of losses against rounding, curvature and other batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from foretune.engine import EngineName
from foretune.optimizer import Optimizer
from foretune.runs.sampled_loss import SampledLoss
from foretune.types import AbstractEstimator, Estimate, Parts, Probe

FACTORS = (1e-2, 1e-1, 1.0, 1e1, 1e2)
"""Candidates, as multiples of the scale that a run would have."""
MAX_ERROR = 0.2
"""Error of a slope, relative to the settled one, that does no harm: it adds 4 % to the estimate's variance."""
MIN_ROUNDINGS = 10.0
"""Roundings that the difference of two losses should be at least."""

_NUM_DIRECTIONS = 6
_NUM_BATCHES = 3
_NOISE_DIRECTIONS = 3
_NOISE_SHIFTS = tuple(1.0 + 0.01 * number for number in range(-4, 5))
_NOISE_ORDER = 3

Losses = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Measured:
    """Losses around the weights, along D directions of a method, on B batches, at E scales.

    Attributes:
        zo_eps: The scales, increasing, shape (E,).
        clean: At the weights themselves, shape (B,).
        plus, minus: At both sides, shape (D, B, E).
        rounding: Standard deviation of what rounding does to one loss.
        both_sides: Whether the method's own estimator measures both.
        engine: What evaluated them.
    """

    zo_eps: Losses
    clean: Losses
    plus: Losses
    minus: Losses
    rounding: float
    both_sides: bool
    engine: EngineName


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is known about one scale.

    Attributes:
        zo_eps: The scale.
        difference: Root mean square of the loss differences that the method would measure.
        roundings: The same in units of what rounding does to such a difference; infinite where nothing is rounded.
        error: Root mean square error of the slopes relative to the settled ones; infinite if a loss is not finite.
        curvature: Mean second derivative of the loss along a direction; nan where it drowns in rounding.
        between_batches: Root mean square slope that batches agree on over the standard deviation between batches.
    """

    zo_eps: float
    difference: float
    roundings: float
    error: float
    curvature: float
    between_batches: float

    @property
    def is_sound(self) -> bool:
        """Whether rounding and curvature leave the slope as it is."""
        return self.error <= MAX_ERROR and self.roundings >= MIN_ROUNDINGS


@dataclass(frozen=True, slots=True)
class Choice:
    """A scale, and why.

    Attributes:
        zo_eps: The scale.
        is_sound: Whether it measures slopes; if not, none of the candidates does.
        reason: One sentence.
    """

    zo_eps: float
    is_sound: bool
    reason: str


def measure(model: nn.Module, parts: Parts, loss: SampledLoss, *, seed: int, engine: EngineName) -> Measured:
    """Evaluate losses around the weights, which are not moved.

    Args:
        model: What is tuned.
        parts: Of the method, with the scale in the middle of the candidates.
        loss: The batches.
        seed: Of directions and batches.
        engine: How perturbed losses are evaluated.
    Raises:
        IncompatibleError: the parts, the engine and the model cannot work together.
    """
    own = parts.estimator
    scan = _Scan(own=own, loss=loss, samples=list(islice(loss.samples(seed), _NUM_BATCHES)))
    optimizer = Optimizer(
        model,
        space=parts.space,
        direction=parts.direction,
        estimator=scan,
        schedule=parts.schedule,
        lr=0.0,
        seed=seed,
        engine=engine,
    )
    while len(scan.sides) < _NUM_DIRECTIONS:
        optimizer.step(loss)
    sides = np.array(scan.sides)
    return Measured(
        zo_eps=np.array(scan.candidates),
        clean=np.array(scan.clean),
        plus=sides[..., 0],
        minus=sides[..., 1],
        rounding=rounding_of(np.array(scan.lines)),
        both_sides=measures_both_sides(own),
        engine=optimizer.engine_name,
    )


def candidates(measured: Measured) -> list[Candidate]:
    """Return what the losses say about each scale.

    A slope is settled where two scales, a factor apart, agree best: rounding errors shrink with the scale and errors by
    curvature grow with it, so neither is large there.
    """
    zo_eps, plus, minus = measured.zo_eps, measured.plus, measured.minus
    clean = measured.clean[None, :, None]
    central = (plus - minus) / (2 * zo_eps)
    disagreements = [_finite(_rms(central[..., i] - central[..., i + 1])) for i in range(len(zo_eps) - 1)]
    best = int(np.argmin(disagreements))
    settled = central[..., best : best + 2].mean(axis=-1)
    differences = plus - minus if measured.both_sides else plus - clean
    found = []
    for index, scale in enumerate(zo_eps):
        slopes = differences[..., index] / (2 * scale if measured.both_sides else scale)
        size = _rms(differences[..., index])
        rounding = math.sqrt(2) * measured.rounding
        curvatures = (plus[..., index] + minus[..., index] - 2 * clean[..., 0]) / scale**2
        curvature_rounding = math.sqrt(6) * measured.rounding / scale**2 / math.sqrt(curvatures.size)
        curvature = float(curvatures.mean())
        found.append(
            Candidate(
                zo_eps=float(scale),
                difference=size,
                roundings=size / rounding if rounding else math.inf,
                error=_finite(_rms(slopes - settled) / (_rms(settled) or math.nan)),
                curvature=curvature if abs(curvature) > curvature_rounding else math.nan,
                between_batches=_agreement(slopes),
            )
        )
    return found


def choose(found: Sequence[Candidate], usual: float) -> Choice:
    """Return the sound scale that is nearest to the usual one, the larger of two; or the one with the least error."""
    sound = [candidate for candidate in found if candidate.is_sound]
    if not sound:
        best = min(found, key=lambda candidate: candidate.error)
        reason = (
            f"at no candidate do slopes settle within {MAX_ERROR:.0%} and stand out {MIN_ROUNDINGS:g} times over "
            f"rounding; here they come nearest (error {best.error:.0%}, {best.roundings:.3g} times rounding)"
        )
        return Choice(best.zo_eps, False, reason)
    best = min(sound, key=lambda candidate: (round(abs(math.log(candidate.zo_eps / usual)), 6), -candidate.zo_eps))
    facts = f"the loss difference is {best.roundings:.3g} times rounding and the slope is right within {best.error:.1%}"
    if math.isclose(best.zo_eps, usual):
        return Choice(best.zo_eps, True, f"the usual value is sound: {facts}")
    usual_one = min(found, key=lambda candidate: abs(math.log(candidate.zo_eps / usual)))
    problem = (
        f"the slope is off by {usual_one.error:.0%}"
        if usual_one.roundings >= MIN_ROUNDINGS
        else f"the loss difference is only {usual_one.roundings:.2g} times rounding"
    )
    return Choice(best.zo_eps, True, f"at the usual {usual:g} {problem}; here {facts}")


def measures_both_sides(estimator: AbstractEstimator) -> bool:
    """Whether an estimator evaluates losses at opposite sides of the weights."""
    probe = _Questions()
    estimator.estimate(probe)
    return any((query, -coef) in probe.asked for query, coef in probe.asked)


def rounding_of(lines: Losses) -> float:
    """Return the standard deviation of rounding in losses at equally spaced points, shape (lines, points).

    Differences of the third order leave next to nothing of a smooth function; of independent errors with variance s^2
    they have the variance 20 s^2.

    References:
        More and Wild 2011, Estimating computational noise, SIAM J. Sci. Comput. 33(3).
    """
    differences = np.diff(lines, n=_NOISE_ORDER, axis=-1)
    variance_factor = math.comb(2 * _NOISE_ORDER, _NOISE_ORDER)
    return float(np.sqrt(np.mean(differences**2) / variance_factor))


@dataclass(frozen=True, kw_only=True)
class _Scan(AbstractEstimator):
    """Notes losses at all scales on several batches, and says that no direction has a weight.

    Args:
        own: The method's estimator.
        loss: Of one of the samples.
        samples: The batches.
    """

    own: AbstractEstimator
    loss: SampledLoss
    samples: list[list[Any]]
    clean: list[float] = field(default_factory=list)
    sides: list[Any] = field(default_factory=list)
    lines: list[list[float]] = field(default_factory=list)

    @property
    def candidates(self) -> list[float]:
        """The scales, increasing."""
        return [float(f"{self.own.zo_eps * factor:.6g}") for factor in FACTORS]

    @property
    def zo_eps(self) -> float:
        """That of the method's estimator."""
        return self.own.zo_eps

    @property
    def num_directions(self) -> int:
        """1."""
        return 1

    @property
    def num_forwards(self) -> int:
        """Of a step that measures no line, once the clean losses are known."""
        return 2 * len(FACTORS) * len(self.samples)

    @property
    def measures_curvature(self) -> bool:  # pyrefly: ignore[bad-override]
        """As some directions ask for it."""
        return True

    def estimate(self, probe: Probe) -> Estimate:
        """Measure one direction; the scalar is the curvature at the method's own scale."""
        sides = []
        for number, sample in enumerate(self.samples):
            self.loss.use(sample)
            if number == len(self.clean):
                self.clean.append(probe.loss())
            sides.append([probe.losses([[(0, scale)], [(0, -scale)]]) for scale in self.candidates])
        if len(self.lines) < _NOISE_DIRECTIONS:
            self.lines.append(probe.losses([[(0, self.zo_eps * shift)] for shift in _NOISE_SHIFTS]))
        self.sides.append(sides)
        plus, minus = sides[-1][len(FACTORS) // 2]
        curvature = (plus + minus - 2 * self.clean[-1]) / self.zo_eps**2
        return Estimate(scalars=(curvature,), loss=self.clean[-1])

    def weights(self, scalars: tuple[float, ...]) -> tuple[float, ...]:
        """Return 0: nothing moves."""
        return (0.0,)


class _Questions:
    """A probe that notes where losses are asked for."""

    step = 0

    def __init__(self) -> None:
        self.asked: set[tuple[int, float]] = set()

    def loss(self, *shifts: tuple[int, float]) -> float:
        self.asked.update(shifts)
        return 0.0

    def losses(self, shifts: Sequence[Sequence[tuple[int, float]]]) -> list[float]:
        return [self.loss(*pairs) for pairs in shifts]

    def slope(self, query: int) -> tuple[float, float]:
        return 0.0, 0.0


def _agreement(slopes: Losses) -> float:
    """Return the size of what batches agree on over the spread between them; slopes have the shape (D, B)."""
    variance = slopes.var(axis=1, ddof=1).mean()
    agreed = (slopes.mean(axis=1) ** 2).mean() - variance / slopes.shape[1]
    return math.sqrt(max(agreed, 0.0) / variance) if variance else math.inf


def _rms(values: Losses) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.inf
