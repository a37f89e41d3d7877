from __future__ import annotations

import json
import math

from foretune.journal import EvaluationRecord, RollbackRecord, StepRecord
from foretune.trainer.health import Cause, Finding
from foretune.trainer.metrics_log import AppendedLog, MetricsLog, log_line


def step(number: int, loss: float, *scalars: float, accepted: bool = True) -> StepRecord:
    return StepRecord(number, scalars, loss, lr=0.1 * (number + 1), zo_eps=1e-3, accepted=accepted)


def all_scalars(record: StepRecord) -> tuple[float, ...]:
    return record.scalars


def test_a_method_without_slopes_logs_none():
    assert "projected_grad_rms" not in log_line([step(0, 1.0, 3.0)], lambda record: ())


def test_log_line_is_the_mean_of_its_steps():
    line = log_line([step(0, 1.0, 3.0, 1.0), step(1, 2.0, -1.0, 5.0, accepted=False)], all_scalars)
    assert line == {
        "loss": 1.5,
        "projected_grad_rms": 3.0,
        "learning_rate": 0.2,
        "zo_eps": 1e-3,
        "rejected_steps": 1,
    }


def test_a_line_every_interval_and_for_every_evaluation(tmp_path):
    log = MetricsLog(tmp_path / "log", 2, all_scalars)
    for record in (
        step(0, 1.0, 1.0),
        EvaluationRecord(1, {"eval_loss": 0.5}),
        step(1, 3.0, 1.0),
        step(2, 9.0, 1.0),
    ):
        log.add(record)
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [(line["step"], line.get("loss"), line.get("eval_loss")) for line in lines] == [
        (1, None, 0.5),
        (2, 2.0, None),
    ]


def test_file_is_a_function_of_the_records(tmp_path):
    records = [step(number, number / 3, number**0.5) for number in range(7)]
    records.insert(3, EvaluationRecord(3, {"eval_loss": 1 / 3}))
    live = MetricsLog(tmp_path / "live", 3, all_scalars)
    for record in records:
        live.add(record)
    (tmp_path / "rebuilt").write_text('{"step": 1, "torn')
    rebuilt = MetricsLog(tmp_path / "rebuilt", 3, all_scalars, records[:5])
    for record in records[5:]:
        rebuilt.add(record)
    assert (tmp_path / "rebuilt").read_bytes() == (tmp_path / "live").read_bytes()


def test_rollbacks_and_findings_have_lines_that_are_a_function_of_the_records(tmp_path):
    def watch(record):
        is_one = isinstance(record, StepRecord) and record.step == 1
        return [Finding(Cause.FLAT_LOSS, 2, "it is 1", "Raise lr")] if is_one else []

    records = [step(0, 1.0, 1.0), step(1, 3.0, 1.0), RollbackRecord(2, 9, "exploding_loss", 0.1), step(2, 9.0, 1.0)]
    live = MetricsLog(tmp_path / "live", 2, all_scalars, watch=watch)
    assert [len(live.add(record)) for record in records] == [0, 1, 0, 0]
    lines = [json.loads(line) for line in (tmp_path / "live").read_text().splitlines()]
    assert lines[1:] == [
        {"step": 2, "warning": {"cause": "flat_loss", "numbers": "it is 1", "remedy": "Raise lr"}},
        {"step": 2, "rollback": {"detected_at": 9, "cause": "exploding_loss", "lr_factor": 0.1}},
    ]
    MetricsLog(tmp_path / "rebuilt", 2, all_scalars, records, watch)
    assert (tmp_path / "rebuilt").read_bytes() == (tmp_path / "live").read_bytes()


def test_a_loss_that_is_not_finite_is_null(tmp_path):
    log = MetricsLog(tmp_path / "log", 1, all_scalars)
    log.add(step(0, math.nan, 0.0, accepted=False))
    line = json.loads((tmp_path / "log").read_text(), parse_constant=lambda name: 1 / 0)
    assert line["loss"] is None
    assert line["rejected_steps"] == 1


def test_notes_survive_a_rebuild_up_to_the_last_step_there_is(tmp_path):
    """A note precedes the record of its step; one whose step has no record will be written again."""
    records = [step(number, 1.0, 1.0) for number in range(4)]
    records.insert(2, EvaluationRecord(2, {"eval_loss": 0.5}))
    live = MetricsLog(tmp_path / "log", 1, all_scalars)
    for record in records:
        if isinstance(record, StepRecord):
            live.note(record.step, {"all": {"norm": 1.0, "cosine": math.nan}})
        live.add(record)
    whole = (tmp_path / "log").read_text()
    lines = [json.loads(line) for line in whole.splitlines()]
    kinds = [next(kind for kind in ("diagnostics", "eval_loss", "loss") if kind in line) for line in lines]
    pair = ["diagnostics", "loss"]
    assert kinds == [*pair, *pair, "eval_loss", *pair, *pair]
    assert lines[0]["diagnostics"] == {"all": {"norm": 1.0, "cosine": None}}
    live.note(4, {"all": {}})
    with (tmp_path / "log").open("a") as file:
        file.write('{"step": 4, "diagnos')
    MetricsLog(tmp_path / "log", 1, all_scalars, records)
    assert (tmp_path / "log").read_text() == whole
    MetricsLog(tmp_path / "log", 1, all_scalars, records[:3])
    assert (tmp_path / "log").read_text() == "".join(whole.splitlines(keepends=True)[:5])


def test_a_log_without_records_is_cut_back(tmp_path):
    log = AppendedLog(tmp_path / "log")
    log.add(1, {"loss": math.inf})
    size = log.num_bytes
    log.note(1, {"all": {"norm": 2.0}})
    whole = (tmp_path / "log").read_text()
    assert [json.loads(line) for line in whole.splitlines()] == [
        {"step": 1, "loss": None},
        {"step": 1, "diagnostics": {"all": {"norm": 2.0}}},
    ]
    again = AppendedLog(tmp_path / "log", size)
    assert again.num_bytes == size
    again.note(1, {"all": {"norm": 2.0}})
    assert (tmp_path / "log").read_text() == whole
    assert AppendedLog(tmp_path / "log").num_bytes == 0
