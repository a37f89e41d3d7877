"""Keys and streams: stated numbers, injectivity, and what is refused."""

import numpy as np
import pytest

from foretune.errors import UsageError
from foretune.noise import Law, Noise, Purpose, mix, stream_id


def test_numbers_of_purposes_and_laws_are_part_of_the_version():
    assert [(p.name, int(p)) for p in Purpose] == [
        ("DIRECTION", 0),
        ("LEFT", 1),
        ("RIGHT", 2),
        ("MASK", 3),
        ("SPLIT", 4),
        ("PERTURBATION_ROUNDING", 5),
        ("UPDATE_ROUNDING", 6),
        ("BLOCK_ORDER", 7),
        ("HISTORY", 8),
        ("INITIAL", 9),
    ]
    assert [(law.name, int(law)) for law in Law] == [("GAUSSIAN", 0), ("RADEMACHER", 1)]


def test_mix_is_injective_in_each_argument_and_differs_over_a_grid():
    keys = {mix(s, e, q) for s in range(-8, 8) for e in range(20) for q in range(20)}
    assert len(keys) == 16 * 20 * 20
    assert all(0 <= key < 2**64 for key in keys)


def test_mix_flips_half_the_bits_when_one_input_bit_flips():
    flips = [
        bin(mix(s, e, q) ^ mix(s ^ (1 << b), e, q)).count("1")
        + bin(mix(s, e, q) ^ mix(s, e ^ (1 << b), q)).count("1")
        + bin(mix(s, e, q) ^ mix(s, e, q ^ (1 << b))).count("1")
        for s, e, q in [(0, 0, 0), (1, 2, 3), (2**40, 7, 1)]
        for b in range(32)
    ]
    # 3 * 96 flips of 64 bits each: mean 96, standard error sqrt(3 * 16 / 96) = 0.71
    assert abs(np.mean(flips) - 96) < 4 * 0.71


def test_negative_seeds_are_taken_modulo_two_to_the_64():
    assert mix(-1, 0) == mix(2**64 - 1, 0)
    assert mix(np.int64(-5), np.int32(3)) == mix(-5, 3)


@pytest.mark.parametrize("arguments", [(2**64, 0, 0), (-(2**63) - 1, 0, 0), (0, -1, 0), (0, 0, -1), (0, 2**64, 0)])
def test_mix_refuses_what_does_not_fit(arguments):
    with pytest.raises(UsageError, match="found"):
        mix(*arguments)


def test_mix_refuses_a_float_seed():
    with pytest.raises(TypeError):
        mix(1.5, 0)


@pytest.mark.parametrize(("key", "stream"), [(-1, 0), (2**64, 0), (0, -1), (0, 2**32)])
def test_an_address_out_of_range_is_refused(key, stream):
    with pytest.raises(UsageError, match="found"):
        Noise(key, stream, Purpose.DIRECTION)


def test_streams_of_a_thousand_names_differ():
    names = [f"model.layers.{i}.mlp.{part}.weight" for i in range(500) for part in ("up", "down")]
    assert len({stream_id(name) for name in names}) == len(names)
