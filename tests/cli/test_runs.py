"""`foretune runs` as a user types it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from foretune.cli.main import main
from foretune.ledger import Ledger, Point, Run

GOLDEN = Path(__file__).parents[1] / "golden" / "logs"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The current folder, empty, with no ledger named elsewhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FORETUNE_LEDGER", raising=False)
    return tmp_path


@pytest.fixture
def ledger(folder):
    """Path of a ledger of five runs: MeZO with three seeds, LOZO, one that failed."""
    path = folder / "runs" / "runs.sqlite"
    with Ledger.open(path, create=True) as opened:
        for index, (method, seed, accuracy) in enumerate(
            [("mezo", 0, 0.5), ("mezo", 1, 0.6), ("mezo", 2, 0.7), ("lozo", 0, 0.9), ("zo_adam", 0, None)]
        ):
            failed = accuracy is None
            opened.add(
                Run(
                    id=f"{index}" * 12,
                    name=f"{method}-{seed}",
                    status="failed" if failed else "finished",
                    error="MemoryError: too large" if failed else None,
                    method=method,
                    task="sst2",
                    seed=seed,
                    train_set_seed=0,
                    config={
                        "method": {"name": method, "lr": 10.0 ** -(index + 4) if index > 2 else 1e-6},
                        "seed": seed,
                    },
                    metrics={} if failed else {"final.accuracy": accuracy},
                    forward_passes=200,
                )
            )
        opened.add_points("0" * 12, [Point(10, {"loss": 0.75}), Point(20, {"loss": 0.5})])
    return path


def _columns(text):
    """The rows of a printed table, by their cells."""
    return [[cell.strip() for cell in line.strip("│┃").split("│")] for line in text.splitlines() if line[:1] in "│"]


def test_list(ledger, capsys):
    assert (
        main(["runs", "list", "--columns", "name", "lr", "final.accuracy", "--sort", "final.accuracy", "--descending"])
        == 0
    )
    output = capsys.readouterr().out
    assert f"5 runs in {Path('runs', 'runs.sqlite')}" in output
    assert _columns(output) == [
        ["lozo-0", "1e-07", "0.9"],
        ["mezo-2", "1e-06", "0.7"],
        ["mezo-1", "1e-06", "0.6"],
        ["mezo-0", "1e-06", "0.5"],
        ["zo_adam-0", "1e-08", ""],
    ]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("--where method=mezo seed>=1", ["mezo-1", "mezo-2"]),
        ("--status failed", ["zo_adam-0"]),
        ("--status finished --where lr<1e-6", ["lozo-0"]),
        ("mezo-1 3333", ["mezo-1", "lozo-0"]),
        ("--where error~MEMORY", ["zo_adam-0"]),
    ],
)
def test_list_chooses(ledger, capsys, words, names):
    assert main(["runs", "list", *words.split(), "--columns", "name"]) == 0
    assert _columns(capsys.readouterr().out) == [[name] for name in names]


def test_show(ledger, capsys):
    assert main(["runs", "show", "0000"]) == 0
    output = capsys.readouterr().out
    rows = dict(row for row in _columns(output) if len(row) == 2)
    assert (rows["name"], rows["config.method.lr"], rows["final.accuracy"]) == ("mezo-0", "1e-06", "0.5")
    assert ["loss", "2", "0.75", "0.5", "0.75", "0.5"] in _columns(output)
    assert main(["runs", "show", "zo_adam-0"]) == 0
    assert "MemoryError: too large" in capsys.readouterr().out


def test_compare_takes_seeds_together(ledger, capsys):
    assert main(["runs", "compare"]) == 0
    rows = {row[0]: row[1:] for row in _columns(capsys.readouterr().out)}
    assert rows["runs"] == ["3 finished", "1 finished", "1 failed"]
    assert rows["seeds"] == ["0 1 2", "0", "0"]
    assert rows["method.name"] == ["mezo", "lozo", "zo_adam"]
    assert rows["final.accuracy"] == ["0.6 ± 0.1 (3)", "0.9 (1)", "-"]
    assert rows["forward_passes"] == ["200 ± 0 (3)", "200 (1)", "200 (1)"]
    assert "seed" not in rows


def test_export(ledger, folder, capsys):
    assert main(["runs", "export", "-o", "runs.csv", "--where", "method=mezo", "--columns", "name", "lr"]) == 0
    assert list(csv.DictReader((folder / "runs.csv").read_text().splitlines())) == [
        {"name": f"mezo-{seed}", "lr": "1e-06"} for seed in range(3)
    ]
    assert main(["runs", "export", "--output", "points.json", "--points"]) == 0
    lines = json.loads((folder / "points.json").read_text())
    assert [(line["name"], line["step"], line["loss"]) for line in lines] == [("mezo-0", 10, 0.75), ("mezo-0", 20, 0.5)]
    assert "2 lines of 5 runs in points.json" in capsys.readouterr().out


def test_help_says_what_there_is(capsys):
    for words in ("runs --help", "runs list --help", "runs import --help"):
        assert main(words.split()) == 0
        assert "usage: foretune runs" in capsys.readouterr().out


def test_import_of_a_run_of_the_research_code(folder, capsys):
    words = f"runs import {GOLDEN / 'wandb'} --task sst2 --metric final.accuracy=last.test_acc --suite mezo-opt"
    assert main(words.split()) == 0
    assert "wandb-evg21kgr  sst2-mezo (wandb_run): 6 steps" in capsys.readouterr().out
    with Ledger.open(folder / "runs.sqlite") as ledger:
        (run,) = ledger.query(["lr=1e-6", "zo_eps=1e-3", "method=mezo"])
        assert (run.source, run.is_imported, run.status) == ("wandb_run", True, "finished")
        assert (run.task, run.method, run.tuning, run.model) == ("sst2", "mezo", "full", "facebook/opt-1.3b")
        assert (run.seed, run.train_set_seed, run.total_steps, run.suite) == (0, 0, 40, "mezo-opt")
        assert run.metrics["final.accuracy"] == 0.91
        assert (run.metrics["min.eval_loss"], run.metrics["max.eval_loss"]) == (pytest.approx(0.3), 0.7)
        assert run.metrics["min.loss"] == pytest.approx(1 / 41)  # the last one is nan
        assert run.config["imported"] == {"max_steps": 40}
        points = ledger.points(run.id)
    assert main([*words.split(), "--seed", "7"]) == 0  # what was said again is brought up to date
    assert "brought up to date" in capsys.readouterr().out
    with Ledger.open(folder / "runs.sqlite") as ledger:
        (again,) = ledger.query()
        assert (again.id, again.seed) == (run.id, 7)
        assert ledger.points(run.id) == points


def test_import_of_chosen_scalars(ledger, capsys):
    words = f"runs import {GOLDEN / 'tensorboard'} --scalars eval_accuracy --method zo --set lr=1e-7 --tuning lora"
    assert main([*words.split(), "--metric", "final.accuracy=max.eval_accuracy"]) == 0
    with Ledger.open(ledger) as opened:  # the one that is there is taken
        (run,) = opened.query(["source=tensorboard"])
        assert {name: round(value, 6) for name, value in run.metrics.items()} == {
            "min.eval_accuracy": 0.5,
            "max.eval_accuracy": 0.9,
            "last.eval_accuracy": 0.9,
            "final.accuracy": 0.9,
        }
        assert (run.method, run.tuning, run.config) == ("mezo", "lora", {"method": {"name": "mezo", "lr": 1e-7}})
        assert [point.step for point in opened.points(run.id)] == [0, 10, 20, 30, 40]
    capsys.readouterr()
    assert main([*words.split(), "--metric", "final.accuracy=max.accuracy"]) == 2
    assert "has no such figure. Did you mean: max.eval_accuracy" in capsys.readouterr().err
    assert main(["runs", "import", str(GOLDEN / "tensorboard"), "--scalars", "accuracy"]) == 2
    assert "--scalars accuracy: no log has it" in capsys.readouterr().err


def test_a_run_made_without_a_ledger_is_imported_from_its_folder(train_words, folder):
    assert main([*train_words, "--ledger", "none"]) == 0
    assert main(["runs", "import", str(folder / "run"), "--method", "mezo"]) == 0
    with Ledger.open(folder / "runs.sqlite") as ledger:
        (run,) = ledger.query()
        assert (run.name, run.source, run.status, run.steps) == ("run", "trainer_state", "finished", 6)
        assert [point.step for point in ledger.points(run.id)] == [2, 3, 4, 6]
        assert "dev.loss" in run.metrics


def test_evaluations_are_kept_where_a_ledger_is_named(rows_dir, tiny_model, folder):
    words = f"evaluate --model {tiny_model} --task sst2 --data-dir {rows_dir} --device cpu --num-eval 6".split()
    assert main(words) == 0
    assert not list(folder.glob("*.sqlite"))
    assert main([*words, "--ledger", "runs.sqlite", "--output", "result.json"]) == 0
    assert main([*words, "--ledger", "runs.sqlite", "--demonstrations", "1", "--demonstration-sets", "2"]) == 0
    result = json.loads((folder / "result.json").read_text())
    with Ledger.open(folder / "runs.sqlite") as ledger:
        runs = ledger.query()
    assert [(run.method, run.train_set_seed, run.status) for run in runs] == [
        ("zero_shot", 0, "finished"),
        ("in_context", 0, "finished"),
        ("in_context", 1, "finished"),
    ]
    assert runs[0].metrics["final.accuracy"] == result["metrics"]["model"]["accuracy"]
    assert runs[1].settings_hash == runs[2].settings_hash != runs[0].settings_hash
