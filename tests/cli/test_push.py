"""`foretune train --push-to-hub` on a hub of this machine: what is sent, what is refused, and the way back."""

from __future__ import annotations

import json

import pytest
import yaml
from huggingface_hub import constants

from fake_hub import Repo
from foretune.cli.main import main
from foretune.cli.sweep import run as sweep
from foretune.errors import UsageError
from foretune.runs import sources


@pytest.fixture(autouse=True)
def _without_ledger(monkeypatch):
    monkeypatch.setenv("FORETUNE_LEDGER", "none")


def test_a_finished_run_is_pushed_and_nothing_else(hub, train_words, tmp_path, capsys):
    run = tmp_path / "run"
    assert main([*train_words, "--push-to-hub", "me/tuned", "--hub-private-repo"]) == 0
    assert f"Pushed to {hub.url}/me/tuned" in capsys.readouterr().out
    repo = hub.repos["me/tuned"]
    assert repo.private
    assert repo.messages == ["sst2, mezo, 6 steps of foretune"]
    model = {path.name: path.read_bytes() for path in (run / "final").iterdir()}
    beside = {name: (run / name).read_bytes() for name in ("README.md", "config.yaml", "journal")}
    assert repo.files == model | beside
    assert set(model) == {
        *("README.md", "config.json", "generation_config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json", "training_args.json"),
    }
    rows = (b"the film is", b"is great 3")
    assert not any(row in content for content in repo.files.values() for row in rows)
    settings = yaml.safe_load(repo.files["config.yaml"])
    assert "push_to_hub" not in settings  # whoever makes the run again does not push it
    assert "pushed_to" not in json.loads((run / "results.json").read_text())


def test_the_repository_is_called_as_the_folder_by_default(hub, train_words):
    assert main([*train_words, "--push-to-hub"]) == 0
    assert list(hub.repos) == ["me/run"]


@pytest.mark.parametrize("options", ["", "--tuning lora --method lozo"])
def test_the_way_back(hub, train_words, rows_dir, tmp_path, options):
    """By its id, the pushed model is evaluated as the run did; the record in the repository makes it again."""
    assert main([*train_words, *options.split(), "--push-to-hub", "me/tuned"]) == 0
    file, clone = tmp_path / "evaluation.json", tmp_path / "clone"
    words = f"evaluate me/tuned --task sst2 --data-dir {rows_dir} --device cpu --output {file}"
    assert main(words.split()) == 0
    evaluated = json.loads(file.read_text())
    assert evaluated["model"] == "me/tuned"
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert evaluated["metrics"]["model"] == results["metrics"]["final"]
    clone.mkdir()
    for name, content in hub.repos["me/tuned"].files.items():
        (clone / name).write_bytes(content)
    assert main(["evaluate", str(clone), "--device", "cpu", "--output", str(file)]) == 0
    assert json.loads(file.read_text())["metrics"]["model"] == results["metrics"]["final"]
    assert main(["replay", str(clone), "-o", str(tmp_path / "again"), "--device", "cpu"]) == 0
    weights = "adapter_model.safetensors" if options else "model.safetensors"
    assert (tmp_path / "again" / weights).read_bytes() == (tmp_path / "run" / "final" / weights).read_bytes()


def _refused(words, capsys, *parts, code=1):
    assert main(words) == code
    (line,) = capsys.readouterr().err.strip().splitlines()
    for part in parts:
        assert part in line


def test_refusals_come_before_any_work(hub, train_words, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sources, "load_model", None)
    hub.repos["them/tuned"] = Repo()
    _refused([*train_words, "--push-to-hub", "them/tuned"], capsys, "Cannot push to them/tuned", "may not write")
    monkeypatch.setenv("HF_TOKEN", "hf_unknown")
    _refused([*train_words, "--push-to-hub"], capsys, "Cannot push to run", "does not know the token")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    _refused([*train_words, "--push-to-hub"], capsys, "Cannot push to run", "cannot be reached")
    _refused([*train_words, "--hub-private-repo"], capsys, "no effect without --push-to-hub", code=2)
    assert not (tmp_path / "run").exists()


def test_no_repository_is_made_for_a_wrong_command(hub, train_words, capsys):
    _refused([*train_words, "--push-to-hub", "--template", "v9"], capsys, "'v9'", code=2)
    assert not hub.repos


def test_a_push_that_failed_is_made_up_for(hub, train_words, tmp_path, capsys):
    hub.is_broken = True
    words = [*train_words, "--push-to-hub", "me/tuned"]
    _refused(words, capsys, "the storage is full", "The run is finished; the same command with --resume pushes it.")
    assert (tmp_path / "run" / "results.json").is_file()
    assert not hub.repos["me/tuned"].files
    hub.is_broken = False
    assert main([*words, "--resume"]) == 0
    assert hub.repos["me/tuned"].files["journal"] == (tmp_path / "run" / "journal").read_bytes()


def test_runs_without_a_model_and_sweeps_are_not_pushed(tmp_path, capsys):
    words = f"train --model mini --task synthetic --output {tmp_path / 'run'} --push-to-hub me/x"
    _refused(words.split(), capsys, "--push-to-hub me/x has no effect with --task synthetic", code=2)
    file = tmp_path / "sweep.yaml"
    file.write_text("method: grid\nparameters: {model: {value: m}, task: {value: sst2}, push_to_hub: {value: me/x}}\n")
    with pytest.raises(UsageError, match="push_to_hub cannot be set in a sweep"):
        sweep([str(file), "--dry-run"])
