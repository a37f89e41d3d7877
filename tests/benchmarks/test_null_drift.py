import pytest
import torch


def test_no_bit_changes(capsys):
    import null_drift

    assert null_drift.main(["--steps", "2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 3 * 2 * 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_changed_bits_are_counted(dtype):
    from bits import count_changed_bits

    one = torch.tensor([0.0, 1.0, 2.0], dtype=dtype)
    assert count_changed_bits({"a": one}, {"a": one.clone()}) == 0
    assert count_changed_bits({"a": one}, {"a": torch.tensor([-0.0, -1.0, 2.0], dtype=dtype)}) == 2
