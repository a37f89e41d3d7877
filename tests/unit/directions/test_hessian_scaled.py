"""The running diagonal of the Hessian: its mean increments, where it settles, and what float32 keeps of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from foretune import noise
from foretune.directions import Gaussian, HessianScaled
from foretune.errors import IncompatibleError, UsageError
from foretune.estimators import SecondDifference, TwoSided
from foretune.noise import Noise, Purpose
from foretune.optimizer import Optimizer
from foretune.parameters import collect_trainables
from foretune.schedules import RandomGroups
from foretune.spaces import LowRank, Masked
from foretune.types import AbstractSchedule, Block, Member, TensorState, Trainable
from live_bytes import LiveBytes
from promised import run
from toys import Quadratic, assert_mean, trainables_of

DIAGONAL = torch.tensor([1.0, 4.0, 0.5], dtype=torch.float64)
H = torch.tensor([2.0, 1.0, 3.0], dtype=torch.float64)


@dataclass(frozen=True)
class Scaled(AbstractSchedule):
    """Every tensor at every step, along directions of this std."""

    std: float
    sequential = False

    def blocks(self, step: int, trainables: Sequence[Trainable], *, seed: int) -> Sequence[Block]:
        return (Block(tuple(Member(trainable, std=self.std) for trainable in trainables)),)


def normal(*shape: int, key: int = 1) -> Tensor:
    return noise.fill(torch.empty(shape, dtype=torch.float64), Noise(key, 1, Purpose.DIRECTION))


def increments(form: str, smooth: float = 1e-3) -> Tensor:
    """(H_new - (1 - smooth) H) / smooth on the quadratic of this diagonal, over many z."""
    z = normal(100_000, 3)
    curvature = (DIAGONAL * z**2 / H).sum(dim=1, keepdim=True)  # of y = z / sqrt(H)
    log_hessian = H.log().repeat(100_000, 1)
    HessianScaled(smooth=smooth, form=form).follow(log_hessian, z, curvature)
    return (log_hessian.exp() - (1 - smooth) * H) / smooth


def test_the_unbiased_increment_has_the_diagonal_as_its_mean() -> None:
    """E[curvature/2 H_i (z_i^2 - 1)] = a_i."""
    assert_mean(increments("unbiased"), DIAGONAL)


def test_the_biased_increment_carries_a_common_inflation() -> None:
    """E[|curvature|/2 H_i z_i^2] = a_i + H_i/2 sum_j a_j / H_j."""
    assert_mean(increments("biased"), DIAGONAL + H / 2 * (DIAGONAL / H).sum())


@pytest.mark.parametrize("form", ["biased", "unbiased"])
def test_against_the_recursion(form: str) -> None:
    """H itself, by the equations, with a curvature of either sign; the direction is z / sqrt(H)."""
    (trainable,) = trainables_of(w=(3, 4))
    direction, state, hessian = HessianScaled(smooth=0.01, form=form, floor=0.5), TensorState(), 1.0
    for step, curvature in enumerate([3.0, -2.0, 40.0, -300.0, 0.0, 500.0]):
        z = noise.fill(torch.empty(3, 4, dtype=torch.float64), Noise(step, trainable.stream, Purpose.DIRECTION))
        draw = direction.draw(trainable, state, key=step, step=step, coordinate_shape=(3, 4))
        y = draw.vector.materialize((3, 4), trainable.parameter)
        torch.testing.assert_close(y, z / hessian**0.5 if step else z, rtol=1e-13, atol=0)
        direction.advance(trainable, state, keys=[step], step=step, coordinate_shape=(3, 4), scalars=(9.0, curvature))
        growth = abs(curvature) * z**2 if form == "biased" else curvature * (z**2 - 1)
        hessian = torch.clamp((1 - 0.01) * hessian + 0.01 / 2 * hessian * growth, min=0.5)
        torch.testing.assert_close(state.tensors["log_hessian"].exp(), hessian, rtol=1e-12, atol=0)


def test_the_unbiased_form_settles_at_the_diagonal() -> None:
    """Diagonal (1, 100), smooth 1e-2, floor 1e-3: the average over 2e5 steps (400 chains of 500, which begin
    there and run in over 500 steps) is the diagonal to 5%."""
    diagonal = torch.tensor([1.0, 100.0], dtype=torch.float64)
    direction = HessianScaled(smooth=1e-2, form="unbiased", floor=1e-3)
    log_hessian = diagonal.log().repeat(400, 1)
    total = torch.zeros(2, dtype=torch.float64)
    for step in range(1000):
        z = normal(400, 2, key=step)
        curvature = (diagonal * z**2 * (-log_hessian).exp()).sum(dim=1, keepdim=True)
        direction.follow(log_hessian, z, curvature)
        if step >= 500:
            total += log_hessian.exp().mean(dim=0) / 500
    torch.testing.assert_close(total, diagonal, rtol=0.05, atol=0)


def test_float32_keeps_the_growth_of_a_tiny_smooth() -> None:
    """1e-8 beside 1 is lost in float32; log H keeps it. 2000 steps against float64, to 1e-3 of the growth."""
    direction = HessianScaled(smooth=1e-8)
    precise, single = torch.zeros(50, dtype=torch.float64), torch.zeros(50)
    for step in range(2000):
        z = normal(50, key=step)
        direction.follow(single, z.float(), 1000.0)
        direction.follow(precise, z, 1000.0)
    assert float(precise.mean()) == pytest.approx(2000 * 1e-8 * (500 - 1), rel=0.05)
    torch.testing.assert_close(single.double(), precise, rtol=1e-3, atol=0)


def test_limits_hold() -> None:
    direction = HessianScaled(smooth=1.0, form="unbiased")
    z = torch.tensor([0.1, 3.0], dtype=torch.float64)
    log_hessian = torch.zeros(2, dtype=torch.float64)
    direction.follow(log_hessian, z, 1e12)
    torch.testing.assert_close(log_hessian.exp(), torch.tensor([1e-6, 1e6], dtype=torch.float64), rtol=1e-12, atol=0)


def test_a_large_draw_makes_one_temporary_of_its_size() -> None:
    shape = (4096, 1024)
    (trainable,) = collect_trainables(nn.Linear(shape[1], shape[0], bias=False))
    log_hessian = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    state = TensorState({"log_hessian": log_hessian})
    with LiveBytes() as counter:
        draw = HessianScaled().draw(trainable, state, key=3, step=0, coordinate_shape=shape)
    assert counter.peak <= 1.1 * log_hessian.nbytes
    (_, y) = draw.vector.dense
    z = noise.fill(torch.empty(shape), Noise(3, trainable.stream, Purpose.DIRECTION))
    assert torch.equal(y, z * (-0.5 * log_hessian).exp())


def test_without_smoothing_it_is_gaussian_to_the_bit() -> None:
    (trainable,) = trainables_of(w=(3, 4))
    direction, state = HessianScaled(smooth=0.0), TensorState()
    for step in range(3):
        y, z = (
            law.draw(trainable, state, key=step, step=step, coordinate_shape=(3, 4)).vector.materialize(
                (3, 4), trainable.parameter
            )
            for law in (direction, Gaussian())
        )
        assert torch.equal(y, z)
        direction.advance(trainable, state, keys=[step], step=step, coordinate_shape=(3, 4), scalars=(1.0, 1e30))


@pytest.mark.parametrize("precond", ["old", "new"])
def test_directions_of_another_std_are_those_of_other_coordinates(precond: str) -> None:
    """theta = std u: the run along std y is the one of u along y, so H is std^2 times the diagonal."""
    std, models, optimizers = 0.25, [], []
    for schedule in (Scaled(std), Scaled(1.0)):
        model = Quadratic({"a": (3, 2), "b": (4,)})
        direction = HessianScaled(smooth=1e-2, form="unbiased", precond=precond)
        optimizers.append(
            Optimizer(model, direction=direction, estimator=SecondDifference(), schedule=schedule, lr=0.05, seed=3)
        )
        models.append(model)
    ours, theirs = models
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.div_(std)

    def of_other_coordinates() -> Tensor:
        difference = std * theirs.flat() - theirs.target
        return 0.5 * difference @ theirs.hessian @ difference

    for _ in range(20):
        optimizers[0].step(ours)
        optimizers[1].step(of_other_coordinates)
    torch.testing.assert_close(ours.flat(), std * theirs.flat(), rtol=1e-7, atol=0)
    found, expected = (
        {t.name: state.tensors["log_hessian"] for t, state in optimizer.tensor_states.items()}
        for optimizer in optimizers
    )
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
    assert max(float(tensor.abs().max()) for tensor in found.values()) > 0.1


def test_a_new_basis_keeps_h() -> None:
    """H is no vector: a linear map of log H would mean nothing."""
    model = Quadratic({"a": (6, 5), "b": (4,)})
    optimizer = Optimizer(
        model,
        space=LowRank(rank=2, interval=2),
        direction=HessianScaled(smooth=1e-3),
        estimator=SecondDifference(),
        lr=1e-3,
    )
    run(optimizer, model, 2)
    before = {t.name: state.tensors["log_hessian"].clone() for t, state in optimizer.tensor_states.items()}
    optimizer.estimate(model)
    for trainable, state in optimizer.tensor_states.items():
        assert torch.equal(state.tensors["log_hessian"], before[trainable.name])
        assert state.epoch == 1
    assert optimizer.state_bytes == 8 * (6 * 2 + 4)


def test_an_estimator_without_curvature_is_refused_by_name() -> None:
    with pytest.raises(IncompatibleError, match=r"HessianScaled cannot be combined with TwoSided.*SecondDifference"):
        Optimizer(Quadratic({"a": (2,)}), direction=HessianScaled(), estimator=TwoSided(), lr=0.1)


@pytest.mark.parametrize("parts", [{"space": Masked()}, {"schedule": RandomGroups()}])
def test_masks_are_refused_by_name(parts: dict[str, Any]) -> None:
    (name,) = (type(part).__name__ for part in parts.values())
    with pytest.raises(IncompatibleError, match=rf"HessianScaled cannot be combined with {name}: entries that rest"):
        Optimizer(Quadratic({"a": (2,)}), direction=HessianScaled(), estimator=SecondDifference(), lr=0.1, **parts)


def test_settings_out_of_range_are_named() -> None:
    for smooth in (-0.1, 1.1, math.nan):
        with pytest.raises(UsageError, match=rf"smooth must be in \[0, 1\], got {smooth}"):
            HessianScaled(smooth=smooth)
    with pytest.raises(UsageError, match=r"floor and ceiling .* with 1 between them, got 2.0, 1000000.0"):
        HessianScaled(floor=2.0)
    with pytest.raises(UsageError, match=r"Unknown form 'unbiassed'\. Did you mean: unbiased"):
        HessianScaled(form="unbiassed")
    with pytest.raises(UsageError, match=r"Unknown precond 'both'"):
        HessianScaled(precond="both")
