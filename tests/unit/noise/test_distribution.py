"""The noise as random numbers; fixed keys, bounds of five standard errors."""

import math

import pytest
import torch

from foretune.noise import Law, Noise, Purpose, add, fill, lanes, mix, stream_id

COUNT = 1 << 21
WEIGHT = stream_id("model.layers.0.weight")


def draw(*, key=None, stream=WEIGHT, purpose=Purpose.DIRECTION, law=Law.GAUSSIAN, count=COUNT):
    return fill(torch.empty(count), Noise(mix(1, 2) if key is None else key, stream, purpose, law)).double()


def correlation(a, b):
    return float((a * b).mean()) * math.sqrt(a.numel())  # in standard errors, for unit variance


def test_gaussian_moments():
    z = draw()
    assert abs(float(z.mean())) < 5 / math.sqrt(COUNT)
    assert abs(float(z.square().mean()) - 1) < 5 * math.sqrt(2 / COUNT)
    assert abs(float(z.pow(3).mean())) < 5 * math.sqrt(15 / COUNT)
    assert abs(float(z.pow(4).mean()) - 2.9974) < 5 * math.sqrt(96 / COUNT)


def test_gaussian_distribution_function():
    """Kolmogorov-Smirnov: D sqrt(N) exceeds 1.95 with probability 1e-3; the table's steps add 2^-15."""
    z = draw().sort().values
    expected = torch.special.ndtr(z)
    steps = torch.arange(COUNT + 1, dtype=torch.float64) / COUNT
    distance = max(float((steps[1:] - expected).max()), float((expected - steps[:-1]).max()))
    assert (distance - 2.0**-15) * math.sqrt(COUNT) < 1.95


def test_rademacher_moments():
    z = draw(law=Law.RADEMACHER)
    assert set(z.unique().tolist()) == {-1.0, 1.0}
    assert abs(float(z.mean())) < 5 / math.sqrt(COUNT)


@pytest.mark.parametrize("law", list(Law))
@pytest.mark.parametrize("distance", [1, 2, 7, 8, 16, 32, 64, 127, 128, 1024, 4096])
def test_elements_at_a_distance_are_uncorrelated(law, distance):
    z = draw(law=law)
    assert abs(correlation(z[:-distance], z[distance:])) < 5
    if law is Law.GAUSSIAN:
        energy = (z.square() - 1) / math.sqrt(2)
        assert abs(correlation(energy[:-distance], energy[distance:])) < 5


@pytest.mark.parametrize("law", list(Law))
def test_neighbouring_addresses_are_uncorrelated(law):
    one = draw(law=law, key=5)
    others = [
        draw(law=law, key=4),
        draw(law=law, key=5 + 2**32),
        draw(law=law, key=5, stream=WEIGHT ^ 1),
        draw(law=law, key=5, purpose=Purpose.LEFT),
        draw(law=law, key=mix(1, 3)),
        draw(law=law, key=mix(1, 2, 1)),
    ]
    for other in others:
        assert abs(correlation(one, other)) < 5


def test_lanes_are_uniform():
    """Chi-squared over 65,536 cells, 65,535 degrees of freedom: standard deviation sqrt(2 * 65535) = 362."""
    raw = lanes((4, COUNT), Noise(mix(0, 0), 9, Purpose.MASK))
    assert raw.dtype == torch.int32
    assert raw.shape == (4, COUNT)
    counts = torch.bincount(raw.flatten().long(), minlength=65536).double()
    expected = raw.numel() / 65536
    assert counts.numel() == 65536
    assert abs(float(((counts - expected).square() / expected).sum()) - 65535) < 5 * 362


def test_rounding_by_its_own_noise_is_unbiased_along_a_tensor():
    x = torch.full((1 << 18,), 1.0, dtype=torch.bfloat16)
    out = torch.empty_like(x)
    rounding = Noise(mix(1, 1), WEIGHT, Purpose.UPDATE_ROUNDING)
    add(out, x, dense=(1.0, torch.full(x.shape, 1e-3)), rounding=rounding)
    step = 2.0**-7
    share = 1e-3 / step
    standard_error = step * math.sqrt(share * (1 - share) / x.numel())
    assert abs(float(out.double().mean()) - 1.001) < 5 * standard_error
