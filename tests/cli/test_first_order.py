"""`foretune train --method sgd | adam | adamw`: the same command, files and table as zeroth-order runs."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file

from foretune.cli.main import main
from foretune.cli.train import parse


def _weights(folder):
    return load_file(folder / "model.safetensors")


def _equal(first, second):
    return first.keys() == second.keys() and all((first[name] == second[name]).all() for name in first)


def test_a_run_leaves_what_a_zeroth_order_run_leaves(train_words, tmp_path, capsys):
    zo_words = [word.replace(str(tmp_path / "run"), str(tmp_path / "zo")) for word in train_words]
    assert main([*train_words, "--method", "adamw", "--method.betas", "[0.8, 0.99]"]) == 0
    assert main(zo_words) == 0
    ours, theirs = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("run", "zo"))
    assert list(ours) == list(theirs)
    assert ours["method"] == "adamw"
    assert ours["engine"] == "backpropagation"
    assert ours["config"]["method"]["betas"] == [0.8, 0.99]
    assert ours["metrics"]["zero_shot"] == theirs["metrics"]["zero_shot"]
    assert ours["seconds_per_step"] > 0
    assert ours["final_model"]["step"] in (3, 6)
    assert _equal(
        _weights(tmp_path / "run" / "final"), _weights(tmp_path / "run" / f"checkpoint-{ours['final_model']['step']}")
    )
    steps = {
        name: [json.loads(line)["step"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("run", "zo")
    }
    assert steps["run"] == steps["zo"]
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {path.name for path in (tmp_path / "zo").iterdir()} - {"journal"} | {"run.json"}
    assert "tuned" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["sgd", "adam", "adamw"])
def test_every_baseline_lowers_the_dev_loss(train_words, tmp_path, method):
    lr = "0.5" if method == "sgd" else "1e-3"
    assert main([*train_words[:-2], "--steps", "30", "--method", method, "--lr", lr]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["eval_loss"] for line in lines if "eval_loss" in line]
    assert losses[-1] < losses[0]


def test_an_interrupted_run_goes_on_with_the_same_bits(train_words, tmp_path, capsys, monkeypatch):
    from foretune.trainer import FOTrainer

    words = [*train_words, "--method", "adam", "--eval-steps", "2"]
    other = [word.replace(str(tmp_path / "run"), str(tmp_path / "cut")) for word in words]
    assert main(words) == 0
    measure = FOTrainer.measure

    def killed(self, *args):
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return measure(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(FOTrainer, "measure", killed)
        assert main(other) == 130
    capsys.readouterr()
    assert main(other) == 2
    assert "holds a run already (run.json): add --resume" in capsys.readouterr().err
    assert main([*other, "--resume", "--method.weight_decay", "0.1"]) == 1
    assert "weight_decay" in capsys.readouterr().err
    assert main([*other, "--resume"]) == 0
    assert _equal(_weights(tmp_path / "run" / "final"), _weights(tmp_path / "cut" / "final"))
    first, second = ((tmp_path / name / "metrics.jsonl").read_bytes() for name in ("run", "cut"))
    assert first == second
    assert main([*other, "--resume"]) == 0


def test_it_cannot_be_replayed_and_says_so_in_a_line(train_words, tmp_path, capsys):
    assert main([*train_words, "--method", "sgd"]) == 0
    capsys.readouterr()
    assert main(["replay", str(tmp_path / "run"), "-o", str(tmp_path / "again")]) == 2
    message = capsys.readouterr().err
    assert "cannot be replayed: it is a run of 'sgd'" in message
    assert len(message.splitlines()) == 1
    assert not (tmp_path / "again").exists()


def test_the_two_kinds_do_not_share_a_folder(train_words, tmp_path, capsys):
    assert main([*train_words, "--method", "sgd"]) == 0
    capsys.readouterr()
    assert main([*train_words, "--resume"]) == 2
    assert "holds a run of 'sgd' (run.json)" in capsys.readouterr().err


def test_methods_lists_and_describes_the_baselines(capsys):
    assert main(["methods"]) == 0
    assert "1 and a backward" in " ".join(capsys.readouterr().out.split())
    assert main(["methods", "adamw"]) == 0
    shown = capsys.readouterr().out
    assert "--method.betas" in shown
    assert "weight_decay) theta" in shown


def test_options_reach_the_recipe(train_words):
    config = parse([*train_words[1:], "--method", "adam", "--method.fo_eval_mode", "true"])
    assert config.method_options == {"fo_eval_mode": True, "lr": 1e-3}
