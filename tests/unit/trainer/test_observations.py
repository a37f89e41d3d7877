"""What a schedule observed is in the journal: a crashed run resumes without forward passes for what it repeats."""

from __future__ import annotations

from pathlib import Path

import pytest

from foretune import Optimizer
from foretune.errors import UsageError
from foretune.journal import Journal, replay
from foretune.trainer import checkpoint as files
from toys import LoRALinear, differing_bits, weights_of
from unit.trainer.runs import TinyLM, assert_equal_runs, make_trainer, snapshot
from unit.trainer.test_recovery import interrupt

SETTINGS = {
    "method": "mgs_bcd",
    "method_options": {"bcd": True, "schedule": {"count_steps": 4, "half_steps": 2}},
    "max_steps": 12,
    "save_steps": 5,
}


def make_model() -> TinyLM:
    model = TinyLM().requires_grad_(False)
    model.mix = LoRALinear(8, 8, 4)
    for index, (name, parameter) in enumerate(model.mix.named_parameters()):
        parameter.data = 0.3 * (parameter.data + 0.01 * index)
        parameter.requires_grad_("lora" in name)
    return model


ADASELECT = {
    "method": "mgs_bcd",
    "method_options": {"adaselect": True, "patience": 1},
    "max_steps": 13,
    "save_steps": 5,
    "metric_for_best_model": "draw",  # random, the larger the better
}


def run(folder: Path, **settings):
    trainer = make_trainer(folder, model=make_model(), **(settings or SETTINGS))
    trainer.train(resume_from_checkpoint=True)
    return trainer


def test_a_run_that_observes_is_equal_after_a_resume_at_any_moment(tmp_path: Path) -> None:
    """Also where it is interrupted between a checkpoint and the end of the steps that count."""
    whole = snapshot(run(tmp_path / "whole"))
    observed = [bool(record.observation) for record in Journal.read(tmp_path / "whole" / "journal").steps]
    assert observed == [True] * 4 + [False] * 4 + [True] * 4
    for last in range(5, 200, 23):
        folder = tmp_path / str(last)
        if not interrupt(folder, last, model=make_model(), **SETTINGS):
            break
        assert_equal_runs(snapshot(run(folder)), whole)
    assert last > 60


def test_a_run_that_follows_its_dev_metric_is_equal_after_a_resume_at_any_moment_and_replayed(tmp_path: Path) -> None:
    """What is reported comes from evaluations, or from the journal's records of them."""
    trainer = run(tmp_path / "whole", **ADASELECT)
    whole = snapshot(trainer)
    journal = Journal.read(tmp_path / "whole" / "journal")
    draws = [evaluation.metrics["eval_draw"] for evaluation in journal.evaluations]
    level, expected = 0, [0, 0]
    for number, draw in enumerate(draws):
        level = min(2, level + (number > 0 and draw <= max(draws[:number])))
        expected += [level] * 2
    assert [record.observation[0] for record in journal.steps] == expected[:13]
    assert expected[12] == 2  # it moved, and not at every evaluation
    assert len(set(expected)) == 3

    model = make_model()
    replay(Optimizer(model, **trainer.args.zo_method.optimizer_arguments(), seed=7), journal)
    assert differing_bits(weights_of(model), weights_of(trainer.model)) == []
    for last in range(7, 250, 23):
        folder = tmp_path / str(last)
        if not interrupt(folder, last, model=make_model(), **ADASELECT):
            break
        assert_equal_runs(snapshot(run(folder, **ADASELECT)), whole)
    assert last > 60


def test_evaluations_that_a_resumed_run_does_not_ask_for_are_reported_all_the_same(tmp_path: Path) -> None:
    trainer = run(tmp_path / "whole", **ADASELECT, eval_steps=2)
    levels = [float(state.tensors["level"]) for state in trainer.zo_optimizer.tensor_states.values()]
    for folder in (tmp_path / "whole").glob("checkpoint-*"):
        files.remove(folder)
    again = run(tmp_path / "whole", **ADASELECT, eval_steps=13)
    assert [float(state.tensors["level"]) for state in again.zo_optimizer.tensor_states.values()] == levels


def test_a_run_that_would_follow_a_metric_and_evaluates_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"MagnitudeGroups follows the dev metric .* set eval_strategy"):
        run(tmp_path / "run", **{**ADASELECT, "eval_strategy": "no"})
    assert not (tmp_path / "run" / "journal").exists()
