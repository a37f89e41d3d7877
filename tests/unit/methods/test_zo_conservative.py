"""ZO-SGD-Cons: what it never does, when it stays, its cost and its journal."""

import pytest
import torch

from foretune import ZOConservative
from foretune.estimators import OneSided
from foretune.methods import METHODS, make_method
from foretune.updates import Conservative
from toys import CountedCalls, Net, Quadratic, differing_bits, weights_of


def test_parts_and_aliases() -> None:
    assert make_method("zo_conservative", {"weight_decay": 0.1}).parts().update == Conservative(weight_decay=0.1)
    assert METHODS.get("zo_conserv") is METHODS.get("zo_sgd_cons") is METHODS.get("zo_conservative")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_the_loss_never_rises(dtype: torch.dtype) -> None:
    """Exactly, also where weights are rounded, at a rate at which plain descent would diverge."""
    model = Net(dtype)
    optimizer = ZOConservative(model, lr=0.5, zo_eps=0.01, seed=2)
    choices = set()
    with torch.no_grad():
        before = model().item()
        for _ in range(40):
            optimizer.step(model)
            after = model().item()
            assert after <= before
            before = after
            choices.add(optimizer.last_record.scalars[-1])
    assert choices <= {0.0, 1.0, -1.0}
    assert {0.0, 1.0} <= choices


def test_a_learning_rate_of_zero_stays() -> None:
    model = Net()
    before = weights_of(model)
    optimizer = ZOConservative(model, lr=0.0)
    for _ in range(3):
        optimizer.step(model)
        assert optimizer.last_record.scalars[-1] == 0.0  # a tie of three
    assert differing_bits(before, weights_of(model)) == []


def test_an_overshooting_step_is_not_taken() -> None:
    """f = ||theta||^2 / 2: the change of the loss, -lr g^2 (1 - lr ||z||^2 / 2), is positive for lr > 2 / ||z||^2."""
    for lr_factor, expected in ((2.1, 0.0), (1.9, 1.0)):
        model = Quadratic({"w": (3, 4)})
        before = model.w.detach().clone()
        z = _first_direction()
        optimizer = ZOConservative(model, lr=lr_factor / float(z.square().sum()), seed=8, engine="in_place")
        optimizer.step(lambda model=model: 0.5 * model.flat().square().sum())
        slope, choice = optimizer.last_record.scalars
        assert choice == expected
        assert slope == pytest.approx(float((z * before).sum()), rel=1e-9)
        torch.testing.assert_close(model.w.detach(), before - expected * optimizer.lr * slope * z, rtol=0, atol=1e-12)


def _first_direction() -> torch.Tensor:
    """z of the first step with seed 8, seen by the closure."""
    model = Quadratic({"w": (3, 4)})
    optimizer = ZOConservative(model, lr=0.0, zo_eps=1.0, seed=8, engine="in_place")
    seen = []

    def closure() -> float:
        seen.append(model.w.detach().clone())
        return 0.0

    optimizer.step(closure)
    return (seen[0] - seen[1]) / 2


def test_uphill_where_the_slope_misleads() -> None:
    """A wide zo_eps looks over a ridge: the opposite of the step is better, and is taken."""
    model = Quadratic({"w": (2, 2)})
    values = iter([2.0, 1.0, 5.0, 6.0, 4.0])  # plus, minus; theta, theta - lr e, theta + lr e
    before = model.w.detach().clone()
    optimizer = ZOConservative(model, lr=1e-3, seed=1, engine="in_place")
    optimizer.step(lambda: next(values))
    assert optimizer.last_record.scalars[-1] == -1.0
    record = optimizer.last_record
    up = model.w.detach() - before
    twin = Quadratic({"w": (2, 2)})
    plain = ZOConservative(twin, lr=1e-3, seed=1, engine="in_place")
    values = iter([2.0, 1.0, 5.0, 4.0, 6.0])
    plain.step(lambda: next(values))
    torch.testing.assert_close(up, before - twin.w.detach(), rtol=0, atol=1e-15)
    assert record.loss == 1.5


def test_decay_comes_after_the_choice() -> None:
    """Staying does not stop the decay."""
    model = Net(torch.float64)
    before = weights_of(model)
    optimizer = ZOConservative(model, lr=0.1, weight_decay=0.5)
    optimizer.step(lambda: 1.0)
    assert optimizer.last_record.scalars == (0.0, 0.0)
    after = weights_of(model)
    torch.testing.assert_close(after["head.weight"], 0.95 * before["head.weight"], rtol=1e-15, atol=0)
    assert torch.equal(after["head.bias"], before["head.bias"])


@pytest.mark.parametrize("num_directions", [1, 3])
def test_forwards(num_directions: int) -> None:
    """Two for each direction, one for each candidate: 5 at q = 1."""
    model = Net()
    closure = CountedCalls(model)
    optimizer = ZOConservative(model, lr=0.1, num_directions=num_directions, engine="in_place")
    optimizer.step(closure)
    parts = optimizer.parts
    assert closure.count == 2 * num_directions + 3 == parts.num_forwards
    assert len(optimizer.last_record.scalars) == num_directions + 1


@pytest.mark.parametrize("num_directions", [1, 3])
def test_one_sided_shares_its_clean_loss(num_directions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """4 forwards at q = 1, and the choices are those of asking again."""
    results = []
    for num_forwards in (num_directions + 3, num_directions + 4):
        model = Net(torch.float64)
        closure = CountedCalls(model)
        optimizer = ZOConservative(
            model, lr=0.2, num_directions=num_directions, estimator="one_sided", engine="in_place"
        )
        for _ in range(10):
            optimizer.step(closure)
        assert closure.count == 10 * num_forwards == 10 * optimizer.parts.num_forwards
        results.append(weights_of(model))
        monkeypatch.setattr(OneSided, "measures_clean_loss", False)
    assert differing_bits(*results) == []
