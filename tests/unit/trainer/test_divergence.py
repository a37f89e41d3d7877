"""What becomes of a run that diverges, by its policy: ended, taken back, or let go."""

from __future__ import annotations

import json
import logging
import math
import shutil
from typing import ClassVar

import pytest
import torch

from foretune.errors import DivergedError, NonFiniteLossError
from foretune.journal import Journal, RollbackRecord, replay
from foretune.optimizer import Optimizer
from foretune.trainer import checkpoint as files
from foretune.trainer.divergence import LR_FACTOR, MAX_ROLLBACKS
from foretune.trainer.recovery import sound_checkpoint
from unit.trainer import test_first_order as first_order
from unit.trainer.runs import MeanOverRows, SamplingEvaluator, TinyLM, make_trainer, snapshot

# At lr 3 the weights have grown 150 times after 2 steps, at 0.3 109 times after 6; at 0.03 they do not explode.
SETTINGS = {"learning_rate": 3.0, "logging_steps": 1, "max_steps": 8, "save_strategy": "no", "method": "lozo_m"}
# Here the lr rises, and the weights explode after 8 steps; of the checkpoints, those after 2 and 4 steps are sound.
WARMUP = {
    "learning_rate": 300.0,
    "lr_scheduler_type": "constant_with_warmup",
    "warmup_steps": 2000,
    "logging_steps": 2,
    "save_steps": 2,
    "max_steps": 12,
}


def lines(folder, key):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if key in line]


def test_stop_says_why_and_how_to_go_on(tmp_path):
    with pytest.raises(DivergedError) as raised:
        make_trainer(tmp_path, **WARMUP).train()
    assert str(raised.value) == (
        "The run diverges, exploding_weights after 8 steps: the norm of the trained weights is 197 times that of the "
        f"beginning. Lower lr (1.05). The newest good checkpoint is {tmp_path / 'checkpoint-4'}. Resume with "
        "on_divergence 'rollback' to go on from before the trouble with 0.1 times the lr, or with 'ignore' to go on "
        "as it is."
    )
    journal = Journal.read(tmp_path / "journal")
    assert (len(journal.steps), journal.rollbacks) == (8, [])
    again = make_trainer(tmp_path, **WARMUP)
    with pytest.raises(DivergedError, match="exploding_weights after 8 steps"):
        again.train(resume_from_checkpoint=True)
    assert Journal.read(tmp_path / "journal").records == journal.records


@pytest.mark.parametrize("settings", [SETTINGS, WARMUP], ids=["to the beginning", "to a checkpoint"])
def test_rollback_after_a_stop_is_rollback_from_the_first(tmp_path, settings):
    whole = make_trainer(tmp_path / "whole", on_divergence="rollback", **settings)
    whole.train()
    with pytest.raises(DivergedError):
        make_trainer(tmp_path / "run", **settings).train()
    trainer = make_trainer(tmp_path / "run", on_divergence="rollback", **settings)
    trainer.train(resume_from_checkpoint=True)
    assert snapshot(trainer) == snapshot(whole)


def test_where_all_checkpoints_are_in_the_trouble_a_stopped_run_goes_back_to_its_base(tmp_path):
    """What shows it is the loss, after 62 steps; nothing is wrong with the weights of step 55 but that they are bad."""
    settings = {"learning_rate": 0.1, "max_steps": 66, "logging_steps": 100, "save_steps": 55, "eval_strategy": "no"}
    whole = make_trainer(tmp_path / "whole", on_divergence="rollback", **settings)
    whole.train()
    assert [(back.cause, back.step) for back in whole.rollbacks] == [("exploding_loss", 0)]
    with pytest.raises(DivergedError, match=r"the median of the last 50 losses is .* No checkpoint is from before"):
        make_trainer(tmp_path / "run", **settings).train()
    assert (tmp_path / "run" / "checkpoint-55").is_dir()
    trainer = make_trainer(tmp_path / "run", on_divergence="rollback", **settings)
    trainer.train(resume_from_checkpoint=True)
    assert snapshot(trainer) == snapshot(whole)


def test_steps_after_a_rollback_have_the_smaller_lr_of_the_schedule(tmp_path):
    trainer = make_trainer(tmp_path, on_divergence="rollback", **WARMUP)
    trainer.train()
    back = RollbackRecord(step=4, detected_at=8, cause="exploding_weights", lr_factor=LR_FACTOR)
    journal = Journal.read(tmp_path / "journal")
    assert journal.rollbacks == list(trainer.rollbacks) == [back]
    assert [record.step for record in journal.steps] == list(range(12))
    scheduled = [0.15 * number for number in range(12)]
    assert [record.lr for record in journal.steps] == pytest.approx(
        [*scheduled[:4], *(LR_FACTOR * lr for lr in scheduled[4:])]
    )
    (line,) = lines(tmp_path, "rollback")
    assert line == {
        "step": 4,
        "rollback": {"detected_at": 8, "cause": "exploding_weights", "lr_factor": LR_FACTOR},
    }
    assert [line["step"] for line in lines(tmp_path, "loss")] == [2, 4, 6, 8, 10, 12]
    assert files.read_json(tmp_path / "checkpoint-12" / files.SCHEDULER_STATE)["base_lrs"] == [LR_FACTOR * 300.0]
    assert not (tmp_path / files.BEGINNING).exists()


@pytest.mark.parametrize("settings", [SETTINGS, WARMUP], ids=["to the beginning", "to a checkpoint"])
def test_replay_of_a_run_that_went_back_gives_its_bits(tmp_path, settings):
    trainer = make_trainer(tmp_path, on_divergence="rollback", **settings)
    trainer.train()
    method = trainer.args.zo_method
    optimizer = Optimizer(TinyLM(), **method.optimizer_arguments(), seed=trainer.args.seed)
    assert replay(optimizer, Journal.read(tmp_path / "journal")) == settings["max_steps"]
    expected = trainer.model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in optimizer.model.state_dict().items())


def test_a_run_that_was_taken_back_ends_better_than_it_began(tmp_path):
    before = SamplingEvaluator()(TinyLM())["loss"]
    trainer = make_trainer(tmp_path, on_divergence="rollback", **{**SETTINGS, "method": "mezo", "max_steps": 40})
    trainer.train()
    assert len(trainer.rollbacks) == 2
    assert SamplingEvaluator()(trainer.model)["loss"] < before


def test_a_run_goes_back_a_few_times_only(tmp_path, caplog):
    settings = {**SETTINGS, "learning_rate": 1000.0, "on_divergence": "rollback"}
    trainer = make_trainer(tmp_path, **settings)
    with pytest.raises(DivergedError, match=r"went back 3 times already, .* good checkpoint is .*checkpoint-0\.$"):
        trainer.train()
    assert [back.step for back in trainer.rollbacks] == [0] * MAX_ROLLBACKS
    assert {record.lr for record in Journal.read(tmp_path / "journal").steps} == {1.0}
    assert "Going back to step 0 with 0.1 times the lr (3 of at most 3 times)" in caplog.text
    with pytest.raises(DivergedError, match="went back 3 times already"):
        make_trainer(tmp_path, **settings).train(resume_from_checkpoint=True)


def test_ignore_warns_once_and_goes_on(tmp_path, caplog):
    trainer = make_trainer(tmp_path, on_divergence="ignore", **SETTINGS)
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert trainer.state.global_step == 8
    assert caplog.text.count("exploding_weights after 2 steps") == 1
    assert caplog.text.count("exploding") == 1
    assert trainer.rollbacks == []


def test_what_records_show_is_logged_once_also_when_the_run_is_resumed(tmp_path, caplog):
    class Constant(MeanOverRows):
        def loss(self, model, batch):
            return torch.tensor(0.5)

    settings = {"max_steps": 60, "logging_steps": 20, "save_steps": 40, "eval_strategy": "no"}
    trainer = make_trainer(tmp_path / "run", **settings)
    trainer.loss_objective = Constant()
    trainer.train()
    assert caplog.text.count("zero_projected_gradient after 50 steps") == 1
    (line,) = lines(tmp_path / "run", "warning")
    assert line["step"] == 50
    assert line["warning"]["cause"] == "zero_projected_gradient"
    written = (tmp_path / "run" / "metrics.jsonl").read_text()
    make_trainer(tmp_path / "run", **settings).train(resume_from_checkpoint=True)
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == written
    assert caplog.text.count("zero_projected_gradient") == 1


class Fragile(MeanOverRows):
    """Has no loss where a weight is large."""

    def loss(self, model, batch):
        largest = max(float(parameter.abs().max()) for parameter in model.parameters())
        return super().loss(model, batch) * (math.nan if largest > 20 else 1.0)


def test_losses_that_are_not_finite_are_rolled_back_too(tmp_path):
    settings = {**WARMUP, "learning_rate": 600.0, "logging_steps": 50, "max_steps": 24, "eval_strategy": "no"}
    trainer = make_trainer(tmp_path, on_divergence="rollback", **settings)
    trainer.loss_objective = Fragile()
    trainer.train()
    # the first time to weights that were too large already; its own smaller lr still counts
    assert [(back.step, back.detected_at) for back in trainer.rollbacks] == [(2, 14), (2, 14)]
    assert {back.cause for back in trainer.rollbacks} == {"non_finite_loss"}
    steps = Journal.read(tmp_path / "journal").steps
    assert [record.step for record in steps] == list(range(24))
    assert all(record.accepted for record in steps)


def test_a_score_that_is_not_finite_is_a_reason_to_go_back(tmp_path):
    class Scores(SamplingEvaluator):
        def __call__(self, model):
            figures = super().__call__(model)
            if figures["loss"] > 20:
                raise NonFiniteLossError("The score of row 3 is nan.")
            return figures

    for policy in ("stop", "rollback"):
        trainer = make_trainer(tmp_path / policy, on_divergence=policy, **{**SETTINGS, "logging_steps": 50})
        trainer._evaluator = Scores()
        if policy == "stop":
            with pytest.raises(
                NonFiniteLossError, match=r"non_finite_loss after 2 steps: The score of row 3 is nan\. No"
            ):
                trainer.train()
        else:
            trainer.train()
            assert [(back.step, back.detected_at) for back in trainer.rollbacks] == [(0, 2), (0, 2), (0, 4)]


class TestSoundCheckpoint:
    @pytest.fixture
    def folder(self, tmp_path):
        make_trainer(tmp_path, max_steps=6, save_steps=2, metric_for_best_model="loss").train()
        return tmp_path

    def test_is_the_newest(self, folder):
        assert sound_checkpoint(folder) == folder / "checkpoint-6"
        assert sound_checkpoint(folder / "elsewhere") is None

    def test_is_from_before_the_trouble(self, folder):
        place = files.read_json(folder / "checkpoint-6" / "journal.json")
        assert place["is_sound"]
        files.write_json(folder / "checkpoint-6" / "journal.json", {**place, "is_sound": False})
        assert sound_checkpoint(folder) == folder / "checkpoint-4"
        files.remove(folder / "checkpoint-4")
        files.remove(folder / "checkpoint-2")
        assert sound_checkpoint(folder) is None
        beginning = folder / files.BEGINNING / "checkpoint-0"
        shutil.copytree(folder / "checkpoint-6", beginning)
        files.write_json(beginning / "journal.json", place)
        assert sound_checkpoint(folder) == sound_checkpoint(folder, tried={0}) == beginning

    def test_is_one_whose_best_is_still_there_and_that_was_not_tried(self, folder):
        assert sound_checkpoint(folder, tried={6, 2}) == folder / "checkpoint-4"
        assert sound_checkpoint(folder, before=4) == folder / "checkpoint-2"
        state = files.read_json(folder / "checkpoint-6" / files.TRAINER_STATE)
        files.write_json(folder / "checkpoint-6" / files.TRAINER_STATE, {**state, "best_global_step": 3})
        assert sound_checkpoint(folder) == folder / "checkpoint-4"

    def test_of_an_older_release_counts_as_sound(self, folder):
        place = files.read_json(folder / "checkpoint-6" / "journal.json")
        del place["is_sound"]
        files.write_json(folder / "checkpoint-6" / "journal.json", place)
        assert files.JournalPlace.load(folder / "checkpoint-6").is_sound


class TestFirstOrder:
    settings: ClassVar = {"method": "sgd", "learning_rate": 1e3, "logging_steps": 2, "save_steps": 2}

    def test_stops_and_stops_again(self, tmp_path):
        with pytest.raises(
            DivergedError, match=r"exploding_weights after 4 steps: .* Resume with on_divergence 'ignore'"
        ):
            first_order.make_trainer(tmp_path, **self.settings).train()
        with pytest.raises(DivergedError, match="exploding_weights after 4 steps"):
            first_order.make_trainer(tmp_path, **self.settings).train(resume_from_checkpoint=True)

    def test_goes_on_where_it_is_ignored(self, tmp_path, caplog):
        trainer = first_order.make_trainer(tmp_path, on_divergence="ignore", **self.settings)
        trainer.train()
        assert trainer.state.global_step == 10
        assert caplog.text.count("exploding_weights") == 1

    def test_losses_are_watched_across_a_resume(self, tmp_path):
        class Rising(MeanOverRows):
            def loss(self, model, batch):
                return super().loss(model, batch) * (1 if len(trainer._all_losses) < 20 else 100)

        settings = {"learning_rate": 1e-4, "max_steps": 100, "eval_strategy": "no", "save_steps": 40}
        for crash in (True, False):
            trainer = first_order.make_trainer(tmp_path, **settings)
            trainer.loss_objective = Rising()
            if crash:
                trainer.args.max_steps = 100
                trainer.add_callback(first_order.CrashAt(50))
                with pytest.raises(first_order.Crash):
                    trainer.train()
            else:
                with pytest.raises(DivergedError, match="exploding_loss after 70 steps"):
                    trainer.train(resume_from_checkpoint=True)
