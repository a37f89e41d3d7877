"""SubZO-Muon: SubZO-AdaMU until t2, nearly orthogonal directions of the same length from there on."""

import math

import torch
from torch import Tensor

from foretune import MomentumGuided, SubZero, SubZOAdaMU, SubZOMuon
from foretune.matrices import newton_schulz
from foretune.methods import make_method
from foretune.updates import SGD
from promised import run
from toys import Net, Quadratic, differing_bits, weights_of

STATE = "perturbation_momentum"


def test_defaults_and_names() -> None:
    parts = make_method("subzo_muon", {}, total_steps=400).parts()
    assert parts.direction == MomentumGuided(t1=100, t2=200, t3=400, matrices_only=True, orthogonalize=True)
    assert parts.update == SGD()
    assert (parts.space.rank, parts.space.interval) == (8, 2000)


def test_before_t1_it_is_subzero_to_the_bit() -> None:
    weights = []
    options = {"lr": 0.02, "rank": 2, "interval": 3, "seed": 4}
    for build in (SubZero, lambda model, **o: SubZOMuon(model, t1=7, t2=8, t3=9, **o)):
        model = Net()
        run(build(model, **options), model, 7)
        weights.append(weights_of(model))
    assert differing_bits(*weights) == []


def test_before_t2_it_is_subzo_adamu_to_the_bit() -> None:
    weights = []
    for method in (SubZOAdaMU, SubZOMuon):
        model = Net()
        optimizer = method(model, lr=0.02, rank=2, interval=3, t1=1, t2=7, t3=9)
        run(optimizer, model, 7)
        weights.append(weights_of(model))
        run(optimizer, model, 1)
        weights.append(weights_of(model))
    assert differing_bits(weights[0], weights[2]) == []
    assert "head.weight" in differing_bits(weights[1], weights[3])


def test_directions_are_orthogonalized_from_t2_on() -> None:
    """What is measured and stepped along: s U O V^T, O the Newton-Schulz of m with m's norm. m itself is that of
    SubZO-AdaMU, to the bit."""
    shapes = {"a": (6, 5), "b": (4,)}
    options = {"lr": 0.01, "zo_eps": 0.1, "rank": 3, "interval": 1000, "t1": 1, "t2": 3, "t3": 6, "seed": 2}
    model, twin = Quadratic(shapes), Quadratic(shapes)
    optimizer, other = SubZOMuon(model, engine="in_place", **options), SubZOAdaMU(twin, **options)
    a, _ = optimizer.trainables
    u, v = optimizer.parts.space.basis(a, seed=2, epoch=0)
    for step in range(6):
        before, seen = model.a.detach().clone(), []

        def closure(seen: list[Tensor] = seen) -> Tensor:
            seen.append(model.a.detach().clone())
            return model()

        (record,) = run(optimizer, closure, 1)
        run(other, twin, 1)
        m = optimizer.tensor_states[a].tensors[STATE]
        assert torch.equal(m, other.tensor_states[other.trainables[0]].tensors[STATE])
        core = m
        if step >= 3:
            core = newton_schulz(m)
            assert torch.linalg.cond(core) < 0.9 * torch.linalg.cond(m)
            core = core * (m.norm() / core.norm())
        expected = math.sqrt(30) / 3 * u @ core @ v.T
        torch.testing.assert_close((seen[0] - seen[1]) / 0.2, expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(expected.norm(), math.sqrt(30) / 3 * m.norm(), rtol=1e-12, atol=0)
        change = -0.01 * record.scalars[0] * expected
        torch.testing.assert_close(model.a.detach() - before, change, rtol=0, atol=1e-12)


def test_state_is_rho_squared_per_matrix() -> None:
    model = Quadratic({"a": (6, 5), "b": (4,), "c": (2, 7)})
    optimizer = SubZOMuon(model, lr=1e-3, rank=3, t1=0, t2=1, t3=4)
    run(optimizer, model, 2)
    assert optimizer.state_bytes == 8 * (9 + 4)
