"""Parts of a method replaced from the command line: run, resolved, resumed and replayed as any other."""

import json

import pytest
import yaml
from safetensors.torch import load_file

from foretune.cli.main import main

CHANGED = [
    "--method",
    "lozo",
    "--method.rank",
    "3",
    "--update",
    "momentum",
    "--update.beta",
    "0.5",
    "--space.interval",
    "2",
]


def test_a_composed_run_is_recorded_and_replayed(train_words, tmp_path):
    run = tmp_path / "run"
    assert main([*train_words, *CHANGED]) == 0
    method = json.loads((run / "results.json").read_text())["config"]["method"]
    assert (method["name"], method["rank"]) == ("lozo", 3)
    assert method["update"] == {"name": "momentum", "beta": 0.5}
    assert method["space"] == {"interval": 2}
    assert main(["replay", str(run), "--output", str(tmp_path / "rebuilt"), "--device", "cpu"]) == 0
    final, rebuilt = (load_file(tmp_path / folder / "model.safetensors") for folder in ("run/final", "rebuilt"))
    assert all((final[name] == rebuilt[name]).all() for name in final)


def test_its_resolved_configuration_starts_the_same_run(train_words, tmp_path):
    assert main([*train_words, *CHANGED]) == 0
    first = tmp_path / "run"
    again = tmp_path / "again"
    words = ["train", "--config", str(first / "config.yaml"), "--output", str(again)]
    assert main(words) == 0
    assert (
        yaml.safe_load((first / "config.yaml").read_text())["method"]
        == (yaml.safe_load((again / "config.yaml").read_text())["method"])
    )
    assert (first / "metrics.jsonl").read_text() == (again / "metrics.jsonl").read_text()


def test_settings_that_were_filled_in_may_have_no_effect(train_words, tmp_path):
    """The length of the run, which the resolved configuration and the journal state."""
    run, rebuilt = tmp_path / "run", tmp_path / "rebuilt"
    parts = ["--method", "zo_adamu", "--direction", "gaussian", "--update", "sgd", "--lr", "1e-3"]
    assert main([*train_words, *parts]) == 0
    assert yaml.safe_load((run / "config.yaml").read_text())["method"]["total_steps"] > 0
    assert main(["train", "--config", str(run / "config.yaml"), "--output", str(tmp_path / "again")]) == 0
    assert main(["replay", str(run), "--output", str(rebuilt), "--device", "cpu"]) == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--method.decoupled"], True),
        (["--method.decoupled", "--method.lr", "0.1"], True),
        (["--method.decoupled", "false"], False),
        (["--method.decoupled=true"], True),
        ([], None),
    ],
)
def test_a_switch_of_a_method_may_have_a_value(words, expected):
    from foretune.cli.train import parse

    config = parse(["--model", "m", "--task", "sst2", "--output", "o", "--method", "zo_adam", *words])
    assert config.method_options.get("decoupled") is expected
