"""`foretune evaluate`: zero-shot, demonstrations, calibration and the baselines, against oracles of the whole way."""

from __future__ import annotations

import json
import statistics

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from foretune.cli.main import main
from foretune.runs import evaluate as evaluate_module
from oracles import candidate_scores


@pytest.fixture
def run(tiny_model, rows_dir, tmp_path):
    """Function of further options that returns the results file's content."""

    def evaluate(options="", model=tiny_model, data=rows_dir):
        output = tmp_path / "evaluation.json"
        words = f"evaluate --model {model} --task sst2 --data-dir {data} --device cpu --output {output} {options}"
        assert main(words.split()) == 0
        return json.loads(output.read_text())

    return evaluate


@pytest.fixture(scope="module")
def rows(rows_dir):
    """Training and test rows of sst2."""
    folder = rows_dir / "sst2"
    splits = [(folder / f"{split}.jsonl").read_text().splitlines() for split in ("train", "validation")]
    return [[json.loads(line) for line in lines] for lines in splits]


@pytest.fixture(scope="module")
def scores(tiny_model, tiny_tokenizer):
    """Oracle: function of prompts that returns the mean log-probabilities of the two words, and their tokens."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    words = (" terrible", " great")
    start = len(tiny_tokenizer("It was")["input_ids"])
    lengths = np.array([len(tiny_tokenizer("It was" + word)["input_ids"]) - start for word in words])

    def of(prompts):
        return np.array([candidate_scores(model, tiny_tokenizer, prompt, words) for prompt in prompts]), lengths

    return of


def _prompt(row):
    return f"{row['sentence'].strip()} It was"


def _solved(row):
    return f"{_prompt(row)} {('terrible', 'great')[row['label']]}"


def _figures(scores, labels, losses=None):
    losses = scores if losses is None else losses
    chosen = losses[np.arange(len(labels)), labels]
    return {
        "accuracy": pytest.approx((scores.argmax(axis=1) == labels).mean()),
        "loss": pytest.approx((np.log(np.exp(losses).sum(axis=1)) - chosen).mean(), abs=1e-5),
    }


def test_zero_shot(run, capsys):
    results = run()
    assert results["setting"] == "zero-shot"
    assert (results["demonstrations"], results["calibration"], results["baseline"]) == (0, "none", None)
    assert (results["num_rows"], results["num_cut"]) == (12, 0)
    assert results["examples_per_second"] > 0
    out = capsys.readouterr().out
    assert "zero-shot" in out
    assert "majority class" in out
    assert "examples/s" in out


@pytest.mark.parametrize("calibration", ["none", "sfc", "icl_sfc"])
def test_demonstrations_and_calibration_equal_the_oracle(run, rows, scores, calibration):
    train, test = rows
    shown = [_solved(train[index]) for index in np.random.RandomState(3).permutation(40)[:2]]
    front = "\n\n".join(shown) + "\n\n"
    drawn = [test[index] for index in np.random.RandomState(3).permutation(12)]
    plain, lengths = scores([front + _prompt(row) for row in drawn])
    final = plain
    if calibration != "none":
        base, _ = scores([(front if calibration == "icl_sfc" else "") + "It was"])
        final = (plain - base) * lengths
    results = run(f"--demonstrations 2 --train-set-seed 3 --calibration {calibration}")
    assert results["metrics"]["model"] == _figures(final, np.array([row["label"] for row in drawn]), plain)
    suffix = "" if calibration == "none" else f", {calibration}"
    assert results["setting"] == f"2 demonstrations{suffix}"
    assert results["data"]["train"].endswith("train.jsonl")


def test_demonstrations_of_each_row_s_own(run, rows, scores):
    train, test = rows
    drawn = [test[index] for index in np.random.RandomState(0).permutation(12)]
    prompts = []
    for seed, row in zip(np.random.RandomState(0).randint(0, 10000, 12), drawn, strict=True):
        shown = [_solved(train[index]) for index in np.random.RandomState(seed).permutation(40)[:2]]
        prompts.append("\n\n".join([*shown, _prompt(row)]))
    results = run("--demonstrations 2 --demonstration-sets per-row")
    assert results["metrics"]["model"] == _figures(scores(prompts)[0], np.array([row["label"] for row in drawn]))
    assert results["data"]["train"].endswith("train.jsonl")


def test_sets_are_the_results_of_their_seeds_with_mean_and_spread(run, capsys):
    results = run("--demonstrations 2 --demonstration-sets 3")
    assert "standard deviation of 3 sets" in capsys.readouterr().out
    single = [run(f"--demonstrations 2 --train-set-seed {seed}")["metrics"]["model"] for seed in range(3)]
    assert [one["metrics"] for one in results["sets"]] == single
    losses = [one["loss"] for one in single]
    assert results["metrics"]["model"]["loss"] == statistics.fmean(losses)
    assert results["metrics"]["spread"]["loss"] == statistics.pstdev(losses)


def test_as_many_demonstrations_as_fit(run, rows, scores, tiny_tokenizer, caplog):
    """The model has 64 positions; every row has as many whole ones in front as leave it uncut."""
    train, test = rows
    shown = [_solved(train[index]) for index in np.random.RandomState(0).permutation(40)[:32]]
    drawn = [test[index] for index in np.random.RandomState(0).permutation(12)]
    prompts, numbers = [], []
    for row in drawn:
        written = ["\n\n".join([*shown[:number], _prompt(row)]) for number in range(33)]
        fitting = [text for text in written if len(tiny_tokenizer(text + " terrible")["input_ids"]) <= 64]
        prompts.append(fitting[-1])
        numbers.append(len(fitting) - 1)
    results = run("--demonstrations fit")
    assert results["demonstrations"] == pytest.approx(np.mean(numbers))
    assert results["num_cut"] == 0
    assert results["metrics"]["model"] == _figures(scores(prompts)[0], np.array([row["label"] for row in drawn]))
    caplog.clear()
    assert run(f"--demonstrations {max(numbers) + 1}")["num_cut"] > 0
    assert "--demonstrations fit takes as many whole ones as fit" in caplog.text


@pytest.mark.parametrize("baseline", ["linear_probe", "head_tuning"])
def test_baselines_learn_the_training_rows_and_leave_the_model_s_folder_alone(run, tiny_model, baseline):
    before = load_file(tiny_model / "model.safetensors")
    options = "--lr 0.1 --steps 200 --batch-size 4" if baseline == "head_tuning" else ""
    zero_shot = run()
    results = run(f"--baseline {baseline} --num-train 24 --num-dev 16 {options}")
    assert results["baseline"]["name"] == baseline
    assert results["baseline"]["num_train"] == 24
    assert results["setting"] == baseline.replace("_", " ")
    if baseline == "linear_probe":
        assert results["metrics"]["model"]["loss"] < zero_shot["metrics"]["model"]["loss"]
    else:
        assert results["baseline"]["last_loss"] < results["baseline"]["first_loss"]
        settings = {name: results["baseline"][name] for name in ("lr", "steps", "batch_size", "seed")}
        assert settings == {"lr": 0.1, "steps": 200, "batch_size": 4, "seed": 0}
    assert results["metrics"]["model"] != zero_shot["metrics"]["model"]
    after = load_file(tiny_model / "model.safetensors")
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("squad", "--calibration sfc", "--calibration sfc: Task 'squad' cannot be calibrated"),
        ("copa", "--baseline linear_probe", "--baseline linear_probe: task 'copa' has no label words"),
    ],
)
def test_what_a_task_has_no_use_for_is_refused(tiny_model, real_data_dir, capsys, monkeypatch, task, options, message):
    monkeypatch.setattr(evaluate_module, "load_model", None)
    words = f"evaluate --model {tiny_model} --task {task} --data-dir {real_data_dir} --num-eval 5 {options}"
    assert main(words.split()) == 2
    assert message in capsys.readouterr().err
