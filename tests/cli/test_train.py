"""`foretune train`, `evaluate` and `replay` as a user types them."""

from __future__ import annotations

import json

import pytest
import yaml
from safetensors.torch import load_file

import masked_models
from foretune.cli.main import main
from foretune.cli.train import parse


def _weights(folder):
    return load_file(folder / "model.safetensors")


def _equal(first, second):
    return first.keys() == second.keys() and all((first[name] == second[name]).all() for name in first)


def test_a_run_leaves_what_the_readme_promises(train_words, tmp_path, capsys):
    from transformers import AutoModelForCausalLM

    assert main([*train_words, "--method", "lozo", "--method.rank", "3"]) == 0
    run = tmp_path / "run"
    results = json.loads((run / "results.json").read_text())
    assert results["task"] == "sst2"
    assert (results["method"], results["steps"], results["seed"], results["dtype"]) == ("lozo", 6, 0, "float32")
    assert results["metrics"]["majority"]["accuracy"] == 0.5
    assert 0 <= results["metrics"]["zero_shot"]["accuracy"] <= 1
    assert 0 <= results["metrics"]["final"]["accuracy"] <= 1
    assert results["seconds_per_step"] > 0
    assert results["peak_memory_bytes"] > 1e6
    assert results["state_bytes"] == 0
    assert results["config"]["method"]["rank"] == 3
    assert results["final_model"]["step"] in (3, 6)
    AutoModelForCausalLM.from_pretrained(run / "final")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 3, 4, 6, 6]
    assert "tuned" in capsys.readouterr().out


def test_the_final_model_is_that_of_the_best_dev_loss(train_words, tmp_path):
    assert main(train_words) == 0
    run = tmp_path / "run"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    best = min((line for line in lines if "eval_loss" in line), key=lambda line: line["eval_loss"])["step"]
    assert json.loads((run / "results.json").read_text())["final_model"]["step"] == best
    assert _equal(_weights(run / "final"), _weights(run / f"checkpoint-{best}"))


def test_a_paired_run_says_so_and_replays(train_words, tmp_path):
    assert main([*train_words, "--method", "lozo", "--engine", "paired"]) == 0
    run = tmp_path / "run"
    assert json.loads((run / "results.json").read_text())["engine"] == "paired"
    assert main(["replay", str(run), "-o", str(tmp_path / "again")]) == 0
    assert _equal(_weights(run / "final"), _weights(tmp_path / "again"))


def test_without_dev_rows_the_last_step_is_final(train_words, tmp_path):
    assert main([*train_words, "--num-dev", "0"]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["final_model"] == {"step": 6, "selected_by": "last step (no dev rows)"}
    assert _equal(_weights(tmp_path / "run" / "final"), _weights(tmp_path / "run" / "checkpoint-6"))


def test_the_same_command_twice_gives_the_same_bits(train_words, tmp_path):
    other = [word.replace(str(tmp_path / "run"), str(tmp_path / "other")) for word in train_words]
    assert main(train_words) == main(other) == 0
    assert _equal(_weights(tmp_path / "run" / "final"), _weights(tmp_path / "other" / "final"))
    for name in ("metrics.jsonl", "journal"):
        first, second = (tmp_path / folder / name for folder in ("run", "other"))
        assert first.read_bytes() == second.read_bytes()


def test_replay_rebuilds_the_final_model(train_words, tmp_path, capsys):
    assert main([*train_words, "--method", "lozo_m", "--method.interval", "2"]) == 0
    run = tmp_path / "run"
    assert main(["replay", str(run), "-o", str(tmp_path / "again")]) == 0
    assert _equal(_weights(run / "final"), _weights(tmp_path / "again"))
    assert main(["replay", str(run), "-o", str(tmp_path / "last"), "--step", "6"]) == 0
    assert _equal(_weights(run / "checkpoint-6"), _weights(tmp_path / "last"))
    capsys.readouterr()
    assert main(["replay", str(run), "-o", str(tmp_path / "beyond"), "--step", "7"]) == 2
    assert "--step 7: the journal holds 6 steps" in capsys.readouterr().err


def test_a_run_of_a_masked_model_is_replayed(train_words, tiny_model, tmp_path):
    masked = tmp_path / "masked"
    masked_models.roberta().save_pretrained(masked)
    masked_models.roberta_tokenizer().save_pretrained(masked)
    assert main([str(masked) if word == str(tiny_model) else word for word in train_words]) == 0
    assert main(["replay", str(tmp_path / "run"), "-o", str(tmp_path / "again")]) == 0
    assert _equal(_weights(tmp_path / "run" / "final"), _weights(tmp_path / "again"))


def test_evaluate_agrees_with_the_run(train_words, rows_dir, tiny_model, tmp_path):
    assert main(train_words) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    for model, key in ((tmp_path / "run", "final"), (tiny_model, "zero_shot")):
        output = tmp_path / "evaluation.json"
        words = f"evaluate --model {model} --task sst2 --data-dir {rows_dir} --device cpu --output {output}"
        assert main(words.split()) == 0
        assert json.loads(output.read_text())["metrics"]["model"] == results["metrics"][key]


def test_resume_starts_anew_where_nothing_was_saved_and_ends_at_once_on_a_finished_run(train_words, tmp_path, capsys):
    assert main([*train_words, "--resume"]) == 0
    results = tmp_path / "run" / "results.json"
    written = results.stat().st_mtime_ns
    assert main([*train_words, "--resume"]) == 0
    assert results.stat().st_mtime_ns == written
    capsys.readouterr()
    assert main([*train_words, "--resume", "--lr", "1e-4"]) == 1
    assert "method.lr" in capsys.readouterr().err


def test_yaml_and_command_line_give_one_configuration(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("model: m\ntask: sst2\noutput: o\nmethod: lozo\nlr: 1e-6\nzo-eps: 1e-2\nsteps: 7\n")
    config = parse(["--config", str(file), "--steps", "9", "--method.rank=5"])
    assert (config.model, config.steps, config.lr, config.zo_eps) == ("m", 9, 1e-6, 1e-2)
    assert config.method_options == {"rank": 5, "lr": 1e-6, "zo_eps": 1e-2}
    assert parse(["--config", str(file), "--method", "mezo"]).method["name"] == "mezo"


def test_a_resolved_configuration_starts_the_same_run(train_words, tmp_path):
    assert main([*train_words, "--method", "lozo", "--zo-eps", "0.01"]) == 0
    file = tmp_path / "run" / "config.yaml"
    assert yaml.safe_load(file.read_text())["method"]["zo_eps"] == 0.01
    assert main(["train", "--config", str(file), "--output", str(tmp_path / "again")]) == 0
    assert _equal(_weights(tmp_path / "run" / "final"), _weights(tmp_path / "again" / "final"))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_runs(train_words, tmp_path, dtype):
    assert main([*train_words, "--dtype", dtype]) == 0
    assert json.loads((tmp_path / "run" / "results.json").read_text())["dtype"] == dtype
    assert str(next(iter(_weights(tmp_path / "run" / "final").values())).dtype) == f"torch.{dtype}"
