"""SubZO-AdaMU: SubZero before t1, ZO-AdaMU's directions in the small coordinates after."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from foretune import Optimizer, SubZero, SubZOAdaMU, TwoSided, ZOAdaMU, noise
from foretune.errors import UsageError
from foretune.methods import make_method
from foretune.noise import Noise, Purpose
from foretune.updates import SGD, AdaMU
from promised import run, state_of
from toys import Net, Quadratic, differing_bits, weights_of

SHAPES = {"a": (6, 5), "b": (4,)}
STATE = "perturbation_momentum"


def slope_and_shift(optimizer: Optimizer, model: nn.Module, name: str) -> tuple[float, Tensor]:
    """Take a step; return its slope and the direction of one tensor, as the closure saw it."""
    seen: list[Tensor] = []

    def closure() -> Tensor:
        seen.append(model.get_parameter(name).detach().clone())
        return model()

    (record,) = run(optimizer, closure, 1)
    return record.scalars[0], (seen[0] - seen[1]) / (2 * record.zo_eps)


def core_noise(optimizer: Optimizer, name: str, shape: tuple[int, ...], step: int) -> Tensor:
    """z of one tensor and step."""
    (stream,) = (t.stream for t in optimizer.trainables if t.name == name)
    key = noise.mix(optimizer.seed, step)
    return noise.fill(torch.empty(shape, dtype=torch.float64), Noise(key, stream, Purpose.DIRECTION))


def test_defaults_and_names() -> None:
    method = make_method("subzo_adamu", {}, total_steps=400)
    parts = method.parts()
    assert (parts.direction.t1, parts.direction.t2, parts.direction.t3) == (100, 200, 400)
    assert parts.direction.matrices_only
    assert parts.update == SGD()
    assert (parts.space.rank, parts.space.interval) == (8, 2000)
    assert make_method("subzero_adamu", {"v_mode": "core"}).parts().update == AdaMU()
    assert make_method("subzero_adamu", {"vector_adamu": True}).parts().update == AdaMU(vectors_only=True)
    with pytest.raises(UsageError, match=r"beta2_target would have no effect.*v_mode='core'"):
        make_method("subzero_adamu", {"beta2_target": 0.1})
    with pytest.raises(UsageError, match=r"Unknown v_mode 'cores'\. Did you mean: core"):
        make_method("subzero_adamu", {"v_mode": "cores"})


def test_before_t1_it_is_subzero_to_the_bit() -> None:
    weights = []
    options = {"lr": 0.02, "rank": 2, "interval": 3, "seed": 4, "weight_decay": 0.1}
    for build in (SubZero, lambda model, **o: SubZOAdaMU(model, t1=7, t2=8, t3=9, **o)):
        model = Net()
        run(build(model, **options), model, 7)
        weights.append(weights_of(model))
    assert differing_bits(*weights) == []


def test_before_t1_a_core_divided_by_v_is_its_sign() -> None:
    model = Quadratic(SHAPES)
    optimizer = SubZOAdaMU(
        model, lr=0.01, rank=2, interval=5, v_mode="core", sigma=1e-30, t1=4, t2=5, t3=6, engine="in_place"
    )
    a, _ = optimizer.trainables
    for step in range(4):
        before = weights_of(model)
        (record,) = run(optimizer, model, 1)
        u, v = optimizer.parts.space.basis(a, seed=0, epoch=0)
        z = core_noise(optimizer, "a", (2, 2), step)
        expected = -0.01 * record.scalars[0] * math.sqrt(30) / 2 * u @ z.sign() @ v.T
        torch.testing.assert_close(model.a.detach() - before["a"], expected, rtol=1e-9, atol=1e-14)
        plain = -0.01 * record.scalars[0] * core_noise(optimizer, "b", (4,), step)
        torch.testing.assert_close(model.b.detach() - before["b"], plain, rtol=1e-9, atol=1e-14)


class Rotated(nn.Module):
    """f(x) = 1/2 ||A vec(left x right^T) - y||^2 for a square x."""

    def __init__(self, left: Tensor, right: Tensor, start: Tensor) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.a = nn.Parameter(start.clone())
        self.left, self.right = left, right
        self.matrix = torch.randn(9, 9, generator=generator, dtype=torch.float64)
        self.labels = torch.randn(9, generator=generator, dtype=torch.float64)

    def forward(self) -> Tensor:
        """f(a)."""
        return 0.5 * (self.matrix @ (self.left @ self.a @ self.right.T).flatten() - self.labels).square().sum()


def test_at_full_rank_it_is_zo_adamu_without_v_but_for_a_rotation() -> None:
    """rank = a = b and one basis: W = U X V^T, where X follows MomentumGuided x SGD on the rotated loss."""
    eye = torch.eye(3, dtype=torch.float64)
    start = torch.randn(3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    times = {"t1": 2, "t2": 6, "t3": 9}
    model = Rotated(eye, eye, start)
    optimizer = SubZOAdaMU(model, lr=2e-3, rank=3, interval=1000, seed=3, engine="in_place", **times)
    u, v = optimizer.parts.space.basis(optimizer.trainables[0], seed=3, epoch=0)
    rotated = Rotated(u, v, u.T @ start @ v)
    direction = ZOAdaMU(Rotated(u, v, start), **times).parts.direction
    full = Optimizer(rotated, direction=direction, estimator=TwoSided(), lr=2e-3, seed=3, engine="in_place")
    for _ in range(12):
        run(optimizer, model, 1)
        run(full, rotated, 1)
        torch.testing.assert_close(u @ rotated.a.detach() @ v.T, model.a.detach(), rtol=0, atol=1e-7)
    assert not torch.allclose(model.a.detach(), start, atol=1e-2)


def test_state_is_rho_squared_per_matrix() -> None:
    model = Quadratic({"a": (6, 5), "b": (4,), "c": (2, 7)})
    optimizer = SubZOAdaMU(model, lr=1e-3, rank=3, t1=0, t2=1, t3=4)
    run(optimizer, model, 2)
    shapes = {t.name: [tuple(x.shape) for x in s.tensors.values()] for t, s in optimizer.tensor_states.items()}
    assert shapes == {"a": [(3, 3)], "b": [], "c": [(2, 2)]}
    assert optimizer.state_bytes == 8 * (9 + 4)


def test_vectors_follow_zo_adamu_where_they_are_asked_to() -> None:
    """Divided by sqrt(v), with a memory; matrices as without it."""
    model = Quadratic(SHAPES)
    optimizer = SubZOAdaMU(model, lr=0.01, rank=2, sigma=1e-30, vector_adamu=True, t1=3, t2=4, t3=5, engine="in_place")
    before = weights_of(model)
    slope, direction = slope_and_shift(optimizer, model, "a")
    torch.testing.assert_close(model.a.detach() - before["a"], -0.01 * slope * direction, rtol=0, atol=1e-9)
    sign = core_noise(optimizer, "b", (4,), 0).sign()
    torch.testing.assert_close(model.b.detach() - before["b"], -0.01 * slope * sign, rtol=1e-9, atol=1e-14)
    assert optimizer.state_bytes == 8 * (4 + 4)


@pytest.mark.parametrize("refresh", ["project", "reset"])
def test_a_redraw_projects_the_memory_or_resets_it(refresh: str) -> None:
    model = Quadratic(SHAPES)
    optimizer = SubZOAdaMU(model, lr=1e-3, rank=2, interval=3, t1=0, t2=0, t3=1, refresh=refresh, seed=5)
    run(optimizer, model, 3)
    a, _ = optimizer.trainables
    before = optimizer.tensor_states[a].tensors[STATE].clone()
    (u, v), (u_new, v_new) = (optimizer.parts.space.basis(a, seed=5, epoch=epoch) for epoch in (0, 1))
    optimizer.estimate(model)
    expected = u_new.T @ u @ before @ v.T @ v_new if refresh == "project" else torch.zeros(2, 2).double()
    torch.testing.assert_close(optimizer.tensor_states[a].tensors[STATE], expected, rtol=0, atol=1e-14)
    assert torch.equal(
        optimizer.parts.space.transport(a, before, seed=5, old_epoch=1, new_epoch=1), before
    )  # the same basis carries all of it over


def test_a_resume_within_an_interval_goes_on_along_the_same_directions() -> None:
    options = {"lr": 0.02, "rank": 2, "interval": 4, "t1": 1, "t2": 3, "t3": 6, "seed": 1}
    model = Net()
    optimizer = SubZOAdaMU(model, **options)
    run(optimizer, model, 6)  # two steps into the second interval
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    run(optimizer, model, 5)
    resumed_model = Net()
    resumed = SubZOAdaMU(resumed_model, **options)
    resumed_model.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    before = weights_of(resumed_model)
    run(resumed, resumed_model, 1)
    assert "first.weight" in differing_bits(before, weights_of(resumed_model))
    run(resumed, resumed_model, 4)
    assert differing_bits(state_of(optimizer), state_of(resumed)) == []
