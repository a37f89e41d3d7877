"""Adam against the textbook, its state under masks, in low-rank spaces and under schedules."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from foretune import LowRank, Optimizer, TwoSided, noise
from foretune.errors import IncompatibleError, UsageError
from foretune.noise import LaneMask, Noise, Purpose
from foretune.parameters import collect_trainables
from foretune.types import AbstractSchedule, Block, Combination, Member, TensorState, Trainable, UpdateContext
from foretune.updates import Adam
from toys import Net, Quadratic, trainables_of
from update_runs import estimates_and_start, run_update


@dataclass(frozen=True, kw_only=True)
class LateSecond(AbstractSchedule):
    """The first tensor at every step, the others from the fourth on."""

    sequential = False

    def blocks(self, step: int, trainables: Sequence[Trainable], *, seed: int) -> Sequence[Block]:
        return (Block(tuple(map(Member, trainables if step >= 3 else trainables[:1]))),)


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("shape", [(3, 4), (5,)])
def test_against_a_textbook_adam_fed_the_same_estimates(decoupled: bool, shape: tuple[int, ...]) -> None:
    estimates, start = estimates_and_start(*shape, num=20)
    decay = 0.4 if len(shape) == 2 else 0.0  # vectors do not decay
    update = Adam(betas=(0.8, 0.95), weight_decay=0.4, decoupled=decoupled)
    weights, state = run_update(update, start, estimates, lr=0.1)
    parameter = nn.Parameter(start.clone())
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    oracle = kind([parameter], lr=0.1, betas=(0.8, 0.95), weight_decay=decay)
    for parameter.grad in estimates:
        oracle.step()
    torch.testing.assert_close(weights, parameter.detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(state.tensors["first_moment"], oracle.state[parameter]["exp_avg"], rtol=0, atol=1e-12)
    torch.testing.assert_close(
        state.tensors["second_moment"], oracle.state[parameter]["exp_avg_sq"], rtol=0, atol=1e-12
    )


def test_the_first_step() -> None:
    """-lr * e / (|e| + eps), whatever the betas; an estimate of 0 moves nothing."""
    estimates, start = estimates_and_start(3, 4, num=1)
    estimates[0][0, 0], estimates[0][1, 1] = 0.0, 1e-8
    weights, _ = run_update(Adam(betas=(0.7, 0.9)), start, estimates, lr=0.1)
    torch.testing.assert_close(weights, start - 0.1 * estimates[0] / (estimates[0].abs() + 1e-8), rtol=0, atol=1e-14)
    assert weights[0, 0] == start[0, 0]


def test_masked_entries_neither_move_nor_change_their_state() -> None:
    """The kept ones go on as if there were no mask (their weight decay included)."""
    estimates, start = estimates_and_start(6, 7, num=6)
    update = Adam(weight_decay=0.3)
    plain, plain_state = run_update(update, start, estimates, lr=0.1)

    (trainable,) = collect_trainables(nn.ParameterDict({"w": nn.Parameter(start.clone())}))
    state, weights = TensorState(), trainable.parameter.detach()
    mask = LaneMask(Noise(5, trainable.stream, Purpose.MASK), 0, 1 << 15)
    kept = noise.kept(mask, weights)
    assert 5 < int(kept.sum()) < 37
    for estimate in estimates:
        context = UpdateContext(
            member=Member(trainable, mask=mask),
            lr=0.1,
            estimate=Combination(dense=(1.0, estimate), mask=mask),
            state=state,
            coordinate_shape=(6, 7),
            draws=(),
            scalars=(),
        )
        change = update.apply(context)
        replace(change.step, mask=mask).add_to(weights, weights, scale=change.scale)
        state.num_updates += 1
    for ours, theirs, untouched in [
        (weights, plain, start),
        *((state.tensors[name], plain_state.tensors[name], torch.zeros(())) for name in state.tensors),
    ]:
        torch.testing.assert_close(ours[kept], theirs[kept], rtol=0, atol=1e-15)
        assert torch.equal(ours[~kept], untouched.expand(6, 7)[~kept])


def test_the_bias_correction_counts_a_tensors_own_updates() -> None:
    """A tensor that joins late takes a whole first step."""
    model = Quadratic({"a": (3,), "b": (2,)})
    optimizer = Optimizer(model, estimator=TwoSided(), update=Adam(), lr=0.1, schedule=LateSecond())
    before = model.b.detach().clone()
    for _ in range(3):
        optimizer.step(model)
        assert torch.equal(model.b, before)
    optimizer.step(model)
    torch.testing.assert_close((model.b - before).abs(), torch.full((2,), 0.1, dtype=torch.float64), rtol=1e-6, atol=0)


def test_a_new_basis_carries_the_mean_and_keeps_the_mean_square() -> None:
    """The transported mean may turn round; a mean square may not become negative."""

    def turn(vector: Tensor) -> Tensor:
        return -vector

    tensors: Mapping[str, Tensor] = {"first_moment": torch.ones(2), "second_moment": torch.full((2,), 3.0)}
    refreshed = Adam().refresh(tensors, turn)
    assert torch.equal(refreshed["first_moment"], -torch.ones(2))
    assert torch.equal(refreshed["second_moment"], torch.full((2,), 3.0))


def test_it_descends_in_a_space_that_is_redrawn() -> None:
    model = Quadratic({"a": (4, 3), "b": (2,)})
    first = model().item()
    optimizer = Optimizer(model, space=LowRank(interval=5), estimator=TwoSided(), update=Adam(), lr=0.1)
    for _ in range(200):
        optimizer.step(model)
        assert all(float(state.tensors["second_moment"].min()) >= 0 for state in optimizer.tensor_states.values())
    assert model().item() < 0.1 * first


def test_two_numbers_per_coordinate_are_declared() -> None:
    (trainable,) = trainables_of(w=(3, 4))
    assert Adam().num_state_elements(trainable, (3, 2)) == 12


def test_coupled_decay_in_a_low_rank_space_is_refused_by_name() -> None:
    def build(**options: object) -> Optimizer:
        return Optimizer(Net(), space=LowRank(), estimator=TwoSided(), update=Adam(**options), lr=0.1)

    with pytest.raises(IncompatibleError, match=r"LowRank: the state of 'first\.weight'.*decoupled=True"):
        build(weight_decay=0.1)
    build(weight_decay=0.1, decoupled=True)
    build()


@pytest.mark.parametrize("betas", [(1.0, 0.9), (0.9, -0.1), (0.9,), (0.9, float("nan"))])
def test_betas_out_of_range_are_named(betas: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match=r"betas must be two numbers in \[0, 1\), got"):
        Adam(betas=betas)


@pytest.mark.parametrize("eps", [0.0, -1e-8, float("nan")])
def test_eps_out_of_range_is_named(eps: float) -> None:
    with pytest.raises(UsageError, match=f"eps must be positive and finite, got {eps}"):
        Adam(eps=eps)
