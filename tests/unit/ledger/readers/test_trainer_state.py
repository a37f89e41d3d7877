"""trainer_state.json as transformers writes it."""

from __future__ import annotations

import pytest
from transformers import TrainerState

from foretune.errors import UsageError
from foretune.ledger import Point
from foretune.ledger.readers import read_logs


def _write(path, step):
    path.parent.mkdir(parents=True, exist_ok=True)
    history = []
    for number in range(10, step + 1, 10):
        history.append({"epoch": number / 100, "loss": 1 / number, "learning_rate": 1e-6, "step": number})
        history.append({"eval_loss": 2 / number, "eval_accuracy": 0.5, "eval_runtime": 3.0, "step": number})
    if step == 100:
        history.append({"train_runtime": 12.5, "train_loss": 0.4, "total_flos": 1.0, "step": step})
    TrainerState(
        global_step=step, max_steps=100, log_history=history, best_global_step=20, best_metric=0.1
    ).save_to_json(str(path))


def test_the_newest_checkpoint_has_the_whole_history(tmp_path):
    for step in (10, 20, 100):  # in the order of numbers, not of names
        _write(tmp_path / "old-mezo" / f"checkpoint-{step}" / "trainer_state.json", step)
    (log,) = read_logs(tmp_path)
    assert (log.name, log.source, log.status) == ("old-mezo", "trainer_state", "finished")
    assert (log.steps, log.total_steps, log.seconds) == (100, 100, 12.5)
    assert log.points[0] == Point(10, {"loss": 0.1, "learning_rate": 1e-6, "eval_loss": 0.2, "eval_accuracy": 0.5})
    assert [point.step for point in log.points] == list(range(10, 101, 10))
    assert log.metrics == {"dev.loss": 0.1, "dev.accuracy": 0.5}


def test_a_run_that_has_not_come_to_its_end_is_not_called_finished(tmp_path):
    _write(tmp_path / "trainer_state.json", 20)
    (log,) = read_logs(tmp_path / "trainer_state.json")
    assert (log.status, log.steps, log.total_steps) == ("imported", 20, 100)
    assert log.id == read_logs(tmp_path)[0].id


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"log_history": [{"loss": 1}]}', '{"log_history": 3}'])
def test_another_file_is_refused(tmp_path, text):
    path = tmp_path / "trainer_state.json"
    path.write_text(text)
    with pytest.raises(UsageError, match="is no state of a Trainer"):
        read_logs(path)
