"""`foretune train --method hybrid`."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file

from foretune.cli.main import main

HYBRID = ["--method", "hybrid", "--method.fo_optimizer", "adam", "--method.fo_lr", "1e-3"]


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_a_run_leaves_its_figures(train_words, tmp_path, tuning):
    assert main([*train_words, *HYBRID, "--tuning", tuning, "--method.hybrid_zo_layers", "1"]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["method"] == "hybrid"
    assert results["engine"] == "layerwise and backpropagation"
    assert results["config"]["method"]["hybrid_zo_layers"] == 1
    assert 0 < results["state_bytes"] < 8 * 1.1 * results["num_trainable_parameters"]
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert "run.json" in names
    assert "journal" not in names


def test_it_lowers_the_dev_loss(train_words, tmp_path):
    assert main([*train_words[:-2], "--steps", "30", *HYBRID]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["eval_loss"] for line in lines if "eval_loss" in line]
    assert losses[-1] < losses[0]


def test_an_interrupted_run_goes_on_with_the_same_bits(train_words, tmp_path, capsys, monkeypatch):
    from foretune.trainer import HybridTrainer

    words = [*train_words, *HYBRID, "--eval-steps", "2"]
    other = [word.replace(str(tmp_path / "run"), str(tmp_path / "cut")) for word in words]
    assert main(words) == 0
    measure = HybridTrainer.measure

    def killed(self, *args):
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return measure(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(HybridTrainer, "measure", killed)
        assert main(other) == 130
    assert main([*other, "--resume"]) == 0
    first, second = (load_file(tmp_path / name / "final" / "model.safetensors") for name in ("run", "cut"))
    assert all((first[name] == second[name]).all() for name in first)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (tmp_path / "cut" / "metrics.jsonl").read_bytes()
    capsys.readouterr()
    assert main(["replay", str(tmp_path / "run"), "-o", str(tmp_path / "again")]) == 2
    message = capsys.readouterr().err
    assert "cannot be replayed: it is a run of 'hybrid', whose gradients no journal keeps" in message
    assert len(message.splitlines()) == 1


def test_more_layers_than_the_model_has_are_refused_in_one_line(train_words, tmp_path, capsys):
    assert main([*train_words, "--method", "hybrid", "--method.hybrid_zo_layers", "3"]) == 2
    message = capsys.readouterr().err
    assert "hybrid_zo_layers must be from 0 to 2, the number of the model's layers, got 3" in message
    assert len(message.splitlines()) == 1
    assert not (tmp_path / "run" / "run.json").exists()


def test_it_is_listed_and_described(capsys):
    assert main(["methods"]) == 0
    assert "3 and a backward" in " ".join(capsys.readouterr().out.split())
    assert main(["methods", "hybrid"]) == 0
    assert "--method.hybrid_zo_layers" in capsys.readouterr().out
