"""MeZO: the step on a linear objective, decay alone, the published defaults."""

import pytest
import torch

from foretune import MeZO, noise
from foretune.estimators import OneSided, TwoSided
from foretune.methods import make_method
from foretune.noise import Noise, Purpose
from foretune.spaces import Identity
from foretune.updates import SGD
from toys import CountedCalls, Net, Quadratic, differing_bits, weights_of


def test_published_defaults() -> None:
    method = make_method("mezo", {})
    assert (method.lr, method.zo_eps, method.num_directions, method.weight_decay) == (1e-6, 1e-3, 1, 0.0)
    parts = method.parts()
    assert (parts.space, parts.estimator, parts.update) == (Identity(), TwoSided(), SGD())
    one_sided = make_method("mezo", {"estimator": "one_sided", "num_directions": 4}).parts().estimator
    assert one_sided == OneSided(num_directions=4)


@pytest.mark.parametrize("estimator", ["two_sided", "one_sided"])
def test_the_step_on_a_linear_objective(estimator: str) -> None:
    """theta_1 = theta_0 - lr (z^T c) z, whatever zo_eps: both differences are exact."""
    model = Quadratic({"w": (2, 3), "b": (2,)})
    c = torch.randn(8, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    before = model.flat().detach()
    optimizer = MeZO(model, lr=0.25, zo_eps=0.5, estimator=estimator, seed=9, engine="in_place")
    optimizer.step(lambda: model.flat() @ c)
    z = torch.cat(
        [
            noise.fill(
                torch.empty(trainable.parameter.numel(), dtype=torch.float64),
                Noise(noise.mix(9, 0), trainable.stream, Purpose.DIRECTION),
            )
            for trainable in optimizer.trainables
        ]
    )
    torch.testing.assert_close(model.flat().detach(), before - 0.25 * (z @ c) * z, rtol=0, atol=1e-13)


def test_decay_alone() -> None:
    """With f = 0, theta_T = (1 - lr * weight_decay)^T theta_0 on matrices; other tensors keep their bits."""
    model = Net(torch.float64)
    before = weights_of(model)
    optimizer = MeZO(model, lr=0.1, weight_decay=0.5)
    for _ in range(4):
        optimizer.step(lambda: float(model()) * 0.0)
    for name, tensor in weights_of(model).items():
        if name in ("first.weight", "head.weight"):
            torch.testing.assert_close(tensor, 0.95**4 * before[name], rtol=1e-15, atol=0)
        else:
            assert torch.equal(tensor, before[name])


def test_a_sum_is_a_mean_at_a_larger_rate() -> None:
    results = []
    for options in ({"weighting": "sum", "lr": 0.01}, {"lr": 0.04}):
        model = Quadratic({"w": (2, 3), "b": (2,)})
        optimizer = MeZO(model, num_directions=4, seed=1, **options)
        for _ in range(5):
            optimizer.step(model)
        results.append(model.flat().detach())
    torch.testing.assert_close(*results, rtol=0, atol=1e-13)


@pytest.mark.parametrize("estimator", ["two_sided", "one_sided"])
def test_one_sided_shares_its_clean_loss(estimator: str) -> None:
    """4 directions: 8 forwards, or 5."""
    model = Net()
    closure = CountedCalls(model)
    MeZO(model, lr=0.1, num_directions=4, estimator=estimator, engine="in_place").step(closure)
    assert closure.count == {"two_sided": 8, "one_sided": 5}[estimator]


def test_a_ramp_of_directions() -> None:
    """Forwards grow with it, and records of different lengths replay bit for bit."""
    model, closures = Net(), []
    optimizer = MeZO(model, lr=0.02, num_directions=4, ramp_steps=8, seed=1, engine="in_place")
    records = []
    for _ in range(10):
        closures.append(CountedCalls(model))
        optimizer.step(closures[-1])
        records.append(optimizer.last_record)
    assert [closure.count for closure in closures] == [2, 2, 2, 2, 4, 4, 6, 6, 8, 8]
    twin = Net()
    replayed = MeZO(twin, lr=0.02, num_directions=4, ramp_steps=8, seed=1)
    for record in records:
        replayed.replay(record)
    assert differing_bits(weights_of(model), weights_of(twin)) == []


def test_many_directions_give_the_gradient() -> None:
    """q -> infinity: the error is about sqrt((d + 1) / q) of the gradient."""
    model = Quadratic({"w": (2, 3)})
    before, gradient = model.flat().detach(), model.gradient()
    MeZO(model, lr=1.0, num_directions=1500, engine="in_place").step(model)
    error = before - model.flat().detach() - gradient
    assert float(error.norm()) < 2.5 * (7 / 1500) ** 0.5 * float(gradient.norm())
