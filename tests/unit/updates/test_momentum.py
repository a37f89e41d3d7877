"""The average of estimates, its first-step rule, and the two kinds of decay."""

import pytest
import torch
from torch import Tensor, nn

from foretune import LowRank, Optimizer, TwoSided
from foretune.errors import IncompatibleError, UsageError
from foretune.updates import SGD, Momentum
from toys import Net, Quadratic, trainables_of
from update_runs import estimates_and_start, run_update


def oracle(start: Tensor, estimates: list[Tensor], *, lr: float, beta: float, decay: float, decoupled: bool):
    """The docstring's equations."""
    theta, average = start.clone(), None
    for estimate in estimates:
        target = estimate if decoupled else estimate + decay * theta
        average = target if average is None else beta * average + (1 - beta) * target
        theta = (1 - lr * decay if decoupled else 1.0) * theta - lr * average
    return theta, average


@pytest.mark.parametrize("decoupled", [True, False])
def test_against_the_equations(decoupled: bool) -> None:
    estimates, start = estimates_and_start(3, 4)
    update = Momentum(beta=0.7, weight_decay=0.4, decoupled=decoupled)
    weights, state = run_update(update, start, estimates, lr=0.1)
    expected = oracle(start, estimates, lr=0.1, beta=0.7, decay=0.4, decoupled=decoupled)
    torch.testing.assert_close(weights, expected[0], rtol=0, atol=1e-14)
    torch.testing.assert_close(state.tensors["momentum"], expected[1], rtol=0, atol=1e-14)


@pytest.mark.parametrize("decoupled", [True, False])
def test_vectors_do_not_decay(decoupled: bool) -> None:
    estimates, start = estimates_and_start(5)
    decayed, _ = run_update(Momentum(weight_decay=0.4, decoupled=decoupled), start, estimates, lr=0.1)
    plain, _ = run_update(Momentum(), start, estimates, lr=0.1)
    assert torch.equal(decayed, plain)


def test_the_first_update_takes_the_estimate_whole() -> None:
    estimates, start = estimates_and_start(3, 4, num=1)
    _, state = run_update(Momentum(beta=0.9), start, estimates, lr=0.1)
    assert torch.equal(state.tensors["momentum"], estimates[0])


def test_beta_zero_is_plain_descent() -> None:
    estimates, start = estimates_and_start(3, 4)
    weights, _ = run_update(Momentum(beta=0.0, weight_decay=0.3), start, estimates, lr=0.1)
    plain, _ = run_update(SGD(weight_decay=0.3), start, estimates, lr=0.1)
    torch.testing.assert_close(weights, plain, rtol=0, atol=1e-14)


def test_a_constant_estimate_is_its_own_average() -> None:
    estimates, start = estimates_and_start(3, 4, num=1)
    weights, state = run_update(Momentum(beta=0.9), start, estimates * 6, lr=0.1)
    torch.testing.assert_close(state.tensors["momentum"], estimates[0], rtol=0, atol=1e-14)
    torch.testing.assert_close(weights, start - 0.6 * estimates[0], rtol=0, atol=1e-14)


def test_state_is_kept_in_float32_for_half_precision_weights() -> None:
    model = nn.Linear(3, 2, bias=False, dtype=torch.bfloat16)
    optimizer = Optimizer(model, estimator=TwoSided(), update=Momentum(), lr=0.1)
    optimizer.step(lambda: model.weight.float().sum())
    (state,) = optimizer.tensor_states.values()
    assert state.tensors["momentum"].dtype == torch.float32
    assert optimizer.state_bytes == 6 * 4


def test_one_number_per_coordinate_is_declared() -> None:
    (trainable,) = trainables_of(w=(3, 4))
    assert Momentum().num_state_elements(trainable, (3, 2)) == 6
    assert Momentum().num_state_elements(trainable, ()) == 1


def test_coupled_decay_in_a_low_rank_space_is_refused_by_name() -> None:
    def build(**options: object) -> Optimizer:
        return Optimizer(Net(), space=LowRank(), estimator=TwoSided(), update=Momentum(**options), lr=0.1)

    with pytest.raises(IncompatibleError, match=r"LowRank: the state of 'first\.weight'.*decoupled=True"):
        build(weight_decay=0.1, decoupled=False)
    build(weight_decay=0.1)
    build(decoupled=False)


def test_coupled_decay_of_vectors_alone_is_no_conflict() -> None:
    model = Quadratic({"b": (3,)})
    update = Momentum(weight_decay=0.1, decoupled=False)
    Optimizer(model, space=LowRank(), estimator=TwoSided(), update=update, lr=0.1)


@pytest.mark.parametrize("beta", [1.0, -0.1, float("nan")])
def test_beta_out_of_range_is_named(beta: float) -> None:
    with pytest.raises(UsageError, match=rf"beta must be in \[0, 1\), got {beta}"):
        Momentum(beta=beta)
