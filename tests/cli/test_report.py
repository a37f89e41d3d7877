"""`foretune report`."""

from __future__ import annotations

import pytest

from foretune.cli.main import main
from reported import make_ledger


@pytest.fixture
def ledger(tmp_path):
    return make_ledger(tmp_path / "runs.sqlite")


def test_a_page_of_a_ledger(ledger, tmp_path, capsys):
    assert main(["report", str(ledger), "-o", str(tmp_path / "new" / "report.html"), "--title", "My runs"]) == 0
    assert "74 runs, 10 lines of the leaderboard, in" in capsys.readouterr().out
    assert "<title>My runs</title>" in (tmp_path / "new" / "report.html").read_text()


def test_the_ledger_is_found_and_conditions_hold(ledger, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["--where", "task=sst2", "method!=adam", "--target", "0.7"]
    assert main(["report", "-o", "report.md", *words]) == 0
    text = (tmp_path / "report.md").read_text()
    assert "accuracy ≥ 70.0 %" in text
    assert "rte" not in text
    assert "adam" not in text


def test_a_run_is_reported_by_its_folder(train_words, tmp_path, capsys):
    assert main([*train_words, "--diagnostics", "2"]) == 0
    assert main(["report", str(tmp_path / "run"), "-o", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "1 run · 1 method" in page
    assert "diagnostics.matrices.cosine" in page


def test_damaged_rows_are_named(ledger, tmp_path, capsys):
    import sqlite3

    database = sqlite3.connect(ledger)
    database.execute("UPDATE runs SET metrics = '?' WHERE id = '000000000000'")
    database.commit()
    database.close()
    assert main(["report", str(ledger), "-o", str(tmp_path / "report.html")]) == 0
    assert "run 000000000000 is left out: its metrics cannot be read" in capsys.readouterr().out
    assert "run 000000000000 is left out" in (tmp_path / "report.html").read_text()
