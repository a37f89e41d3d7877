"""Which file is meant."""

from __future__ import annotations

import pytest

from foretune.errors import UsageError
from foretune.ledger import find_existing_ledger, find_ledger


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FORETUNE_LEDGER", raising=False)


def test_the_option_wins_over_the_variable_over_the_default(tmp_path, monkeypatch):
    assert find_ledger(None, None) is None
    assert find_ledger(None, tmp_path) == tmp_path / "runs.sqlite"
    monkeypatch.setenv("FORETUNE_LEDGER", "shared.sqlite")
    assert str(find_ledger(None, tmp_path)) == "shared.sqlite"
    assert str(find_ledger("mine.sqlite", tmp_path)) == "mine.sqlite"
    assert find_ledger("none", tmp_path) is None
    assert find_ledger(str(tmp_path), None) == tmp_path / "runs.sqlite"
    monkeypatch.setenv("FORETUNE_LEDGER", "none")
    assert find_ledger(None, tmp_path) is None


def test_reading_looks_here_and_in_runs(tmp_path):
    with pytest.raises(UsageError, match=r"There is no ledger runs\.sqlite or runs/runs\.sqlite"):
        find_existing_ledger(None)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "runs.sqlite").touch()
    assert str(find_existing_ledger(None)) == "runs/runs.sqlite"
    (tmp_path / "runs.sqlite").touch()
    assert str(find_existing_ledger(None)) == "runs.sqlite"
    with pytest.raises(UsageError, match=r"There is no ledger other\.sqlite\."):
        find_existing_ledger("other.sqlite")
