"""Block-wise descent: cycles, orders, and the moments of its estimate."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

import model_zoo
from foretune import MeZO, Optimizer
from foretune.errors import UsageError
from foretune.estimators import OneSided, TwoSided
from foretune.parameters import collect_trainables
from foretune.schedules import ModuleBlocks
from foretune.spaces import LowRank
from foretune.types import Block
from foretune.updates import Momentum
from promised import run
from toys import CountedCalls, Net, Quadratic, assert_mean, differing_bits, restore, trainables_of, weights_of

SHAPES = {"layers.0.weight": (2, 2), "layers.1.weight": (2,), "head.weight": (3,)}
SLICES = {"head.weight": slice(0, 3), "layers.0.weight": slice(3, 7), "layers.1.weight": slice(7, 9)}


class BlockDiagonal(Quadratic):
    """A quadratic whose tensors do not interact."""

    def __init__(self) -> None:
        super().__init__(SHAPES)
        kept = torch.zeros_like(self.hessian)
        for part in SLICES.values():
            kept[part, part] = self.hessian[part, part]
        self.hessian.copy_(kept)


def build(model: nn.Module, *, lr: float = 0.01, seed: int = 0, **options: object) -> Optimizer:
    schedule = ModuleBlocks(**options)
    return Optimizer(model, estimator=TwoSided(zo_eps=1e-3), schedule=schedule, lr=lr, seed=seed, engine="in_place")


def members(blocks: Sequence[Block]) -> list[list[str]]:
    return [[member.trainable.name for member in block.members] for block in blocks]


def test_published_spellings_are_understood_and_recorded_alike() -> None:
    assert ModuleBlocks(level="transformer-block") == ModuleBlocks(level="block")
    assert ModuleBlocks(level="mlp-attn") == ModuleBlocks(level="attn_mlp")


def test_orders() -> None:
    trainables = trainables_of(**{"layer_10": (2,), "layer_2": (2,), "head": (2,)})
    forward = members(ModuleBlocks().blocks(0, trainables, seed=0))
    assert members(ModuleBlocks(order="reverse").blocks(0, trainables, seed=0)) == forward[::-1]


def test_a_random_order_is_a_function_of_seed_and_cycle() -> None:
    trainables = collect_trainables(model_zoo.opt(num_layers=4))
    schedule = ModuleBlocks(order="random")
    orders = {(seed, step): members(schedule.blocks(step, trainables, seed=seed)) for seed in (0, 1) for step in (0, 1)}
    assert members(schedule.blocks(1, trainables, seed=1)) == orders[1, 1]
    assert len({str(order) for order in orders.values()}) == 4
    assert len({str(sorted(order)) for order in orders.values()}) == 1


@pytest.mark.parametrize("order", ["forward", "reverse", "random"])
@pytest.mark.parametrize("blocks_per_step", [1, 2, 3, 7, 99])
def test_accept_every_tensor_moves_once_in_a_cycle(order: str, blocks_per_step: int) -> None:
    """I9, also where the number of blocks is no multiple."""
    trainables = collect_trainables(model_zoo.opt(num_layers=4))  # 7 blocks
    schedule = ModuleBlocks(order=order, blocks_per_step=blocks_per_step)
    steps_per_cycle = -(-7 // min(blocks_per_step, 7))
    for cycle in range(2):
        steps = [
            members(schedule.blocks(cycle * steps_per_cycle + turn, trainables, seed=5))
            for turn in range(steps_per_cycle)
        ]
        assert all(0 < len(blocks) <= blocks_per_step for blocks in steps)
        visited = [name for blocks in steps for block in blocks for name in block]
        assert sorted(visited) == [trainable.name for trainable in trainables]


def test_accept_one_block_is_mezo() -> None:
    """Bit for bit."""
    results = []
    for optimizer in (
        build(Quadratic({"layer": (3, 4)}), seed=3),
        MeZO(Quadratic({"layer": (3, 4)}), lr=0.01, zo_eps=1e-3, seed=3, engine="in_place"),
    ):
        run(optimizer, optimizer.model, 5)
        results.append(weights_of(optimizer.model))
    assert differing_bits(*results) == []


@pytest.mark.parametrize("sequential", [True, False])
def test_accept_a_step_has_two_forwards_a_block(sequential: bool) -> None:
    model = model_zoo.opt()
    closure = CountedCalls(model)
    closure.model = model_zoo.causal_closure(model)
    optimizer = build(model, level="attn_mlp", sequential=sequential, lr=1e-6)
    optimizer.step(closure)
    before = closure.count
    optimizer.step(closure)
    assert closure.count - before == 2 * 13
    assert len(optimizer.last_record.scalars) == 13


def test_accept_on_a_block_diagonal_quadratic_jacobi_is_gauss_seidel() -> None:
    results = []
    for sequential in (True, False):
        model = BlockDiagonal()
        run(build(model, sequential=sequential, seed=1), model, 5)
        results.append(weights_of(model))
    for name in SHAPES:
        torch.testing.assert_close(results[0][name], results[1][name], rtol=0, atol=1e-9)
    coupled = []
    for sequential in (True, False):
        model = Quadratic(SHAPES)
        run(build(model, sequential=sequential, seed=1), model, 5)
        coupled.append(weights_of(model)["layers.1.weight"])
    assert (coupled[0] - coupled[1]).abs().max() > 1e-6


def estimates(schedule: dict[str, object], num: int) -> tuple[Quadratic, Tensor]:
    """Gradient estimates over seeds, shape (num, d)."""
    model, lr = Quadratic(SHAPES), 1e-6
    start, flat = weights_of(model), model.flat().detach().clone()
    samples = []
    for seed in range(num):
        restore(model, start)
        build(model, lr=lr, seed=seed, **schedule).step(model)
        samples.append((flat - model.flat().detach()) / lr)
    restore(model, start)
    return model, torch.stack(samples)


def test_accept_moments_of_the_estimate() -> None:
    """Mean: the gradient. All at once, the mean square is sum_b (d_b + 2) ||grad_b||^2, not (d + 2) ||grad||^2."""
    model, samples = estimates({"sequential": False}, 600)
    gradient = model.gradient()
    assert_mean(samples, gradient)
    expected = sum((part.stop - part.start + 2) * float(gradient[part].square().sum()) for part in SLICES.values())
    jointly = (9 + 2) * float(gradient.square().sum())
    assert_mean(samples.square().sum(dim=1), expected)
    assert abs(expected - jointly) > 0.3 * jointly


def test_accept_the_mean_estimate_of_gauss_seidel_is_the_gradient() -> None:
    """At a learning rate so small that all blocks are measured at nearly the same weights."""
    model, samples = estimates({"sequential": True}, 300)
    assert_mean(samples, model.gradient())


def test_equal_shapes_in_different_blocks_move_along_independent_directions() -> None:
    """Also two tensors of one shape (the published code repeats one seed)."""
    model = Quadratic({"layers.0.weight": (50,), "layers.1.weight": (50,)})
    before = weights_of(model)
    build(model, sequential=False).step(model)
    moves = torch.stack([weights_of(model)[name] - before[name] for name in before])
    assert abs(float(torch.corrcoef(moves)[0, 1])) < 0.5


def test_it_combines_with_other_spaces_updates_and_estimators() -> None:
    model = Net()
    optimizer = Optimizer(
        model,
        space=LowRank(rank=2),
        update=Momentum(),
        estimator=OneSided(num_directions=2),
        schedule=ModuleBlocks(level="linear", matrix_lr_scale=2.0),
        lr=1e-3,
    )
    before = weights_of(model)
    run(optimizer, model, 2)
    assert len(optimizer.last_record.scalars) == 3 * 2
    assert len(differing_bits(before, weights_of(model))) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": "layer"}, "Unknown level 'layer'"),
        ({"order": "backward"}, r"Unknown order 'backward'.*Available: forward, random, reverse"),
        ({"blocks_per_step": 0}, "blocks_per_step must be at least 1, got 0"),
        ({"matrix_lr_scale": -1.0}, "matrix_lr_scale must be positive and finite, got -1.0"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ModuleBlocks(**options)
