from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from foretune import LOZOM
from foretune.errors import UsageError
from foretune.trainer import checkpoint as files
from unit.trainer.runs import TinyLM


def test_optimizer_state_comes_back_bit_for_bit(tmp_path):
    model = nn.Linear(5, 4)
    optimizer = LOZOM(model, lr=1 / 3, interval=2)
    for _ in range(3):
        optimizer.step(lambda: model(torch.ones(5)).square().sum())
    files.save_optimizer(optimizer.state_dict(), tmp_path)
    other = LOZOM(nn.Linear(5, 4), lr=1e-3, interval=2)
    other.load_state_dict(files.load_optimizer(tmp_path))
    before, after = optimizer.state_dict(), other.state_dict()
    for name, saved in before["state"].items():
        restored = after["state"][name]
        assert saved["tensors"].keys() == {"momentum"}
        assert torch.equal(saved.pop("tensors")["momentum"], restored.pop("tensors")["momentum"])
    assert before == after
    assert after["param_groups"][0]["lr"] == 1 / 3


def test_json_names_what_it_cannot_hold(tmp_path):
    with pytest.raises(UsageError, match=r"Cannot save scheduler.json: .*Tensor.*must have a JSON state"):
        files.write_json(tmp_path / "scheduler.json", {"x": torch.ones(1)})


def test_plain_module_with_tied_and_strided_weights(tmp_path):
    model = TinyLM()
    model.mix.weight.data = model.mix.weight.data.T
    files.save_model(model, tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert saved.keys() == model.state_dict().keys()
    assert all(torch.equal(saved[name], tensor) for name, tensor in model.state_dict().items())


def test_folders_are_listed_by_step(tmp_path):
    for name in ("checkpoint-10", "checkpoint-9", "checkpoint-old", "other-3"):
        (tmp_path / name).mkdir()
    assert [folder.name for folder in files.checkpoint_folders(tmp_path)] == ["checkpoint-9", "checkpoint-10"]
    assert files.step_of(tmp_path / "checkpoint-10") == 10


def test_a_checkpoint_is_whole_once_the_trainers_state_is(tmp_path):
    assert not files.is_whole(tmp_path)
    state = tmp_path / "trainer_state.json"
    text = json.dumps({"global_step": 3, "log_history": []})
    state.write_text(text[:-4])
    assert not files.is_whole(tmp_path)
    state.write_text(text)
    assert files.is_whole(tmp_path)
    assert not files.is_resumable(tmp_path)  # as save_only_model leaves it
    place = files.JournalPlace(num_records=5, epoch_ended=True)
    place.save(tmp_path)
    assert files.is_resumable(tmp_path)
    assert files.JournalPlace.load(tmp_path) == place
