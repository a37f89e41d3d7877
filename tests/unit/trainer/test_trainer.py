from __future__ import annotations

import json
import math
import pickle
import random
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import TrainerCallback

from foretune import ZOTrainer
from foretune.errors import NonFiniteLossError, UsageError
from foretune.journal import Journal, replay
from foretune.optimizer import Optimizer
from unit.trainer.runs import (
    MeanOverRows,
    TinyLM,
    arguments,
    assert_equal_runs,
    collate,
    make_opt,
    make_rows,
    make_trainer,
    snapshot,
)


def train(folder, **settings):
    trainer = make_trainer(folder, **{"eval_strategy": "no", "save_strategy": "no", **settings})
    trainer.train()
    return trainer


def steps(folder):
    return Journal.read(folder / "journal").steps


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


class MeanLoss(TinyLM):
    """Takes no number of items: its own loss is a mean over its rows."""

    def forward(self, input_ids, attention_mask=None, labels=None):
        logits = super().forward(input_ids)["logits"]
        return {"loss": nn.functional.cross_entropy(logits[:, -1], labels[:, -1].clamp(min=0))}


@pytest.mark.parametrize(
    ("model", "hf_path"),
    [(TinyLM, False), (make_opt, False), (make_opt, True), (MeanLoss, True)],
    ids=["rows", "rows of an OPT", "tokens of an OPT", "means over rows"],
)
@pytest.mark.parametrize(("batch_size", "accumulation"), [(2, 4), (4, 2), (1, 8)])
def test_accumulation_equals_one_large_batch(tmp_path, model, hf_path, batch_size, accumulation):
    """22 rows: an epoch has three steps, of 8, 8 and 6 rows, so its last one is short in every case."""
    if model is MeanLoss and batch_size == 2:
        pytest.skip("padding depends on the micro-batch, and this model reads it")
    settings = {"hf_path": hf_path, "max_steps": 4, "learning_rate": 1e-4, "method_options": {"zo_eps": 1e-2}}
    wide = (lambda rows: collate_to(9, rows)) if model is MeanLoss else collate
    for name, size, number in (("large", 8, 1), ("small", batch_size, accumulation)):
        trainer = make_trainer(
            tmp_path / name,
            model=model(),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=number,
            eval_strategy="no",
            save_strategy="no",
            **settings,
        )
        trainer.data_collator = wide
        trainer.train()
        assert trainer.zo_optimizer.engine.name == "layerwise"
    for large, small in zip(steps(tmp_path / "large"), steps(tmp_path / "small"), strict=True):
        assert small.loss == pytest.approx(large.loss, rel=1e-6)
        assert small.scalars == pytest.approx(large.scalars, rel=1e-3, abs=2e-4)


def collate_to(length, rows):
    batch = collate([*rows, {"input_ids": [1] * length, "labels": [-100] * length}])
    return {name: tensor[:-1] for name, tensor in batch.items()}


def test_logs_hold_the_mean_loss_and_the_projected_gradient_and_no_gradient_norm(tmp_path):
    trainer = train(tmp_path, logging_steps=3, max_steps=7, lr_scheduler_type="linear")
    made = steps(tmp_path)
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in logged] == [3, 6]
    for entry, part in zip(logged, (made[:3], made[3:6]), strict=True):
        assert entry["loss"] == pytest.approx(sum(step.loss for step in part) / 3, rel=1e-15)
        assert entry["projected_grad_rms"] == pytest.approx(
            math.sqrt(sum(step.scalars[0] ** 2 for step in part) / 3), rel=1e-15
        )
        assert entry["learning_rate"] == part[-1].lr
        assert "grad_norm" not in entry
    assert [step.lr for step in made] == pytest.approx([1e-2 * (1 - k / 7) for k in range(7)])
    assert [{k: v for k, v in entry.items() if k != "epoch"} for entry in logged] == lines(tmp_path)


def test_no_gradient_is_ever_made(tmp_path):
    seen = []

    class Watch(TrainerCallback):
        def on_optimizer_step(self, args, state, control, model=None, **kwargs):
            seen.append([parameter.grad for parameter in model.parameters()])

    trainer = train(tmp_path, callbacks=[Watch()], max_steps=3)
    assert len(seen) == 3
    assert all(gradient is None for gradients in seen for gradient in gradients)
    assert all(parameter.requires_grad for parameter in trainer.model.parameters())


def test_users_callbacks_follow_the_steps(tmp_path):
    events = []

    class Watch(TrainerCallback):
        def _note(self, name, state, optimizer):
            record = optimizer.optimizer.last_record
            events.append((name, state.global_step, None if record is None else record.step))

        def on_step_begin(self, args, state, control, optimizer=None, **kwargs):
            self._note("begin", state, optimizer)

        def on_substep_end(self, args, state, control, optimizer=None, **kwargs):
            self._note("substep", state, optimizer)

        def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
            self._note("measured", state, optimizer)

        def on_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
            self._note("moved", state, optimizer)

        def on_step_end(self, args, state, control, optimizer=None, **kwargs):
            self._note("end", state, optimizer)

    train(tmp_path, callbacks=[Watch()], max_steps=2, gradient_accumulation_steps=2)
    assert events == [
        ("begin", 0, None),
        ("substep", 0, None),
        ("measured", 0, None),
        ("moved", 0, 0),
        ("end", 1, 0),
        ("begin", 1, 0),
        ("substep", 1, 0),
        ("measured", 1, 0),
        ("moved", 1, 1),
        ("end", 2, 1),
    ]


def test_equal_runs_have_equal_files_whatever_the_global_generators_held(tmp_path):
    train(tmp_path / "a", eval_strategy="steps")
    trainer = make_trainer(tmp_path / "b", save_strategy="no")
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    trainer.train()
    for name in ("journal", "metrics.jsonl"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert len({line["eval_draw"] for line in lines(tmp_path / "a") if "eval_draw" in line}) == 5


def test_nothing_in_the_folder_is_a_pickle(tmp_path, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("a pickle")

    monkeypatch.setattr(torch, "save", forbidden)
    monkeypatch.setattr(pickle, "dump", forbidden)
    monkeypatch.setattr(pickle, "dumps", forbidden)
    train(tmp_path, model=make_opt(), method="lozo_m", save_strategy="steps", eval_strategy="steps", max_steps=6)
    found = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in found} == {
        "journal",
        "metrics.jsonl",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "optimizer.safetensors",
        "optimizer.json",
        "scheduler.json",
        "journal.json",
        "trainer_state.json",
        "training_args.json",
    }
    for path in found:
        data = path.read_bytes()
        assert data[:1] != b"\x80"
        assert data[:2] != b"PK"
        if path.suffix == ".json":
            json.loads(data)


def test_own_evaluation_of_transformers_with_metrics_and_several_sets(tmp_path):
    def compute_metrics(prediction):
        right = prediction.predictions[:, :-1].argmax(-1) == prediction.label_ids[:, 1:]
        return {"token_accuracy": float(right[prediction.label_ids[:, 1:] != -100].mean())}

    trainer = ZOTrainer(
        make_opt(),
        arguments(tmp_path, max_steps=4, eval_steps=2, save_strategy="no"),
        train_dataset=make_rows(22),
        eval_dataset={"near": make_rows(4, seed=1), "far": make_rows(4, seed=2)},
        data_collator=lambda rows: collate_to(9, rows),
        compute_metrics=compute_metrics,
    )
    trainer.train()
    evaluations = Journal.read(tmp_path / "journal").evaluations
    assert [(record.step, sorted(record.metrics)) for record in evaluations] == [
        (step, [f"eval_{name}_loss", f"eval_{name}_token_accuracy"]) for step in (2, 4) for name in ("near", "far")
    ]
    logged = [entry for entry in trainer.state.log_history if "eval_near_loss" in entry]
    assert logged[-1]["eval_near_loss"] == evaluations[2].metrics["eval_near_loss"]
    assert "eval_near_runtime" in logged[-1]


def test_evaluation_outside_of_training_is_not_journaled(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=2, eval_strategy="no", save_strategy="no")
    assert trainer.evaluate().keys() >= {"eval_loss", "eval_draw"}
    trainer.train()
    before = (tmp_path / "journal").read_bytes()
    assert trainer.evaluate(metric_key_prefix="test").keys() >= {"test_loss", "test_draw"}
    assert (tmp_path / "journal").read_bytes() == before


def test_evaluator_sees_a_model_in_eval_mode_and_needs_no_dataset(tmp_path):
    modes = []

    def evaluator(model):
        modes.append(model.training)
        return {"loss": 1.0}

    trainer = ZOTrainer(
        TinyLM().train(),
        arguments(tmp_path, max_steps=2),
        objective=MeanOverRows(),
        evaluator=evaluator,
        train_dataset=make_rows(8),
        data_collator=collate,
    )
    trainer.train()
    assert modes == [False]


def test_best_model_is_loaded_at_the_end(tmp_path):
    trainer = train(
        tmp_path,
        eval_strategy="steps",
        save_strategy="steps",
        save_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="draw",
        greater_is_better=False,
    )
    evaluations = Journal.read(tmp_path / "journal").evaluations
    best = min(evaluations, key=lambda record: record.metrics["eval_draw"])
    assert 2 <= trainer.state.best_global_step == best.step < 10
    saved = load_file(tmp_path / f"checkpoint-{best.step}" / "model.safetensors")
    assert all(torch.equal(tensor, saved[name]) for name, tensor in trainer.model.state_dict().items())


def test_best_checkpoint_is_found_in_a_folder_that_was_moved(tmp_path):
    settings = {
        "save_steps": 2,
        "save_total_limit": 1,
        "load_best_model_at_end": True,
        "metric_for_best_model": "draw",
        "greater_is_better": False,
    }
    whole = make_trainer(tmp_path / "whole", **settings)
    whole.train()
    shutil.move(tmp_path / "whole", tmp_path / "moved")
    trainer = make_trainer(tmp_path / "moved", **settings)
    trainer.train(resume_from_checkpoint=True)
    assert all(
        torch.equal(ours, theirs)
        for ours, theirs in zip(trainer.model.parameters(), whole.model.parameters(), strict=True)
    )


def test_label_smoothing_and_a_loss_function_find_their_labels_at_every_evaluation(tmp_path):
    plain = train(tmp_path / "plain", model=make_opt(), hf_path=True, max_steps=2)
    smooth = train(tmp_path / "smooth", model=make_opt(), hf_path=True, max_steps=2, label_smoothing_factor=0.2)
    assert plain.zo_optimizer.last_record.loss != smooth.zo_optimizer.last_record.loss
    seen = []

    def sum_of_squares(outputs, labels, num_items_in_batch):
        seen.append(labels)
        return outputs.logits.float().square().sum() / num_items_in_batch

    trainer = ZOTrainer(
        make_opt(),
        arguments(tmp_path / "own", max_steps=1, eval_strategy="no", save_strategy="no"),
        train_dataset=make_rows(8),
        data_collator=collate,
        compute_loss_func=sum_of_squares,
    )
    trainer.train()
    assert len(seen) == 3  # the audit, plus and minus
    assert all(labels is not None for labels in seen)


def test_bf16_autocast_sees_both_sides(tmp_path):
    """A cast weight that autocast kept would make plus and minus equal."""
    for hf_path in (True, False):
        folder = tmp_path / str(hf_path)
        trainer = train(
            folder, model=make_opt(), hf_path=hf_path, bf16=True, max_steps=4, method_options={"zo_eps": 1e-2}
        )
        train(
            tmp_path / f"full {hf_path}",
            model=make_opt(),
            hf_path=hf_path,
            max_steps=4,
            method_options={"zo_eps": 1e-2},
        )
        assert trainer.zo_optimizer.engine.name == "layerwise"
        assert all(parameter.dtype == torch.float32 for parameter in trainer.model.parameters())
        for half, exact in zip(steps(folder), steps(tmp_path / f"full {hf_path}"), strict=True):
            assert half.scalars[0] != 0
            assert half.loss != exact.loss
            assert half.loss == pytest.approx(exact.loss, rel=0.02)


class BadLoss(MeanOverRows):
    """Not a number in some steps, of which each calls it twice (and the first once more, for the audit)."""

    def __init__(self, first: int, stop: int, value: float = math.nan) -> None:
        self.calls, self.bad, self.value = 0, range(1 + 2 * first, 1 + 2 * stop), value

    def loss(self, model, batch):
        self.calls += 1
        return torch.tensor(self.value) if self.calls - 1 in self.bad else super().loss(model, batch)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_step_without_a_finite_loss_moves_nothing_and_is_logged(tmp_path, value):
    weights = {}

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            weights[state.global_step] = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    trainer = make_trainer(tmp_path, callbacks=[Watch()], max_steps=9, logging_steps=3)
    trainer.loss_objective = BadLoss(4, 5, value)
    result = trainer.train()
    assert [step.accepted for step in steps(tmp_path)] == [True] * 4 + [False] + [True] * 4
    assert all(torch.equal(weights[4][name], weights[5][name]) for name in weights[4])
    assert not all(torch.equal(weights[5][name], weights[6][name]) for name in weights[5])
    logged = [line for line in lines(tmp_path) if "loss" in line]
    assert [line["rejected_steps"] for line in logged] == [0, 1, 0]
    assert [line["loss"] is None for line in logged] == [False, True, False]
    assert math.isfinite(result.training_loss)


def test_ten_bad_steps_in_a_row_end_the_run_also_when_it_is_resumed(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=30)
    trainer.loss_objective = BadLoss(2, 30)
    with pytest.raises(NonFiniteLossError, match="Loss is nan at step 11, the 10th step in a row"):
        trainer.train()
    with pytest.raises(NonFiniteLossError, match="after 12 steps: the loss is nan, and was not finite in 10 steps"):
        make_trainer(tmp_path, max_steps=30).train(resume_from_checkpoint=True)


def test_lr_zero_moves_nothing(tmp_path):
    trainer = train(tmp_path, learning_rate=0.0, method="lozo_m")
    assert all(torch.equal(tensor, TinyLM().state_dict()[name]) for name, tensor in trainer.model.state_dict().items())


def test_model_init_and_other_optimizers_are_refused(tmp_path):
    optimizer = torch.optim.SGD(TinyLM().parameters(), lr=1.0)
    for wrong in (
        {"model_init": TinyLM},
        {"optimizers": (optimizer, None)},
        {"optimizer_cls_and_kwargs": (torch.optim.SGD, {})},
    ):
        with pytest.raises(UsageError, match=r"build the model and pass it|The method is the optimizer"):
            ZOTrainer(TinyLM(), arguments(tmp_path), train_dataset=make_rows(4), eval_dataset=[], **wrong)


@pytest.mark.parametrize("method", ["mezo", "lozo", "lozo_m"])
def test_replay_rebuilds_the_run_of_a_trainer(tmp_path, method):
    options = {} if method == "mezo" else {"interval": 4}
    trainer = train(tmp_path, method=method, method_options=options, lr_scheduler_type="linear", warmup_steps=2)
    model = TinyLM()
    optimizer = Optimizer(model, **trainer.args.zo_method.optimizer_arguments(), seed=7)
    assert replay(optimizer, Journal.read(tmp_path / "journal")) == 10
    assert all(
        torch.equal(ours, theirs) for ours, theirs in zip(model.parameters(), trainer.model.parameters(), strict=True)
    )


# peft 0.21 asks transformers by a name that 5.23 calls deprecated
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lora_adapter_is_saved_as_peft_reads_it_and_resumed(tmp_path, dtype):
    from peft import LoraConfig, PeftModel, get_peft_model

    def make_adapted():
        model = make_opt()
        torch.manual_seed(1)
        return get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], lora_dropout=0.3)).to(dtype)

    settings = {"method_options": {"zo_eps": 1e-2}, "learning_rate": 0.3}
    whole = make_trainer(tmp_path / "whole", model=make_adapted(), **settings)
    whole.train()
    saved = tmp_path / "whole" / "checkpoint-10"
    assert (saved / "adapter_config.json").exists()
    assert not (saved / "model.safetensors").exists()

    batch = collate(make_rows(3, seed=5))
    plain = PeftModel.from_pretrained(make_opt(), str(saved)).to(dtype).eval()
    tuned = whole.model.eval()
    with torch.no_grad():
        expected, untuned = tuned(**batch).logits, make_opt().to(dtype).eval()(**batch).logits
        assert torch.equal(plain(**batch).logits, expected)
        assert not torch.allclose(untuned, expected)

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 8:
                raise InterruptedError

    with pytest.raises(InterruptedError):
        make_trainer(tmp_path / "run", model=make_adapted(), callbacks=[Stop()], **settings).train()
    resumed = make_trainer(tmp_path / "run", model=make_adapted(), **settings)
    resumed.train(resume_from_checkpoint=True)
    assert {tensor.dtype for tensor in resumed.model.parameters()} == {dtype}
    assert_equal_runs(snapshot(resumed), snapshot(whole))


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    train(tmp_path, report_to="tensorboard", max_steps=3)
    assert list(tmp_path.rglob("events.out.tfevents.*"))


def test_classification_on_a_pretrained_model(tmp_path, opt_mini_dir, real_data_dir):
    """The whole chain once: rows, objective, evaluator, run, replay."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from foretune.data import load_task_data
    from foretune.evaluation import evaluate_candidates
    from foretune.objectives import ClassificationObjective, encode_examples

    tokenizer = AutoTokenizer.from_pretrained(opt_mini_dir)
    data = load_task_data("sst2", str(real_data_dir), num_train=32, num_dev=16, num_eval=16)
    objective = ClassificationObjective()
    dev = encode_examples(data.examples(data.dev), tokenizer, 128)
    model = AutoModelForCausalLM.from_pretrained(opt_mini_dir, dtype=torch.float32)
    trainer = ZOTrainer(
        model,
        arguments(tmp_path, max_steps=3, eval_steps=3, learning_rate=1e-5, per_device_train_batch_size=8),
        objective=objective,
        evaluator=lambda model: {"loss": evaluate_candidates(model, dev, objective).loss},
        train_dataset=encode_examples(data.examples(data.train), tokenizer, 128),
        data_collator=objective.collate,
        processing_class=tokenizer,
    )
    trainer.train()
    assert all(0.2 < step.loss < 2 for step in steps(tmp_path))
    assert (tmp_path / "checkpoint-3" / "tokenizer.json").exists()
    base = AutoModelForCausalLM.from_pretrained(opt_mini_dir, dtype=torch.float32)
    optimizer = Optimizer(base, **trainer.args.zo_method.optimizer_arguments(), seed=7)
    replay(optimizer, Journal.read(tmp_path / "journal"))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(base.parameters(), model.parameters(), strict=True))
