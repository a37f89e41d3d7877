"""The orthonormal subspace: its bases, the lift and its scale, moments over directions and bases, reshaping."""

import json
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from foretune import noise
from foretune.directions import Gaussian
from foretune.errors import UsageError
from foretune.noise import LaneMask, Noise, Purpose
from foretune.parameters import collect_trainables
from foretune.spaces import LowRank, Orthonormal
from foretune.types import AbstractSpace, Combination, TensorState, Trainable, describe_part
from model_zoo import opt, with_adapter
from toys import assert_mean, trainables_of

SEED = 11


def matrix(*shape: int, dtype: torch.dtype = torch.float64, **facts: object) -> Trainable:
    (trainable,) = collect_trainables(nn.ParameterDict({"w": nn.Parameter(torch.zeros(shape, dtype=dtype))}))
    return replace(trainable, **facts)


def prefix() -> Trainable:
    """peft's prefix of 3 tokens for a model of 2 layers: keys and values of width 16, 4 matrices."""
    (trainable,) = collect_trainables(with_adapter(opt, "prefix").double())
    return trainable


def lift(space: AbstractSpace, trainable: Trainable, vector: Combination, epoch: int = 0) -> Tensor:
    zeros = torch.zeros(trainable.shape, dtype=torch.float64)
    space.add(trainable, vector, out=zeros, base=zeros, seed=SEED, epoch=epoch)
    return zeros


def draw(trainable: Trainable, key: int) -> Combination:
    return Gaussian().draw(trainable, TensorState(), key=key, step=0, coordinate_shape=()).vector


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bases(space: Orthonormal, trainable: Trainable, num: int) -> tuple[Tensor, Tensor]:
    """U (num, a, rho) and V (num, b, rho) of as many epochs."""
    pairs = [space.basis(trainable, seed=SEED, epoch=epoch) for epoch in range(num)]
    return torch.stack([u for u, _ in pairs]), torch.stack([v for _, v in pairs])


def normals(*shape: int) -> Tensor:
    return noise.fill(torch.empty(shape, dtype=torch.float64), Noise(1, 1, Purpose.DIRECTION))


# ---------------------------------------------------------------- bases


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("shape", "rank"), [((3, 4), 2), ((3, 4), 8), ((2000, 300), 64)], ids=str)
def test_bases_are_orthonormal(shape: tuple[int, int], rank: int, dtype: torch.dtype) -> None:
    """U^T U = V^T V = I to 1e-6; a rank above a dimension is cut to it. Float32 for half-precision weights."""
    trainable = matrix(*shape, dtype=dtype)
    rho = min(rank, *shape)
    for q, size in zip(Orthonormal(rank=rank).basis(trainable, seed=SEED, epoch=2), shape, strict=True):
        assert q.shape == (size, rho)
        assert q.dtype == trainable.compute_dtype
        torch.testing.assert_close(q.T @ q, torch.eye(rho, dtype=q.dtype), rtol=0, atol=1e-6)


def test_full_bases_have_the_haar_law() -> None:
    """Of a Haar-distributed orthogonal matrix E[tr(Q)^2] = 1; it would be 0 if signs were not fixed."""
    q, _ = bases(Orthonormal(rank=2), matrix(2, 2), 3000)
    assert_mean(q.diagonal(dim1=1, dim2=2).sum(dim=1).square(), 1.0)


def test_bases_stay_for_an_interval_and_then_change() -> None:
    first, second = trainables_of(a=(5, 6), b=(5, 6))
    space = Orthonormal(rank=2, interval=3)
    assert [space.epoch(step) for step in range(7)] == [0, 0, 0, 1, 1, 1, 2]
    found = [
        q
        for trainable, seed, epoch in ((first, 1, 0), (first, 1, 1), (first, 2, 0), (second, 1, 0))
        for q in space.basis(trainable, seed=seed, epoch=epoch)
    ]
    for i, q in enumerate(found):
        assert not any(q.shape == other.shape and torch.equal(q, other) for other in found[i + 1 :])


def test_bases_are_kept_for_an_epoch_and_come_back_bit_for_bit() -> None:
    trainable, space = matrix(40, 30, dtype=torch.float32), Orthonormal(rank=8)
    kept = space.basis(trainable, seed=SEED, epoch=0)
    again = space.basis(trainable, seed=SEED, epoch=0)
    assert all(a is b for a, b in zip(kept, again, strict=True))
    space.basis(trainable, seed=SEED, epoch=1)
    for other in (space, Orthonormal(rank=8)):
        fresh = other.basis(trainable, seed=SEED, epoch=0)
        assert all(a is not b and torch.equal(a, b) for a, b in zip(kept, fresh, strict=True))


def test_what_is_kept_is_neither_described_nor_compared_nor_state() -> None:
    trainable, space = matrix(4, 5), Orthonormal(rank=2)
    space.basis(trainable, seed=SEED, epoch=0)
    expected = {"type": "Orthonormal", "rank": 2, "interval": 2000, "align": True, "reshape": "auto"}
    assert json.loads(json.dumps(describe_part(space))) == expected
    assert space == Orthonormal(rank=2)
    assert space.num_state_elements(trainable) == 0


# ---------------------------------------------------------------- lift


@pytest.mark.parametrize("align", [True, False])
@pytest.mark.parametrize("rank", [1, 2, 9])
@pytest.mark.parametrize("shape", [(3, 4), (5, 2, 3)])
def test_lift_is_s_u_z_v_transposed(shape: tuple[int, ...], rank: int, align: bool) -> None:
    """Also for a rank above min(m, n), and for a tensor of three dimensions viewed as (shape[0], rest)."""
    trainable, space = matrix(*shape), Orthonormal(rank=rank, align=align)
    a, b = shape[0], math.prod(shape[1:])
    rho = min(rank, a, b)
    assert space.coordinate_shape(trainable) == (rho, rho)
    assert space.lifts(trainable)
    vector = draw(trainable, noise.mix(SEED, 4)) + Combination(dense=(0.5, gaussian(rho, rho)))
    z = vector.materialize((rho, rho), trainable.parameter)
    u, v = space.basis(trainable, seed=SEED, epoch=1)
    s = math.sqrt(a * b) / rho if align else 1.0
    lifted = lift(space, trainable, vector, epoch=1)
    torch.testing.assert_close(lifted, (s * u @ z @ v.T).view(shape), rtol=0, atol=1e-13)
    assert torch.linalg.matrix_rank(lifted.view(a, b)) == rho


def test_a_zero_vector_only_scales() -> None:
    trainable, base = matrix(3, 4), torch.ones(3, 4, dtype=torch.float64)
    Orthonormal(rank=2).add(
        trainable, draw(trainable, 1).scaled(0.0), out=base, base=base, seed=SEED, epoch=0, scale=0.5
    )
    assert (base == 0.5).all()


@pytest.mark.parametrize("shape", [(), (5,), (1, 7), (7, 1), (1, 1, 7)])
def test_vectors_keep_the_full_space(shape: tuple[int, ...]) -> None:
    """Also those of adapters, of a prime count: the plain Gaussian, unscaled."""
    trainable, space = matrix(*shape, is_adapter=True), Orthonormal(rank=2)
    assert space.coordinate_shape(trainable) == shape
    assert not space.lifts(trainable)
    assert space.estimate_scale(trainable) == 1.0
    vector = draw(trainable, noise.mix(SEED, 0))
    assert torch.equal(lift(space, trainable, vector), vector.materialize(shape, trainable.parameter))
    state = torch.ones(shape)
    assert space.transport(trainable, state, seed=SEED, old_epoch=0, new_epoch=1) is state


def test_rows_of_an_embedding_are_those_of_the_whole_lift() -> None:
    trainable, space = matrix(6, 3), Orthonormal(rank=2)
    vector, rows = draw(trainable, noise.mix(SEED, 0)), torch.tensor([4, 1])
    out = torch.full(trainable.shape, 9.0, dtype=torch.float64)
    base = torch.ones_like(out)
    space.add(trainable, vector, out=out, base=base, seed=SEED, epoch=0, rows=rows)
    whole = torch.empty_like(out)
    space.add(trainable, vector, out=whole, base=base, seed=SEED, epoch=0)
    assert torch.equal(out[rows], whole[rows])
    assert (out[[0, 2, 3, 5]] == 9.0).all()


def test_the_lift_is_not_made_in_the_precision_of_autocast() -> None:
    trainable, space = matrix(8, 8, dtype=torch.float32), Orthonormal(rank=4)
    results = []
    for enabled in (False, True):
        out = torch.zeros(8, 8)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            space.add(trainable, draw(trainable, 3), out=out, base=out, seed=SEED, epoch=0)
            moved = space.transport(trainable, torch.eye(4), seed=SEED, old_epoch=0, new_epoch=1)
        results.append((out, moved))
    for plain, cast in zip(*results, strict=True):
        assert plain.dtype == cast.dtype == torch.float32
        assert torch.equal(plain, cast)


@pytest.mark.parametrize("space", [LowRank(), Orthonormal()], ids=lambda space: type(space).__name__)
def test_a_mask_is_refused(space: AbstractSpace) -> None:
    trainable = matrix(3, 4)
    mask = LaneMask(Noise(1, trainable.stream, Purpose.MASK), 0, 10)
    with pytest.raises(AssertionError, match="masked"):
        lift(space, trainable, replace(draw(trainable, 1), mask=mask))


# ---------------------------------------------------------------- moments


def test_moments_given_the_bases() -> None:
    """E[g Z | U, V] = s^2 U U^T G V V^T; with s = 1, E||g Z||^2 = (rho^2 + 2) ||U U^T G V V^T||^2."""
    trainable, gradient, num = matrix(5, 4), gaussian(5, 4), 20_000
    for align in (True, False):
        space = Orthonormal(rank=2, align=align)
        u, v = space.basis(trainable, seed=SEED, epoch=0)
        s = math.sqrt(20) / 2 if align else 1.0
        z = s * u @ normals(num, 2, 2) @ v.T
        projected = u @ u.T @ gradient @ v @ v.T
        estimates = torch.einsum("nij,ij->n", z, gradient)[:, None, None] * z
        assert_mean(estimates, s**2 * projected)
        assert_mean(estimates.square().sum((1, 2)), s**4 * 6 * float(projected.square().sum()))


@pytest.mark.parametrize("align", [True, False])
def test_moments_over_the_bases(align: bool) -> None:
    """E[lift(estimate)] = G whatever s is; aligned, E||Z||^2 = a b and E||g Z||^2 = a b (1 + 2 / rho^2) ||G||^2."""
    trainable, gradient, num = matrix(5, 4), gaussian(5, 4), 6000
    space = Orthonormal(rank=2, align=align)
    u, v = bases(space, trainable, num)
    s = math.sqrt(20) / 2 if align else 1.0
    z = s * u @ normals(num, 2, 2) @ v.mT
    estimates = torch.einsum("nij,ij->n", z, gradient)[:, None, None] * z
    assert_mean(estimates, gradient * s**2 * 4 / 20)
    assert_mean(estimates * space.estimate_scale(trainable), gradient)
    if align:
        assert_mean(z.square().sum((1, 2)), 20.0)
        assert_mean(estimates.square().sum((1, 2)), 20 * (1 + 2 / 4) * float(gradient.square().sum()))
    else:
        assert_mean(z.square().sum((1, 2)), 4.0)


def test_at_full_rank_a_direction_has_the_law_of_mezos() -> None:
    """rho = a = b: the lift is a rotation of the coordinates, so N(0, I) stays N(0, I)."""
    trainable, space = matrix(3, 3), Orthonormal(rank=5)
    columns = [
        lift(space, trainable, Combination(dense=(1.0, unit.view(3, 3)))).flatten()
        for unit in torch.eye(9, dtype=torch.float64)
    ]
    rotation = torch.stack(columns, dim=1)
    torch.testing.assert_close(rotation.T @ rotation, torch.eye(9, dtype=torch.float64), rtol=0, atol=1e-12)


# ---------------------------------------------------------------- transport


def test_transport_projects_the_lift_onto_the_new_subspace() -> None:
    """m <- U'^T U m V^T V'; the identity within one epoch."""
    trainable, space, m = matrix(6, 5), Orthonormal(rank=2), gaussian(2, 2)
    (u, v), (u_new, v_new) = (space.basis(trainable, seed=SEED, epoch=epoch) for epoch in (4, 7))
    moved = space.transport(trainable, m, seed=SEED, old_epoch=4, new_epoch=7)
    torch.testing.assert_close(moved, u_new.T @ u @ m @ v.T @ v_new, rtol=0, atol=1e-14)
    assert space.transport(trainable, m, seed=SEED, old_epoch=4, new_epoch=4) is m
    projection = u_new @ u_new.T @ lift(space, trainable, Combination(dense=(1.0, m)), epoch=4) @ v_new @ v_new.T
    lifted = lift(space, trainable, Combination(dense=(1.0, moved)), epoch=7)
    torch.testing.assert_close(lifted, projection, rtol=0, atol=1e-13)


def test_transport_leaves_rho_squared_over_a_b() -> None:
    """E||m'||^2 = rho^2 / (a b) ||m||^2."""
    trainable, space, m = matrix(4, 3), Orthonormal(rank=2), gaussian(2, 2)
    moved = torch.stack(
        [space.transport(trainable, m, seed=SEED, old_epoch=0, new_epoch=epoch) for epoch in range(1, 1501)]
    )
    assert_mean(moved.square().sum((1, 2)), 4 / 12 * float(m.square().sum()))


# ---------------------------------------------------------------- reshaping


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((10, 2048), (128, 160)), ((8, 2048), (128, 128)), ((2048, 8), (128, 128)), ((5, 2048), (80, 128))],
)
def test_matrices_of_adapters_are_reshaped(shape: tuple[int, int], expected: tuple[int, int]) -> None:
    """So that rank 24 is not cut to 10; full tuning keeps the native shape."""
    adapter, native = matrix(*shape, is_adapter=True), matrix(*shape)
    auto, always, never = (Orthonormal(rank=24, reshape=reshape) for reshape in ("auto", "always", "never"))
    assert auto.view_shape(adapter) == always.view_shape(adapter) == always.view_shape(native) == expected
    assert never.view_shape(adapter) == never.view_shape(native) == auto.view_shape(native) == shape
    assert auto.coordinate_shape(adapter) == (24, 24)
    assert auto.coordinate_shape(native) == (min(24, *shape),) * 2


def test_a_count_without_good_divisors_keeps_its_rank() -> None:
    """2 x 13 numbers have no shape with a shorter side above 2."""
    trainable = matrix(13, 2, is_adapter=True)
    assert Orthonormal(rank=8).view_shape(trainable) == (2, 13)
    assert Orthonormal(rank=8).coordinate_shape(trainable) == (2, 2)


def test_a_reshaped_lift_is_row_major_and_comes_back() -> None:
    trainable, space = matrix(2, 32, is_adapter=True), Orthonormal(rank=3)
    assert space.view_shape(trainable) == (8, 8)
    z = gaussian(3, 3)
    lifted = lift(space, trainable, Combination(dense=(1.0, z)))
    u, v = space.basis(trainable, seed=SEED, epoch=0)
    s = 8 / 3
    torch.testing.assert_close(lifted, (s * u @ z @ v.T).view(2, 32), rtol=0, atol=1e-13)
    torch.testing.assert_close(u.T @ lifted.view(8, 8) @ v / s, z, rtol=0, atol=1e-13)
    assert torch.linalg.matrix_rank(lifted) == 2


# ---------------------------------------------------------------- several matrices in one tensor


def test_a_prefix_is_a_stack_of_matrices() -> None:
    trainable = prefix()
    assert (trainable.shape, trainable.num_views) == ((3, 64), 4)
    assert LowRank(rank=2).coordinate_shape(trainable) == (4, 3, 2)
    assert Orthonormal(rank=9).view_shape(trainable) == (6, 8)
    assert Orthonormal(rank=9).coordinate_shape(trainable) == (4, 6, 6)
    assert Orthonormal(rank=9, reshape="never").coordinate_shape(trainable) == (4, 3, 3)


@pytest.mark.parametrize("space", [LowRank(rank=2), Orthonormal(rank=2)], ids=lambda space: type(space).__name__)
def test_coordinates_of_a_view_move_one_key_or_value(space: AbstractSpace) -> None:
    """The views are those of peft: what moves is one layer's keys or values, as the model is given them."""
    model = with_adapter(opt, "prefix").double()
    (trainable,) = collect_trainables(model)

    def keys_and_values() -> list[Tensor]:
        layers = model.get_prompt(1).layers
        return [tensor.detach().clone() for layer in layers for tensor in (layer.keys, layer.values)]

    before = keys_and_values()
    for view in range(4):
        vector = torch.zeros(space.coordinate_shape(trainable), dtype=torch.float64)
        vector[view] = 1.0
        start = trainable.parameter.detach().clone()
        space.add(
            trainable,
            Combination(dense=(1.0, vector)),
            out=trainable.parameter,
            base=trainable.parameter,
            seed=SEED,
            epoch=0,
        )
        moved = [not torch.equal(a, b) for a, b in zip(before, keys_and_values(), strict=True)]
        assert moved == [index == view for index in range(4)]
        trainable.parameter.data.copy_(start)


def test_each_view_has_its_own_bases_and_direction() -> None:
    trainable, space = prefix(), Orthonormal(rank=2)
    u, v = space.basis(trainable, seed=SEED, epoch=0)
    assert (u.shape, v.shape) == ((4, 6, 2), (4, 8, 2))
    for q in (u, v):
        torch.testing.assert_close(q.mT @ q, torch.eye(2, dtype=q.dtype).expand(4, 2, 2), rtol=0, atol=1e-12)
    vector = draw(trainable, noise.mix(SEED, 0))
    z = vector.materialize((4, 2, 2), trainable.parameter)
    for stack in (u, v, z):
        assert len({tuple(view.flatten().tolist()) for view in stack}) == 4
    blocks = lift(space, trainable, vector).chunk(4, dim=1)
    for k, block in enumerate(blocks):
        expected = math.sqrt(48) / 2 * u[k] @ z[k] @ v[k].T
        torch.testing.assert_close(block, expected.view(3, 16), rtol=0, atol=1e-13)


def test_each_view_of_a_low_rank_space_has_its_own_factors() -> None:
    trainable, space = prefix(), LowRank(rank=2)
    v = space.basis(trainable, seed=SEED, epoch=0)
    assert v.shape == (4, 16, 2)
    vector = draw(trainable, noise.mix(SEED, 0))
    u = vector.materialize((4, 3, 2), trainable.parameter)
    assert len({tuple(view.flatten().tolist()) for view in v}) == 4
    for k, block in enumerate(lift(space, trainable, vector).chunk(4, dim=1)):
        torch.testing.assert_close(block, u[k] @ v[k].T, rtol=0, atol=1e-13)


def test_transport_is_view_by_view() -> None:
    trainable = prefix()
    space, m = Orthonormal(rank=2), gaussian(4, 2, 2)
    (u, v), (u_new, v_new) = (space.basis(trainable, seed=SEED, epoch=epoch) for epoch in (0, 1))
    moved = space.transport(trainable, m, seed=SEED, old_epoch=0, new_epoch=1)
    for k in range(4):
        torch.testing.assert_close(moved[k], u_new[k].T @ u[k] @ m[k] @ v[k].T @ v_new[k], rtol=0, atol=1e-14)
    low_rank, n = LowRank(rank=2), gaussian(4, 3, 2)
    old, new = (low_rank.basis(trainable, seed=SEED, epoch=epoch) for epoch in (0, 1))
    moved = low_rank.transport(trainable, n, seed=SEED, old_epoch=0, new_epoch=1)
    for k in range(4):
        torch.testing.assert_close(moved[k], n[k] @ old[k].T @ new[k] / 16, rtol=0, atol=1e-14)


@pytest.mark.parametrize("space", [LowRank(rank=2), Orthonormal(rank=2)], ids=lambda space: type(space).__name__)
def test_the_mean_estimate_of_a_prefix_is_its_gradient(space: AbstractSpace) -> None:
    trainable, num = prefix(), 3000
    gradient = gaussian(3, 64)
    z = torch.stack([lift(space, trainable, draw(trainable, noise.mix(SEED, e)), epoch=e) for e in range(num)])
    estimates = torch.einsum("nij,ij->n", z, gradient)[:, None, None] * z
    assert_mean(estimates * space.estimate_scale(trainable), gradient)
    norm = 192.0 if isinstance(space, Orthonormal) else 2 * 192.0
    assert_mean(z.square().sum((1, 2)), norm)


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize("option", ["rank", "interval"])
def test_settings_out_of_range_are_named(option: str) -> None:
    with pytest.raises(UsageError, match=f"{option} must be at least 1, got 0"):
        Orthonormal(**{option: 0})


def test_an_unknown_reshape_is_refused() -> None:
    with pytest.raises(UsageError, match=r"Unknown reshape 'alwaysx'\. Did you mean: always"):
        Orthonormal(reshape="alwaysx")
