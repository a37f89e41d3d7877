"""Where runs are read from, and what happens where they cannot be."""

from __future__ import annotations

import json
import sqlite3

import pytest

from foretune.errors import LedgerError, UsageError
from foretune.ledger import Ledger, Point
from foretune.reports.sources import read_logs

_CONFIG = {
    "method": {"name": "mezo", "lr": 1e-3, "zo_eps": 1e-3},
    "tuning": {"name": "full"},
    "task": "sst2",
    "model": "some/model",
    "seed": 3,
    "train_set_seed": 0,
    "steps": 20,
}


@pytest.fixture
def make_folder(tmp_path):
    """Function that makes the folder of a run; `results` are those of a finished one."""

    def make(name="first", results=None, metrics='{"step": 10, "loss": 1.0}\n{"step": 10, "eval_loss": 0.5}\n'):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(json.dumps(_CONFIG))
        (folder / "metrics.jsonl").write_text(metrics)
        if results is not None:
            (folder / "results.json").write_text(results if isinstance(results, str) else json.dumps(results))
        return folder

    return make


_RESULTS = {
    "task": "sst2",
    "metrics": {"zero_shot": {"accuracy": 0.5}, "final": {"accuracy": 0.7, "loss": 0.4}, "majority": {}},
    "final_model": {"step": 10},
    "peak_memory_bytes": 1000,
    "seconds_per_step": 0.5,
    "config": _CONFIG,
}


def test_a_ledger_a_folder_with_one_and_both(reported_ledger):
    by_file = read_logs([str(reported_ledger)])
    by_folder = read_logs([str(reported_ledger.parent)])
    both = read_logs([str(reported_ledger), str(reported_ledger.parent)])
    assert len(by_file.runs) == len(by_folder.runs) == len(both.runs) > 50
    assert by_file.points(by_file.runs[0])[-1].step == 400


def test_a_run_folder_without_a_ledger(make_folder):
    logs = read_logs([str(make_folder(results=_RESULTS))])
    (run,) = logs.runs
    assert (run.name, run.status, run.method, run.seed, run.steps) == ("first", "finished", "mezo", 3, 20)
    assert run.metrics == {"zero_shot.accuracy": 0.5, "final.accuracy": 0.7, "final.loss": 0.4, "dev.loss": 0.5}
    assert (run.peak_memory_bytes, run.seconds_per_step) == (1000, 0.5)
    assert logs.points(run) == (Point(10, {"loss": 1.0, "eval_loss": 0.5}),)


def test_a_folder_of_run_folders_with_one_that_was_stopped(make_folder):
    make_folder("first", results=_RESULTS)
    folder = make_folder("second")
    assert [(run.name, run.status, run.steps) for run in read_logs([str(folder.parent)]).runs] == [
        ("first", "finished", 20),
        ("second", "stopped", 10),
    ]


def test_a_run_folder_with_its_row_beside_it(make_folder, make_run):
    folder = make_folder(results=_RESULTS)
    run = make_run(name="as the ledger has it")
    (folder / "run-id").write_text(f"{run.id}\n")
    with Ledger.open(folder.parent / "runs.sqlite", create=True) as ledger:
        ledger.add(run)
    assert [run.name for run in read_logs([str(folder)]).runs] == ["as the ledger has it"]


def test_damaged_rows_figures_and_folders_are_left_out_by_name(read_back, make_run, make_folder, tmp_path):
    good, bad, torn = make_run(name="good"), make_run(name="bad"), make_run(name="torn")
    read_back([good, bad, torn], [[Point(1, {"loss": 1.0})]] * 3)
    database = sqlite3.connect(tmp_path / "some.sqlite")
    database.execute("UPDATE runs SET config = 'nonsense' WHERE id = ?", [bad.id])
    database.execute("UPDATE points SET figures = '[' WHERE run = ?", [torn.id])
    database.commit()
    database.close()
    folder = make_folder("damaged", results="{")
    logs = read_logs([str(tmp_path / "some.sqlite"), str(folder)])
    assert {run.name: bool(logs.points(run)) for run in logs.runs} == {"good": True, "torn": False}
    row, damaged, figures = logs.skipped
    assert f"run {bad.id} is left out: its config cannot be read" in row
    assert damaged.startswith(f"Run folder {folder} is left out: ")
    assert figures.startswith("Figures of run torn are left out: ")


def test_conditions_choose_runs(reported_ledger):
    logs = read_logs([str(reported_ledger)], ["method=lozo", "task=rte"])
    assert {(run.method, run.task) for run in logs.runs} == {("lozo", "rte")}


def test_nothing_to_report(tmp_path, reported_ledger):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UsageError, match=r"neither a run \(config.yaml\)"):
        read_logs([str(empty)])
    with pytest.raises(UsageError, match="there is no such file or folder"):
        read_logs([str(tmp_path / "absent")])
    Ledger.open(tmp_path / "runs.sqlite", create=True).close()
    with pytest.raises(UsageError, match="no run is there to report"):
        read_logs([str(tmp_path / "runs.sqlite")])
    with pytest.raises(UsageError, match="None of the 74 runs meets seed=9"):
        read_logs([str(reported_ledger)], ["seed=9"])
    (tmp_path / "notes.txt").write_text("no database, but a text of some length " * 40)
    with pytest.raises(LedgerError, match="not a database"):
        read_logs([str(tmp_path / "notes.txt")])
