"""The folder of a run: whether it is free, and which settings the run in it began with."""

from __future__ import annotations

import json
import os

import pytest

from foretune.errors import CheckpointError, JournalError, UsageError
from foretune.journal import JournalWriter
from foretune.runs.output import begun_with, check_output, read_results, write_results

SETTINGS = {"method": {"name": "mezo"}, "seed": 3}


def test_an_empty_folder_has_no_settings(tmp_path):
    assert begun_with(tmp_path) is None


def test_results_come_first_and_then_the_record_of_a_run(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"method": {"name": "adam"}, "config": {"seed": 1}}))
    assert begun_with(tmp_path) == {"seed": 1}
    JournalWriter.create(tmp_path / "journal", {"config": {"seed": 2}}).close()
    assert begun_with(tmp_path) == {"seed": 2}
    write_results(tmp_path, {"config": SETTINGS})
    assert begun_with(tmp_path) == SETTINGS


def test_a_journal_of_another_program_is_not_gone_on_with(tmp_path):
    JournalWriter.create(tmp_path / "journal", {"seed": 2}).close()
    with pytest.raises(JournalError, match="journal is not of a run of 'foretune train'"):
        begun_with(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"config": null}'])
def test_damaged_records_are_named(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"run\.json is damaged"):
        begun_with(tmp_path)
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"results\.json is not what a run writes"):
        read_results(tmp_path)


@pytest.mark.parametrize(("has_journal", "missing"), [(True, "journal"), (False, r"run\.json")])
def test_checkpoints_without_a_record_are_of_no_run(tmp_path, has_journal, missing):
    (tmp_path / "checkpoint-4").mkdir()
    with pytest.raises(UsageError, match=f"holds checkpoint-4 and no {missing}, so"):
        check_output(tmp_path, resume=True, has_journal=has_journal)


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UsageError, match=f"^--output {tmp_path / 'a' / 'b'}: {tmp_path} is not writable"):
        check_output(tmp_path / "a" / "b", resume=False, has_journal=True)
