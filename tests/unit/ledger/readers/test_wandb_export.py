"""Exports of W&B, in the forms that its pages, its API and the scripts around it give them."""

from __future__ import annotations

import csv
import json
import math

import pytest

from foretune.errors import UsageError
from foretune.ledger.readers import read_logs

HISTORY = [
    {"_step": 0, "_runtime": 1.5, "_timestamp": 1.7e9, "train/loss": 0.7, "train/global_step": 10},
    {"_step": 1, "_runtime": 2.5, "_timestamp": 1.7e9, "eval/accuracy": 0.9, "train/global_step": 10},
    {"_step": 2, "_runtime": 3.5, "_timestamp": 1.7e9, "train/loss": "NaN", "train/global_step": 20},
]
RUN = {
    "id": "abcd1234",
    "name": "sst2-lozo",
    "state": "crashed",
    "config": {"trainer": "lozo", "learning_rate": 1e-7, "_wandb": {}},
    "summary": {"_runtime": 9, "_step": 2, "test_acc": 0.9, "note": "text"},
    "history": HISTORY,
}


def _csv(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)


def _check_history(log):
    assert [point.step for point in log.points] == [10, 20]
    assert log.points[0].figures == {"loss": 0.7, "seconds": 2.5, "eval_accuracy": 0.9}
    assert math.isnan(log.points[1].figures["loss"])


@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv"])
def test_a_history(tmp_path, suffix):
    path = tmp_path / f"history-abcd1234.{suffix}"
    if suffix == "json":
        path.write_text(json.dumps(HISTORY))
    elif suffix == "jsonl":
        path.write_text("\n".join(map(json.dumps, HISTORY)))
    else:
        _csv(path, HISTORY)
    (log,) = read_logs(path)
    assert (log.name, log.source, log.status, log.steps) == ("history-abcd1234", "wandb_export", "imported", 20)
    _check_history(log)


@pytest.mark.parametrize("form", ["one", "many", "lines", "csv"])
def test_runs_with_settings_and_summaries(tmp_path, form):
    path = tmp_path / {"lines": "runs.jsonl", "csv": "project.csv"}.get(form, "runs.json")
    other = {**RUN, "id": "efgh5678", "name": "other", "state": "finished", "history": []}
    if form == "csv":  # as W&B's own example writes data frames: objects as Python prints them
        summary = {**RUN["summary"], "loss": math.nan}
        _csv(path, [{"summary": summary, "config": RUN["config"], "name": RUN["name"]}])
    else:
        runs = [RUN] if form == "one" else [RUN, other]
        path.write_text(
            json.dumps(RUN if form == "one" else runs) if form != "lines" else "\n".join(map(json.dumps, runs))
        )
    log, *others = read_logs(path)
    assert (log.name, log.seconds, log.config) == ("sst2-lozo", 9, {"trainer": "lozo", "learning_rate": 1e-7})
    assert log.metrics["last.test_acc"] == 0.9
    if form != "csv":
        assert (log.id, log.status) == ("wandb-abcd1234", "failed")
        _check_history(log)
    assert [(o.id, o.status, o.points) for o in others] == (
        [("wandb-efgh5678", "finished", [])] if form in ("many", "lines") else []
    )


def test_the_table_of_a_project(tmp_path):
    path = tmp_path / "wandb_export_2026.csv"
    rows = [
        {"Name": "a", "State": "finished", "Created": "2024-05-01T10:00:00.000Z", "Runtime": 60, "learning_rate": 1e-6,
         "trainer": "zo", "seed": 3, "lora": "true", "test_acc": 0.91},
        {"Name": "b", "State": "running", "Created": "", "Runtime": "", "learning_rate": 1e-7, "trainer": "zo",
         "seed": 4, "lora": "false", "test_acc": ""},
    ]  # fmt: skip
    _csv(path, rows)
    first, second = read_logs(path)
    assert (first.name, first.status, first.seconds, first.started.year) == ("a", "finished", 60, 2024)
    assert (first.config["learning_rate"], first.config["seed"], first.config["lora"]) == (1e-6, 3, True)
    assert first.metrics["last.test_acc"] == 0.91
    assert "last.seed" not in first.metrics
    assert (second.name, second.status, second.started, second.metrics) == (
        "b",
        "imported",
        None,
        {"last.learning_rate": 1e-7},
    )


def test_a_chart_of_several_runs(tmp_path):
    path = tmp_path / "chart.csv"
    rows = [
        {"Step": 0, "a - run - train/loss": 1.0, "a - run - train/loss__MIN": 0.9, "a - run - train/loss__MAX": 1.1,
         "b - train/loss": ""},
        {"Step": 5, "a - run - train/loss": 0.5, "a - run - train/loss__MIN": 0.4, "a - run - train/loss__MAX": 0.6,
         "b - train/loss": 2.0},
    ]  # fmt: skip
    _csv(path, rows)
    first, second = read_logs(path)
    assert (first.name, second.name) == ("a - run", "b")
    assert [(point.step, point.figures) for point in first.points] == [(0, {"loss": 1.0}), (5, {"loss": 0.5})]
    assert [(point.step, point.figures) for point in second.points] == [(5, {"loss": 2.0})]


def test_other_files_are_refused_by_name(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no log that is known"):
        read_logs(tmp_path / "empty")
    for name, text, reason in (
        ("a.json", '{"loss": 1}', "is no export of W&B: neither a history"),
        ("b.json", "{", "cannot be read"),
        ("c.json", "[1]", "should be a list of objects"),
        ("d.csv", "summary,config,name\n{torn,{},a\n", "run 1: its summary is no object"),
    ):
        path = tmp_path / name
        path.write_text(text)
        with pytest.raises(UsageError, match=reason):
            from foretune.ledger.readers.wandb_export import WandbExport

            WandbExport().read(path)
    assert not any(WandbExport().knows(tmp_path / name) for name in ("a.json", "b.json", "c.json", "missing.csv"))
    with pytest.raises(UsageError, match=r"--format wandb: no such format\. Did you mean: wandb_run"):
        read_logs(tmp_path, "wandb")
    with pytest.raises(UsageError, match="does not exist"):
        read_logs(tmp_path / "missing")
