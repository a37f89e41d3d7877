"""HiZOO: MeZO where nothing is learnt of the curvature, its equations where something is, and its state."""

import copy

import pytest
import torch
from torch import Tensor

from foretune import HiZOO, MeZO, noise
from foretune.estimators import SecondDifference
from foretune.methods import make_method
from foretune.noise import Noise, Purpose
from promised import run
from toys import CountedCalls, Net, Quadratic, differing_bits, weights_of

SHAPES = {"a": (3, 4), "b": (3,)}


def test_defaults() -> None:
    method = make_method("hizoo", {})
    assert (method.lr, method.zo_eps, method.form, method.precond) == (1e-6, 1e-3, "biased", "old")
    assert method.smooth > 0
    assert method.parts().estimator == SecondDifference(zo_eps=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("precond", ["old", "new"])
def test_without_smoothing_it_is_mezo_to_the_bit(precond: str, dtype: torch.dtype) -> None:
    weights = []
    for build in (lambda model, **o: HiZOO(model, smooth=0.0, precond=precond, **o), MeZO):
        model = Net(dtype)
        run(build(model, lr=0.05, weight_decay=0.1, seed=3), model, 6)
        weights.append(weights_of(model))
    assert differing_bits(*weights) == []
    assert differing_bits(weights[0], weights_of(Net(dtype))) != []


@pytest.mark.parametrize("precond", ["old", "new"])
@pytest.mark.parametrize("form", ["biased", "unbiased"])
def test_against_the_equations(form: str, precond: str) -> None:
    """The whole run a second time in plain PyTorch; losses are measured along z / sqrt(H) with the old H."""
    model, seed, smooth = Quadratic(SHAPES), 5, 0.02
    optimizer = HiZOO(
        model, lr=0.03, zo_eps=0.1, smooth=smooth, form=form, precond=precond, weight_decay=0.1, seed=seed,
        engine="in_place",
    )  # fmt: skip
    theta = weights_of(model)
    hessian = {name: torch.ones_like(tensor) for name, tensor in theta.items()}
    for step in range(8):
        seen: list[dict[str, Tensor]] = []

        def closure(seen: list[dict[str, Tensor]] = seen) -> Tensor:
            seen.append(weights_of(model))
            return model()

        optimizer.step(closure)
        slope, curvature = optimizer.last_record.scalars
        for trainable in optimizer.trainables:
            name, old = trainable.name, hessian[trainable.name]
            z = noise.fill(
                torch.empty(trainable.shape, dtype=torch.float64),
                Noise(noise.mix(seed, step), trainable.stream, Purpose.DIRECTION),
            )
            torch.testing.assert_close(seen[1][name] - theta[name], 0.1 * z / old.sqrt(), rtol=0, atol=1e-12)
            growth = abs(curvature) * z**2 if form == "biased" else curvature * (z**2 - 1)
            hessian[name] = (1 - smooth) * old + smooth / 2 * old * growth
            assert (hessian[name] > 1e-6).all()
            used = old if precond == "old" else hessian[name]
            decay = 0.1 * theta[name] if name == "a" else 0.0
            theta[name] = theta[name] - 0.03 * (slope * z / used.sqrt() + decay)
        for trainable, state in optimizer.tensor_states.items():
            torch.testing.assert_close(state.tensors["log_hessian"].exp(), hessian[trainable.name], rtol=1e-10, atol=0)
        for name, tensor in weights_of(model).items():
            torch.testing.assert_close(tensor, theta[name], rtol=0, atol=1e-12)


def test_three_forwards_a_step() -> None:
    model = Quadratic(SHAPES)
    calls = CountedCalls(model)
    run(HiZOO(model, lr=0.01, engine="in_place"), calls, 5)
    assert calls.count == 15


def test_a_resume_restores_h() -> None:
    model = Net(torch.bfloat16)
    optimizer = HiZOO(model, lr=0.01, smooth=1e-2)
    run(optimizer, model, 4)
    assert optimizer.state_bytes == sum(4 * t.parameter.numel() for t in optimizer.trainables)
    resumed = HiZOO(Net(torch.bfloat16), lr=0.01, smooth=1e-2)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for ours, theirs in zip(optimizer.tensor_states.values(), resumed.tensor_states.values(), strict=True):
        assert ours.tensors["log_hessian"].dtype == torch.float32
        assert float(ours.tensors["log_hessian"].abs().max()) > 0
        assert torch.equal(ours.tensors["log_hessian"], theirs.tensors["log_hessian"])


def test_curved_directions_become_short() -> None:
    """The unbiased form on f = (x^2 + 100 y^2) / 2, theta held: H is larger where the loss is more curved."""
    model = torch.nn.Module()
    model.theta = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    diagonal = torch.tensor([1.0, 100.0], dtype=torch.float64)
    optimizer = HiZOO(model, lr=0.0, zo_eps=0.5, smooth=1e-2, form="unbiased")
    for _ in range(600):
        optimizer.step(lambda: 0.5 * (diagonal * model.theta**2).sum())
    (state,) = optimizer.tensor_states.values()
    flat, curved = state.tensors["log_hessian"].exp().tolist()
    assert curved > 10 * flat
