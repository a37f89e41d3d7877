"""`foretune probe` as a user types it."""

from __future__ import annotations

import json
import shlex

import pytest
import torch

from foretune.cli.main import main
from foretune.cli.train import parse
from foretune.runs import sources


@pytest.fixture
def probe_words(tiny_model, rows_dir):
    """Arguments of a short probe."""
    words = f"probe --model {tiny_model} --data-dir {rows_dir} --task sst2 --device cpu --steps 50 --batch-size 4"
    words += " --num-train 20 --num-dev 8 --num-eval 12 --trial-steps 3 --lr 0.01"
    return words.split()


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to be in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FORETUNE_LEDGER", raising=False)
    return tmp_path


def recommended(out: str) -> list[str]:
    """The words behind `foretune` of the command that is recommended."""
    line = next(line for line in out.splitlines() if line.startswith("foretune train "))
    return shlex.split(line)[1:]


def test_a_probe_recommends_a_command_that_trains_and_leaves_nothing(probe_words, here, capsys):
    state = torch.random.get_rng_state()
    assert main(probe_words) == 0
    assert list(here.iterdir()) == []
    assert torch.equal(torch.random.get_rng_state(), state)
    out = capsys.readouterr().out
    for text in ("forward passes of 4 rows", "zo_eps: losses at both sides", "Recommended: zo_eps", "Recommended: lr"):
        assert text in out
    assert "50 steps at" in out
    assert "the dev rows 5 times" in out
    assert "as foretune estimate predicts" in out
    command = recommended(out)
    config = parse(command[1:])
    assert (config.steps, config.batch_size, config.num_dev, config.output) == (50, 4, 8, "runs/first")
    assert f"Recommended: lr {config.lr:g}:" in out
    assert f"Recommended: zo_eps {config.zo_eps:g}:" in out
    assert main([*command, "--steps", "2"]) == 0
    assert (here / "runs" / "first" / "results.json").is_file()


def test_the_same_probe_twice_recommends_the_same(probe_words, here, capsys):
    found = []
    for name in ("first.json", "second.json"):
        assert main([*probe_words, "--method", "lozo", "--json", name]) == 0
        found.append(json.loads((here / name).read_text()))
    for one in found:
        one.pop("forecast")
        one.pop("seconds")
    assert found[0] == found[1]
    assert found[0]["zo_eps"]["candidates"][2]["zo_eps"] == 1e-3
    assert [trial["steps"] for trial in found[0]["lr"]["trials"]].count(3) == 4
    assert found[0]["num_forwards"] > 300
    assert found[0]["tuning"] == "full"


def test_what_the_file_says_of_the_method_is_overridden_in_its_place(probe_words, here, capsys):
    (here / "run.yaml").write_text("method: {name: mezo, lr: 0.01, num_directions: 2}\noutput: runs/own\n")
    words = [*probe_words, "--config", "run.yaml", "--zo_eps=1e-2", "--json", "probe.json"]
    assert main(words) == 0
    command = recommended(capsys.readouterr().out)
    assert not {"--json", "--trial-steps", "3", "--zo_eps=1e-2", "0.01"} & set(command)
    found = json.loads((here / "probe.json").read_text())
    config = parse(command[1:])
    assert config.method_options == {
        "num_directions": 2,
        "lr": found["lr"]["value"],
        "zo_eps": found["zo_eps"]["value"],
    }
    assert config.output == "runs/own"
    assert [candidate["zo_eps"] for candidate in found["zo_eps"]["candidates"]] == [1e-4, 1e-3, 1e-2, 1e-1, 1.0]


@pytest.mark.parametrize(
    "method",
    ["zo_adam", "hizoo", "fzoo", "zobcd --tuning lora --lr 10", "mezo --schedule module_blocks"],
)
def test_methods_of_every_kind_are_probed_alike(method, probe_words, here, capsys):
    assert main([*probe_words, "--method", *method.split()]) == 0
    assert parse(recommended(capsys.readouterr().out)[1:]).lr > 0


def test_a_method_without_perturbations_has_no_zo_eps(probe_words, here, capsys):
    assert main([*probe_words, "--method", "forward_grad"]) == 0
    out = capsys.readouterr().out
    assert "zo_eps: none. Method 'forward_grad' differentiates along a direction and perturbs no weight." in out
    assert "--zo-eps" not in recommended(out)


def test_an_objective_that_nothing_changes_is_an_error_in_a_line(probe_words, here, capsys):
    """The tiny model gives every row the same answer, whatever its weights."""
    assert main([*probe_words, "--objective", "accuracy"]) == 1
    assert "No learning rate up to" in capsys.readouterr().err


def test_few_rows_and_many_micro_batches(probe_words, here, capsys):
    assert main([*probe_words, "--num-train", "5", "--gradient-accumulation-steps", "3"]) == 0
    assert "Recommended: lr" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--method adam", "--method adam follows gradients; what is probed are steps along random directions"),
        ("--method hybrid", "--method hybrid follows gradients"),
        ("--lr 0", "--lr 0: other learning rates are tried as multiples of this one"),
        ("--trial-steps 1", "--trial-steps must be at least 2, got 1"),
        ("--json missing/probe.json", "--json missing/probe.json: there is no folder missing; make it"),
        ("--method mezoo", "Unknown method 'mezoo'"),
        ("--zo-eps 0", "zo_eps must be positive"),
        ("--engine sideways", "--engine must be one of"),
        ("--batch-size 0", "--batch-size must be at least 1"),
        ("--num-train 1", "--num-train must be at least 2, got 1"),
        ("--objective f1", "--objective f1 is of generated texts"),
    ],
)
def test_what_cannot_be_probed_is_refused_before_the_model_is_loaded(
    words, message, probe_words, here, capsys, monkeypatch
):
    monkeypatch.setattr(sources, "load_model", lambda *args, **kwargs: pytest.fail("the model was loaded"))
    assert main([*probe_words, *words.split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert list(here.iterdir()) == []


def test_random_tokens_are_refused(tiny_model, here, capsys):
    assert main(["probe", "--model", str(tiny_model), "--task", "synthetic"]) == 2
    assert "--task synthetic: random tokens teach nothing" in capsys.readouterr().err
