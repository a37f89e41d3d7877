"""The row that a command leaves in the ledger, however it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from foretune.cli.main import main
from foretune.errors import DivergedError, LedgerError, PrunedError
from foretune.journal import Journal, StepRecord
from foretune.ledger import Ledger
from foretune.runs.recording import Membership, Recording


@pytest.fixture
def rows(tmp_path):
    """Function that returns the runs of the ledger beside the run's folder, and the figures of each by step."""

    def read(path=tmp_path / "runs.sqlite"):
        with Ledger.open(path) as ledger:
            runs = ledger.query()
            return runs, [{point.step: point.figures for point in ledger.points(run.id)} for run in runs]

    return read


def _train(words, callbacks=(), **options):
    from foretune.cli.train import parse
    from foretune.runs.train import train

    return train(parse(words[1:]), callbacks, **options)


def _callback(step, error):
    from transformers import TrainerCallback

    class Raises(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == step:
                raise error

    return Raises()


def test_a_run_leaves_its_row_beside_its_folder(train_words, rows, tmp_path):
    assert main([*train_words, "--method", "lozo", "--seed", "3", "--diagnostics", "4"]) == 0
    (run,), (points,) = rows()
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert (run.name, run.status, run.source) == ("run", "finished", "foretune")
    assert (run.method, run.task, run.tuning, run.seed, run.train_set_seed) == ("lozo", "sst2", "full", 3, 0)
    assert run.config == results["config"]
    assert (run.steps, run.total_steps, run.forward_passes, run.backward_passes) == (6, 6, 12, 0)
    assert run.metrics["final.accuracy"] == results["metrics"]["final"]["accuracy"]
    assert run.metrics["zero_shot.loss"] == results["metrics"]["zero_shot"]["loss"]
    assert run.metrics["majority.accuracy"] == 0.5
    assert run.metrics["dev.loss"] == points[results["final_model"]["step"]]["eval_loss"]
    assert run.peak_memory_bytes == results["peak_memory_bytes"]
    assert run.seconds > 6 * run.seconds_per_step
    assert len(run.model_hash) == len(run.data_hash) == 64
    assert set(run.versions) >= {"foretune", "torch", "transformers", "python"}
    assert (run.host, run.pid) == (os.uname().nodename, os.getpid())
    assert run.started < run.ended <= run.heartbeat
    assert run.output == str(tmp_path / "run")
    assert list(points) == [0, 2, 3, 4, 6]
    assert [points[step].get("forward_passes") for step in (2, 3, 4, 6)] == [4, 6, 8, 12]
    assert points[4]["diagnostics.matrices.norm"] > 0
    assert 0 < points[2]["seconds"] < points[6]["seconds"] < run.seconds


@pytest.mark.parametrize(
    ("method", "passes"),
    [
        ("adamw", (6, 6)),
        ("hybrid --method.hybrid_zo_layers 1", (6 * 3, 6)),
        ("mezo --method.estimator one_sided --num-directions 4 --method.ramp_steps 4", (2 + 2 + 3 + 4 + 5 + 5, 0)),
        ("zo_conservative", (6 * 5, 0)),
    ],
)
def test_passes_are_those_of_the_steps(train_words, rows, method, passes):
    assert main([*train_words, "--method", *method.split()]) == 0
    (run,), _ = rows()
    assert (run.forward_passes, run.backward_passes) == passes


def test_passes_are_those_of_all_blocks(train_words, rows, tmp_path):
    assert main([*train_words, "--schedule", "module_blocks", "--schedule.level", "attn_mlp"]) == 0
    (run,), _ = rows()
    steps = [record for record in Journal.read(tmp_path / "run" / "journal").records if isinstance(record, StepRecord)]
    assert run.forward_passes == sum(2 * len(record.scalars) for record in steps) > 12


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), "stopped", None),
        (PrunedError("flat"), "pruned", "flat"),
        (DivergedError("Loss is\n nan"), "diverged", "Loss is nan"),
        (MemoryError("all of it"), "failed", "MemoryError: all of it"),
    ],
)
def test_a_run_that_does_not_finish_says_why(train_words, rows, error, status, message):
    with pytest.raises(type(error)):
        _train(train_words, [_callback(4, error)])
    (run,), (points,) = rows()
    assert (run.status, run.state, run.error, run.steps) == (status, status, message, 3)
    assert run.ended is not None
    assert "zero_shot.accuracy" in run.metrics
    assert list(points) == [2, 3]


def test_a_run_that_is_resumed_goes_on_in_its_own_row(train_words, rows, tmp_path):
    assert main([*train_words, "--output", str(tmp_path / "whole")]) == 0
    with pytest.raises(PrunedError):
        _train(train_words, [_callback(5, PrunedError("at first"))])
    (_, before), _ = rows()
    assert main([*train_words, "--resume"]) == 0
    (whole, run), (expected, points) = rows()
    assert (run.id, run.started, run.status, run.error) == (before.id, before.started, "finished", None)
    assert run.seconds > before.seconds
    assert (run.steps, run.forward_passes, run.metrics) == (6, 12, whole.metrics)
    assert [run.config_hash, run.data_hash, run.model_hash] == [whole.config_hash, whole.data_hash, whole.model_hash]

    def without_times(figures):
        return {step: {k: v for k, v in values.items() if k != "seconds"} for step, values in figures.items()}

    assert without_times(points) == without_times(expected)
    assert main([*train_words, "--resume"]) == 0  # it is finished: nothing changes
    assert rows()[0] == [whole, run]


def test_a_killed_run_is_dead_and_may_be_resumed(train_words, rows, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(PrunedError):
        patch.setattr(Recording, "fail", lambda self, error: None)  # a killed process has no time for it
        _train(train_words, [_callback(5, PrunedError())])
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    with Ledger.open(tmp_path / "runs.sqlite") as ledger:
        assert ledger.query()[0].state == "running"
        ledger.update(ledger.query()[0].id, pid=process.pid)
    (run,), (points,) = rows()
    assert (run.status, run.state, run.steps) == ("running", "dead", 3)
    assert points[3]["forward_passes"] == 6
    assert points[3]["eval_loss"] > 0
    assert main([*train_words, "--resume"]) == 0
    (again,), (points,) = rows()
    assert (again.id, again.state, again.pid) == (run.id, "finished", os.getpid())
    assert {step: figures["forward_passes"] for step, figures in points.items()} == {2: 4, 3: 6, 4: 8, 6: 12}
    seconds = [figures["seconds"] for figures in points.values()]
    assert seconds == sorted(seconds)


def test_where_the_ledger_is(train_words, rows, tmp_path, monkeypatch, capsys):
    default, named, variable = tmp_path / "runs.sqlite", tmp_path / "a" / "named.sqlite", tmp_path / "b"
    words = [*train_words, "--num-dev", "0", "--output"]
    assert main([*words, str(tmp_path / "1"), "--ledger", "none"]) == 0
    assert not default.exists()
    assert main([*words, str(tmp_path / "2"), "--ledger", str(named)]) == 0
    variable.mkdir()
    monkeypatch.setenv("FORETUNE_LEDGER", str(variable))
    assert main([*words, str(tmp_path / "3")]) == 0
    assert [[run.name for run in rows(path)[0]] for path in (named, variable / "runs.sqlite")] == [["2"], ["3"]]
    default.write_text("something else" * 100)
    capsys.readouterr()
    assert main([*words, str(tmp_path / "4"), "--ledger", str(default)]) == 1
    assert f"Ledger {default}: file is not a database" in capsys.readouterr().err
    monkeypatch.delenv("FORETUNE_LEDGER")


def test_no_ledger_is_kept_where_nobody_named_one_and_it_cannot_be_written(train_words, tmp_path, caplog):
    (tmp_path / "runs.sqlite").write_text("something else" * 100)
    assert main(train_words) == 0
    assert "No ledger is kept." in caplog.text
    assert "--ledger FILE" in caplog.text


def test_a_ledger_that_cannot_be_written_for_a_while_loses_nothing(train_words, rows, monkeypatch, caplog):
    update, refused = Ledger.update, []

    def refuse_at_first(self, run_id, **changes):
        if len(refused) < 2:
            refused.append(changes)
            raise LedgerError("The disk is full.")
        update(self, run_id, **changes)

    monkeypatch.setattr(Ledger, "update", refuse_at_first)
    assert main(train_words) == 0
    assert caplog.text.count("The disk is full. It will be tried again.") == 2
    (run,), (points,) = rows()
    assert run.status == "finished"
    assert len(run.model_hash) == 64
    assert list(points) == [2, 3, 4, 6]


def test_what_a_user_gets_wrong_leaves_no_row(train_words, tmp_path):
    assert main([*train_words, "--method", "nothing"]) == 2
    assert main([*train_words, "--template", "nothing"]) == 2
    assert not (tmp_path / "runs.sqlite").exists()


def test_a_sweep_says_what_its_runs_belong_to(train_words, rows):
    _train(train_words, membership=Membership(study="grid", trial=7, suite="mini"))
    (run,), _ = rows()
    assert (run.study, run.trial, run.suite) == ("grid", 7, "mini")
    assert "study" not in run.config
