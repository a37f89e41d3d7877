"""What a schedule observed is in the journal: a crashed run resumes without forward passes for what it repeats."""

from __future__ import annotations

from pathlib import Path

from foretune.journal import Journal
from toys import LoRALinear
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


def run(folder: Path):
    trainer = make_trainer(folder, model=make_model(), **SETTINGS)
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
