"""A run that is interrupted at any moment and resumed is bit-equal to one that was not."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback, TrainerState
from transformers.trainer_callback import EarlyStoppingCallback

from foretune.errors import JournalError, UsageError
from foretune.journal import EvaluationRecord, Journal, JournalWriter, StepRecord
from foretune.optimizer import Optimizer
from foretune.trainer import checkpoint as files
from foretune.trainer.recovery import History
from unit.trainer.runs import (
    SamplingEvaluator,
    TinyLM,
    assert_equal_runs,
    make_opt,
    make_trainer,
    snapshot,
)


class Crash(Exception):
    """Stands for the death of the process."""


class Moments(TrainerCallback):
    """Counts the moments of a run, and ends it at one of them.

    Moments are: every event of the Trainer's loop, before and after a record is journaled, between journal
    and update, around an evaluation, each stage of writing a checkpoint (its last file half written), and each stage
    of going back.
    """

    _EVENTS = (
        "train_begin",
        "epoch_begin",
        "step_begin",
        "substep_end",
        "pre_optimizer_step",
        "optimizer_step",
        "step_end",
        "log",
        "evaluate",
        "save",
        "epoch_end",
        "train_end",
    )

    def __init__(self, monkeypatch, last: int | None = None) -> None:
        self.last = last
        self.seen: list[str] = []
        for event in self._EVENTS:
            setattr(self, f"on_{event}", lambda *args, event=event, **kwargs: self.pass_(event))
        for owner, name in (
            (JournalWriter, "append"),
            (JournalWriter, "go_back"),
            (files, "remove"),
            (Optimizer, "_apply"),
            (SamplingEvaluator, "__call__"),
            (files, "save_model"),
            (files, "save_optimizer"),
            (files.JournalPlace, "save"),
        ):
            monkeypatch.setattr(owner, name, self._watched(name, getattr(owner, name)))
        monkeypatch.setattr(TrainerState, "save_to_json", self._torn(TrainerState.save_to_json))

    def pass_(self, name: str) -> None:
        self.seen.append(name)
        if self.last is not None and len(self.seen) == self.last:
            raise Crash(name)

    def _watched(self, name, function):
        def watched(*args, **kwargs):
            self.pass_(f"before {name}")
            result = function(*args, **kwargs)
            self.pass_(f"after {name}")
            return result

        return watched

    def _torn(self, save):
        def torn(state, path):
            save(state, path)
            whole = Path(path).read_text()
            Path(path).write_text(whole[: len(whole) // 2])
            self.pass_("half a trainer state")
            Path(path).write_text(whole)
            self.pass_("a checkpoint written, older ones not removed")

        return torn


def run(folder: Path, **settings):
    trainer = make_trainer(folder, **settings)
    trainer.train(resume_from_checkpoint=True)
    return trainer


def interrupt(folder: Path, last: int, **settings) -> bool:
    """Train (or resume) until moment `last`; False if the run ends before."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        moments = Moments(monkeypatch, last)
        try:
            run(folder, callbacks=[moments], **settings)
        except Crash:
            return True
    return False


RUNS = {
    "mezo": {"metric_for_best_model": "loss"},
    "lozo": {
        "method": "lozo",
        "method_options": {"interval": 4},
        "lr_scheduler_type": "linear",
        "warmup_steps": 3,
        "gradient_accumulation_steps": 2,
        "save_total_limit": 1,
    },
    "lozo_m": {
        "method": "lozo_m",
        "method_options": {"interval": 3},
        "save_steps": 5,
        "eval_steps": 4,
        "logging_steps": 2,
        "load_best_model_at_end": False,
    },
    "base only": {"method": "lozo_m", "method_options": {"interval": 4}, "save_strategy": "no"},
    "best": {"save_strategy": "best", "metric_for_best_model": "draw", "load_best_model_at_end": True},
    "epochs": {
        "max_steps": -1,
        "num_train_epochs": 2,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "logging_strategy": "epoch",
        "load_best_model_at_end": True,
    },
    "checkpoint before the epoch's evaluation": {
        "max_steps": 8,
        "eval_strategy": "epoch",
        "logging_strategy": "epoch",
        "save_steps": 2,
        "metric_for_best_model": "loss",
    },
    "rolled back to a checkpoint": {
        "on_divergence": "rollback",
        "learning_rate": 300.0,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": 2000,
        "max_steps": 12,
        "logging_steps": 2,
        "save_steps": 2,
        "save_total_limit": 2,
        "metric_for_best_model": "loss",
        "load_best_model_at_end": True,
    },
    "rolled back to the beginning, twice": {
        "on_divergence": "rollback",
        "learning_rate": 3.0,
        "max_steps": 8,
        "logging_steps": 1,
        "method": "lozo_m",
        "save_strategy": "no",
    },
}


STRIDE = 20
"""Tried are every twentieth moment of each run, shifted from run to run; 1 tries all (some minutes)."""


@pytest.mark.parametrize(("offset", "name"), list(enumerate(RUNS)))
def test_run_interrupted_at_any_moment_is_equal_after_resume(tmp_path, monkeypatch, offset, name):
    settings = RUNS[name]
    with monkeypatch.context() as watched:
        moments = Moments(watched)
        whole = snapshot(run(tmp_path / "whole", callbacks=[moments], **settings))
    for last in range(1 + offset, len(moments.seen) + 1, STRIDE):
        folder = tmp_path / str(last)
        assert interrupt(folder, last, **settings)
        try:
            assert_equal_runs(snapshot(run(folder, **settings)), whole)
        except BaseException as error:
            error.add_note(f"interrupted at moment {last}: {moments.seen[last - 1]}")
            raise
        shutil.rmtree(folder)


def test_run_interrupted_while_it_repeats_steps_is_equal_after_a_second_resume(tmp_path):
    settings = RUNS["lozo_m"]
    whole = snapshot(run(tmp_path / "whole", **settings))
    assert interrupt(tmp_path / "run", 71, **settings)
    for last in (3, 17, 29, 48):  # while the steps behind the checkpoint are repeated, then further
        assert interrupt(tmp_path / "run", last, **settings)
    assert_equal_runs(snapshot(run(tmp_path / "run", **settings)), whole)


@pytest.mark.parametrize("num_bytes", [1, 8, 40, 60, 90])
def test_journal_with_a_torn_tail_is_cut_and_continued(tmp_path, num_bytes):
    settings = RUNS["lozo_m"]
    whole = snapshot(run(tmp_path / "whole", **settings))
    assert interrupt(tmp_path / "run", 85, **settings)
    path = tmp_path / "run" / "journal"
    data = path.read_bytes()
    path.write_bytes(data[:-num_bytes])
    assert_equal_runs(snapshot(run(tmp_path / "run", **settings)), whole)


def test_repeated_steps_and_evaluations_cost_no_forward_pass(tmp_path, monkeypatch):
    class Forbidden(TinyLM):
        def forward(self, *args, **kwargs):
            raise AssertionError("a forward pass")

    settings = {"save_strategy": "no"}
    whole = snapshot(run(tmp_path / "run", **settings))
    trainer = run(tmp_path / "run", model=Forbidden(), **settings)
    assert_equal_runs(snapshot(trainer), whole)


def test_data_order_of_a_resumed_epoch(tmp_path):
    """The rows of each step are an uninterrupted run's: in the first epoch, at its end, in the next."""
    steps: dict[str, dict[int, list]] = {}

    def record(name, trainer):
        step = trainer.training_step

        def watched(model, inputs, *args, **kwargs):
            steps.setdefault(name, {})[trainer.state.global_step] = inputs["input_ids"].tolist()
            return step(model, inputs, *args, **kwargs)

        trainer.training_step = watched
        return trainer

    record("whole", make_trainer(tmp_path / "whole", max_steps=14)).train()
    assert steps["whole"][0] != steps["whole"][6]  # another epoch, another order
    for start in (3, 6, 9):
        folder = tmp_path / str(start)
        shutil.copytree(tmp_path / "whole", folder)
        trainer = record(str(start), make_trainer(folder, max_steps=14))
        trainer.train(resume_from_checkpoint=str(folder / f"checkpoint-{start}"))
        assert steps[str(start)] == {step: rows for step, rows in steps["whole"].items() if step >= start}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (
            {"method_options": {"zo_eps": 2e-3}},
            "'method.zo_eps' was 0.001 when the run began and is 0.002 now",
        ),
        ({"method": "lozo"}, "'method.name' was 'mezo'"),
        ({"learning_rate": 2e-2}, "'method.lr'"),
        ({"seed": 8}, "'seed' was 7 when the run began and is 8 now"),
        ({"per_device_train_batch_size": 8}, "'trainer.batch_size' was 4"),
        ({"gradient_accumulation_steps": 2}, "'trainer.gradient_accumulation_steps' was 1"),
        ({"max_steps": 20}, "'trainer.max_steps' was 10"),
        (
            {"lr_scheduler_type": "linear"},
            "'trainer.lr_scheduler' was 'constant' when the run began and is 'linear'",
        ),
        ({"warmup_steps": 2}, "'trainer.warmup_steps'"),
        ({"lr_scheduler_kwargs": {"num_cycles": 2}}, "'trainer.lr_scheduler_options'"),
        ({"engine": "in_place"}, "'engine' was 'layerwise' when the run began and is 'in_place' now"),
        ({"bf16": True}, "'trainer.bf16'"),
        ({"dataloader_drop_last": True}, "'trainer.drop_last'"),
    ],
)
def test_resume_with_a_changed_setting_is_refused_by_name(finished, tmp_path, settings, named):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(JournalError, match="cannot be resumed") as raised:
        run(folder, **settings)
    assert named in str(raised.value)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run of default settings."""
    folder = tmp_path_factory.mktemp("finished")
    run(folder)
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of it that a test may change."""
    return shutil.copytree(finished, tmp_path / "run")


def test_resume_with_another_base_model_is_refused(folder):
    with pytest.raises(JournalError, match=r"began with other weights: their hash is \w{12}, this model's is \w{12}"):
        run(folder, model=TinyLM(seed=1))


def test_resume_with_an_engine_that_was_chosen_by_rule_is_the_same_run(folder):
    assert run(folder, engine="layerwise").state.global_step == 10


def test_resume_of_a_finished_run_makes_no_step_and_changes_no_bit(folder):
    trainer = make_trainer(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    trainer.training_step = None  # would fail
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 10
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    saved = files.load_file(folder / "checkpoint-10" / "model.safetensors")
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, saved[name])


def test_explicit_checkpoint_goes_back_and_drops_the_rest(folder):
    whole = snapshot(run(folder))
    trainer = make_trainer(folder)
    began = []

    class Watch(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            began.append(
                (
                    state.global_step,
                    len(Journal.read(folder / "journal").steps),
                    sorted(path.name for path in folder.glob("checkpoint-*")),
                    (folder / "metrics.jsonl").read_text().count("\n"),
                )
            )

    trainer.add_callback(Watch())
    trainer.train(resume_from_checkpoint=folder / "checkpoint-6")
    # six steps are left, with the log lines at 2, 3, 4, 6 and 6
    assert began == [(6, 6, ["checkpoint-3", "checkpoint-6"], 5)]
    assert_equal_runs(snapshot(trainer), whole)


def test_going_back_survives_another_interruption(folder):
    """The later checkpoints are gone too: they would lie ahead of the journal."""
    whole = snapshot(run(folder))
    trainer = make_trainer(folder)
    trainer.training_step = _raise
    with pytest.raises(Crash):
        trainer.train(resume_from_checkpoint=str(folder / "checkpoint-3"))
    assert_equal_runs(snapshot(run(folder)), whole)


def _raise(*args, **kwargs):
    raise Crash


def test_explicit_folder_that_is_no_checkpoint_of_the_run_is_refused(folder, tmp_path):
    (folder / "checkpoint-6" / "trainer_state.json").write_text('{"torn')
    for wrong in (tmp_path / "elsewhere", folder / "checkpoint-6", folder):
        with pytest.raises(UsageError, match=r"is no whole checkpoint of the run in"):
            make_trainer(folder).train(resume_from_checkpoint=str(wrong))


def test_resume_where_nothing_was_saved_starts_anew(tmp_path):
    trainer = make_trainer(tmp_path / "run")
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 10


def test_journal_without_resume_is_refused_before_any_work(folder):
    trainer = make_trainer(folder)
    trainer.create_optimizer = _raise
    with pytest.raises(JournalError, match=r"journal exists: resume that run .* or choose another folder"):
        trainer.train()


def test_checkpoints_without_their_journal_are_refused(folder):
    (folder / "journal").unlink()
    for resume in (None, True):
        with pytest.raises(JournalError, match="checkpoint-10 exists, but not the journal"):
            make_trainer(folder).train(resume_from_checkpoint=resume)
    with pytest.raises(UsageError, match="checkpoint-6 cannot be resumed: there is no journal"):
        make_trainer(folder).train(resume_from_checkpoint=str(folder / "checkpoint-6"))


def test_journal_that_ends_before_the_checkpoint_is_refused(folder):
    with JournalWriter.reopen(folder / "journal") as writer:
        writer.drop_after(4)
    with pytest.raises(JournalError, match=r"holds 6 records, but .*checkpoint-10 was written after 15"):
        run(folder)


def test_corrupt_journal_is_refused(folder):
    path = folder / "journal"
    data = bytearray(path.read_bytes())
    data[-200] ^= 1
    path.write_bytes(data)
    with pytest.raises(JournalError, match="does not match its checksum"):
        run(folder)


def test_model_only_checkpoints_are_kept_and_the_run_goes_on_from_the_base_model(tmp_path):
    settings = {"save_only_model": True}
    whole = snapshot(run(tmp_path / "whole", **settings))
    assert not (tmp_path / "whole" / "checkpoint-3" / "journal.json").exists()
    assert interrupt(tmp_path / "run", 70, **settings)
    assert_equal_runs(snapshot(run(tmp_path / "run", **settings)), whole)


def test_same_trainer_goes_on_after_an_interruption(tmp_path):
    """As in a notebook: Ctrl-C, then train(resume_from_checkpoint=True) in the same process."""
    whole = snapshot(run(tmp_path / "whole"))

    class Once(TrainerCallback):
        done = False

        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 5 and not self.done:
                self.done = True
                raise KeyboardInterrupt

    trainer = make_trainer(tmp_path / "run", callbacks=[Once()])
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer.train(resume_from_checkpoint=True)
    assert_equal_runs(snapshot(trainer), whole)
    with pytest.raises(JournalError, match="exists"):
        trainer.train()


def test_same_trainer_without_a_checkpoint_is_refused(tmp_path):
    trainer = make_trainer(tmp_path / "run", save_strategy="no")
    trainer.train()
    with pytest.raises(JournalError, match=r"has made 10 steps, and there is no checkpoint to go back to"):
        trainer.train(resume_from_checkpoint=True)


@pytest.mark.parametrize("save_steps", [2, 3])
def test_early_stopping_stops_at_the_same_step_after_resume(tmp_path, save_steps):
    """`draw` is random: the patience runs out in the middle, and must not begin anew with the process."""
    settings = {
        "max_steps": 40,
        "save_steps": save_steps,
        "metric_for_best_model": "draw",
        "greater_is_better": True,
        "load_best_model_at_end": save_steps == 2,
    }

    def stopping():
        return EarlyStoppingCallback(early_stopping_patience=3)

    trainer = run(tmp_path / "whole", callbacks=[stopping()], **settings)
    whole = snapshot(trainer)
    assert 8 <= trainer.state.global_step < 40
    for step in (3, trainer.state.global_step - 1, trainer.state.global_step):
        folder = tmp_path / str(step)
        crash = CrashAt(step)
        with pytest.raises(Crash):
            make_trainer(folder, callbacks=[stopping(), crash], **settings).train()
        assert_equal_runs(snapshot(run(folder, callbacks=[stopping()], **settings)), whole)
        # and once more, now that it has finished
        assert_equal_runs(snapshot(run(folder, callbacks=[stopping()], **settings)), whole)
        shutil.rmtree(folder)


class CrashAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise Crash


def test_own_path_of_transformers_is_resumed_too(tmp_path):
    """Without objective and evaluator: the model's own loss, the evaluation loop, an OPT."""
    settings = {"hf_path": True, "max_steps": 5, "save_steps": 2, "metric_for_best_model": "loss"}
    whole = snapshot(run(tmp_path / "whole", model=make_opt(), **settings))
    for last in (33, 52):
        folder = tmp_path / str(last)
        assert interrupt(folder, last, model=make_opt(), **settings)
        assert_equal_runs(snapshot(run(folder, model=make_opt(), **settings)), whole)


def test_a_run_by_the_paired_engine_is_resumed(tmp_path):
    """Lazily redrawn bases, two micro-batches of their own lengths a step."""
    settings = {**RUNS["lozo"], "engine": "paired"}
    whole = snapshot(run(tmp_path / "whole", **settings))
    folder = tmp_path / "run"
    with pytest.raises(Crash):
        run(folder, callbacks=[CrashAt(5)], **settings)
    trainer = run(folder, **settings)
    assert trainer.engine_name == "paired"
    assert_equal_runs(snapshot(trainer), whole)


def test_resume_takes_the_threads_of_the_run(tmp_path, caplog):
    folder = tmp_path / "run"
    run(folder)  # with one thread, as all of these tests
    seen = []

    class Watch(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            seen.append(torch.get_num_threads())

    torch.set_num_threads(2)
    run(folder, callbacks=[Watch()])
    assert seen == [1]
    assert torch.get_num_threads() == 2
    assert "Using 1 threads, as when the run began, instead of 2." in caplog.text


class TestHistory:
    steps = tuple(StepRecord(step, (1.0,), 2.0, 1e-3, 1e-3, True) for step in range(3))

    def test_passes_steps_and_evaluations_in_order(self):
        evaluation = EvaluationRecord(1, {"eval_loss": 1.0})
        history = History([self.steps[0], evaluation, self.steps[1]])
        assert history.next_evaluation(1, "eval") is None  # a step comes first
        assert history.next_step() is self.steps[0]
        assert history.next_evaluation(0, "eval") is None
        assert history.next_evaluation(1, "test") is None
        assert history.next_evaluation(1, "eval") is evaluation
        assert history.repeating
        assert history.next_step() is self.steps[1]
        assert not history.repeating
        assert history.next_step() is None

    def test_evaluation_that_is_not_asked_for_again_is_skipped(self):
        history = History([self.steps[0], EvaluationRecord(1, {"eval_loss": 1.0}), self.steps[1]], place=1)
        assert history.next_step() is self.steps[1]

    def test_skipped_evaluations_are_told(self):
        evaluations = [EvaluationRecord(1, {"eval_loss": 1.0}), EvaluationRecord(1, {"test_loss": 1.0})]
        history = History([self.steps[0], *evaluations, self.steps[1], *evaluations], place=1)
        assert history.skip_to_step() == evaluations
        assert history.skip_to_step() == []
        assert history.next_step() is self.steps[1]
        assert history.skip_to_step() == evaluations
        assert not history.repeating

    def test_steps_done_ends_at_the_place(self):
        history = History(self.steps, place=2)
        assert history.steps_done(1) == [self.steps[1]]
        history.next_step()
        history.add(EvaluationRecord(3, {}))
        assert history.place == 4


_KILLED_RUN = """
import sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from pathlib import Path
from unit.trainer.runs import make_trainer
make_trainer(Path(sys.argv[1]), **{settings!r}).train(resume_from_checkpoint=True)
"""


@pytest.mark.slow
def test_run_killed_again_and_again_is_equal_in_the_end(tmp_path):
    """SIGKILL at moments that the journal's growth dates, until the run ends by itself."""
    settings = {**RUNS["lozo_m"], "max_steps": 150, "save_steps": 40, "eval_steps": 30}
    whole = snapshot(run(tmp_path / "whole", **settings))
    folder = tmp_path / "run"
    code = _KILLED_RUN.format(tests=str(Path(__file__).parents[2]), settings=settings)
    journal = folder / "journal"
    num_kills = 0
    for target in (3_000, 7_000, None):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(folder)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None:
            if target is not None and journal.exists() and journal.stat().st_size > target:
                process.send_signal(signal.SIGKILL)
                num_kills += 1
                process.wait()
            time.sleep(0.001)
    assert num_kills == 2
    assert process.returncode == 0
    assert journal.read_bytes() == whole["journal"]
    assert (folder / "metrics.jsonl").read_text() == whole["metrics"]
    assert_equal_runs(snapshot(run(folder, **settings)), whole)
