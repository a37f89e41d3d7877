"""Muon: the recursion, its bounds, Adam for vectors, and the state that is carried over."""

import math

import pytest
import torch

from foretune.errors import UsageError
from foretune.updates import Muon
from toys import trainables_of
from update_runs import estimates_and_start, run_update


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 2, 3), (7, 1)], ids=str)
def test_the_recursion(shape: tuple[int, ...]) -> None:
    """Against the formula in plain PyTorch, with each iteration as a quintic of the singular values."""
    estimates, start = estimates_and_start(*shape)
    weights, state = run_update(Muon(beta=0.8, weight_decay=0.3), start, estimates, lr=0.1)
    rows, columns = shape[0], math.prod(shape[1:])
    expected, average = start, torch.zeros(shape, dtype=torch.float64)
    for estimate in estimates:
        average = 0.8 * average + 0.2 * estimate
        mix = 0.2 * estimate + 0.8 * average
        u, s, vh = torch.linalg.svd(mix.view(rows, columns), full_matrices=False)
        s = s / (mix.norm() + 1e-7)
        for _ in range(5):
            s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
        step = max(1.0, rows / columns) ** 0.5 * (u @ s.diag() @ vh).view(shape)
        expected = (1 - 0.1 * 0.3) * expected - 0.1 * step
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(state.tensors["momentum"], average, rtol=0, atol=1e-14)


@pytest.mark.parametrize("shape", [(5,), ()], ids=str)
def test_vectors_follow_adam(shape: tuple[int, ...]) -> None:
    """torch's AdamW with betas (0.9, 0.95) and eps 1e-10; vectors do not decay."""
    estimates, start = estimates_and_start(*shape)
    weights, _ = run_update(Muon(weight_decay=0.3), start, estimates, lr=0.1)
    parameter = torch.nn.Parameter(start.clone())
    oracle = torch.optim.AdamW([parameter], lr=0.1, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.0)
    for parameter.grad in estimates:
        oracle.step()
    torch.testing.assert_close(weights, parameter.detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4)], ids=str)
def test_spectral_norm_of_each_step(shape: tuple[int, int]) -> None:
    """At most 1.21 lr sqrt(max(1, rows / columns))."""
    estimates, start = estimates_and_start(*shape)
    bound = 1.21 * 0.1 * max(1.0, shape[0] / shape[1]) ** 0.5
    before = start
    for num in range(1, len(estimates) + 1):
        weights, _ = run_update(Muon(), start, estimates[:num], lr=0.1)
        assert 0.5 * bound < float(torch.linalg.matrix_norm(weights - before, 2)) <= bound
        before = weights


def test_the_first_step_does_not_depend_on_the_size_of_the_estimate() -> None:
    (estimate,), start = estimates_and_start(4, 3, num=1)
    results = [run_update(Muon(), start, [scale * estimate], lr=0.1)[0] - start for scale in (1.0, 50.0, -50.0)]
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-6)
    torch.testing.assert_close(results[1], -results[2], rtol=0, atol=1e-12)


def test_state_is_declared() -> None:
    (trainable,) = trainables_of(w=(3, 4))
    assert Muon().num_state_elements(trainable, (3, 2)) == 6
    assert Muon().num_state_elements(trainable, (7,)) == 14
    assert Muon().num_state_elements(trainable, ()) == 2


def test_the_average_is_transported_and_mean_squares_are_not() -> None:
    ones = torch.ones(2, 2)
    assert torch.equal(Muon().refresh({"momentum": ones}, lambda vector: 3 * vector)["momentum"], 3 * ones)
    moments = Muon().refresh({"first_moment": ones, "second_moment": ones}, lambda vector: 3 * vector)
    assert torch.equal(moments["first_moment"], 3 * ones)
    assert torch.equal(moments["second_moment"], ones)


@pytest.mark.parametrize("beta", [1.0, -0.1, float("nan")])
def test_beta_out_of_range_is_named(beta: float) -> None:
    with pytest.raises(UsageError, match=rf"beta must be in \[0, 1\), got {beta}"):
        Muon(beta=beta)
