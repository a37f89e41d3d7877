from __future__ import annotations

import pytest
import torch
from torch import nn

import foretune
from foretune.errors import JournalError, UsageError
from foretune.journal import Journal, hash_weights, replay
from foretune.journal.replay import threads_of

METHODS = {
    "MeZO": {"num_directions": 2, "weight_decay": 0.1},
    "LOZO": {"interval": 3},
    "LOZOM": {"interval": 3},
}


def make_model(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Embedding(11, 6), nn.Linear(6, 7), nn.LayerNorm(7), nn.Linear(7, 3)).to(dtype)
    model[1].bias.requires_grad_(False)
    return model


def record_run(path, name: str, dtype: torch.dtype = torch.float32, num_steps: int = 8, **settings):
    """Train with a decaying lr; return the model and the weights after each step."""
    model = make_model(dtype=dtype)
    optimizer = getattr(foretune, name)(model, lr=1e-2, seed=3, **{**METHODS[name], **settings})
    optimizer.record_to(path, {"weights_hash": hash_weights(model.named_parameters()), "data": "noted by a trainer"})
    snapshots = [clone(model)]
    for step in range(num_steps):
        ids = torch.arange(5) + step
        optimizer.step(lambda ids=ids: model(ids % 11).float().square().mean())
        optimizer.param_groups[0]["lr"] *= 0.9
        snapshots.append(clone(model))
    optimizer.journal.close()
    return snapshots


def clone(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(model: nn.Module, weights: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def optimizer_of(name: str, model: nn.Module, **settings):
    return getattr(foretune, name)(model, lr=1e-2, seed=3, **{**METHODS[name], **settings})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", METHODS)
def test_replay_gives_the_runs_weights_bit_for_bit(tmp_path, name, dtype):
    snapshots = record_run(tmp_path / "journal", name, dtype)
    journal = Journal.read(tmp_path / "journal")
    for num_steps in (None, 8, 4, 0):
        model = make_model(dtype=dtype)
        done = replay(optimizer_of(name, model), journal, num_steps=num_steps)
        assert done == (8 if num_steps is None else num_steps)
        assert equal(model, snapshots[done])
    assert not equal(make_model(dtype=dtype), snapshots[8])


def test_replay_of_the_other_engine_and_with_other_threads(tmp_path, caplog):
    """Neither matters for an update; the threads are set all the same, and given back."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        snapshots = record_run(tmp_path / "journal", "LOZOM", engine="in_place")
    finally:
        torch.set_num_threads(2)
    try:
        model = make_model()
        replay(optimizer_of("LOZOM", model, engine="layerwise"), Journal.read(tmp_path / "journal"))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert equal(model, snapshots[8])
    assert "Using 1 threads, as when the run began, instead of 2." in caplog.text


def test_threads_are_given_back_after_an_error(tmp_path):
    record_run(tmp_path / "journal", "MeZO", num_steps=1)
    journal = Journal.read(tmp_path / "journal")
    journal.header["num_threads"] = 3
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), threads_of(journal.header):
        assert torch.get_num_threads() == 3
        _ = 1 / 0
    assert torch.get_num_threads() == before


def test_another_base_model_is_refused_by_its_hash(tmp_path):
    record_run(tmp_path / "journal", "MeZO")
    model = make_model(seed=1)
    with pytest.raises(JournalError, match=r"began with other weights: .* Give the base model of the run"):
        replay(optimizer_of("MeZO", model), Journal.read(tmp_path / "journal"))
    assert equal(model, clone(make_model(seed=1)))


def test_a_changed_frozen_weight_is_refused(tmp_path):
    record_run(tmp_path / "journal", "MeZO")
    model = make_model()
    model[1].bias.data[0] += 1
    with pytest.raises(JournalError, match="began with other weights"):
        replay(optimizer_of("MeZO", model), Journal.read(tmp_path / "journal"))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("LOZO", {}, "'method.name' was 'LOZOM'|'method.name' was 'lozo_m'"),
        ("LOZOM", {"beta": 0.5}, "'method.beta' was 0.9 when the run began and is 0.5 now"),
        ("LOZOM", {"rank": 3}, "'method.rank' was 2 when the run began and is 3 now"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path, name, settings, message):
    record_run(tmp_path / "journal", "LOZOM")
    with pytest.raises(JournalError, match=message):
        replay(optimizer_of(name, make_model(), **settings), Journal.read(tmp_path / "journal"))


def test_a_model_of_another_dtype_is_refused(tmp_path):
    record_run(tmp_path / "journal", "MeZO")
    with pytest.raises(JournalError, match="dtype' was 'float32' when the run began and is 'bfloat16' now"):
        replay(optimizer_of("MeZO", make_model(dtype=torch.bfloat16)), Journal.read(tmp_path / "journal"))


def test_more_steps_than_recorded_are_refused(tmp_path):
    record_run(tmp_path / "journal", "MeZO")
    model = make_model()
    with pytest.raises(JournalError, match="holds 8 steps, fewer than the 9 asked for"):
        replay(optimizer_of("MeZO", model), Journal.read(tmp_path / "journal"), num_steps=9)
    assert equal(model, clone(make_model()))


def test_an_optimizer_that_has_made_steps_is_refused(tmp_path):
    record_run(tmp_path / "journal", "MeZO")
    journal = Journal.read(tmp_path / "journal")
    model = make_model()
    optimizer = optimizer_of("MeZO", model, weight_decay=0.1)
    optimizer.num_steps = 1
    with pytest.raises(UsageError, match="Cannot replay step 0: the next step of this optimizer is 1"):
        replay(optimizer, journal)
