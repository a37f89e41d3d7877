"""Sweeps end to end: workers, killed workers, databases, and what is refused."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
import yaml

from foretune.cli.main import main
from foretune.cli.train import parse
from foretune.ledger import Ledger
from foretune.sweeps.creation import create_study, items_of, plan_or_check
from foretune.sweeps.file import load_sweep, read_sweep
from foretune.sweeps.selection import select_runs
from foretune.sweeps.study import Study
from foretune.sweeps.worker import Worker

NUM_STEPS = 150
DEADLINE_SECONDS = 240


@pytest.fixture
def sweep_file(tiny_model, rows_dir, tmp_path):
    """Function that writes a grid of two methods and two learning rates, one more seed for those that are chosen."""

    def write(**changes):
        content = {
            "method": "grid",
            "metric": {"name": "dev.loss", "goal": "minimize"},
            "parameters": {
                "model": {"value": str(tiny_model)},
                "data-dir": {"value": str(rows_dir)},
                "task": {"value": "sst2"},
                "device": {"value": "cpu"},
                "method": {"values": ["mezo", "lozo"]},
                "lr": {"values": [1e-4, 1e-3]},
                "steps": {"value": NUM_STEPS},
                "eval_steps": {"value": 50},
                "batch_size": {"value": 4},
                "num_train": {"value": 20},
                "num_dev": {"value": 8},
                "num_eval": {"value": 12},
            },
            "chosen_seeds": [1],
        }
        content["parameters"] |= changes.pop("parameters", {})
        path = tmp_path / "tune.yaml"
        path.write_text(yaml.safe_dump({**content, **changes}, sort_keys=False))
        return path

    return write


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_study(file, folder, url=None, name="tune"):
    folder.mkdir(parents=True, exist_ok=True)
    sweep = load_sweep(str(file))
    items = items_of(sweep, plan_or_check(sweep, parse))
    return create_study(name, url or f"sqlite:///{folder / 'study.sqlite'}", sweep, items)


def work_here(study, folder, **options):
    ended = []
    worker = Worker(
        study=study,
        parse=parse,
        output=folder,
        ledger=str(folder / "runs.sqlite"),
        report=lambda claim, outcome, value, error: ended.append((claim.item.folder, outcome, error)),
    )
    worker.work(**options)
    return ended


def work_elsewhere(folder, url=None):
    command = [sys.executable, "-m", "foretune.cli.main", "sweep", "work", "--study", "tune", "--output", str(folder)]
    command += ["--ledger", str(folder / "runs.sqlite")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    if url:
        environment["FORETUNE_STORAGE"] = url
    with (folder / "worker.log").open("ab") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def ledger_of(folder):
    """Return what a sweep has left, but for clocks: by settings and seed, in no order; no key is there twice."""
    with Ledger.open(folder / "runs.sqlite") as ledger:
        runs = ledger.query()
        found = {
            (run.config_hash, run.seed): (
                run.status,
                run.name,
                run.trial,
                run.study,
                run.steps,
                run.forward_passes,
                tuple(sorted(run.metrics.items())),
                tuple((point.step, point.figures.get("loss"), point.figures.get("eval_loss")) for point in points),
            )
            for run, points in ((run, ledger.points(run.id)) for run in runs)
        }
    assert len(found) == len(runs)
    return found


def test_a_grid_is_run_and_the_chosen_settings_get_further_seeds(sweep_file, tmp_path, capsys):
    file = sweep_file(parameters={"steps": {"value": 4}, "eval_steps": {"value": 2}})
    study = make_study(file, tmp_path / "out")
    ended = work_here(study, tmp_path / "out")
    assert [outcome for _, outcome, _ in ended] == ["finished"] * 6  # four of the grid, one more of each method
    best = {}
    for trial in study.progress()[:4]:
        best.setdefault(trial.item.group, []).append((trial.value, trial.item.settings))
    more = {trial.item.group: trial.item for trial in study.progress()[4:]}
    assert {group: item.settings for group, item in more.items()} == {
        group: min(tried)[1] for group, tried in best.items()
    }
    assert all(item.options["seed"] == 1 for item in more.values())
    assert len(ledger_of(tmp_path / "out")) == 6
    assert work_here(study, tmp_path / "out") == []  # nothing is left
    url = f"sqlite:///{tmp_path / 'out' / 'study.sqlite'}"
    assert main(["sweep", "status", "--study", "tune", "--storage", url, "--output", str(tmp_path / "out")]) == 0
    assert "study tune: 6 trials, 6 finished" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_workers_one_killed_again_and_again_leave_the_ledger_of_one(sweep_file, tmp_path, one_thread):
    file = sweep_file()
    alone, together = tmp_path / "alone", tmp_path / "together"
    work_here(make_study(file, alone), alone)
    expected = ledger_of(alone)
    assert len(expected) == 6

    study = make_study(file, together)
    steady, victim = work_elsewhere(together), work_elsewhere(together)
    kills = struck = 0
    try:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not study.is_over() and time.monotonic() < deadline:
            mine = [trial for trial in study.progress() if trial.worker and trial.worker.endswith(f":{victim.pid}")]
            begun = [folder for t in mine if t.state == "running" and _has_begun(folder := together / t.item.folder)]
            if struck < 3 and begun:
                victim.send_signal(signal.SIGKILL)
                victim.wait()
                kills += 1
                struck += not (begun[0] / "results.json").exists()  # else the trial had just ended
                victim = work_elsewhere(together)
            time.sleep(0.02)
        assert [steady.wait(60), victim.wait(60)] == [0, 0], (together / "worker.log").read_text()
    finally:
        for process in (steady, victim):
            process.kill()
            process.wait()
    assert struck > 0
    assert [trial.state for trial in study.progress()] == ["finished"] * 6
    assert struck <= sum(trial.attempts for trial in study.progress()) - 6 <= kills
    assert ledger_of(together) == expected


def _has_begun(folder: Path) -> bool:
    """Whether a trial has made some steps."""
    journal = folder / "journal"
    return journal.exists() and journal.stat().st_size > 2500


@pytest.fixture
def postgresql():
    """Address of a database of a server that is started for the test."""
    path = os.pathsep.join([os.environ["PATH"], *map(str, Path("/usr/lib/postgresql").glob("*/bin"))])
    initdb, server = shutil.which("initdb", path=path), shutil.which("postgres", path=path)
    if initdb is None or server is None:
        pytest.skip("PostgreSQL's server is not installed (Debian: apt-get install postgresql)")
    psycopg = pytest.importorskip("psycopg", reason="the PostgreSQL driver is not installed")
    as_user = {}
    if os.geteuid() == 0:  # the server refuses to run as root
        if subprocess.run(["id", "postgres"], capture_output=True).returncode:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
        as_user = {"user": "postgres"}
    # pytest's own folders are closed to other users
    with TemporaryDirectory(prefix="foretune-postgresql-", ignore_cleanup_errors=True) as folder:
        if as_user:
            shutil.chown(folder, "postgres")
        made = subprocess.run(
            [initdb, "-D", "data", "-U", "tester", "-A", "trust", "--no-sync"],
            cwd=folder,
            capture_output=True,
            **as_user,
        )
        assert made.returncode == 0, made.stderr.decode()
        process = subprocess.Popen(
            [server, "-D", "data", "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **as_user,
        )
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    psycopg.connect(f"host={folder} user=tester dbname=postgres").close()
                    break
                except psycopg.OperationalError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.1)
            yield f"postgresql+psycopg://tester@/postgres?host={folder}"
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_postgresql_server_leaves_the_ledger_of_a_file(sweep_file, tmp_path, postgresql, one_thread):
    file = sweep_file(parameters={"steps": {"value": 10}, "eval_steps": {"value": 5}})
    alone, together = tmp_path / "alone", tmp_path / "together"
    work_here(make_study(file, alone), alone)
    study = make_study(file, together, postgresql)
    workers = [work_elsewhere(together, postgresql) for _ in range(2)]
    assert [worker.wait(DEADLINE_SECONDS) for worker in workers] == [0, 0], (together / "worker.log").read_text()
    assert [trial.state for trial in study.progress()] == ["finished"] * 6
    assert ledger_of(together) == ledger_of(alone)


def test_random_draws_and_proposals_are_run(sweep_file, tmp_path):
    short = {"steps": {"value": 2}, "eval_steps": {"value": 1}, "method": {"value": "mezo"}}
    short["lr"] = {"min": 1e-5, "max": 1e-2, "distribution": "log_uniform_values"}
    folders = {}
    for method in ("random", "bayes"):
        file = sweep_file(method=method, run_cap=3, chosen_seeds=[4], parameters=short)
        folder = tmp_path / method
        study = make_study(file, folder)
        assert [outcome for _, outcome, _ in work_here(study, folder)] == ["finished"] * 4
        trials = study.progress()
        assert len({trial.item.options["lr"] for trial in trials[:3]}) == 3
        best = min(trials[:3], key=lambda trial: trial.value)
        assert {**best.item.options, "seed": 4} == trials[3].item.options
        folders[method] = {trial.item.folder for trial in trials}
    # draws are those of a fixed seed: another study has the same
    again = make_study(sweep_file(method="random", run_cap=3, parameters=short), tmp_path / "again")
    assert {trial.item.folder for trial in again.progress()} < folders["random"]


def test_failed_diverged_and_pruned_trials_end_as_such(sweep_file, tmp_path):
    file = sweep_file(
        chosen_seeds=[],
        early_terminate={"type": "flat", "patience": 1, "min_delta": 100.0},
        parameters={
            "steps": {"value": 6},
            "eval_steps": {"value": 2},
            "method": {"values": ["mezo", "hybrid", "adam"]},
            "lr": {"values": [1e-4]},
            "space": {"value": None},
        },
        grids=[{}, {"method": "sgd", "lr": 1e30}, {"method": "hybrid", "method.hybrid_zo_layers": 9}],
    )
    folder = tmp_path / "out"
    ended = work_here(make_study(file, folder), folder)
    outcomes = [outcome for _, outcome, _ in ended]
    assert outcomes == ["pruned", "pruned", "pruned", "diverged", "failed"]
    assert "after 4 steps" in ended[0][2]
    assert "hybrid_zo_layers" in ended[4][2]
    with Ledger.open(folder / "runs.sqlite") as ledger:
        assert sorted(run.status for run in ledger.query()) == ["diverged", "failed", "pruned", "pruned", "pruned"]


def test_a_study_whose_every_trial_failed_is_a_failure(sweep_file, tmp_path, monkeypatch, capsys):
    settings = {"steps": {"value": 2}, "method": {"value": "hybrid"}, "method.hybrid_zo_layers": {"value": 9}}
    file = sweep_file(chosen_seeds=[], parameters=settings)
    folder = tmp_path / "out"
    assert [outcome for _, outcome, _ in work_here(make_study(file, folder), folder)] == ["failed"] * 2
    monkeypatch.setattr("foretune.sweeps.pool.Pool._begin", lambda self, number: None)  # all is done
    assert main(["sweep", str(file), "--output", str(folder)]) == 1
    error = capsys.readouterr().err
    assert "Every trial of study tune failed, the first with UsageError: hybrid_zo_layers" in error


def test_ctrl_c_leaves_the_trial_to_be_gone_on_with(sweep_file, tmp_path, monkeypatch):
    folder = tmp_path / "out"
    file = sweep_file(chosen_seeds=[], parameters={"steps": {"value": 4}, "method": {"value": "mezo"}})
    study = make_study(file, folder)

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("foretune.sweeps.worker.train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        work_here(study, folder)
    monkeypatch.undo()
    assert [trial.state for trial in study.progress()] == ["waiting"] * 2
    assert [outcome for _, outcome, _ in work_here(study, folder)] == ["finished"] * 2


def test_a_dry_run_says_what_is_run_and_makes_nothing(sweep_file, tmp_path, capsys):
    words = ["sweep", str(sweep_file()), "--output", str(tmp_path / "out"), "--dry-run", "--workers", "2"]
    assert main([*words, "--where", "method=mezo", "lr<=1e-4"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    # one trial, and one more seed of it, of 150 steps with two forwards
    assert "2 trials, 600 forward passes (a backward pass counts as two), hours with 2 worker(s): unknown" in out
    assert not (tmp_path / "out").exists()


def test_workers_of_other_code_are_refused(sweep_file, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "out"
    words = ["sweep", str(sweep_file()), "--output", str(folder), "--workers", "0"]
    assert main(words) == 0
    assert "study tune: 4 trials" in capsys.readouterr().out
    monkeypatch.setattr("foretune.sweeps.code.code_version", lambda: "9.9 (other)")
    assert main(["sweep", "work", "--study", "tune", "--output", str(folder)]) == 2
    assert "and this is 9.9 (other): its trials could not be compared" in capsys.readouterr().err
    assert Study.load("tune", f"sqlite:///{folder / 'study.sqlite'}").progress()[0].attempts == 0


def test_a_study_is_not_mixed_with_another(sweep_file, tmp_path, capsys):
    words = ["--output", str(tmp_path / "out"), "--workers", "0"]
    assert main(["sweep", str(sweep_file()), *words]) == 0
    assert main(["sweep", str(sweep_file()), *words]) == 0
    assert main(["sweep", str(sweep_file()), *words, "--lr", "0.5"]) == 2
    assert "Study tune is there already, with other trials than these" in capsys.readouterr().err


def test_dev_rows_that_are_test_rows_are_counted(train_words, rows_dir, tmp_path):
    data = tmp_path / "data" / "sst2"
    data.mkdir(parents=True)
    rows = (rows_dir / "sst2" / "train.jsonl").read_text()
    (data / "train.jsonl").write_text(rows)
    (data / "validation.jsonl").write_text(rows)
    assert main([*train_words, "--data-dir", str(data.parent), "--num-eval", "40"]) == 0
    assert main([*train_words, "--output", str(tmp_path / "apart")]) == 0
    with Ledger.open(tmp_path / "runs.sqlite") as ledger:
        runs = ledger.query()
    # in `rows_dir` too the test rows are the first twelve of the training split: three are among eight of dev
    assert [run.metrics.get("overlap.dev_test") for run in runs] == [1.0, 3 / 8]
    problems = [select_runs([run])[0].problems[-1] for run in runs]
    assert problems[0].startswith("Dev and test rows are the same")
    assert problems[1] == "38 % of the dev rows are test rows as well."


def test_the_file_of_the_page_is_one():
    page = (Path(__file__).resolve().parents[2] / "docs" / "sweeps.md").read_text()
    text = page.partition("```yaml\n")[2].partition("```")[0]
    sweep = read_sweep(text, place="page", name="tune")
    assert len(plan_or_check(sweep, parse)) == 4
    assert sweep.pruning is not None


def test_suites_are_listed(capsys):
    assert main(["sweep", "suites"]) == 0
    assert "zo_llm" in capsys.readouterr().out
