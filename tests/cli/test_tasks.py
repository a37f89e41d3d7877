"""`foretune tasks` and `foretune data`: what they print, and their mistakes in one line."""

from __future__ import annotations

from dataclasses import replace

import pytest

from foretune.cli.main import main
from foretune.tasks import HubSource, get_task, list_tasks


def test_every_task_is_listed(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    assert main(["tasks"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in list_tasks())
    assert "terrible, great" in printed


def test_scored_span_is_marked(capsys, rows_dir, tiny_model):
    words = ["tasks", "sst2", "--data-dir", str(rows_dir)]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "the film is bad 0 It was\n" in text
    assert '0  " terrible"   right\n1  " great"\n' in text
    assert "[[" not in text
    assert main([*words, "--model", str(tiny_model), "--max-length", "6"]) == 0
    printed = capsys.readouterr().out
    assert "ĠIt Ġwas [[Ġterrible]]\n" in printed
    assert "... 5 tokens ... [[Ġgreat]]" in printed
    assert "at most 6 fit" in printed
    assert "more did not fit and are cut" in printed


@pytest.fixture
def hub_task(monkeypatch, rows_dir):
    """sst2, with a local folder as its hub dataset."""
    task = replace(get_task("sst2"), sources=(HubSource(str(rows_dir / "sst2")),))
    monkeypatch.setattr("foretune.tasks.get_task", lambda name: task if name == "sst2" else get_task(name))
    return task


def test_fetched_rows_are_read_from_the_data_dir(capsys, hub_task, tmp_path):
    folder = str(tmp_path / "data")
    assert main(["data", "fetch", "sst2", "--to", folder]) == 0
    assert "sst2: train 40, validation 12 rows of " in capsys.readouterr().out
    assert main(["data", "fetch", "sst2", "--to", folder]) == 0
    assert ", already there" in capsys.readouterr().out
    assert main(["data", "check", folder]) == 0
    assert capsys.readouterr().out == "sst2: train, validation as fetched\n"
    assert main(["tasks", "sst2", "--data-dir", folder]) == 0
    assert "the film is bad 0 It was\n" in capsys.readouterr().out
    (tmp_path / "data" / "sst2" / "train.jsonl").write_text("{}\n")
    assert main(["data", "check", folder]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert "has changed since it was fetched" in errors[0]
    assert "1 of 1 tasks are not as fetched: sst2" in errors[1]


def test_one_task_that_fails_does_not_keep_the_others_back(capsys, hub_task, tmp_path):
    (tmp_path / "rte").mkdir()
    (tmp_path / "rte" / "train.jsonl").write_text("mine\n")
    assert main(["data", "fetch", "rte", "sst2", "--to", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert "train.jsonl' is there and was not fetched" in printed.err
    assert "1 of 2 tasks could not be fetched: rte." in printed.err
    assert "sst2: train 40" in printed.out
