"""The file: what is written is read back, by one process or many."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sqlite3
import threading

import pytest

from foretune.errors import LedgerError, UsageError
from foretune.ledger import Ledger, Point, Run, now

SPAWN = multiprocessing.get_context("spawn")


def test_a_run_reads_back_equal(ledger, path, make_run):
    run = make_run(
        heartbeat=now(),
        ended=now(),
        versions={"torch": "2.13.0"},
        metrics={"final.accuracy": 0.9, "final.loss": 0.25},
        seconds=1.5,
        trial=3,
        study="grid",
        error="a line",
    )
    ledger.add(run)
    assert ledger.find(run.id) == run
    with Ledger.open(path) as other:
        assert other.query() == [run]
    assert ledger.find("nobody") is None


def test_a_figure_that_is_not_finite_reads_back_as_nan(ledger, make_run):
    run = make_run(metrics={"final.loss": math.inf})
    ledger.add(run)
    ledger.add_points(run.id, [Point(1, {"loss": math.nan})])
    found = ledger.find(run.id)
    assert math.isnan(found.metrics["final.loss"])
    assert math.isnan(ledger.points(run.id)[0].figures["loss"])


def test_fields_are_updated_by_name(ledger, make_run):
    run = make_run(status="running")
    ledger.add(run)
    ledger.update(run.id, status="failed", error="no memory", metrics={"zero_shot.accuracy": 0.5})
    found = ledger.find(run.id)
    assert (found.status, found.error, found.metrics) == ("failed", "no memory", {"zero_shot.accuracy": 0.5})
    assert found.config == run.config


def test_points_are_merged_by_step_and_name(ledger, make_run):
    run = make_run()
    ledger.add(run)
    ledger.add_points(run.id, [Point(20, {"loss": 2.0}), Point(10, {"loss": 1.0, "seconds": 5.0})])
    ledger.add_points(run.id, [Point(10, {"loss": 3.0}), Point(10, {"eval_loss": 4.0})])
    ledger.add_points(run.id, [])
    assert ledger.points(run.id) == [
        Point(10, {"loss": 3.0, "seconds": 5.0, "eval_loss": 4.0}),
        Point(20, {"loss": 2.0}),
    ]


def test_a_run_is_found_by_name_id_or_the_beginning_of_its_id(ledger, make_run):
    run, other, _ = (ledger.add(run) or run for run in (make_run(), make_run(name="x"), make_run(name="x")))
    assert ledger.get(run.name) == ledger.get(run.id) == ledger.get(run.id[:8]) == run
    with pytest.raises(UsageError, match=r"'x' may be any of 2 runs: .*Give the id"):
        ledger.get("x")
    assert ledger.get(other.id) == other
    with pytest.raises(UsageError, match="has no run 'y'"):
        ledger.get("y")


def test_runs_that_are_not_there_or_there_twice_are_refused(ledger, make_run):
    run = make_run()
    ledger.add(run)
    with pytest.raises(LedgerError, match=f"has a run {run.id} already"):
        ledger.add(run)
    with pytest.raises(LedgerError, match="has no run nobody"):
        ledger.update("nobody", steps=1)
    with pytest.raises(LedgerError, match="has no run nobody"):
        ledger.add_points("nobody", [Point(1, {})])


def test_query_filters_and_sorts(ledger, make_run):
    for lr, accuracy in ((1e-6, 0.7), (1e-3, 0.5), (1e-5, 0.9)):
        ledger.add(make_run(lr=lr, accuracy=accuracy))
    ledger.add(make_run("lozo"))
    found = ledger.query(["method=mezo", "lr<=1e-4"], sort="final.accuracy")
    assert [run.metrics["final.accuracy"] for run in found] == [0.7, 0.9]


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("config", "{torn", "its config cannot be read"),
        ("config", "[]", "its config cannot be read"),
        ("metrics", '{"a": "b"}', "its metrics cannot be read"),
        ("started", "yesterday", "its started cannot be read"),
        ("status", "thriving", "its status is 'thriving'"),
        ("steps", "many", "its steps is 'many'"),
    ],
)
def test_a_damaged_row_is_left_out_and_named(ledger, path, make_run, caplog, column, value, reason):
    good, bad = make_run(), make_run()
    ledger.add(good)
    ledger.add(bad)
    with sqlite3.connect(path) as connection:
        connection.execute(f"UPDATE runs SET {column} = ? WHERE id = ?", [value, bad.id])
    connection.close()
    assert ledger.query() == [good]
    assert f"run {bad.id} is left out: {reason}" in caplog.text
    with pytest.raises(LedgerError, match=f"run {bad.id} is damaged: {reason}"):
        ledger.get(bad.id)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"There is no ledger .*missing"):
        Ledger.open(tmp_path / "missing")
    text = tmp_path / "text"
    text.write_text("no database, but long enough to look at" * 100)
    with pytest.raises(LedgerError, match="file is not a database"):
        Ledger.open(text)
    other = tmp_path / "optuna.sqlite"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE trials (x)")
    connection.close()
    with pytest.raises(LedgerError, match="another program's database"):
        Ledger.open(other, create=True)
    (tmp_path / "file").touch()
    with pytest.raises(LedgerError, match="its folder cannot be made"):
        Ledger.open(tmp_path / "file" / "runs.sqlite", create=True)


def test_a_newer_schema_is_refused(ledger, path):
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 9")
    connection.close()
    with pytest.raises(LedgerError, match="schema version 9, this foretune knows up to 1"):
        Ledger.open(path)


def _work(path, worker, barrier):
    """Open a file that may not be there yet, all at once; add runs, their points and their ends."""
    barrier.wait()
    with Ledger.open(path, create=True) as ledger:
        for number in range(10):
            run = Run(id=f"{worker}-{number}", name=f"{worker}", seed=number)
            ledger.add(run)
            for step in range(1, 6):
                ledger.add_points(run.id, [Point(step, {"loss": float(step)})])
                ledger.update(run.id, steps=step)
            ledger.update(run.id, status="finished")


def _work_for_ever(path, events):
    with Ledger.open(path, create=True) as ledger:
        ledger.add(Run(id="killed", name="killed", host="here", pid=os.getpid(), heartbeat=now()))
        step = 0
        while True:
            step += 1
            ledger.add_points("killed", [Point(step, {"loss": float(step)})])
            ledger.update("killed", steps=step)
            events.put(step)  # what has been promised


def test_nothing_is_lost_when_processes_write_at_once_and_one_is_killed(path):
    barrier, promised = SPAWN.Barrier(3), SPAWN.SimpleQueue()
    victim = SPAWN.Process(target=_work_for_ever, args=(path, promised))
    workers = [SPAWN.Process(target=_work, args=(path, worker, barrier)) for worker in range(3)]
    for process in (victim, *workers):
        process.start()
    last = 0
    while last < 50:
        last = promised.get()
    os.kill(victim.pid, signal.SIGKILL)
    for process in (*workers, victim):
        process.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    with Ledger.open(path) as ledger:
        finished = ledger.query(["status=finished"])
        assert {run.id for run in finished} == {f"{worker}-{number}" for worker in range(3) for number in range(10)}
        assert all([point.step for point in ledger.points(run.id)] == [1, 2, 3, 4, 5] for run in finished)
        killed = ledger.find("killed")
        assert killed.steps >= last
        assert [point.step for point in ledger.points("killed")][: killed.steps] == list(range(1, killed.steps + 1))
        (check,) = ledger._connection.execute("PRAGMA integrity_check").fetchone()
        assert check == "ok"


def test_a_second_object_in_another_thread_may_write(ledger, path, make_run):
    run = make_run(status="running")
    ledger.add(run)

    def beat():
        with Ledger.open(path) as other:
            other.update(run.id, heartbeat=now())

    thread = threading.Thread(target=beat)
    thread.start()
    thread.join()
    assert ledger.find(run.id).heartbeat is not None
