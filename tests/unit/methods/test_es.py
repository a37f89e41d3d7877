"""ES and EGGROLL: the published formulas, rewards in any unit, replay from scores."""

import math

import pytest
import torch
from torch import Tensor

from foretune import EGGROLL, ES, noise
from foretune.directions import Gaussian, LowRankProduct
from foretune.estimators import Population
from foretune.methods import make_method
from foretune.types import TensorState
from toys import CountedCalls, Net, Quadratic, differing_bits, weights_of

SHAPES = {"w": (4, 3), "b": (3,)}


def directions_of(optimizer: ES | EGGROLL, step: int, seed: int) -> list[dict[str, Tensor]]:
    """What each query of a step is, by tensor."""
    result = []
    for query in range(optimizer.parts.estimator.num_directions):
        tensors = {}
        for trainable in optimizer.trainables:
            drawn = optimizer.parts.direction.draw(
                trainable, TensorState(), key=noise.mix(seed, step, query), step=step, coordinate_shape=trainable.shape
            )
            tensors[trainable.name] = drawn.vector.materialize(trainable.shape, trainable.parameter.detach())
        result.append(tensors)
    return result


def test_published_defaults() -> None:
    es, eggroll = make_method("es", {}), make_method("eggroll", {})
    assert (es.lr, es.parts().direction) == (5e-4, Gaussian())
    assert es.parts().estimator == Population(zo_eps=1e-3, num_directions=30)
    assert eggroll.parts().direction == LowRankProduct(rank=1)
    assert eggroll.parts().estimator == Population(num_directions=16, antithetic=True, sqrt_population=True)
    assert not any(method.parts().update.weight_decay for method in (es, eggroll))


def test_es_by_its_formula() -> None:
    """theta + (lr / N) sum_i z-scored reward_i xi_i, the reward being minus the loss."""
    model = Quadratic(SHAPES)
    before = weights_of(model)
    optimizer = ES(model, lr=0.1, zo_eps=0.1, num_directions=6, seed=2)
    drawn = directions_of(optimizer, 0, 2)
    rewards = []
    for tensors in drawn:
        moved = Quadratic(SHAPES)
        with torch.no_grad():
            for name, parameter in moved.named_parameters():
                parameter += 0.1 * tensors[name]
            rewards.append(-moved())
    rewards = torch.stack(rewards)
    scores = (rewards - rewards.mean()) / rewards.std(correction=0)
    optimizer.step(model)
    torch.testing.assert_close(
        torch.tensor(optimizer.last_record.scalars, dtype=torch.float64), -rewards, rtol=0, atol=1e-12
    )
    for name, tensor in weights_of(model).items():
        step = sum(score * tensors[name] for score, tensors in zip(scores, drawn, strict=True))
        torch.testing.assert_close(tensor, before[name] + 0.1 / 6 * step, rtol=0, atol=1e-12)


def test_eggroll_by_its_formula() -> None:
    """theta + lr sqrt(N) mean_i(score_i (+-E_i)) over pairs."""
    model = Quadratic(SHAPES)
    before = weights_of(model)
    optimizer = EGGROLL(model, lr=0.1, num_directions=3, rank=2, seed=2)
    drawn = directions_of(optimizer, 0, 2)
    optimizer.step(model)
    rewards = -torch.tensor(optimizer.last_record.scalars, dtype=torch.float64)
    assert rewards.shape == (6,)
    scores = (rewards - rewards.mean()) / rewards.std(correction=0)
    for name, tensor in weights_of(model).items():
        members = torch.stack([sign * tensors[name] for tensors in drawn for sign in (1.0, -1.0)])
        step = math.sqrt(6) * torch.einsum("i,i...->i...", scores, members).mean(dim=0)
        torch.testing.assert_close(tensor, before[name] + 0.1 * step, rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", [ES, EGGROLL])
def test_rewards_in_any_unit(method: type) -> None:
    results = []
    for scale, offset in ((1.0, 0.0), (100.0, -40.0)):
        model = Quadratic(SHAPES)
        optimizer = method(model, lr=0.01, zo_eps=0.1, num_directions=4, seed=1)
        for _ in range(3):
            optimizer.step(lambda model=model, scale=scale, offset=offset: scale * model() + offset)
        results.append(weights_of(model))
    for name in SHAPES:
        torch.testing.assert_close(results[0][name], results[1][name], rtol=0, atol=1e-9)


@pytest.mark.parametrize("method", [ES, EGGROLL])
def test_equal_rewards_make_no_step(method: type) -> None:
    model = Net()
    before = weights_of(model)
    optimizer = method(model, lr=0.1, num_directions=2)
    optimizer.step(lambda: -1.0)
    assert differing_bits(before, weights_of(model)) == []


@pytest.mark.parametrize(("method", "num_members"), [(ES, 5), (EGGROLL, 10)])
def test_costs(method: type, num_members: int) -> None:
    model = Net()
    closure = CountedCalls(model)
    optimizer = method(model, lr=0.1, num_directions=5, engine="in_place")
    optimizer.step(closure)
    assert closure.count == len(optimizer.last_record.scalars) == num_members
    assert optimizer.state_bytes == 0


def test_the_step_of_a_matrix_has_low_rank() -> None:
    model = Quadratic({"w": (6, 5)})
    before = model.w.detach().clone()
    EGGROLL(model, lr=0.1, num_directions=3).step(model)
    assert torch.linalg.matrix_rank(model.w.detach() - before, rtol=1e-9) == 3


def test_tensors_of_one_shape_have_their_own_noise() -> None:
    for method in (ES, EGGROLL):
        model = Quadratic({"a": (3, 3), "b": (3, 3)})
        drawn = directions_of(method(model, lr=0.1, num_directions=2), 0, 0)
        assert not torch.equal(drawn[0]["a"], drawn[0]["b"])


@pytest.mark.parametrize("method", [ES, EGGROLL])
def test_a_score_that_only_counts_will_do(method: type) -> None:
    """Minus the number of weights on the right side of 0: nothing to differentiate."""
    model = Quadratic({"w": (4, 4)})
    optimizer = method(model, lr=0.05, zo_eps=0.5, num_directions=8, seed=3)

    def score() -> float:
        return -float((model.w * model.target.view(4, 4) > 0).sum())

    first = score()
    for _ in range(120):
        optimizer.step(score)
    assert first > -10
    assert score() < -12
