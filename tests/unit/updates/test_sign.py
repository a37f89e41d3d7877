"""The sign of the estimate, entry by entry."""

import torch

from foretune import LowRank, Optimizer, TwoSided
from foretune.updates import Sign
from toys import Quadratic, trainables_of, weights_of
from update_runs import estimates_and_start, run_update


def test_against_the_equation() -> None:
    estimates, start = estimates_and_start(3, 4)
    estimates[0][0, 0] = estimates[1][0, 0] = 0.0
    weights, state = run_update(Sign(weight_decay=0.4), start, estimates, lr=0.1)
    expected = start.clone()
    for estimate in estimates:
        expected = (1 - 0.1 * 0.4) * expected - 0.1 * estimate.sign()
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-14)
    assert not state.tensors


def test_vectors_do_not_decay() -> None:
    estimates, start = estimates_and_start(5)
    decayed, _ = run_update(Sign(weight_decay=0.4), start, estimates, lr=0.1)
    plain, _ = run_update(Sign(), start, estimates, lr=0.1)
    assert torch.equal(decayed, plain)


def test_signs_are_those_of_the_coordinates() -> None:
    """In a low-rank space the lifted step is sign(U) V^T."""
    model = Quadratic({"a": (6, 5)})
    before = weights_of(model)["a"]
    optimizer = Optimizer(model, space=LowRank(rank=2), estimator=TwoSided(), update=Sign(), lr=0.1, seed=1)
    optimizer.step(model)
    v = optimizer.parts.space.basis(optimizer.trainables[0], seed=1, epoch=0)
    signs = (before - model.a.detach()) @ torch.linalg.pinv(v).T / 0.1
    torch.testing.assert_close(signs.abs(), torch.ones(6, 2, dtype=torch.float64), rtol=0, atol=1e-10)


def test_no_state_is_declared() -> None:
    (trainable,) = trainables_of(w=(3, 4))
    assert Sign().num_state_elements(trainable, (3, 4)) == 0
