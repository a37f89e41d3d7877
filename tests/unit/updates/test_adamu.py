"""The step divided by the direction's uncertainty: against the equation, its bound, and what it refuses."""

import math

import pytest
import torch

from foretune.directions import Gaussian, MomentumGuided
from foretune.errors import IncompatibleError, UsageError
from foretune.estimators import TwoSided
from foretune.optimizer import Optimizer
from foretune.types import Combination, Draw, Member, TensorState, UpdateContext
from foretune.updates import AdaMU
from toys import Quadratic, trainables_of


def context_of(draw: Draw, estimate: Combination, *, lr: float = 0.1, name: str = "w") -> UpdateContext:
    (trainable,) = trainables_of(**{name: (3, 4)})
    return UpdateContext(Member(trainable), lr, estimate, TensorState(), (3, 4), (draw,), (1.0,))


def random_vectors() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(3, 4, generator=generator, dtype=torch.float64) for _ in range(3))


def test_against_the_equation() -> None:
    """lr * estimate / sqrt(fresh^2 + history^2 + sigma), the parts being weighted already; decay beside it."""
    estimate, fresh, history = random_vectors()
    parts = {"fresh": Combination(dense=(2.0, fresh)), "history": Combination(dense=(0.5, history))}
    context = context_of(Draw(Combination(), parts), Combination(dense=(3.0, estimate)))
    change = AdaMU(sigma=0.04, weight_decay=0.2).apply(context)
    expected = -0.1 * 3 * estimate / torch.sqrt(4 * fresh**2 + 0.25 * history**2 + 0.04)
    weight = context.member.trainable.parameter
    torch.testing.assert_close(change.step.materialize((3, 4), weight), expected, rtol=1e-13, atol=0)
    assert change.scale == 1 - 0.1 * 0.2


def test_a_direction_without_parts_is_followed_as_it_is() -> None:
    estimate, *_ = random_vectors()
    change = AdaMU().apply(context_of(Draw(Combination()), Combination(dense=(1.0, estimate))))
    assert change.step == Combination(dense=(-0.1, estimate))


def test_a_slope_of_zero_writes_nothing() -> None:
    estimate, fresh, history = random_vectors()
    parts = {"fresh": Combination(dense=(1.0, fresh)), "history": Combination(dense=(1.0, history))}
    change = AdaMU().apply(context_of(Draw(Combination(), parts), Combination(dense=(0.0, estimate))))
    assert change.scale == 1.0
    assert change.step.is_zero


def test_no_entry_of_the_step_passes_the_bound() -> None:
    """|m| / sqrt(v) <= sqrt(beta1^2/beta2 + (1 - beta1)^2/(1 - beta2)); 9.0006 at the published targets."""
    (trainable,) = trainables_of(w=(100, 100))
    direction, state, shape = MomentumGuided(t1=2, t2=7, t3=14), TensorState(), (100, 100)
    update = AdaMU(sigma=1e-30)
    largest = []
    for step in range(12):
        _, beta1, beta2 = direction.shares(step)
        draw = direction.draw(trainable, state, key=step, step=step, coordinate_shape=shape)
        change = update.apply(UpdateContext(Member(trainable), 1.0, draw.vector, state, shape, (draw,), (1.0,)))
        ratio = float(change.step.materialize(shape, trainable.parameter).abs().max())
        bound = math.sqrt(beta1**2 / beta2 + ((1 - beta1) ** 2 / (1 - beta2) if beta1 < 1 else 0.0))
        assert ratio <= bound * (1 + 1e-12)
        largest.append((ratio, bound))
        direction.advance(trainable, state, keys=[step], step=step, coordinate_shape=shape, scalars=(1.0,))
        state.num_updates += 1
    assert largest[-1][1] == pytest.approx(9.0006, abs=1e-4)
    assert largest[-1][0] > 8.9


def test_a_direction_without_a_memory_is_refused_by_name() -> None:
    with pytest.raises(IncompatibleError, match=r"AdaMU cannot be combined with Gaussian: .* Use MomentumGuided"):
        Optimizer(Quadratic({"a": (2,)}), direction=Gaussian(), update=AdaMU(), estimator=TwoSided(), lr=0.1)


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.inf, math.nan])
def test_sigma_out_of_range_is_named(sigma: float) -> None:
    with pytest.raises(UsageError, match=f"sigma must be positive and finite, got {sigma}"):
        AdaMU(sigma=sigma)
