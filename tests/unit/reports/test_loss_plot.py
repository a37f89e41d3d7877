"""The picture of one run's losses."""

from __future__ import annotations

import pytest

from foretune.errors import JournalError
from foretune.journal import EvaluationRecord, Journal, JournalWriter, StepRecord
from foretune.reports.loss_plot import loss_figure, moving_average, write_loss_plot

LOSSES = (1.0, 0.5, float("nan"), 0.75)


@pytest.fixture
def run(tmp_path):
    """Folder with a journal of four steps, the third rejected, and two evaluations."""
    with JournalWriter.create(tmp_path / "journal", {"method": {"name": "mezo"}}) as journal:
        for step, loss in enumerate(LOSSES):
            journal.append(StepRecord(step, (1.0,), loss, 1e-3, 1e-3, accepted=loss == loss))
            if step % 2:
                journal.append(EvaluationRecord(step + 1, {"eval_loss": loss / 2, "eval_accuracy": 0.5}))
    return tmp_path


def test_steps_that_were_made_and_evaluations_stand_where_they_belong(run):
    batches, mean, dev = loss_figure(Journal.read(run / "journal")).axes[0].get_lines()
    assert [list(batches.get_xdata()), list(batches.get_ydata())] == [[1, 2, 4], [1.0, 0.5, 0.75]]
    assert [list(mean.get_xdata()), list(mean.get_ydata())] == [[1, 2, 4], [1.0, 0.75, 0.75]]
    assert [list(dev.get_xdata()), list(dev.get_ydata())] == [[2, 4], [0.25, 0.375]]


def test_equal_runs_give_equal_pictures(run):
    for name in ("first", "second"):
        write_loss_plot(run, run / f"{name}.png")
    first = (run / "first.png").read_bytes()
    assert first.startswith(b"\x89PNG\r\n\x1a\n")
    assert first == (run / "second.png").read_bytes()


def test_a_folder_without_a_journal_is_named(tmp_path):
    with pytest.raises(JournalError, match="journal: no such file"):
        write_loss_plot(tmp_path, tmp_path / "loss.png")


def test_moving_average():
    assert moving_average([4.0, 2.0, 0.0, 6.0], 2) == [4.0, 3.0, 1.0, 3.0]
    assert moving_average([], 2) == []
