"""Our methods against their equations, step for step, on a quadratic in float64."""

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

import foretune
from published_formulas import Weights, lozo, mezo
from toys import Quadratic, weights_of

SHAPES = {"a": (3, 4), "b": (3,), "c": (2, 2, 2), "d": (1, 1, 4)}
SEED = 5


def run(method: str, num_steps: int, **options: object) -> Weights:
    model = Quadratic(SHAPES)
    optimizer = getattr(foretune, method)(model, seed=SEED, **options)
    for _ in range(num_steps):
        optimizer.step(model)
    return weights_of(model)


def quadratic() -> tuple[object, Weights]:
    model = Quadratic(SHAPES)

    @torch.no_grad()
    def loss(weights: Weights) -> float:
        return float(functional_call(model, weights, ()))

    return loss, weights_of(model)


def assert_equal(ours: Weights, theirs: dict[str, Tensor]) -> None:
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-9)


@pytest.mark.parametrize("one_sided", [False, True])
@pytest.mark.parametrize("num_directions", [1, 3])
def test_mezo(num_directions: int, one_sided: bool) -> None:
    ours = run(
        "MeZO",
        6,
        lr=0.02,
        zo_eps=0.05,
        num_directions=num_directions,
        estimator="one_sided" if one_sided else "two_sided",
    )
    loss, weights = quadratic()
    theirs = mezo(
        loss,
        weights,
        num_steps=6,
        lr=0.02,
        zo_eps=0.05,
        seed=SEED,
        num_directions=num_directions,
        one_sided=one_sided,
    )
    assert_equal(ours, theirs)


def test_mezo_with_decay() -> None:
    ours = run("MeZO", 6, lr=0.02, zo_eps=0.05, weight_decay=0.5)
    loss, weights = quadratic()
    assert_equal(ours, mezo(loss, weights, num_steps=6, lr=0.02, zo_eps=0.05, seed=SEED, weight_decay=0.5))


@pytest.mark.parametrize(("rank", "interval"), [(1, 1), (2, 3), (3, 100), (9, 2)])
def test_lozo_of_the_published_code(rank: int, interval: int) -> None:
    """W <- W - lr g U V^T and b <- b - lr g z: without 1/r, the scale of every published setting."""
    ours = run("LOZO", 8, lr=0.004, zo_eps=0.05, rank=rank, interval=interval)
    loss, weights = quadratic()
    theirs = lozo(
        loss,
        weights,
        num_steps=8,
        matrix_lr=0.004,
        vector_lr=0.004,
        zo_eps=0.05,
        seed=SEED,
        rank=rank,
        interval=interval,
    )
    assert_equal(ours, theirs)


def test_lozo_of_the_paper() -> None:
    """W <- W - lr g U V^T / r."""
    ours = run("LOZO", 8, lr=0.004, zo_eps=0.05, rank=4, interval=3, matrix_lr_scale=1.0)
    loss, weights = quadratic()
    theirs = lozo(
        loss,
        weights,
        num_steps=8,
        matrix_lr=0.001,
        vector_lr=0.004,
        zo_eps=0.05,
        seed=SEED,
        rank=4,
        interval=3,
    )
    assert_equal(ours, theirs)


@pytest.mark.parametrize(("rank", "interval"), [(1, 1), (2, 3), (9, 2), (2, 100)])
def test_lozo_m(rank: int, interval: int) -> None:
    """Over several redraws of V, the momentum carried over at each."""
    ours = run("LOZOM", 10, lr=0.01, zo_eps=0.05, rank=rank, interval=interval, beta=0.8)
    loss, weights = quadratic()
    theirs = lozo(
        loss,
        weights,
        num_steps=10,
        matrix_lr=0.01,
        vector_lr=0.01,
        zo_eps=0.05,
        seed=SEED,
        rank=rank,
        interval=interval,
        beta=0.8,
    )
    assert_equal(ours, theirs)
