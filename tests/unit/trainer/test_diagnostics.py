"""Figures about weights and estimate: closed forms, and a run that is none the wiser."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from transformers import PrinterCallback, TrainerCallback

from foretune import Diagnostics, ZOTrainer
from foretune.errors import UsageError
from foretune.methods import METHODS
from promised import build, build_descent
from toys import Net, Quadratic, Regression, assert_mean, weights_of
from unit.trainer.runs import TinyLM, arguments, assert_equal_runs, make_opt, make_trainer, snapshot
from unit.trainer.test_first_order import Crash, CrashAt, Fixed
from unit.trainer.test_first_order import make_trainer as make_first_order

ROWS = {"train_dataset": [0.0] * 8, "data_collator": lambda rows: {"rows": torch.tensor(rows)}}


def make_lora():
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    return get_peft_model(make_opt(), LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))


def lines_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def diagnostics_of(folder: Path) -> list[dict]:
    return [line for line in lines_of(folder) if "diagnostics" in line]


def train_module(folder, model, *, interval=1, objective=None, max_elements=None, **settings):
    """Train a module that carries its own data, with diagnostics; return the trainer."""
    defaults = {"eval_strategy": "no", "save_strategy": "no", "max_steps": 3}
    trainer = ZOTrainer(model, arguments(folder, **{**defaults, **settings}), objective=objective or Fixed(), **ROWS)
    trainer.remove_callback(PrinterCallback)
    limits = {} if max_elements is None else {"max_elements": max_elements}
    trainer.add_callback(Diagnostics(trainer, interval, **limits))
    trainer.train()
    return trainer


class Seen(TrainerCallback):
    """Keeps the weights before each update, and the estimates of the optimizer."""

    def __init__(self, trainer) -> None:
        self.trainer = trainer
        self.weights: list[dict] = []
        self.estimates: list[dict] = []

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.weights.append(weights_of(self.trainer.model))
        self.estimates.append({t.name: e.clone() for t, e in self.trainer.zo_optimizer.gradient_estimates()})


def test_figures_are_those_of_plain_torch(tmp_path):
    model = Quadratic({"a": (4, 3), "b": (5,)})
    start = weights_of(model)
    settings = {"eval_strategy": "no", "save_strategy": "no", "max_steps": 3, "learning_rate": 0.05}
    trainer = ZOTrainer(model, arguments(tmp_path, **settings), objective=Fixed(), **ROWS)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Diagnostics(trainer, 2))
    seen = Seen(trainer)
    trainer.add_callback(seen)
    trainer.train()
    found = diagnostics_of(tmp_path)
    assert [line["step"] for line in found] == [0, 2]
    for line in found:
        weights, estimates = seen.weights[line["step"]], seen.estimates[line["step"]]
        flat = torch.cat([weights["a"].flatten(), weights["b"]])
        gradient = model.hessian @ (flat - model.target)
        estimate = torch.cat([estimates["a"].flatten(), estimates["b"]])
        moved = flat - torch.cat([start["a"].flatten(), start["b"]])
        for group, part in (("all", slice(None)), ("matrices", slice(0, 12)), ("vectors", slice(12, None))):
            w, g, e, m = flat[part], gradient[part], estimate[part], moved[part]
            assert line["diagnostics"][group] == pytest.approx(
                {
                    "norm": float(w.norm()),
                    "mean": float(w.mean()),
                    "variance": float(w.var(correction=0)),
                    "distance": float(m.norm()),
                    "gradient_norm": float(g.norm()),
                    "estimate_norm": float(e.norm()),
                    "cosine": float(e @ g / (e.norm() * g.norm())),
                    "relative_variance": float((e - g).square().sum() / g.square().sum()),
                },
                rel=1e-9,
                abs=1e-12,
            )


def test_relative_variance_of_mezo_is_d_plus_1_over_q(tmp_path):
    """methods.md 1.8: E|e - g|^2 / |g|^2 = (d + 1) / q for Gaussian directions."""
    model = Quadratic({"a": (2, 3), "b": (2,)})
    options = {"num_directions": 2}
    train_module(tmp_path, model, learning_rate=0.0, max_steps=400, method_options=options)
    values = [line["diagnostics"]["all"]["relative_variance"] for line in diagnostics_of(tmp_path)]
    assert_mean(torch.tensor(values), (8 + 1) / 2)


FULL = [name for name in METHODS if "full" in METHODS.get(name).schemes]


@pytest.mark.parametrize("name", FULL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_estimate_is_what_plain_descent_would_follow(name, dtype):
    """For every method: the update of SGD at lr 1 is minus the estimate, and asking for it changes nothing."""
    parts = METHODS.get(name)(**METHODS.get(name).toy.options).parts()
    if parts.schedule.sequential:
        pytest.skip("blocks are measured at different weights")
    model = Net(dtype)
    found = build_descent(METHODS.get(name), model, lr=1e-2)
    for step in range(3):
        before = weights_of(model)
        found.estimate(model)
        estimates = dict(found.gradient_estimates())
        assert not any((before[n] != w).any() for n, w in weights_of(model).items())
        found.step()
        if dtype == torch.float32 and not parts.direction.advances_first:
            blocks = parts.schedule.blocks(step, found.trainables, seed=found.seed)
            scales = {member.trainable: member.lr for block in blocks for member in block.members}
            for trainable, estimate in estimates.items():
                moved = (before[trainable.name] - trainable.parameter.detach()) / (1e-2 * scales[trainable])
                torch.testing.assert_close(moved, estimate, rtol=1e-3, atol=1e-4)
        assert all(e.dtype == torch.float32 and e.shape == t.shape for t, e in estimates.items())


# peft 0.21 asks transformers by a name that 5.23 calls deprecated
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("name", list(METHODS))
def test_no_bit_of_a_run_changes(tmp_path, name):
    """Same weights, journal and log lines with and without, for every method."""
    toy = METHODS.get(name).toy.options
    options = {option: value for option, value in toy.items() if option != "lr"}
    settings = {"method": name, "method_options": options, "learning_rate": 1e-3, "max_steps": 5}
    found = []
    for interval in (None, 2):
        trainer = make_trainer(tmp_path / str(interval), model=TinyLM() if name in FULL else make_lora(), **settings)
        if interval:
            trainer.add_callback(Diagnostics(trainer, interval))
        trainer.train()
        found.append(snapshot(trainer))
    lines = found[1]["metrics"].splitlines(keepends=True)
    assert sum("diagnostics" in line for line in lines) == 3
    found[1]["metrics"] = "".join(line for line in lines if "diagnostics" not in line)
    assert_equal_runs(found[1], found[0])


@pytest.mark.parametrize("make", [make_trainer, make_first_order])
def test_a_resumed_run_has_the_same_lines(tmp_path, make):
    def trainer(folder, *callbacks):
        made = make(folder, callbacks=callbacks, save_steps=3, logging_steps=2)
        made.add_callback(Diagnostics(made, 2))
        return made

    trainer(tmp_path / "whole").train()
    whole = (tmp_path / "whole" / "metrics.jsonl").read_text()
    assert sum("diagnostics" in line for line in whole.splitlines()) == 5
    for step in (1, 4, 5, 8):
        folder = tmp_path / str(step)
        with pytest.raises(Crash):
            trainer(folder, CrashAt(step)).train()
        trainer(folder).train(resume_from_checkpoint=True)
        assert (folder / "metrics.jsonl").read_text() == whole


def test_a_line_whose_step_was_not_journaled_is_written_once(tmp_path):
    class Die(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            if state.global_step == 4:
                raise Crash

    def trainer(folder, *callbacks):
        made = make_trainer(folder)
        for callback in (Diagnostics(made, 2), *callbacks):
            made.add_callback(callback)
        return made

    trainer(tmp_path / "whole").train()
    with pytest.raises(Crash):
        trainer(tmp_path / "cut", Die()).train()
    trainer(tmp_path / "cut").train(resume_from_checkpoint=True)
    whole, cut = ((tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "cut"))
    assert cut == whole


def test_micro_batches_and_dropout(tmp_path):
    """The gradient is that of the whole step, without dropout: accumulation and one large batch agree."""
    found = []
    for size, number in ((4, 1), (1, 4)):
        folder = tmp_path / str(size)
        settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": number, "max_steps": 1}
        trainer = make_trainer(folder, eval_strategy="no", save_strategy="no", **settings)
        trainer.add_callback(Diagnostics(trainer, 1))
        trainer.train()
        assert all(parameter.grad is None for parameter in trainer.model.parameters())
        found.append(diagnostics_of(folder)[0]["diagnostics"]["all"])
    assert found[0]["gradient_norm"] == pytest.approx(found[1]["gradient_norm"], rel=1e-5)
    assert found[0]["cosine"] == pytest.approx(found[1]["cosine"], abs=1e-2)


# peft 0.21 asks transformers by a name that 5.23 calls deprecated
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_lora_a_and_b_stand_apart(tmp_path):
    trainer = make_trainer(tmp_path, model=make_lora(), max_steps=2, eval_strategy="no")
    trainer.add_callback(Diagnostics(trainer, 1))
    trainer.train()
    first, second = (line["diagnostics"] for line in diagnostics_of(tmp_path))
    assert first.keys() == {"lora_a", "lora_b", "all"}
    assert first["lora_b"]["norm"] == 0
    assert first["lora_a"]["gradient_norm"] == 0  # B is zero, so A has no gradient yet
    assert first["lora_a"]["cosine"] is None
    assert second["lora_b"]["distance"] == pytest.approx(second["lora_b"]["norm"])


def test_what_cannot_be_compared_is_left_out_with_a_message(tmp_path, caplog):
    class Number(Fixed):
        def loss(self, model, batch):
            return float(model().detach())

    train_module(tmp_path / "number", Regression(), objective=Number())
    assert "Diagnostics leave out the gradient: The loss has no gradient" in caplog.text
    assert len(caplog.records) == 1
    for line in diagnostics_of(tmp_path / "number"):
        assert line["diagnostics"]["all"].keys() == {"norm", "mean", "variance", "distance"}
    caplog.clear()
    train_module(tmp_path / "large", Regression(), max_elements=9)
    assert "leave out gradient and distance: 10 numbers are trained, more than 9" in caplog.text
    assert diagnostics_of(tmp_path / "large")[0]["diagnostics"]["all"].keys() == {"norm", "mean", "variance"}


def test_too_little_memory_for_a_gradient_does_not_end_the_run(tmp_path, caplog, monkeypatch):
    def refuse(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.\nDetails follow")

    monkeypatch.setattr(torch.autograd, "grad", refuse)
    train_module(tmp_path, Regression())
    assert "leave out the gradient: CUDA out of memory. Tried to allocate 20 GiB." in caplog.text
    assert len(diagnostics_of(tmp_path)) == 3


def test_no_estimate_no_answer():
    model = Regression()
    optimizer = build(METHODS.get("mezo"), model)
    with pytest.raises(UsageError, match="no gradient estimate of this step: nothing is estimated"):
        next(optimizer.gradient_estimates())
    optimizer.step(model)
    with pytest.raises(UsageError, match="nothing is estimated"):
        next(optimizer.gradient_estimates())


def test_interval_is_checked(tmp_path):
    with pytest.raises(UsageError, match="interval must be at least 1, got 0"):
        Diagnostics(make_trainer(tmp_path, model=TinyLM()), 0)


def test_a_gradient_that_vanishes_is_no_error(tmp_path):
    class Flat(Fixed):
        def loss(self, model, batch):
            return model() * 0.0

    train_module(tmp_path, Regression(), objective=Flat())
    figures = diagnostics_of(tmp_path)[0]["diagnostics"]["all"]
    assert figures["gradient_norm"] == 0
    assert figures["cosine"] is None
    assert figures["relative_variance"] is None
    assert math.isfinite(figures["norm"])
