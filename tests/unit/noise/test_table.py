"""The quantile table: its definition, its moments, and that the committed file is that table."""

import hashlib

import pytest
import torch

from foretune.noise.table import TABLE_SHA256, TABLE_SIZE, build_table, quantile_table, table_bytes


def test_the_committed_file_has_its_stated_hash_and_size():
    assert len(table_bytes()) == 4 * TABLE_SIZE
    assert hashlib.sha256(table_bytes()).hexdigest() == TABLE_SHA256


def test_the_committed_table_is_the_built_one_within_one_ulp():
    """Another C library's logarithm may differ in the last place of a float64, hence the one ulp."""
    distance = (build_table().view(torch.int32) - quantile_table().view(torch.int32)).abs()
    assert int(distance.max()) <= 1


def test_entries_are_mid_quantiles_of_the_half_normal():
    """Against torch's own inverse of the normal distribution function, in float64."""
    positions = 0.5 + (torch.arange(TABLE_SIZE, dtype=torch.float64) + 0.5) / (2 * TABLE_SIZE)
    quantiles = torch.special.ndtri(positions)
    expected = quantiles / quantiles.square().mean().sqrt()
    torch.testing.assert_close(quantile_table().double(), expected, rtol=2e-7, atol=0)


def test_second_and_fourth_moment():
    table = quantile_table().double()
    assert float(table.square().mean()) == pytest.approx(1, abs=1e-8)
    assert float(table.pow(4).mean()) == pytest.approx(2.9974, abs=1e-4)
    assert bool((table.diff() > 0).all())


def test_every_magnitude_is_a_normal_number_in_half_precision():
    """The compiled `fill` counts on it when it rounds z to float16."""
    assert float(quantile_table()[0]) > 2**-14
