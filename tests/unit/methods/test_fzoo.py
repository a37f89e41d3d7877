"""FZOO: the published formula, what its step does not depend on, and its limit on a linear objective."""

import pytest
import torch
from torch import Tensor

from foretune import FZOO, noise
from foretune.directions import Rademacher
from foretune.errors import UsageError
from foretune.estimators import OneSided
from foretune.methods import make_method
from foretune.noise import Law, Noise, Purpose
from toys import CountedCalls, Net, Quadratic, differing_bits, weights_of

C = torch.tensor([3.0, -2.0, 1.0, 0.5, -0.25, 0.1], dtype=torch.float64)


def step_of(closure_of, num_directions: int = 8, **options: float) -> Tensor:
    """One step (lr 0.1) of the same run on an objective made of the same model."""
    model = Quadratic({"w": (2, 3)})
    before = model.w.detach().clone()
    optimizer = FZOO(model, lr=0.1, num_directions=num_directions, seed=3, engine="in_place", **options)
    optimizer.step(closure_of(model))
    return model.w.detach() - before


def test_published_defaults() -> None:
    method = make_method("fzoo", {})
    assert (method.lr, method.zo_eps, method.num_directions) == (5e-5, 1e-4, 8)
    assert method.parts().estimator == OneSided(zo_eps=1e-4, num_directions=8, weighting="normalized")
    assert method.parts().direction == Rademacher()


def test_the_published_formula() -> None:
    """-lr / (N sigma) sum_i (L_i - L_0) u_i from the losses that the closure returned."""
    losses = []

    def closure_of(model: Quadratic):
        def closure() -> float:
            losses.append(model().item())
            return losses[-1]

        return closure

    change = step_of(closure_of, zo_eps=1e-2)
    clean, moved = losses[0], torch.tensor(losses[1:], dtype=torch.float64)
    assert len(losses) == 9
    u = torch.stack(
        [
            noise.fill(
                torch.empty(2, 3, dtype=torch.float64),
                Noise(noise.mix(3, 0, query), noise.stream_id("w"), Purpose.DIRECTION, Law.RADEMACHER),
            )
            for query in range(8)
        ]
    )
    assert set(u.flatten().tolist()) == {-1.0, 1.0}
    weights = (moved - clean) / (8 * moved.std(correction=0))
    torch.testing.assert_close(change, -0.1 * torch.einsum("k,kmn->mn", weights, u), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("scale", "offset"), [(1e3, 0.0), (1e-3, 0.0), (1.0, 7.0), (5.0, -3.0)])
def test_the_losss_unit_and_origin_do_not_matter(scale: float, offset: float) -> None:
    change = step_of(lambda model: model, zo_eps=1e-2)
    other = step_of(lambda model: lambda: scale * model() + offset, zo_eps=1e-2)
    torch.testing.assert_close(other, change, rtol=0, atol=1e-9)


@pytest.mark.parametrize("zo_eps", [1e-3, 1.0])
def test_many_directions_make_normalized_descent(zo_eps: float) -> None:
    """On a linear objective the step goes to -lr c / ||c||, the same for every zo_eps."""
    change = step_of(lambda model: lambda: model.flat() @ C, num_directions=1500, zo_eps=zo_eps)
    torch.testing.assert_close(change.flatten(), -0.1 * C / C.norm(), rtol=0, atol=0.1 * 5 / 1500**0.5)


def test_equal_losses_make_no_step() -> None:
    model = Net()
    before = weights_of(model)
    optimizer = FZOO(model, lr=0.1)
    optimizer.step(lambda: 2.5)
    values = iter([1.0] + [1.0, 1.0 + 1e-13] * 4)
    optimizer.step(lambda: next(values))
    assert differing_bits(before, weights_of(model)) == []


def test_costs() -> None:
    model = Net()
    closure = CountedCalls(model)
    optimizer = FZOO(model, lr=0.1, engine="in_place")
    optimizer.step(closure)
    assert closure.count == 9 == optimizer.parts.estimator.num_forwards
    assert optimizer.state_bytes == 0
    assert len(optimizer.last_record.scalars) == 8


def test_one_direction_has_no_spread() -> None:
    with pytest.raises(
        UsageError, match=r"^num_directions must be at least 2, got 1: the estimate is divided by the spread"
    ):
        make_method("fzoo", {"num_directions": 1})
