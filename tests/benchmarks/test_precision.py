import pytest
import torch


def test_averaged_roundings_approach_the_update_and_plain_rounding_does_not():
    from precision import Weights, update_cosines

    weight = Weights(128).linear.detach()
    ours_once, plain_once = update_cosines(weight, 1)
    ours, plain = update_cosines(weight, 300)
    assert plain == plain_once < 0.6
    assert ours_once < 0.6
    assert ours > 0.98


def test_slope_of_norm_weights_is_one():
    from precision import Weights, slopes

    ours, plain = slopes(Weights(8), "norm", 10)
    assert ours == pytest.approx(1.0, abs=0.02)
    assert plain < 0.5


def test_add_and_subtract_drifts_and_ours_does_not():
    from precision import drifts

    before = torch.get_rng_state()
    drift, changed_bits = drifts(64, 20)
    assert all(value > 0.005 for value in drift.values())
    assert changed_bits == 0
    assert torch.equal(torch.get_rng_state(), before)


def test_smoke_main(capsys):
    import precision

    precision.main(["--quick"])
    assert "changed bits" in capsys.readouterr().out
