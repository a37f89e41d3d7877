"""`foretune train --on-divergence`: a run that diverges ends with its reason, and can be gone on with."""

from __future__ import annotations

import json

import pytest
import yaml
from safetensors.torch import load_file

from foretune.cli.main import main
from foretune.journal import Journal
from foretune.ledger import Ledger


@pytest.fixture
def words(train_words):
    """The weights explode within six steps, and with a tenth of the lr do not."""
    return [*train_words, "--lr", "0.2", "--eval-steps", "6"]


def results(folder):
    return json.loads((folder / "results.json").read_text())


def test_a_run_that_diverges_stops_and_is_resumed_from_before_the_trouble(words, tmp_path, capsys):
    assert main(words) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert "The run diverges, exploding_weights after 6 steps" in line
    assert "Lower lr (0.2). No checkpoint is from before the trouble. Resume with on_divergence 'rollback'" in line
    with Ledger.open(tmp_path / "runs.sqlite") as ledger:
        (row,) = ledger.query()
    assert row.status == "diverged"
    assert "exploding_weights after 6 steps" in row.error
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["on_divergence"] == "stop"

    assert main([*words, "--resume", "--on-divergence", "rollback"]) == 0
    back = {"step": 0, "detected_at": 6, "cause": "exploding_weights", "lr_factor": 0.1}
    assert results(tmp_path / "run")["rollbacks"] == [back]
    assert "| 0 | 6 | exploding_weights | 0.1 |" in (tmp_path / "run" / "README.md").read_text()
    assert "exploding_weights after 6 steps: went back to step 0 with 0.1 times the lr" in capsys.readouterr().out
    with Ledger.open(tmp_path / "runs.sqlite") as ledger:
        (row,) = ledger.query()
        points = ledger.points(row.id)
    assert (row.status, row.steps, row.error, row.forward_passes) == ("finished", 6, None, 12)
    assert [point.step for point in points if "loss" in point.figures] == [2, 4, 6]
    assert {record.lr for record in Journal.read(tmp_path / "run" / "journal").steps} == {0.1 * 0.2}

    assert main(["replay", str(tmp_path / "run"), "-o", str(tmp_path / "again")]) == 0
    expected = load_file(tmp_path / "run" / "final" / "model.safetensors")
    found = load_file(tmp_path / "again" / "model.safetensors")
    assert all((found[name] == tensor).all() for name, tensor in expected.items())


def test_rollback_from_the_first_in_one_process(words, tmp_path):
    assert main([*words, "--on-divergence", "rollback"]) == 0
    with Ledger.open(tmp_path / "runs.sqlite") as ledger:
        (row,) = ledger.query()
        points = ledger.points(row.id)
    assert (row.status, row.steps, row.forward_passes) == ("finished", 6, 12)
    assert [point.step for point in points if "loss" in point.figures] == [2, 4, 6]
    passes = [point.figures["forward_passes"] for point in points if "forward_passes" in point.figures]
    assert passes == sorted(passes)


def test_ignored_it_goes_on(words, tmp_path):
    assert main([*words, "--on-divergence", "ignore"]) == 0
    assert results(tmp_path / "run")["rollbacks"] == []


@pytest.mark.parametrize("method", ["adamw", "hybrid"])
def test_rollback_is_not_for_gradients(train_words, tmp_path, capsys, method):
    assert main([*train_words, "--method", method, "--on-divergence", "rollback"]) == 2
    assert f"and '{method}' follows gradients: use 'stop' or 'ignore'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_another_policy_is_refused(train_words, capsys):
    assert main([*train_words, "--on-divergence", "retry"]) == 2
    assert "retry" in capsys.readouterr().err
