"""Combinations, and how parts describe themselves."""

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from foretune import noise
from foretune.directions import Gaussian
from foretune.estimators import TwoSided
from foretune.noise import LaneMask, LowRankNoise, MagnitudeMask, Mask, Noise, Purpose
from foretune.schedules import Whole
from foretune.spaces import LowRank
from foretune.types import Combination, Parts, describe_part
from foretune.updates import SGD
from toys import trainables_of

Z1, Z2 = (Noise(key, 0, Purpose.DIRECTION) for key in (1, 2))


def value(combination: Combination) -> Tensor:
    return combination.materialize((2, 3), torch.zeros(2, 3, dtype=torch.float64))


def dense(seed: int) -> Tensor:
    return torch.randn(2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_combinations_form_a_vector_space() -> None:
    x, y = dense(0), dense(1)
    a = Combination(((2.0, Z1), (-1.0, Z2)), (0.5, x), ((0.7, LowRankNoise(5, 0, 2)),))
    for b in (
        Combination(((3.0, Z1),)),
        Combination(dense=(2.0, x)),
        Combination(dense=(2.0, y)),
        Combination(products=((-1.5, LowRankNoise(6, 0, 1)),)),
        Combination(),
    ):
        torch.testing.assert_close(value(a + b), value(a) + value(b), rtol=0, atol=1e-14)
        torch.testing.assert_close(value(b + a), value(a) + value(b), rtol=0, atol=1e-14)
    torch.testing.assert_close(value(a.scaled(-0.3)), -0.3 * value(a), rtol=0, atol=1e-14)


def test_adding_leaves_the_stored_tensors_alone() -> None:
    x, y = dense(0), dense(1)
    _ = Combination(dense=(2.0, x)) + Combination(dense=(3.0, y))
    assert torch.equal(x, dense(0))
    assert torch.equal(y, dense(1))


def test_multiples_of_one_tensor_stay_one_tensor() -> None:
    x = dense(0)
    total = Combination(dense=(2.0, x)) + Combination(dense=(3.0, x))
    assert total.dense is not None
    assert total.dense[0] == 5.0
    assert total.dense[1] is x


MASKS = [None, LaneMask(Z2, 20_000, 50_000), MagnitudeMask(0.6)]


@pytest.mark.parametrize("mask", MASKS, ids=["all", "lanes", "magnitude"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_adding_to_a_tensor_is_adding_the_materialized_vector(mask: Mask | None, dtype: torch.dtype) -> None:
    base = dense(3).to(dtype)
    terms, products = ((2.0, Z1),), ((0.7, LowRankNoise(5, 0, 2)), (0.1, LowRankNoise(6, 0, 1)))
    for vector in (
        Combination(terms, (0.5, dense(0).to(dtype))),
        Combination(products=products),
        Combination(terms, (0.5, dense(0).to(dtype)), products),
    ):
        masked = replace(vector, mask=mask)
        keep = torch.ones(2, 3, dtype=torch.bool) if mask is None else noise.kept(mask, base)
        whole = vector.materialize((2, 3), base)
        torch.testing.assert_close(masked.materialize((2, 3), base), whole * keep, rtol=0, atol=0)
        out = torch.empty_like(base)
        masked.add_to(out, base, scale=0.9)
        expected = torch.where(keep, 0.9 * base + whole, base)
        torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6)
        average = dense(4).to(dtype)
        expected = 0.9 * average + whole * keep
        masked.accumulate_into(average, decay=0.9, weight=base)
        torch.testing.assert_close(average, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mask", MASKS, ids=["all", "lanes", "magnitude"])
@pytest.mark.parametrize("products", [(), ((0.7, LowRankNoise(5, 0, 2)),)], ids=["", "products"])
@pytest.mark.parametrize("shape", [(6, 50), (6, 5, 10), (300,)])
def test_parts_of_a_vector_are_those_of_the_whole(
    mask: Mask | None, products: tuple[tuple[float, LowRankNoise], ...], shape: tuple[int, ...]
) -> None:
    weight, stored = (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    for vector in (
        Combination(((2.0, Z1), (-0.3, Z2)), (0.5, stored), products, mask),
        Combination(dense=(0.5, stored), products=products, mask=mask),
        Combination(((2.0, Z1),), mask=mask),
    ):
        whole = vector.materialize(shape, weight).view(-1)
        for start, stop in ((0, 300), (0, 7), (7, 200), (64, 192), (299, 300)):
            assert torch.equal(vector.materialize_part(start, stop, shape, weight), whole[start:stop])


def test_half_precision_gets_low_rank_terms_rounded_once() -> None:
    """The mean over roundings is the vector: two roundings with one set of bits would be biased."""
    base = torch.ones(2, 3, dtype=torch.bfloat16)
    vector = Combination(((1e-3, Z1),), None, ((2e-3, LowRankNoise(5, 0, 2)),))
    total, count = torch.zeros(2, 3, dtype=torch.float64), 20_000
    out = torch.empty_like(base)
    for draw in range(count):
        vector.add_to(out, base, rounding=Noise(draw, 1, Purpose.UPDATE_ROUNDING))
        total += out.double() - 1
    spacing = 2.0**-7
    torch.testing.assert_close(
        total / count, vector.materialize((2, 3), base).double(), rtol=0, atol=5 * spacing / 2 / count**0.5
    )


@pytest.mark.parametrize(
    ("combination", "is_zero"),
    [
        (Combination(), True),
        (Combination(((0.0, Z1), (-0.0, Z2)), (0.0, torch.ones(2, 3))), True),
        (Combination(((0.0, Z1), (1e-300, Z2))), False),
        (Combination(((float("nan"), Z1),)), False),
        (Combination(dense=(1.0, torch.zeros(2, 3))), False),
    ],
)
def test_is_zero_means_that_nothing_may_be_written(combination: Combination, is_zero: bool) -> None:
    assert combination.is_zero is is_zero


def test_parts_describe_themselves_for_a_journal() -> None:
    parts = Parts(
        space=LowRank(rank=4),
        direction=Gaussian(),
        estimator=TwoSided(zo_eps=0.01),
        update=SGD(),
        schedule=Whole(matrix_lr_scale=2.0),
    )
    assert parts.describe() == {
        "space": {"type": "LowRank", "rank": 4, "interval": 50},
        "direction": {"type": "Gaussian"},
        "estimator": {
            "type": "TwoSided",
            "zo_eps": 0.01,
            "num_directions": 1,
            "weighting": "mean",
            "ramp_steps": 0,
        },
        "update": {"type": "SGD", "weight_decay": 0.0, "max_grad_norm": 0.0},
        "schedule": {"type": "Whole", "matrix_lr_scale": 2.0, "vector_lr_scale": 1.0},
    }
    assert json.loads(json.dumps(parts.describe())) == parts.describe()
    assert describe_part(object()) == {"type": "object"}


def test_trainables_are_compared_by_identity_and_know_their_compute_dtype() -> None:
    (a,), (b,) = trainables_of(w=(2, 3)), trainables_of(w=(2, 3))
    assert a != b
    assert len({a, b}) == 2
    assert a.compute_dtype == torch.float64
    assert a.shape == (2, 3)
