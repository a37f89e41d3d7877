"""`foretune evaluate RUN`: a run's final model on its own rows, options that override, folders that are no run."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml

from foretune.cli.evaluate import parse
from foretune.cli.main import main
from foretune.ledger import Ledger


@pytest.fixture(scope="module")
def run(tiny_model, rows_dir, tmp_path_factory):
    """Folder of a finished run whose draws and prompt are not the defaults."""
    output = tmp_path_factory.mktemp("runs") / "run"
    words = f"train --model {tiny_model} --data-dir {rows_dir} --task sst2 --output {output} --device cpu --steps 4"
    words += " --eval-steps 2 --batch-size 4 --num-train 20 --num-dev 8 --num-eval 7 --train-set-seed 3 --template v1"
    assert main([*words.split(), "--lr", "1e-3", "--max-length", "30", "--ledger", "none"]) == 0
    return output


def _evaluate(words, tmp_path):
    file = tmp_path / "evaluation.json"
    assert main(["evaluate", *map(str, words), "--device", "cpu", "--output", str(file)]) == 0
    return json.loads(file.read_text())


def test_a_run_is_evaluated_on_its_own_rows(run, tmp_path):
    results = json.loads((run / "results.json").read_text())
    for words in ([run], ["--model", run], [run, "--task", "sst2"]):
        evaluated = _evaluate(words, tmp_path)
        assert evaluated["metrics"] == {
            "model": results["metrics"]["final"],
            "majority": results["metrics"]["majority"],
        }
        assert (evaluated["num_rows"], evaluated["template"]) == (7, "v1")
        assert (evaluated["model"], evaluated["setting"]) == (str(run / "final"), "tuned")


def test_the_ledger_knows_a_tuned_model_from_one_as_it_is(run, tiny_model, rows_dir, tmp_path):
    ledger = tmp_path / "runs.sqlite"
    _evaluate([run, "--ledger", ledger], tmp_path)
    _evaluate([run, "--ledger", ledger, "--demonstrations", 1], tmp_path)
    _evaluate([tiny_model, "--task", "sst2", "--data-dir", rows_dir, "--num-eval", 7, "--ledger", ledger], tmp_path)
    with Ledger.open(ledger) as rows:
        assert sorted(row.method for row in rows.query()) == ["in_context", "tuned", "zero_shot"]


def test_options_override_those_of_the_run(run, tmp_path, rows_dir):
    evaluated = _evaluate([run, "--num-eval", 12, "--template", "v0", "--demonstrations", 1], tmp_path)
    assert (evaluated["num_rows"], evaluated["setting"]) == (12, "tuned, 1 demonstration")
    config = parse([str(run), "--num-eval", "9", "--train-set-seed", "1"])
    assert (config.num_eval, config.train_set_seed, config.template, config.data_dir) == (9, 1, "v1", str(rows_dir))
    assert (config.num_train, config.num_dev, config.max_length, config.dtype) == (None, None, 30, "float32")


def test_rows_of_another_task_are_not_read_by_the_run_s_settings(run):
    for words in (["--task", "rte"], ["--data", "own.csv"]):
        config = parse([str(run), *words])
        assert (config.template, config.num_eval, config.train_set_seed, config.data_dir) == (None, None, 0, None)
        assert config.max_length == 30


def test_baselines_and_draws_take_what_they_need_of_the_run(run):
    config = parse([str(run), "--baseline", "linear_probe"])
    assert (config.num_train, config.num_dev, config.train_set_seed) == (20, 8, 3)
    config = parse([str(run), "--demonstrations", "2", "--demonstration-sets", "3"])
    assert config.train_set_seed == 0
    config.check()


def test_a_plain_folder_needs_a_task(run, tiny_model, tmp_path, rows_dir, capsys):
    assert main(["evaluate", str(tiny_model)]) == 2
    assert "--task is missing" in capsys.readouterr().err
    plain = shutil.copytree(run / "final", tmp_path / "plain")
    (plain / "config.yaml").unlink(missing_ok=True)
    words = [plain, "--task", "sst2", "--data-dir", rows_dir, "--template", "v1", "--num-eval", 7]
    evaluated = _evaluate([*words, "--train-set-seed", 3, "--max-length", 30], tmp_path)
    assert evaluated["metrics"]["model"] == json.loads((run / "results.json").read_text())["metrics"]["final"]


def _fails(words, capsys, *parts):
    assert main(["evaluate", *map(str, words)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    for part in parts:
        assert part in line


def test_a_run_that_is_not_finished(run, tmp_path, capsys):
    unfinished = shutil.copytree(run, tmp_path / "unfinished")
    (unfinished / "results.json").unlink()
    _fails(
        [unfinished], capsys, f"{unfinished} is a run that is not finished", "--resume", f"{unfinished}/checkpoint-4"
    )
    for checkpoint in unfinished.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    _fails([unfinished], capsys, "not finished", "--resume.")


def test_a_run_without_a_model(tmp_path, capsys):
    words = (
        f"train --model mini --task synthetic --sequence-length 8 --steps 1 --batch-size 1 --output {tmp_path / 's'}"
    )
    assert main([*words.split(), "--ledger", "none", "--device", "cpu"]) == 0
    capsys.readouterr()
    _fails([tmp_path / "s", "--task", "sst2"], capsys, "keeps no model")


@pytest.mark.parametrize(
    ("settings", "option"),
    [
        ({"task": "sst2", "data_dir": "rows"}, "--data-dir rows"),
        ({"task": "", "data": "rows.csv", "completion": "{text}"}, "--data rows.csv"),
        ({"task": "own.yaml"}, "--task own.yaml"),
    ],
)
def test_rows_that_are_elsewhere(tmp_path, capsys, monkeypatch, settings, option):
    """A run's folder was moved, or is evaluated from another current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    _fails([tmp_path], capsys, f"the run was given {option}, which is not here: give {option.split()[0]}.")
    (tmp_path / option.split()[1]).mkdir()
    assert parse([str(tmp_path)]).task == settings["task"]


def test_code_is_not_run_because_a_folder_names_it(run, tmp_path, capsys):
    """A folder may be someone else's: its functions must be named again, its modelling code allowed again."""
    other = tmp_path / "other"
    other.mkdir()
    settings = yaml.safe_load((run / "config.yaml").read_text())
    settings |= {"objective": f"{tmp_path}/reward.py:score", "trust_remote_code": True}
    (other / "config.yaml").write_text(yaml.safe_dump(settings))
    _fails([other], capsys, "the function", "only where you name it", f"--objective {tmp_path}/reward.py:score")
    config = parse([str(other), "--objective", settings["objective"]])
    assert (config.objective, config.trust_remote_code) == (settings["objective"], False)
