"""The specification: Philox's published answers, the element layout, and the rounding rules."""

import math

import numpy as np
import pytest
import torch

from foretune.noise import Law, Noise, Purpose
from foretune.noise.reference import lanes, philox, round_stochastically, values
from foretune.noise.table import quantile_table

ONES = 0xFFFFFFFF
NOISE = Noise(0x299F31D0A4093822, 0x13198A2E, Purpose.HISTORY)


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((ONES,) * 4, (ONES,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_published_answers_of_philox4x32_10(counter, key, answer):
    words = philox([torch.tensor(word) for word in counter], key)
    assert " ".join(f"{int(word):08x}" for word in words) == answer


@pytest.mark.parametrize("element", [0, 7, 8, 2**35 + 3, 2**40 + 5])
def test_element_e_is_lane_e_mod_8_of_counter_e_div_8(element):
    counter = [element // 8 & ONES, element // 8 >> 32, NOISE.stream, int(NOISE.purpose)]
    words = philox([torch.tensor(word) for word in counter], (NOISE.key & ONES, NOISE.key >> 32))
    word = int(words[element % 8 // 2])
    lane = word & 0xFFFF if element % 2 == 0 else word >> 16
    assert int(lanes(torch.tensor([element]), 1, NOISE)[0, 0]) == lane
    magnitude = float(quantile_table()[lane & 0x1FFF])
    expected = -magnitude if lane & 0x8000 else magnitude
    assert float(values(torch.tensor([element]), 1, NOISE)[0, 0]) == expected


@pytest.mark.parametrize("element", [0, 31, 32, 127, 128, 2**40 + 77])
def test_rademacher_element_e_is_bit_e_mod_128_of_counter_e_div_128(element):
    counter = [element // 128 & ONES, element // 128 >> 32, NOISE.stream, int(NOISE.purpose)]
    words = philox([torch.tensor(word) for word in counter], (NOISE.key & ONES, NOISE.key >> 32))
    bit = int(words[element % 128 // 32]) >> (element % 32) & 1
    noise = Noise(NOISE.key, NOISE.stream, NOISE.purpose, Law.RADEMACHER)
    assert float(values(torch.tensor([element]), 1, noise)[0, 0]) == (1 if bit else -1)


def test_segments_may_start_anywhere():
    whole = values(torch.zeros(1, dtype=torch.int64), 400, NOISE)[0]
    starts = torch.tensor([0, 5, 8, 131, 300])
    for start, segment in zip(starts.tolist(), values(starts, 99, NOISE), strict=True):
        assert torch.equal(segment, whole[start : start + 99])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounding_keeps_every_representable_value(dtype):
    patterns = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    x = patterns.view(dtype)
    for lane in (0, 1, 0x8000, 0xFFFF):
        rounded = round_stochastically(x.float(), torch.full(x.shape, lane), dtype)
        nan = x.isnan()
        assert torch.equal(rounded.isnan(), nan)
        assert torch.equal(rounded.view(torch.int16)[~nan], patterns[~nan])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [1.0009765, -0.3333333, 3.1e-5, -5.9e-8, 1e-7, 6.1035e-5, 65000.5])
def test_rounding_is_exactly_unbiased_over_all_lanes(dtype, value):
    """The mean over the 65,536 lanes is x itself: no statistics, the whole population."""
    x = torch.full((65536,), value)
    rounded = round_stochastically(x, torch.arange(65536), dtype).double()
    exact = float(x[0])
    tolerance = 2.0**-40 if dtype == torch.float16 and abs(exact) < 2**-14 else 0
    assert abs(math.fsum(rounded.tolist()) / 65536 - exact) <= tolerance
    assert rounded.unique().numel() <= 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_overflow_infinity_and_nan(dtype):
    largest = torch.finfo(dtype).max
    x = torch.tensor([3.4028e38, -3.4028e38, math.inf, -math.inf, math.nan, largest])
    rounded = round_stochastically(x, torch.full((6,), 0xFFFF), dtype)
    assert rounded[:4].tolist() == [math.inf, -math.inf, math.inf, -math.inf]
    assert math.isnan(rounded[4])
    assert float(rounded[5]) == largest


def test_float16_rounds_to_infinity_in_proportion_beyond_its_largest():
    """65504 + 8 lies a quarter of the way to 65536, where float16 has infinity."""
    rounded = round_stochastically(torch.full((65536,), 65512.0), torch.arange(65536), torch.float16)
    assert int(rounded.isinf().sum()) == 65536 // 4


def test_rounding_agrees_with_a_float64_oracle_on_random_bits():
    """floor(x / ulp + lane / 2^16) * ulp, in float64, where it is exact."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(20000, generator=generator) * torch.logspace(-8, 4, 20000)
    lane = torch.randint(0, 65536, (20000,), generator=generator)
    for dtype, digits, smallest in ((torch.float16, 10, -14), (torch.bfloat16, 7, -126)):
        exponent = np.maximum(np.frexp(x.double().numpy())[1] - 1, smallest)
        ulp = np.ldexp(1.0, exponent - digits)
        part = lane.numpy() >> 3 if dtype == torch.float16 else lane.numpy()
        fraction = part / (2.0**13 if dtype == torch.float16 else 2.0**16)
        tiny = (np.abs(x.numpy()) < 2.0**-14) & (dtype == torch.float16)
        fraction = np.where(tiny, lane.numpy() / 2.0**16, fraction)
        magnitude = np.abs(x.double().numpy()) / ulp
        magnitude = np.where(tiny, np.floor(magnitude * 65536) / 65536, magnitude)
        expected = np.copysign(np.floor(magnitude + fraction) * ulp, x.numpy())
        assert np.array_equal(round_stochastically(x, lane, dtype).double().numpy(), expected)
