"""The decaying sum of estimates, stored or regenerated from keys."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from foretune import LowRank, Optimizer, TwoSided, noise
from foretune.errors import IncompatibleError, UsageError
from foretune.noise import LaneMask, Mask, Noise, Purpose
from foretune.spaces import Identity
from foretune.types import AbstractSchedule, Block, Member, Trainable
from foretune.updates import HeavyBall
from toys import Net, Quadratic, differing_bits, restore, trainables_of, weights_of
from update_runs import estimates_and_start, run_update

SHAPES = {"w": (3, 4), "b": (3,)}


def build(model: nn.Module, update: HeavyBall, **options: object) -> Optimizer:
    settings = {"estimator": TwoSided(), "lr": 0.01, "engine": "in_place"} | options
    return Optimizer(model, update=update, **settings)


@pytest.mark.parametrize("shape", [(3, 4), (5,)])
def test_against_torch(shape: tuple[int, ...]) -> None:
    """torch's SGD without dampening; its decay is coupled, ours shrinks the weights (matrices only)."""
    estimates, start = estimates_and_start(*shape, num=8)
    weights, state = run_update(HeavyBall(momentum=0.7), start, estimates, lr=0.1)
    parameter = nn.Parameter(start.clone())
    oracle = torch.optim.SGD([parameter], lr=0.1, momentum=0.7)
    for parameter.grad in estimates:
        oracle.step()
    torch.testing.assert_close(weights, parameter.detach(), rtol=0, atol=1e-13)
    torch.testing.assert_close(
        state.tensors["momentum"], oracle.state[parameter]["momentum_buffer"], rtol=0, atol=1e-13
    )


def test_decay_shrinks_the_weights() -> None:
    estimates, start = estimates_and_start(3, 4)
    weights, _ = run_update(HeavyBall(momentum=0.7, weight_decay=0.4), start, estimates, lr=0.1)
    expected, total = start.clone(), torch.zeros(3, 4, dtype=torch.float64)
    for estimate in estimates:
        total = 0.7 * total + estimate
        expected = (1 - 0.1 * 0.4) * expected - 0.1 * total
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-13)


def test_a_constant_estimate_is_summed_geometrically() -> None:
    """m_k = c (1 - mu^k) / (1 - mu)."""
    estimates, start = estimates_and_start(3, 4, num=1)
    for k in (1, 2, 5, 40):
        _, state = run_update(HeavyBall(momentum=0.9), start, estimates * k, lr=0.1)
        torch.testing.assert_close(
            state.tensors["momentum"], estimates[0] * (1 - 0.9**k) / (1 - 0.9), rtol=1e-12, atol=0
        )


def test_zero_momentum_keeps_nothing() -> None:
    estimates, start = estimates_and_start(3, 4)
    update = HeavyBall(momentum=0.0)
    _, state = run_update(update, start, estimates, lr=0.1)
    assert not state.tensors
    assert update.num_state_elements(trainables_of(w=(3, 4))[0], (3, 4)) == 0


@pytest.mark.parametrize("num_directions", [1, 3])
def test_regenerated_momentum_is_the_stored_one_while_nothing_is_forgotten(num_directions: int) -> None:
    results = []
    for num_terms in (None, 12 * num_directions):
        model = Quadratic(SHAPES)
        estimator = TwoSided(num_directions=num_directions)
        optimizer = build(model, HeavyBall(momentum=0.8, num_terms=num_terms, weight_decay=0.1), estimator=estimator)
        for _ in range(12):
            optimizer.step(model)
        results.append(weights_of(model))
    for name in SHAPES:
        torch.testing.assert_close(results[0][name], results[1][name], rtol=0, atol=1e-12)


def test_the_oldest_directions_are_forgotten() -> None:
    """With 2 terms, the third step follows g_2 z_2 + mu g_1 z_1."""
    model = Quadratic({"w": (3, 4)})
    optimizer = build(model, HeavyBall(momentum=0.8, num_terms=2), seed=5)
    slopes = []
    for _ in range(3):
        before = model.w.detach().clone()
        optimizer.step(model)
        slopes += optimizer.last_record.scalars
    z = [
        noise.fill(
            torch.empty(3, 4, dtype=torch.float64),
            Noise(noise.mix(5, step), optimizer.trainables[0].stream, Purpose.DIRECTION),
        )
        for step in range(3)
    ]
    expected = before - 0.01 * (slopes[2] * z[2] + 0.8 * slopes[1] * z[1])
    torch.testing.assert_close(model.w.detach(), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_remembered_terms_are_declared_saved_and_resumed(dtype: torch.dtype) -> None:
    """16 bytes for each term and tensor, whatever its size; bit for bit from a checkpoint and from records."""
    update = HeavyBall(momentum=0.8, num_terms=7)
    model, resumed_model, replayed_model = (Net(dtype) for _ in range(3))
    optimizer = build(model, update)
    records = []
    for step in range(12):
        if step == 5:
            saved = copy.deepcopy((weights_of(model), optimizer.state_dict()))
        optimizer.step(model)
        records.append(optimizer.last_record)
    tensors = [tensor for state in optimizer.tensor_states.values() for tensor in state.tensors.values()]
    assert sum(tensor.nbytes for tensor in tensors) == optimizer.state_bytes == 6 * 7 * 16
    restore(resumed_model, saved[0])
    resumed = build(resumed_model, update)
    resumed.load_state_dict(saved[1])
    for _ in range(7):
        resumed.step(resumed_model)
    replayed = build(replayed_model, update)
    for record in records:
        replayed.replay(record)
    for other in (resumed_model, replayed_model):
        assert differing_bits(weights_of(model), weights_of(other)) == []


@dataclass(frozen=True, kw_only=True)
class MaskedLater(AbstractSchedule):
    """All tensors, with a mask from step `first` on."""

    first: int
    sequential = False

    def blocks(self, step: int, trainables: Sequence[Trainable], *, seed: int) -> Sequence[Block]:
        def mask(trainable: Trainable) -> Mask | None:
            return LaneMask(Noise(1, trainable.stream, Purpose.MASK), 0, 9) if step >= self.first else None

        return (Block(tuple(Member(trainable, mask=mask(trainable)) for trainable in trainables)),)


@dataclass(frozen=True, kw_only=True)
class Striped(Identity):
    """A space that says it masks."""

    masks = True


def test_what_cannot_be_regenerated_is_refused_by_name() -> None:
    update = HeavyBall(num_terms=5)
    with pytest.raises(IncompatibleError, match=r"num_terms cannot be combined with LowRank.*num_terms=None"):
        build(Net(), update, space=LowRank())
    with pytest.raises(IncompatibleError, match=r"cannot be combined with Striped: its masks change"):
        build(Net(), update, space=Striped())
    with pytest.raises(IncompatibleError, match=r"cannot be combined with MaskedLater: its masks change"):
        build(Net(), update, schedule=MaskedLater(first=0))
    model = Net()
    optimizer = build(model, update, schedule=MaskedLater(first=1))
    optimizer.step(model)
    with pytest.raises(IncompatibleError, match=r"cannot be combined with a schedule with masks"):
        optimizer.step(model)
    build(Net(), HeavyBall(), space=LowRank())
    build(Net(), HeavyBall(), schedule=MaskedLater(first=0))


def test_masked_momentum_decays_without_an_update() -> None:
    """m of entries that are left out shrinks by mu; the entries stay (methods.md 10, 8)."""
    model = Quadratic({"w": (40, 5)})
    optimizer = build(model, HeavyBall(momentum=0.5), schedule=MaskedLater(first=1))
    optimizer.step(model)
    (trainable,), (state,) = optimizer.trainables, optimizer.tensor_states.values()
    first, before = state.tensors["momentum"].clone(), model.w.detach().clone()
    optimizer.step(model)
    kept = noise.kept(LaneMask(Noise(1, trainable.stream, Purpose.MASK), 0, 9), model.w.detach())
    assert torch.equal(state.tensors["momentum"][~kept], 0.5 * first[~kept])
    assert torch.equal(model.w.detach()[~kept], before[~kept])


@pytest.mark.parametrize("momentum", [1.0, -0.1, float("nan")])
def test_momentum_out_of_range_is_named(momentum: float) -> None:
    with pytest.raises(UsageError, match=rf"momentum must be in \[0, 1\), got {momentum}"):
        HeavyBall(momentum=momentum)


def test_no_terms_are_refused() -> None:
    with pytest.raises(UsageError, match="num_terms must be at least 1, or None to store the momentum, got 0"):
        HeavyBall(num_terms=0)
