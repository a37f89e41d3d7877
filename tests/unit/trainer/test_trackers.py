"""Each tracker's run, read back: every figure, inside the run's folder, and one run across a crash.

Trackers that are not installed are skipped; `pip install wandb mlflow trackio` has all of them tried.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback

from foretune.errors import PrunedError, TrackerError, UsageError
from foretune.trainer import trackers, tracking
from unit.trainer.runs import arguments, make_opt, make_trainer

# the trackers' own deprecations are theirs, and differ by version
pytestmark = pytest.mark.filterwarnings("default")


class Interrupted(Exception):
    """A crash, on purpose."""


class Interruption(TrainerCallback):
    """Ends training after some steps."""

    def __init__(self, step: int, error: type[BaseException] = Interrupted):
        self.step, self.error = step, error

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise self.error("here")


def read_tensorboard(folder: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}, {""}


def read_wandb(folder: Path):
    import wandb

    from foretune.ledger.readers import read_logs

    wandb.teardown()  # its own process writes the end of a run after `finish` has returned
    found, names = defaultdict(dict), set()
    for log in read_logs(folder / "wandb", "wandb_run"):
        names.add((log.id, log.name))
        for point in log.points:
            for name, value in point.figures.items():
                found[name.replace("/", "_")][point.step] = value
    return {name: sorted(values.items()) for name, values in found.items()}, names


def read_mlflow(folder: Path):
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    found, runs = defaultdict(set), client.search_runs(["0"])
    for run in runs:
        for name in run.data.metrics:
            found[name] |= {(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)}
    names = {(run.info.run_id, run.info.run_name, run.info.status) for run in runs}
    return {name: sorted(values) for name, values in found.items()}, names


def read_trackio(folder: Path):
    from trackio.sqlite_storage import SQLiteStorage

    assert Path(sys.modules["trackio"].utils.TRACKIO_DIR) == folder / "trackio"
    found, names = defaultdict(dict), SQLiteStorage.get_runs("huggingface")
    for name in names:
        for line in SQLiteStorage.get_logs("huggingface", name):
            for key, value in line.items():
                if isinstance(value, int | float):
                    found[key][line["train/global_step"]] = value
    return {name: sorted(values.items()) for name, values in found.items()}, set(names)


READERS = {"tensorboard": read_tensorboard, "wandb": read_wandb, "mlflow": read_mlflow, "trackio": read_trackio}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty current folder; trackers have their homes elsewhere, and send nothing."""
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in [name for name in os.environ if name.startswith(("WANDB", "MLFLOW", "TRACKIO", "TENSORBOARD"))]:
        monkeypatch.delenv(name)
    for name, value in {"HOME": str(tmp_path / "home"), "WANDB_MODE": "offline", "DO_NOT_TRACK": "true"}.items():
        monkeypatch.setenv(name, value)
    return tmp_path / "here"


@pytest.fixture(params=list(READERS))
def tracker(request, place, monkeypatch):
    """The name of a tracker that is installed."""
    name = request.param
    if not tracking._AVAILABLE[name]():
        pytest.skip(f"{name} is not installed")
    yield name
    if name == "wandb":
        import wandb

        wandb.finish()
    if name == "trackio":  # it fixes its folder when it is imported: each test imports it anew
        for module in [module for module in sys.modules if module.partition(".")[0] == "trackio"]:
            del sys.modules[module]


def expected(trainer) -> dict[str, list[tuple[int, float]]]:
    """What the run's log has, by figure."""
    found = defaultdict(list)
    for entry in trainer.state.log_history:
        for name, value in entry.items():
            if name not in ("step", "epoch") and "train_loss" not in entry:
                found[name].append((entry["step"], value))
    return found


def assert_equal_figures(found, trainer):
    """Compare, whatever a tracker puts in front of a name; TensorBoard keeps float32."""
    plain = {name.removeprefix("train/").replace("eval/", "eval_"): values for name, values in found.items()}
    figures = expected(trainer)
    assert {"loss", "projected_grad_rms", "learning_rate", "zo_eps", "rejected_steps", "eval_loss", "eval_draw"} == set(
        figures
    )
    for name, values in figures.items():
        steps, numbers = zip(*values, strict=True)
        found_steps, found_numbers = zip(*plain[name], strict=True)
        assert found_steps == steps, name
        assert found_numbers == pytest.approx(numbers, rel=1e-6), name


def test_every_figure_is_in_the_run_s_folder(place, tracker):
    trainer = make_trainer(place / "run", model=make_opt(), report_to=tracker)
    trainer.train()
    trainer.end_tracking()
    assert [path.name for path in place.iterdir()] == ["run"]
    assert not [
        path for path in (place / "run").rglob("*") if path.suffix in (".pkl", ".pickle", ".bin", ".pt", ".pth")
    ]
    figures, runs = READERS[tracker](place / "run")
    assert_equal_figures(figures, trainer)
    assert len(runs) == 1


def test_a_resumed_run_goes_on_in_the_same_one(place, tracker):
    with pytest.raises(Interrupted):
        make_trainer(place / "run", model=make_opt(), report_to=tracker, callbacks=[Interruption(8)]).train()
    ids = (place / "run" / "trackers.json").read_text() if tracker != "tensorboard" else ""
    if tracker == "wandb":
        time.sleep(1.1)  # its folders are named by the second
    trainer = make_trainer(place / "run", model=make_opt(), report_to=tracker)
    trainer.train(resume_from_checkpoint=True)
    trainer.track({"test_accuracy": 0.75})
    trainer.end_tracking()
    figures, runs = READERS[tracker](place / "run")
    assert_equal_figures(figures, trainer)
    assert len(runs) == 1
    assert figures.get("test/accuracy", figures.get("test_accuracy")) == [(10, 0.75)]
    if ids:
        assert (place / "run" / "trackers.json").read_text() == ids
    assert [path.name for path in place.iterdir()] == ["run"]


@pytest.mark.parametrize("tracker", ["tensorboard"], indirect=True)
def test_steps_that_a_rollback_drops_are_dropped_here_too(place, tracker):
    callback = TensorBoardCallback()
    board = trackers.KINDS[TensorBoardCallback](callback, arguments(place / "run"))
    for start, steps, loss in ((0, range(1, 7), 1.0), (3, range(4, 6), 0.5)):
        board.begin_training(start)
        for step in steps:
            callback.tb_writer.add_scalar("loss", loss, step)
    board.end()
    assert read_tensorboard(place / "run")[0] == {"loss": [(1, 1.0), (2, 1.0), (3, 1.0), (4, 0.5), (5, 0.5)]}


@pytest.mark.parametrize("tracker", ["wandb", "mlflow"], indirect=True)
def test_the_next_trainer_of_a_process_has_a_run_of_its_own(place, tracker):
    trainers = [make_trainer(place / name, model=make_opt(), report_to=tracker) for name in ("first", "second")]
    for trainer in trainers:
        trainer.train()
    trainers[1].end_tracking()
    for name in ("first", "second"):
        _, runs = READERS[tracker](place / name)
        assert [run[1] for run in runs] == [name]


@pytest.mark.parametrize("tracker", ["mlflow"], indirect=True)
@pytest.mark.parametrize(("error", "status"), [(Interrupted, "FAILED"), (PrunedError, "FINISHED")])
def test_a_run_that_fails_says_so(place, tracker, error, status):
    trainer = make_trainer(place / "run", model=make_opt(), report_to=tracker, callbacks=[Interruption(4, error)])
    with pytest.raises(error):
        trainer.train()
    ((_, _, found),) = READERS[tracker](place / "run")[1]
    assert found == status


@pytest.mark.parametrize("tracker", ["trackio"], indirect=True)
def test_trackio_cannot_serve_two_folders(place, tracker, monkeypatch):
    make_trainer(place / "first", model=make_opt(), report_to=tracker).train()
    with pytest.raises(UsageError, match="Set TRACKIO_DIR to one folder for all runs"):
        make_trainer(place / "second", model=make_opt(), report_to=tracker)
    monkeypatch.setenv("TRACKIO_DIR", str(place / "first" / "trackio"))
    make_trainer(place / "second", model=make_opt(), report_to=tracker).train()
    assert len(READERS[tracker](place / "first")[1]) == 2


@pytest.mark.parametrize("tracker", ["trackio"], indirect=True)
def test_a_push_of_the_model_is_no_push_of_its_figures(place, tracker, hub):
    trainer = make_trainer(place / "run", model=make_opt(), report_to=tracker, push_to_hub=True)
    trainer.train()
    trainer.track({"test_loss": 1.0})  # its run is open
    trainer.push_to_hub()
    assert list(hub.repos) == ["me/run"]
    assert not [name for name in hub.repos["me/run"].files if "trackio" in name]
    assert not [request for request in hub.requests if "space" in request or "bucket" in request]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["tensorbord"], "report_to tensorbord: there is no such tracker. Did you mean: tensorboard"),
        (["mlflow"], "report_to mlflow: mlflow is not installed; pip install mlflow."),
    ],
)
def test_trackers_that_cannot_be_had(tmp_path, monkeypatch, names, message):
    monkeypatch.setitem(tracking._AVAILABLE, "mlflow", lambda: False)
    with pytest.raises(UsageError, match=message.replace(".", r"\.")):
        make_trainer(tmp_path / "run", report_to=names)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "variable", "value", "refused"),
    [
        ("wandb", "WANDB_LOG_MODEL", "end", True),
        ("wandb", "WANDB_LOG_MODEL", "false", False),
        ("wandb", "WANDB_WATCH", "all", True),
        ("mlflow", "HF_MLFLOW_LOG_ARTIFACTS", "TRUE", True),
        ("mlflow", "WANDB_LOG_MODEL", "end", False),
    ],
)
def test_what_would_be_pickled_is_refused(monkeypatch, name, variable, value, refused):
    monkeypatch.setitem(tracking._AVAILABLE, name, lambda: True)
    monkeypatch.setenv(variable, value)
    if not refused:
        tracking.check_trackers([name], option="--report-to")
        return
    with pytest.raises(UsageError, match=f"--report-to {name}: the variable {variable}={value} .*; unset it"):
        tracking.check_trackers([name], option="--report-to")


class FakeWandb(SimpleNamespace):
    """W&B as far as it is called here: one open run of the process."""

    class errors:
        class Error(Exception):
            pass

    run = None

    def init(self, **settings):
        if settings["project"] == "refused":
            raise self.errors.Error("no\nserver")
        self.calls.append(settings)
        self.run = SimpleNamespace(id=settings["id"] or f"id{len(self.calls)}")
        return self.run

    def finish(self, exit_code=0):
        self.calls.append(exit_code)
        self.run = None


@pytest.fixture
def make_wandb(place):
    """Function that makes the tracker of a run, all with one fake W&B."""
    fake = FakeWandb(calls=[])

    def make(folder, **settings):
        args = arguments(place / folder, **settings)
        (place / folder).mkdir(exist_ok=True)
        return trackers._WandB(SimpleNamespace(_wandb=fake), args)

    make.calls, make.fake = fake.calls, fake
    yield make
    trackers._ProcessWide._open.clear()


def test_a_run_is_begun_once_named_placed_and_found_again(place, make_wandb):
    tracker = make_wandb("run", project="mine")
    tracker.begin(0)
    tracker.begin(3)
    assert make_wandb.calls == [
        {"project": "mine", "name": "run", "dir": str(place / "run"), "id": None, "resume": "allow"}
    ]
    assert json.loads((place / "run" / "trackers.json").read_text()) == {"wandb": "id1"}
    tracker.end(failed=True)
    tracker.end()
    again = make_wandb("run", run_name="other")
    again.begin(5)
    assert make_wandb.calls[1] == 1
    assert (make_wandb.calls[2]["id"], make_wandb.calls[2]["name"]) == ("id1", "other")


def test_the_variables_of_a_tracker_win(place, make_wandb, monkeypatch):
    for name in ("PROJECT", "DIR", "RUN_ID", "RESUME"):
        monkeypatch.setenv(f"WANDB_{name}", name.lower())
    make_wandb("run").begin(0)
    given = make_wandb.calls[0]
    assert [given[key] for key in ("project", "dir", "id", "resume")] == ["project", "dir", "run_id", "resume"]


def test_a_run_of_the_user_s_is_neither_begun_nor_ended(place, make_wandb):
    make_wandb.fake.run = SimpleNamespace(id="theirs")
    tracker = make_wandb("run")
    tracker.begin(0)
    tracker.end()
    assert make_wandb.calls == []
    assert not (place / "run" / "trackers.json").exists()


def test_the_run_of_an_earlier_trainer_is_ended_first(make_wandb):
    first, second = make_wandb("first"), make_wandb("second")
    first.begin(0)
    second.begin(0)
    assert [call if isinstance(call, int) else call["name"] for call in make_wandb.calls] == ["first", 0, "second"]
    first.end()  # is over already
    assert make_wandb.fake.run is not None


def test_a_tracker_that_refuses_is_named_in_a_line(make_wandb):
    with pytest.raises(TrackerError, match=r"^wandb cannot begin a run: no server$"):
        make_wandb("run", project="refused").begin(0)
