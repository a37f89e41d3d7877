"""ZO-AdaMU: against its equations, the warm-up that steps along signs, its state and settings."""

import math

import pytest
import torch
from torch import Tensor

import foretune
from foretune import noise
from foretune.directions.annealing import annealed
from foretune.errors import UsageError
from foretune.methods import make_method
from foretune.noise import Noise, Purpose
from promised import run
from toys import Quadratic, assert_mean, weights_of

SHAPES = {"a": (3, 4), "b": (3,)}


def test_published_defaults() -> None:
    method = make_method("zo_adamu", {}, total_steps=400)
    assert (method.lr, method.zo_eps, method.sigma, method.weight_decay) == (1e-4, 1e-3, 1e-8, 0.0)
    direction = method.parts().direction
    assert (direction.t1, direction.t2, direction.t3) == (100, 200, 400)
    assert tuple(direction.shares(200)) == (0.5, 0.9, 0.01)
    assert (direction.phi_alpha, direction.phi_beta1, direction.phi_beta2) == (1.0, 0.1, 1.5)
    assert make_method("zo_adamu", {"total_steps": 40}, total_steps=400).parts().direction.t3 == 40


def test_against_the_equations() -> None:
    """The whole run a second time in plain PyTorch; the closure sees theta +- zo_eps m with the m of the step."""
    options = {"lr": 0.03, "zo_eps": 0.1, "t1": 2, "t2": 6, "t3": 9, "sigma": 1e-3, "weight_decay": 0.1}
    model, seed = Quadratic(SHAPES), 5
    optimizer = foretune.ZOAdaMU(model, seed=seed, engine="in_place", **options)
    theta = weights_of(model)
    memory = {name: torch.zeros_like(tensor) for name, tensor in theta.items()}
    shares = [(0.5, 1.0), (0.9, 0.1), (0.01, 1.5)]
    for step in range(10):
        alpha, beta1, beta2 = (annealed(step, target=t, phi=phi, t1=2, t2=6, t3=9) for t, phi in shares)
        seen: list[dict[str, Tensor]] = []

        def closure(seen: list[dict[str, Tensor]] = seen) -> Tensor:
            seen.append(weights_of(model))
            return model()

        optimizer.step(closure)
        (slope,) = optimizer.last_record.scalars
        for trainable in optimizer.trainables:
            name, shape = trainable.name, trainable.shape
            z, xi = (
                noise.fill(torch.empty(shape, dtype=torch.float64), Noise(noise.mix(seed, step), trainable.stream, p))
                for p in (Purpose.DIRECTION, Purpose.HISTORY)
            )
            fresh, history = math.sqrt(alpha) * z, memory[name] + math.sqrt(1 - alpha) * xi
            m = memory[name] = beta1 * fresh + (1 - beta1) * history
            v = beta2 * fresh**2 + (1 - beta2) * history**2
            torch.testing.assert_close(seen[0][name] - theta[name], 0.1 * m, rtol=0, atol=1e-14)
            torch.testing.assert_close(theta[name] - seen[1][name], 0.1 * m, rtol=0, atol=1e-14)
            decay = 0.1 * theta[name] if len(shape) == 2 else 0.0
            theta[name] = theta[name] - 0.03 * (slope * m / torch.sqrt(v + 1e-3) + decay)
        for name, tensor in weights_of(model).items():
            torch.testing.assert_close(tensor, theta[name], rtol=0, atol=1e-12)


def test_before_t1_every_entry_moves_by_lr_times_the_slope() -> None:
    """|change| = lr |g| as sigma -> 0."""
    model = Quadratic(SHAPES)
    optimizer = foretune.ZOAdaMU(model, lr=0.01, t1=5, t2=6, t3=7, sigma=1e-30)
    for _ in range(5):
        before = model.flat().detach()
        (record,) = run(optimizer, model, 1)
        size = torch.full_like(before, 0.01 * abs(record.scalars[0]))
        torch.testing.assert_close((model.flat().detach() - before).abs(), size, rtol=1e-9, atol=1e-15)


def test_before_t1_the_mean_step_on_a_linear_objective() -> None:
    """E change = -lr sqrt(2/pi) gradient: E[(z^T c) sign(z)] = sqrt(2/pi) c."""
    model = Quadratic({"w": (2, 3)})
    c = torch.randn(6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    optimizer = foretune.ZOAdaMU(model, lr=1.0, total_steps=10_000, engine="in_place")
    positions = [model.flat().detach()]
    for _ in range(1500):
        optimizer.step(lambda: model.flat() @ c)
        positions.append(model.flat().detach())
    steps = torch.stack(positions).diff(dim=0)
    assert_mean(steps, -math.sqrt(2 / math.pi) * c)


def test_state_is_one_number_per_weight_and_does_not_depend_on_losses() -> None:
    """m is a function of the seed and the number of updates: two objectives, the same m to the bit."""
    memories = []
    for objective in (lambda model: model, lambda model: lambda: 0.0):
        model = Quadratic(SHAPES)
        optimizer = foretune.ZOAdaMU(model, t1=1, t2=3, t3=6, seed=2)
        run(optimizer, objective(model), 5)
        assert optimizer.state_bytes == 8 * (12 + 3)
        memories.append([state.tensors["perturbation_momentum"] for state in optimizer.tensor_states.values()])
    assert all(torch.equal(a, b) for a, b in zip(*memories, strict=True))


def test_times_out_of_order_are_named() -> None:
    with pytest.raises(UsageError, match="0 <= t1 <= t2 <= t3; got 1024, 200, 400"):
        make_method("zo_adamu", {"t1": 1024}, total_steps=400)
