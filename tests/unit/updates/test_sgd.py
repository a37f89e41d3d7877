"""Plain descent, with decay of the weights before the step, and clipping."""

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from foretune import MeZO, Optimizer
from foretune.directions import HessianScaled, LowRankProduct
from foretune.errors import IncompatibleError, UsageError
from foretune.estimators import SecondDifference, TwoSided
from foretune.journal import Journal
from foretune.schedules import NormScaled, RandomGroups
from foretune.spaces import LowRank, Masked, OneSidedOrthonormal
from foretune.updates import SGD
from promised import run, state_of
from toys import Net, differing_bits, restore, trainables_of, weights_of
from update_runs import estimates_and_start, run_update


def test_against_torch() -> None:
    """torch's SGD couples decay; for plain descent that is the same as shrinking the weights."""
    estimates, start = estimates_and_start(3, 4)
    weights, state = run_update(SGD(weight_decay=0.3), start, estimates, lr=0.1)
    parameter = torch.nn.Parameter(start.clone())
    oracle = torch.optim.SGD([parameter], lr=0.1, weight_decay=0.3)
    for parameter.grad in estimates:
        oracle.step()
    torch.testing.assert_close(weights, parameter.detach(), rtol=0, atol=1e-14)
    assert not state.tensors


def test_vectors_do_not_decay() -> None:
    estimates, start = estimates_and_start(5)
    weights, _ = run_update(SGD(weight_decay=0.3), start, estimates, lr=0.1)
    torch.testing.assert_close(weights, start - 0.1 * torch.stack(estimates).sum(0), rtol=0, atol=1e-14)


def test_no_state_is_declared() -> None:
    (trainable,) = trainables_of(w=(3, 4))
    assert SGD().num_state_elements(trainable, (3, 4)) == 0


class Length:
    """An estimate of this norm."""

    def __init__(self, norm: float) -> None:
        self._norm = norm

    def loss(self, factor: float) -> float:
        raise AssertionError("clipping evaluates no loss")

    def norm(self) -> float:
        return self._norm


@pytest.mark.parametrize(
    ("length", "expected"), [(8.0, 0.25), (2.0, 1.0), (1.9, 1.0), (0.0, 1.0), (math.inf, 0.0)], ids=str
)
def test_the_clipping_factor(length: float, expected: float) -> None:
    """It is the update's one decision, for which no loss is evaluated; without clipping there is none."""
    update = SGD(max_grad_norm=2.0)
    assert update.decide(Length(length)) == (expected,)
    assert (update.num_decisions, update.num_trials) == (1, 0)
    assert SGD().num_decisions == 0


class Clipped:
    """A method's parts with clipping, on a toy, and on a twin without."""

    def __init__(self, max_grad_norm: float, model: Callable[[], nn.Module], **parts: Any) -> None:
        self.before = weights_of(model())
        self.records, self.changes = [], []
        for update in (SGD(max_grad_norm=max_grad_norm), SGD()):
            twin = model()
            optimizer = Optimizer(
                twin, estimator=TwoSided(zo_eps=1e-3, num_directions=3), update=update, lr=LR, **parts
            )
            optimizer.step(twin)
            self.records.append(optimizer.last_record)
            after = weights_of(twin)
            moving = [name for name, parameter in twin.named_parameters() if parameter.requires_grad]
            self.changes.append([after[name] - self.before[name] for name in moving])


def length(tensors: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors))


LR = 0.1
PARTS = {
    "identity": {},
    "low_rank": {"space": LowRank(rank=1)},
    "one_sided": {"space": OneSidedOrthonormal(rank=2)},
    "masked": {"space": Masked(sparsity=0.5, rule="magnitude")},
    "std": {"schedule": RandomGroups(stds=(1.0, 0.5), granularity="tensor")},
    "mask": {"schedule": RandomGroups(stds=(1.0, 0.5))},
    "scale": {"schedule": NormScaled()},
    "products": {"direction": LowRankProduct(rank=1)},
}


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_accept_clipped_steps_are_no_longer_than_lr_max_grad_norm(parts: dict[str, Any]) -> None:
    """In every space, with masks and factors on a tensor's directions: what is clipped is what is added, lifted."""
    max_grad_norm = 0.3
    clips = Clipped(max_grad_norm, lambda: Net(torch.float64), **parts)
    (clipped, plain), (record, unclipped) = clips.changes, clips.records
    num_blocks = len(unclipped.scalars) // 3
    factors = record.scalars[3::4]
    assert len(factors) == num_blocks
    assert min(factors) < 1.0
    if num_blocks == 1:
        assert length(clipped) == pytest.approx(LR * max_grad_norm, rel=1e-9)
        gradients = [nn.Parameter(torch.zeros_like(change)) for change in plain]
        for parameter, change in zip(gradients, plain, strict=True):
            parameter.grad = -change / LR
        nn.utils.clip_grad_norm_(gradients, max_grad_norm)
        for parameter, change in zip(gradients, clipped, strict=True):
            torch.testing.assert_close(change, -LR * parameter.grad, rtol=1e-5, atol=1e-12)
    else:
        assert length(clipped) <= LR * max_grad_norm * num_blocks * (1 + 1e-12)


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_accept_shorter_estimates_keep_their_bits(parts: dict[str, Any]) -> None:
    clips = Clipped(1e6, lambda: Net(torch.float64), **parts)
    assert set(clips.records[0].scalars[3::4]) == {1.0}
    assert differing_bits(*(dict(enumerate(change)) for change in clips.changes)) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_accept_clipped_runs_replay_and_resume(tmp_path: Path, dtype: torch.dtype) -> None:
    """Bit for bit, from records of 58 bytes (50 without clipping)."""

    def build() -> Optimizer:
        return MeZO(Net(dtype), lr=LR, max_grad_norm=2.0, seed=3)

    optimizer = build()
    optimizer.record_to(tmp_path / "journal")
    records = run(optimizer, optimizer.model, 3)
    weights, state = weights_of(optimizer.model), copy.deepcopy(optimizer.state_dict())
    records += run(optimizer, optimizer.model, 3)
    optimizer.journal.close()
    assert {record.scalars[1] < 1.0 for record in records} == {True, False}
    offsets = Journal.read(tmp_path / "journal").offsets
    assert {b - a for a, b in itertools.pairwise(offsets)} == {58}

    resumed, replayed = build(), build()
    restore(resumed.model, weights)
    resumed.load_state_dict(state)
    run(resumed, resumed.model, 3)
    for record in records:
        replayed.replay(record)
    for other in (resumed, replayed):
        assert differing_bits(state_of(optimizer), state_of(other)) == []


def test_clipping_spares_the_decay() -> None:
    model = Net(torch.float64)
    before = weights_of(model)
    MeZO(model, lr=LR, weight_decay=0.5, max_grad_norm=1e-12).step(model)
    torch.testing.assert_close(model.head.weight.detach(), 0.95 * before["head.weight"], rtol=0, atol=1e-12)


def test_a_step_along_another_direction_cannot_be_clipped() -> None:
    direction = HessianScaled(precond="new")
    with pytest.raises(IncompatibleError, match="max_grad_norm cannot be combined with this HessianScaled"):
        Optimizer(Net(), direction=direction, estimator=SecondDifference(), update=SGD(max_grad_norm=1.0), lr=LR)


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_a_norm_out_of_range_is_named(value: float) -> None:
    with pytest.raises(UsageError, match=f"max_grad_norm must be 0 or more and finite, got {value}"):
        SGD(max_grad_norm=value)
