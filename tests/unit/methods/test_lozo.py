"""LOZO and LOZO-M: what moves between two redraws of V, the small state, and the limits of the settings."""

import pytest
import torch
from torch import Tensor

import foretune
from foretune import LOZO, LOZOM
from foretune.methods import make_method
from foretune.spaces import LowRank
from foretune.updates import Momentum
from toys import Quadratic, restore, weights_of

SHAPES = {"a": (6, 5), "b": (4,), "c": (3, 2, 4), "d": (1, 1, 4)}


def test_published_defaults() -> None:
    lozo, lozo_m = make_method("lozo", {}).parts(), make_method("lozo_m", {}).parts()
    assert lozo.space == lozo_m.space == LowRank(rank=2, interval=50)
    assert lozo_m.update == Momentum(beta=0.9)
    assert lozo.schedule.matrix_lr_scale == lozo_m.schedule.matrix_lr_scale == 2
    assert make_method("lozo", {"rank": 4}).parts().schedule.matrix_lr_scale == 4
    assert make_method("lozo", {"rank": 4, "matrix_lr_scale": 1.0}).parts().schedule.matrix_lr_scale == 1


@pytest.mark.parametrize("method", ["LOZO", "LOZOM"])
def test_matrices_move_in_the_span_of_v_until_it_is_redrawn(method: str) -> None:
    model = Quadratic(SHAPES)
    optimizer = getattr(foretune, method)(model, lr=0.003, rank=2, interval=4, seed=3)
    space = optimizer.parts.space
    for epoch in range(2):
        before = weights_of(model)
        for _ in range(4):
            optimizer.step(model)
        after = weights_of(model)
        for trainable in optimizer.trainables:
            if trainable.matrix_shape is None:
                continue
            change = (after[trainable.name] - before[trainable.name]).view(trainable.matrix_shape)
            assert torch.linalg.matrix_rank(change, rtol=1e-9) == 2
            v = space.basis(trainable, seed=3, epoch=epoch)
            outside = change - change @ v @ torch.linalg.pinv(v)
            assert float(outside.norm()) < 1e-12 * float(change.norm())


def test_u_is_fresh_at_every_step_and_v_only_at_refreshes() -> None:
    """Both recovered from the perturbed weights that the closure sees."""
    model = Quadratic({"a": (6, 5)})
    optimizer = LOZO(model, lr=0.0, zo_eps=1.0, rank=2, interval=3, engine="in_place")
    seen: list[Tensor] = []

    def closure() -> Tensor:
        seen.append(model.a.detach().clone())
        return model()

    for _ in range(6):
        optimizer.step(closure)
    z = [(plus - minus) / 2 for plus, minus in zip(seen[::2], seen[1::2], strict=True)]
    row_spaces = [torch.linalg.pinv(direction) @ direction for direction in z]
    for i in range(6):
        for j in range(i):
            assert not torch.allclose(z[i], z[j])
            same_interval = i // 3 == j // 3
            assert torch.allclose(row_spaces[i], row_spaces[j], atol=1e-9) is same_interval


def test_momentum_over_one_interval_is_an_average_over_x() -> None:
    """With V fixed, W = W_0 + X V^T and LOZO-M is averaged descent on X from 0, given the same slopes."""
    model = Quadratic({"a": (6, 5)})
    start = weights_of(model)["a"]
    optimizer = LOZOM(model, lr=0.01, rank=2, interval=1000, beta=0.7, seed=1, matrix_lr_scale=2.0)
    v = optimizer.parts.space.basis(optimizer.trainables[0], seed=1, epoch=0)
    x, average = torch.zeros(6, 2, dtype=torch.float64), None
    for step in range(8):
        before = weights_of(model)["a"]
        optimizer.step(model)
        (slope,) = optimizer.last_record.scalars
        draw = optimizer.parts.direction.draw(
            optimizer.trainables[0], None, key=foretune.noise.mix(1, step), step=step, coordinate_shape=(6, 2)
        )
        u = foretune.noise.fill(torch.empty(6, 2, dtype=torch.float64), draw.vector.noise[0][1])
        average = slope * u if average is None else 0.7 * average + 0.3 * slope * u
        x -= 0.01 * average
        torch.testing.assert_close(weights_of(model)["a"], start + x @ v.T, rtol=0, atol=1e-12)
        assert not torch.equal(before, model.a)


def test_beta_zero_is_lozo() -> None:
    model = Quadratic(SHAPES)
    start, results = weights_of(model), []
    options = {"lr": 0.003, "rank": 2, "interval": 3, "seed": 2}
    for optimizer in (LOZOM(model, beta=0.0, **options), LOZO(model, **options)):
        restore(model, start)
        for _ in range(8):
            optimizer.step(model)
        results.append(weights_of(model))
    for name in SHAPES:
        torch.testing.assert_close(results[0][name], results[1][name], rtol=0, atol=1e-12)


def test_state_is_m_times_rank_and_the_vectors() -> None:
    model = Quadratic(SHAPES)
    optimizer = LOZOM(model, lr=1e-3, rank=2)
    assert optimizer.state_bytes == 8 * (6 * 2 + 4 + 3 * 2 + 4)
    assert LOZO(model, lr=1e-3, rank=2).state_bytes == 0
    optimizer.step(model)
    shapes = {t.name: tuple(s.tensors["momentum"].shape) for t, s in optimizer.tensor_states.items()}
    assert shapes == {"a": (6, 2), "b": (4,), "c": (3, 2), "d": (1, 1, 4)}


@pytest.mark.parametrize("options", [{"interval": 1}, {"rank": 40}], ids=str)
def test_extreme_settings_learn(options: dict[str, int]) -> None:
    """A V that is redrawn every step, a rank above every dimension (nothing needs orthogonality)."""
    model = Quadratic({"a": (3, 2), "b": (2,)})
    first = model().item()
    optimizer = LOZO(model, lr=0.03, matrix_lr_scale=1.0, **options)
    for _ in range(150):
        optimizer.step(model)
    assert model().item() < 0.05 * first
