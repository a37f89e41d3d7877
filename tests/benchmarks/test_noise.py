import pytest
import torch


def test_bandwidths_are_those_of_what_is_moved():
    import noise

    rows = {row.case: row for row in noise.measure(elements=1 << 12, rounds=1, dtypes=[torch.float32])}
    assert rows["copy"].of_copy == pytest.approx(1.0)
    assert rows["copy"].gigabytes_per_second == pytest.approx(8 / rows["copy"].nanoseconds)
    assert rows["fill"].gigabytes_per_second == pytest.approx(4 / rows["fill"].nanoseconds)
    # with one round, ratios of medians are medians of ratios
    of_copy = rows["fill"].gigabytes_per_second / rows["copy"].gigabytes_per_second
    assert rows["fill"].of_copy == pytest.approx(of_copy)
    assert rows["torch.normal + add"].speed_up == rows["torch.normal + add, 200 small"].speed_up == 1.0
    assert rows["add, gaussian, 200 small"].elements == 200 * 4096


def test_smoke_main_prints_and_appends(tmp_path, capsys):
    import noise
    from ledger import read_rows

    table = tmp_path / "noise.csv"
    noise.main(["--elements", "4096", "--rounds", "1", "--csv", str(table)])
    assert "add, gaussian" in capsys.readouterr().out
    assert len(read_rows(table, noise.Row)) == 27
