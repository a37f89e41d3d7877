import pytest
import torch

from foretune.errors import UsageError
from foretune.runs.shapes import check_length, is_shape, load_shape, random_model, shapes
from foretune.runs.synthetic import synthetic_rows

NUM_PARAMETERS = {
    "opt-125m": 125.2e6,
    "opt-350m": 331.2e6,
    "opt-1.3b": 1315.8e6,
    "opt-13b": 12853e6,
    "llama-7b": 6738e6,
}


@pytest.mark.parametrize("name", NUM_PARAMETERS)
def test_a_shape_has_the_parameters_of_the_model_it_is_called_after(name):
    with torch.device("meta"):
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_config(load_shape(name))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(NUM_PARAMETERS[name], rel=1e-3)


def test_random_weights_have_the_dtype_asked_for_and_leave_the_generator_alone():
    state = torch.get_rng_state()
    one, other = (random_model(load_shape("mini"), dtype=torch.bfloat16, device=torch.device("cpu")) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert one.dtype == torch.bfloat16
    assert not one.training
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_an_unknown_shape_is_refused_with_near_misses():
    with pytest.raises(UsageError, match=r"--model opt-12b: no such shape or folder. Did you mean: opt-13b"):
        load_shape("opt-12b")
    assert not is_shape("opt-12b")
    assert all(map(is_shape, shapes()))


def test_more_tokens_than_positions_are_refused():
    config = load_shape("mini")
    check_length(config, 512)
    with pytest.raises(UsageError, match=r"--sequence-length 513: mini has 512 positions; use at most 512"):
        check_length(config, 513)
    with pytest.raises(UsageError, match="use at most 507"):
        check_length(config, 510, num_virtual_tokens=5)


def test_synthetic_rows_are_uniform_in_the_vocabulary_and_a_function_of_the_seed():
    config = load_shape("mini")
    rows = synthetic_rows(config, num_rows=64, length=512, seed=3)
    assert rows == synthetic_rows(config, num_rows=64, length=512, seed=3)
    assert rows != synthetic_rows(config, num_rows=64, length=512, seed=4)
    ids = torch.tensor([row.token_ids[0] for row in rows])
    assert ids.shape == (64, 512)
    assert all(row.option_lengths == (511,) for row in rows)
    assert (int(ids.min()), int(ids.max())) == pytest.approx((0, 4095), abs=3)
    counts = torch.bincount(ids.flatten() // 512, minlength=8)
    assert counts == pytest.approx(torch.full((8,), 4096), rel=0.1)
