"""A method that follows the dev metric, from the command line: train, interrupt, resume, replay."""

from __future__ import annotations

import pytest
from safetensors.torch import load_file
from transformers import TrainerCallback

from foretune.cli.main import main
from foretune.cli.train import parse
from foretune.journal import Journal
from foretune.runs import train as train_module


class Dies(TrainerCallback):
    """Raises after a step that no checkpoint follows, when the metric has been reported and has raised the ratio."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 7:
            raise KeyboardInterrupt


@pytest.fixture
def words(train_words):
    """Eight steps with an evaluation after every other; the rate is so large that the dev loss gets worse, too."""
    own = "--method mgs_bcd --tuning lora --method.adaselect true --method.patience 1 --lr 3 --steps 8 --eval-steps 2"
    return [*train_words, *own.split()]


def test_resume_and_replay_give_the_bits_of_the_run(words, tmp_path, capsys):
    assert main(words) == 0
    journal = Journal.read(tmp_path / "run" / "journal")
    losses = [evaluation.metrics["eval_loss"] for evaluation in journal.evaluations]
    levels = [sum(loss >= min(losses[:end]) for end, loss in enumerate(losses[:number]) if end) for number in range(4)]
    assert [record.observation[0] for record in journal.steps[::2]] == levels
    assert levels[0] < levels[-1]

    assert main(["replay", str(tmp_path / "run"), "-o", str(tmp_path / "last"), "--step", "8"]) == 0
    expected = load_file(tmp_path / "run" / "checkpoint-8" / "adapter_model.safetensors")
    found = load_file(tmp_path / "last" / "adapter_model.safetensors")
    assert all((found[name] == tensor).all() for name, tensor in expected.items())

    again = [str(tmp_path / "again") if word == str(tmp_path / "run") else word for word in words]
    with pytest.raises(KeyboardInterrupt):
        train_module.train(parse(again[1:]), callbacks=[Dies()])
    assert main([*again, "--resume"]) == 0
    for name in ("journal", "metrics.jsonl", "checkpoint-8/optimizer.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()


def test_without_dev_rows_it_is_refused(words, capsys):
    assert main([*words, "--num-dev", "0"]) == 2
    assert "MagnitudeGroups follows the dev metric here, but the run evaluates nothing" in capsys.readouterr().err
