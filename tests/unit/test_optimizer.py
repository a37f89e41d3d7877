"""The step loop: evaluations, blocks in sequence and at once, journal, replay, checkpoints, errors."""

import copy
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from foretune import LOZO, SGD, LowRank, MeZO, Momentum, OneSided, Optimizer, TwoSided, noise
from foretune.errors import IncompatibleError, NonFiniteLossError, UsageError
from foretune.journal import Journal, StepRecord
from foretune.noise import Noise, Purpose
from foretune.types import AbstractSchedule, Block, Member, TensorState, Trainable
from toys import CountedCalls, Net, Quadratic, assert_mean, differing_bits, restore, weights_of

SHAPES = {"a1": (2, 3), "a2": (2,), "b1": (2, 3), "b2": (3,)}
SIZES = [6, 2, 6, 3]


@dataclass(frozen=True, kw_only=True)
class TwoBlocks(AbstractSchedule):
    """First the tensors whose names begin with ``a``, then the others, each block with its own factors."""

    sequential: bool
    std: tuple[float, float] = (1.0, 1.0)
    lr: tuple[float, float] = (1.0, 1.0)

    def blocks(self, step: int, trainables: Sequence[Trainable], *, seed: int) -> Sequence[Block]:
        members = (
            [trainable for trainable in trainables if trainable.name.startswith("a") is first]
            for first in (True, False)
        )
        return tuple(
            Block(tuple(Member(trainable, std=std, lr=lr) for trainable in block))
            for block, std, lr in zip(members, self.std, self.lr, strict=True)
        )


@dataclass(frozen=True, kw_only=True)
class Alternating(TwoBlocks):
    """The first block at even steps, the second at odd ones."""

    sequential: bool = False

    def blocks(self, step: int, trainables: Sequence[Trainable], *, seed: int) -> Sequence[Block]:
        return (super().blocks(step, trainables, seed=seed)[step % 2],)


@dataclass(frozen=True, kw_only=True)
class Noting(TwoBlocks):
    """Notes the steps at whose beginning it was asked to look at the weights."""

    begun: list[int] = field(default_factory=list)

    def begin_step(self, step: int, states: Mapping[Trainable, TensorState]) -> None:
        self.begun.append(step)


def direction(name: str, seed: int, step: int, index: int) -> Tensor:
    """z of one tensor for the index-th direction of a step."""
    address = Noise(noise.mix(seed, step, index), noise.stream_id(name), Purpose.DIRECTION)
    return noise.fill(torch.empty(SHAPES[name], dtype=torch.float64), address)


def block_direction(block: str, seed: int, step: int, index: int) -> Tensor:
    """z over all tensors, zero outside of the block, shape (d,)."""
    return torch.cat([direction(name, seed, step, index).flatten() * name.startswith(block) for name in SHAPES])


def scripted(*losses: float):
    """A closure that returns these losses in turn."""
    remaining = iter(losses)
    return lambda: next(remaining)


# -------------------------------------------------------------------- evaluations


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        (TwoSided(), 2),
        (TwoSided(num_directions=3), 6),
        (OneSided(), 2),
        (OneSided(num_directions=4), 5),
    ],
)
def test_number_of_forwards(estimator: TwoSided | OneSided, expected: int) -> None:
    """One more at the first step where the engine is chosen by a watched forward."""
    for engine, audit in (("in_place", 0), ("auto", 1)):
        model = Net()
        closure = CountedCalls(model)
        optimizer = Optimizer(model, estimator=estimator, lr=1e-3, engine=engine)
        optimizer.step(closure)
        assert closure.count == expected + audit
        optimizer.step(closure)
        assert closure.count == 2 * expected + audit


def test_many_directions_are_averaged_at_the_same_weights() -> None:
    """theta_1 = theta_0 - lr * mean_k (z_k^T gradient) z_k, 32 directions in one update."""
    model = Quadratic(SHAPES)
    before, gradient = model.flat().detach(), model.gradient()
    optimizer = MeZO(model, lr=0.1, zo_eps=0.1, num_directions=32, seed=2)
    optimizer.step(model)
    z = torch.stack([torch.cat([direction(name, 2, 0, k).flatten() for name in SHAPES]) for k in range(32)])
    torch.testing.assert_close(
        torch.tensor(optimizer.last_record.scalars, dtype=torch.float64), z @ gradient, rtol=0, atol=1e-11
    )
    expected = before - 0.1 * ((z @ gradient)[:, None] * z).mean(dim=0)
    torch.testing.assert_close(model.flat().detach(), expected, rtol=0, atol=1e-11)


def test_the_returned_loss_is_the_logged_one() -> None:
    optimizer = MeZO(Net(), lr=1e-3, engine="in_place")
    loss = optimizer.step(scripted(3.0, 1.0))
    assert (loss.item(), loss.dtype, loss.dim()) == (2.0, torch.float64, 0)
    assert optimizer.last_record == StepRecord(0, (1000.0,), 2.0, 1e-3, 1e-3, True)


def test_estimate_and_step_are_the_two_halves_of_a_step() -> None:
    results = []
    for halves in (False, True):
        model = Net()
        optimizer = MeZO(model, lr=0.1)
        for _ in range(3):
            if halves:
                optimizer.estimate(model)
                optimizer.step()
            else:
                optimizer.step(model)
        results.append(weights_of(model))
    assert differing_bits(*results) == []


def test_half_precision_updates_are_unbiased() -> None:
    """Steps of a hundredth of bf16's spacing at 1.0: most entries stay, the mean moves by what was asked."""
    model = nn.Linear(300, 100, bias=False, dtype=torch.bfloat16)
    nn.init.ones_(model.weight)
    optimizer = MeZO(model, lr=1e-4, zo_eps=1e-3, seed=6, engine="in_place")
    optimizer.step(scripted(1e-3, -1e-3))  # slope 1
    address = Noise(noise.mix(6, 0), optimizer.trainables[0].stream, Purpose.DIRECTION)
    z = noise.fill(torch.empty(100, 300, dtype=torch.float64), address)
    change = model.weight.detach().double() - 1.0
    assert 0.9 < float((change == 0).double().mean()) < 0.999
    error = (change + 1e-4 * z).flatten()
    assert_mean(torch.stack([error, error * z.flatten()], dim=1), 0.0)


# -------------------------------------------------------------------- blocks


def run_blocks(schedule: AbstractSchedule, num_steps: int, **options: object) -> tuple[Quadratic, Optimizer]:
    model = Quadratic(SHAPES)
    settings = {"estimator": TwoSided(zo_eps=0.1), "lr": 0.02, "seed": 4} | options
    optimizer = Optimizer(model, schedule=schedule, **settings)
    for _ in range(num_steps):
        optimizer.step(model)
    return model, optimizer


@pytest.mark.parametrize("sequential", [True, False])
def test_blocks_against_their_equations(sequential: bool) -> None:
    """Gauss-Seidel measures a block at weights that the blocks before it have moved, Jacobi does not."""
    schedule = TwoBlocks(sequential=sequential, std=(1.0, 0.5), lr=(1.0, 3.0))
    model, optimizer = run_blocks(schedule, 5)
    reference = Quadratic(SHAPES)
    theta = reference.flat().detach()
    for step in range(5):
        start = theta
        for index, (name, std, lr) in enumerate((("a", 1.0, 0.02), ("b", 0.5, 0.06))):
            z = std * block_direction(name, 4, step, index)
            at = theta if sequential else start
            slope = z @ reference.hessian @ (at - reference.target)
            theta = theta - lr * slope * z
    torch.testing.assert_close(model.flat().detach(), theta, rtol=0, atol=1e-11)
    assert len(optimizer.last_record.scalars) == 2


@pytest.mark.parametrize("sequential", [True, False])
def test_std_acts_twice_on_the_mean_update(sequential: bool) -> None:
    """E[change] = -lr * std^2 * gradient for each block."""
    schedule = TwoBlocks(sequential=sequential, std=(1.0, 0.5), lr=(1.0, 2.0))
    model, lr = Quadratic(SHAPES), 1e-7
    start, theta, gradient = weights_of(model), model.flat().detach(), model.gradient()
    changes = []
    for seed in range(250):
        restore(model, start)
        optimizer = Optimizer(model, estimator=TwoSided(), schedule=schedule, lr=lr, seed=seed, engine="in_place")
        optimizer.step(model)
        changes.append((model.flat().detach() - theta) / lr)
    factors = torch.cat([torch.full((size,), f) for size, f in zip(SIZES, (1, 1, 0.5, 0.5), strict=True)])
    assert_mean(torch.stack(changes), -factors * gradient)


def test_jacobi_and_gauss_seidel_agree_where_blocks_do_not_interact() -> None:
    results = []
    for sequential in (True, False):
        model = Quadratic(SHAPES)
        model.hessian[:8, 8:] = 0.0
        model.hessian[8:, :8] = 0.0
        optimizer = Optimizer(model, estimator=TwoSided(), schedule=TwoBlocks(sequential=sequential), lr=0.02)
        for _ in range(4):
            optimizer.step(model)
        results.append(model.flat().detach())
    torch.testing.assert_close(*results, rtol=0, atol=1e-9)


@pytest.mark.parametrize("sequential", [True, False])
def test_evaluations_per_block(sequential: bool) -> None:
    model = Quadratic(SHAPES)
    closure = CountedCalls(model)
    optimizer = Optimizer(
        model,
        estimator=OneSided(num_directions=2),
        schedule=TwoBlocks(sequential=sequential),
        lr=0.02,
        engine="in_place",
    )
    optimizer.step(closure)
    assert closure.count == 6
    assert len(optimizer.last_record.scalars) == 4


@pytest.mark.parametrize("sequential", [True, False])
@pytest.mark.parametrize("update", [SGD(), Momentum(beta=0.7)])
def test_blocks_replay_and_resume(sequential: bool, update: SGD | Momentum) -> None:
    """Bit for bit, in bfloat16, with a basis redrawn every other step."""

    def build() -> tuple[Net, Optimizer]:
        model = Net(torch.bfloat16)
        optimizer = Optimizer(
            model,
            space=LowRank(rank=2, interval=2),
            estimator=TwoSided(num_directions=2),
            update=update,
            schedule=TwoBlocks(sequential=sequential, std=(1.0, 0.5), lr=(1.0, 2.0)),
            lr=0.05,
        )
        return model, optimizer

    model, optimizer = build()
    replayed_model, replayed = build()
    resumed_model, resumed = build()
    for step in range(6):
        if step == 4:
            resumed_model.load_state_dict(copy.deepcopy(model.state_dict()))
            resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        optimizer.step(model)
        replayed.replay(optimizer.last_record)
        if step >= 4:
            resumed.step(resumed_model)
    assert differing_bits(weights_of(model), weights_of(replayed_model)) == []
    assert differing_bits(weights_of(model), weights_of(resumed_model)) == []


def test_a_sequential_step_that_was_interrupted_goes_on_where_it_stopped() -> None:
    """The closure raises in the second block, after the first has moved: the next call does not move it again.

    Nor does the step begin again: the weights are not those it began with.
    """
    results = []
    for fails in (False, True):
        model = Quadratic(SHAPES)
        schedule = Noting(sequential=True)
        optimizer = Optimizer(model, estimator=TwoSided(), schedule=schedule, lr=0.02, engine="in_place")
        calls = iter(range(100))

        def closure(model: Quadratic = model, calls: Iterator[int] = calls, fails: bool = fails) -> Tensor:
            if next(calls) == 3 and fails:
                raise RuntimeError("no more memory")
            return model()

        if fails:
            with pytest.raises(RuntimeError, match="no more memory"):
                optimizer.step(closure)
        optimizer.step(closure)
        results.append((model.flat().detach(), optimizer.last_record))
        assert schedule.begun == [0]
    assert torch.equal(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]


def test_tensors_cannot_be_added_later() -> None:
    model = Net()
    optimizer = MeZO(model)
    with pytest.raises(UsageError, match=r"add_param_group\(\) cannot add"):
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(2))]})


def test_inactive_tensors_are_untouched_and_count_their_own_updates() -> None:
    model = Quadratic(SHAPES)
    optimizer = Optimizer(
        model,
        space=LowRank(rank=1, interval=1),
        estimator=TwoSided(),
        update=Momentum(beta=0.5),
        schedule=Alternating(),
        lr=0.01,
    )
    for step in range(5):
        before = weights_of(model)
        optimizer.step(model)
        moving = "a" if step % 2 == 0 else "b"
        assert {name[0] for name in differing_bits(before, weights_of(model))} == {moving}
    counts = {t.name: (s.num_updates, s.epoch) for t, s in optimizer.tensor_states.items()}
    assert counts == {"a1": (3, 4), "a2": (3, 4), "b1": (2, 3), "b2": (2, 3)}


def test_momentum_of_a_resting_block_is_carried_from_its_own_basis() -> None:
    """Bases of the steps in between are skipped: N(4) = beta N(2) V_2^T V_4 / n + (1 - beta) g U."""
    model = Quadratic(SHAPES)
    space = LowRank(rank=2, interval=1)
    optimizer = Optimizer(
        model,
        space=space,
        estimator=TwoSided(),
        update=Momentum(beta=0.5),
        schedule=Alternating(),
        lr=0.01,
        seed=8,
    )
    trainable = next(t for t in optimizer.trainables if t.name == "a1")
    state = optimizer.tensor_states[trainable]
    for _ in range(4):
        optimizer.step(model)
    old = state.tensors["momentum"].clone()
    optimizer.step(model)
    v = [space.basis(trainable, seed=8, epoch=epoch) for epoch in (2, 4)]
    u = noise.fill(torch.empty(2, 2, dtype=torch.float64), Noise(noise.mix(8, 4), trainable.stream, Purpose.DIRECTION))
    (slope,) = optimizer.last_record.scalars
    expected = 0.5 * old @ v[0].T @ v[1] / 3 + 0.5 * slope * u / 2
    torch.testing.assert_close(state.tensors["momentum"], expected, rtol=0, atol=1e-13)


def test_blocks_of_one_step_round_with_different_bits() -> None:
    """Each block's update has its own rounding noise, as each has its own direction."""
    model = nn.ModuleDict({"a": nn.Linear(200, 10, bias=False), "b": nn.Linear(200, 10, bias=False)})
    model.to(torch.bfloat16)
    seen: list[int] = []

    class Recorder(LowRank):
        def add(self, trainable: Trainable, *args: object, rounding: Noise, **kwargs: object) -> None:
            if rounding.purpose is Purpose.UPDATE_ROUNDING:
                seen.append(rounding.key)
            super().add(trainable, *args, rounding=rounding, **kwargs)

    optimizer = Optimizer(
        model,
        space=Recorder(),
        estimator=TwoSided(),
        schedule=TwoBlocks(sequential=True),
        lr=0.1,
        engine="in_place",
    )
    optimizer.step(scripted(1.0, 0.0, 1.0, 0.0))
    optimizer.step(scripted(1.0, 0.0, 1.0, 0.0))
    assert len(set(seen)) == 4


# -------------------------------------------------------------------- bad steps


def test_a_good_step_ends_a_row_of_bad_ones() -> None:
    optimizer = MeZO(Net(), lr=1e-3, engine="in_place")
    bad, good = (math.nan, 1.0), (1.0, 0.9)
    for losses in [bad] * 9 + [good] + [bad] * 9:
        optimizer.step(scripted(*losses))
    assert optimizer.num_bad_steps == 9
    with pytest.raises(NonFiniteLossError, match="Loss is nan at step 19, the 10th step in a row"):
        optimizer.step(scripted(*bad))


def test_a_bad_block_does_not_stop_the_others() -> None:
    model = Quadratic(SHAPES)
    optimizer = Optimizer(model, estimator=TwoSided(), schedule=TwoBlocks(sequential=False), lr=0.1, engine="in_place")
    before = weights_of(model)
    optimizer.step(scripted(math.inf, 1.0, 1.0, 0.9))
    assert differing_bits(before, weights_of(model)) == ["b1", "b2"]
    assert optimizer.last_record.scalars[0] == 0.0
    assert not optimizer.last_record.accepted


# -------------------------------------------------------------------- journal


def test_the_journal_holds_every_step_and_what_decides_the_bits(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    model = Net()
    optimizer = LOZO(model, lr=0.1, seed=7)
    optimizer.record_to(path, run={"note": "test"})
    assert not path.exists()
    records = []
    for _ in range(3):
        optimizer.step(model)
        records.append(optimizer.last_record)
    optimizer.journal.close()
    journal = Journal.read(path)
    assert journal.steps == records
    header = journal.header
    assert header["note"] == "test"
    assert (header["seed"], header["engine"], header["noise_version"]) == (7, "layerwise", noise.VERSION)
    assert header["method"]["name"] == "lozo"
    assert header["parts"]["space"] == {"type": "LowRank", "rank": 2, "interval": 50}
    assert header["parameters"][0] == {"name": "first.bias", "shape": [3], "dtype": "float32"}
    assert json.loads(json.dumps(optimizer.describe())) == optimizer.describe()


def test_a_record_is_written_before_its_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What dies during the update is replayed; what dies during the losses leaves no trace."""
    path = tmp_path / "journal"
    model = Net()
    optimizer = MeZO(model, lr=0.1)
    optimizer.record_to(path)
    optimizer.step(model)
    before = weights_of(model)

    def broken() -> Tensor:
        raise RuntimeError("no data")

    with pytest.raises(RuntimeError, match="no data"):
        optimizer.step(broken)
    assert len(Journal.read(path).steps) == 1
    assert differing_bits(before, weights_of(model)) == []

    def dies(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Optimizer, "_apply", dies)
        optimizer.step(model)
    assert len(Journal.read(path).steps) == 2
    optimizer.replay(Journal.read(path).steps[1])
    optimizer.journal.close()

    straight_model = Net()
    straight = MeZO(straight_model, lr=0.1)
    for _ in range(2):
        straight.step(straight_model)
    assert differing_bits(weights_of(straight_model), weights_of(model)) == []


def test_a_recalled_step_is_made_but_not_written_again(tmp_path: Path) -> None:
    model, twin = Net(), Net()
    optimizer, recalling = MeZO(model, lr=0.1), MeZO(twin, lr=0.1)
    recalling.record_to(tmp_path / "journal")
    recalling.estimate(twin)  # creates the journal
    optimizer.step(model)
    recalling.recall(optimizer.last_record)
    loss = recalling.step()
    assert loss.item() == optimizer.last_record.loss
    assert differing_bits(weights_of(model), weights_of(twin)) == []
    assert Journal.read(tmp_path / "journal").steps == []
    recalling.step(twin)
    assert [record.step for record in Journal.read(tmp_path / "journal").steps] == [1]
    recalling.journal.close()


def test_a_loaded_state_is_a_copy() -> None:
    """Going on with one optimizer does not move the momentum of the one it was loaded from."""
    model, twin = Net(), Net()
    options = {"estimator": TwoSided(), "update": Momentum(), "lr": 0.1}
    optimizer, loaded = Optimizer(model, **options), Optimizer(twin, **options)
    optimizer.step(model)
    loaded.load_state_dict(optimizer.state_dict())
    before = {t.name: s.tensors["momentum"].clone() for t, s in optimizer.tensor_states.items()}
    loaded.step(twin)
    after = {t.name: s.tensors["momentum"] for t, s in optimizer.tensor_states.items()}
    assert differing_bits(before, after) == []


# -------------------------------------------------------------------- errors


def test_a_step_needs_a_measurement() -> None:
    model = Net()
    optimizer = MeZO(model, lr=0.1)
    with pytest.raises(UsageError, match=r"step\(\) needs a closure"):
        optimizer.step()
    optimizer.step(model)
    with pytest.raises(UsageError, match=r"step\(\) needs a closure"):
        optimizer.step()


def test_records_are_replayed_in_order() -> None:
    optimizer = MeZO(Net(), lr=0.1)
    with pytest.raises(UsageError, match="Cannot replay step 3: the next step of this optimizer is 0"):
        optimizer.replay(StepRecord(3, (1.0,), 1.0, 0.1, 1e-3, True))


def test_the_state_of_another_model_is_refused() -> None:
    optimizer = MeZO(Net(), lr=0.1)
    with pytest.raises(IncompatibleError, match="'a' is only in one of the two"):
        optimizer.load_state_dict(MeZO(Quadratic({"a": (2,)}), lr=0.1).state_dict())


@pytest.mark.parametrize("lr", [-1.0, math.nan, math.inf])
def test_a_learning_rate_out_of_range_is_named(lr: float) -> None:
    with pytest.raises(UsageError, match=f"lr must be 0 or more and finite, got {lr}"):
        MeZO(Net(), lr=lr)


def test_an_unknown_engine_gets_near_misses() -> None:
    with pytest.raises(UsageError, match=r"Unknown engine 'layer_wise'\. Did you mean: layerwise"):
        MeZO(Net(), engine="layer_wise")


def test_every_pair_of_the_parts_there_are_takes_steps() -> None:
    """Smoke test: spaces, laws, estimators and rules combine freely."""
    from foretune import Gaussian, Identity, Rademacher

    for space, law, estimator, update in itertools.product(
        (Identity(), LowRank()), (Gaussian(), Rademacher()), (TwoSided(), OneSided()), (SGD(), Momentum())
    ):
        model = Net()
        optimizer = Optimizer(
            model, space=space, direction=law, estimator=estimator, update=update, lr=1e-3, engine="in_place"
        )
        assert optimizer.step(model).isfinite()
