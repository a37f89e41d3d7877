"""Hybrid runs under the Trainer of transformers: the optimizer's own steps, and an exact resume from checkpoints."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from transformers import PrinterCallback

from foretune import Diagnostics, HybridTrainer, HybridTrainingArguments
from foretune.errors import IncompatibleError, JournalError, UsageError
from foretune.trainer import checkpoint as files
from toys import differing_bits, weights_of
from unit.trainer.runs import VOCABULARY, MeanOverRows, SamplingEvaluator, TinyLM, collate, make_rows
from unit.trainer.test_first_order import Crash, CrashAt, assert_equal, snapshot


class LayeredLM(nn.Module):
    """Four layers between an embedding and an untied head, with dropout that must not matter."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(VOCABULARY, 8)
        self.norm = nn.LayerNorm(8)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(8, VOCABULARY, bias=False)

    def forward(self, input_ids, attention_mask=None, labels=None):
        hidden = self.embedding(input_ids)
        for layer in self.layers:
            hidden = hidden + self.dropout(torch.tanh(layer(hidden.cumsum(dim=1))))
        logits = self.head(self.norm(hidden))
        if labels is None:
            return {"logits": logits}
        return {"loss": nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())}


OPTIONS = {"hybrid_zo_layers": 2, "fo_optimizer": "adam", "fo_lr": 1e-2, "zo_eps": 1e-3}


def arguments(folder, **settings):
    defaults = {
        "method_options": OPTIONS,
        "learning_rate": 1e-3,
        "max_steps": 10,
        "per_device_train_batch_size": 4,
        "logging_steps": 3,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_steps": 4,
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": "none",
        "seed": 7,
    }
    return HybridTrainingArguments(output_dir=str(folder), **{**defaults, **settings})


def make_trainer(folder, *, model=None, hf_path=False, callbacks=(), **settings):
    """A trainer over 22 rows (six batches an epoch, the last one short), with objective or without."""
    parts = {"eval_dataset": make_rows(6, seed=1)}
    if not hf_path:
        parts = {"objective": MeanOverRows(), "evaluator": SamplingEvaluator()}
    trainer = HybridTrainer(
        LayeredLM() if model is None else model,
        arguments(folder, **settings),
        train_dataset=make_rows(22),
        data_collator=collate,
        callbacks=list(callbacks),
        **parts,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def test_a_run_makes_the_steps_of_the_optimizer(tmp_path):
    """Micro-batches add up to one large batch; the deep gradient is clipped; the schedule scales both rates."""
    options = {**OPTIONS, "max_grad_norm": 0.5}
    settings = {"max_steps": 4, "lr_scheduler_type": "linear", "eval_strategy": "no", "save_strategy": "no"}
    trainer = make_trainer(
        tmp_path, method_options=options, per_device_train_batch_size=2, gradient_accumulation_steps=2, **settings
    )
    batches = []
    measure = trainer.measure
    trainer.measure = lambda model, group, count: batches.append(group) or measure(model, group, count)
    trainer.train()

    model = LayeredLM()
    optimizer = trainer.args.recipe.optimizer(model, seed=7)
    objective = MeanOverRows()
    for step, (first, second) in enumerate(batches):

        def closure(first=first, second=second):
            return (objective.loss(model, first).double() + objective.loss(model, second).double()) / 2

        for group, lr in zip(optimizer.param_groups, (1e-3, 1e-2, 1e-2), strict=True):
            group["lr"] = lr * (1 - step / 4)
        optimizer.measure(closure)
        nn.utils.clip_grad_norm_([tensor.parameter for tensor in optimizer.deep], 0.5)
        optimizer.step()
    ours, theirs = weights_of(trainer.model), weights_of(model)
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < 1e-5
    assert trainer.engine_name == "layerwise and backpropagation"
    deep = [tensor.parameter.numel() for tensor in trainer.hybrid.deep]
    assert trainer.state_bytes == 4 * (2 * sum(deep) + len(deep))


@pytest.mark.parametrize("hf_path", [False, True])
@pytest.mark.parametrize("fo_optimizer", ["sgd", "adam", "adamw"])
def test_a_resumed_run_is_equal_bit_for_bit(tmp_path, fo_optimizer, hf_path):
    settings = {
        "method_options": {**OPTIONS, "fo_optimizer": fo_optimizer, "weight_decay": 0.1},
        "lr_scheduler_type": "linear",
        "hf_path": hf_path,
    }
    whole = make_trainer(tmp_path / "whole", **settings)
    whole.train()
    for step in (2, 5, 9):
        folder = tmp_path / str(step)
        with pytest.raises(Crash):
            make_trainer(folder, callbacks=[CrashAt(step)], **settings).train(resume_from_checkpoint=True)
        resumed = make_trainer(folder, **settings)
        resumed.train(resume_from_checkpoint=True)
        assert_equal(snapshot(resumed), snapshot(whole))


def test_a_checkpoint_holds_state_by_name_and_no_pickle(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.train()
    state = files.load_optimizer(tmp_path / "checkpoint-8")
    assert (state["num_steps"], state["hybrid_zo_layers"], state["zo"]["num_steps"]) == (8, 2, 8)
    assert set(state["state"]["head.weight"]["tensors"]) == {"step", "exp_avg", "exp_avg_sq"}
    assert not state["state"]["layers.1.weight"]["tensors"]
    names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert "journal" not in names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl", ".pth"))]
    assert json.loads((tmp_path / "run.json").read_text())["method"]["name"] == "hybrid"


def test_changed_settings_are_named(tmp_path):
    with pytest.raises(Crash):
        make_trainer(tmp_path, callbacks=[CrashAt(1)]).train()
    with pytest.raises(JournalError, match=r"run.json exists: resume that run"):
        make_trainer(tmp_path).train()
    changed = {**OPTIONS, "hybrid_zo_layers": 1}
    with pytest.raises(JournalError, match=r"'method.hybrid_zo_layers' was 2 .* is 1 now"):
        make_trainer(tmp_path, method_options=changed).train(resume_from_checkpoint=True)
    with pytest.raises(JournalError, match="'engine' was 'auto'"):
        make_trainer(tmp_path, engine="in_place").train(resume_from_checkpoint=True)


def test_what_cannot_work_is_refused_before_the_folder_is_a_runs(tmp_path):
    with pytest.raises(UsageError, match=r"hybrid_zo_layers must be from 0 to 4, .* got 5"):
        make_trainer(tmp_path, method_options={"hybrid_zo_layers": 5}).train()
    with pytest.raises(IncompatibleError, match="TinyLM has no layers"):
        make_trainer(tmp_path, model=TinyLM()).train()
    assert not (tmp_path / "run.json").exists()


@pytest.mark.parametrize(("layers", "engine"), [(0, "layerwise and backpropagation"), (4, "layerwise")])
def test_a_half_without_tensors_is_left_out(tmp_path, layers, engine):
    """K = 0 keeps the embedding; K = L with a frozen head and norm keeps no gradient."""
    model = LayeredLM()
    if layers:
        model.head.requires_grad_(False)
        model.norm.requires_grad_(False)
    trainer = make_trainer(tmp_path, model=model, method_options={**OPTIONS, "hybrid_zo_layers": layers})
    trainer.train()
    assert trainer.engine_name == engine
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all(line["loss"] > 0 for line in lines if "loss" in line)


def test_diagnostics_describe_the_weights_and_change_no_bit(tmp_path):
    plain, watched = make_trainer(tmp_path / "plain"), make_trainer(tmp_path / "watched")
    watched.add_callback(Diagnostics(watched, 5))
    for trainer in (plain, watched):
        trainer.train()
    assert not differing_bits(weights_of(plain.model), weights_of(watched.model))
    lines = [json.loads(line) for line in (tmp_path / "watched" / "metrics.jsonl").read_text().splitlines()]
    figures = [line["diagnostics"]["all"] for line in lines if "diagnostics" in line]
    assert len(figures) == 2
    assert "distance" in figures[1]
    assert "cosine" not in figures[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "mezo"}, "Method 'mezo' is of another kind; here: hybrid"),
        ({"method_options": {"hybrid_layers": 2}}, "Did you mean: hybrid_zo_layers"),
        ({"engine": "layerwis"}, "Unknown engine 'layerwis'. Did you mean: layerwise"),
        ({"max_grad_norm": 2.0}, "Give max_grad_norm in method_options"),
        ({"gradient_checkpointing": True}, "is not for hybrid runs: losses are measured in eval mode"),
        ({"neftune_noise_alpha": 1.0}, "is not for hybrid runs: losses are measured in eval mode"),
        ({"fp16": True}, "is not for hybrid runs: the state of its loss scaler"),
    ],
)
def test_wrong_arguments_are_refused_by_name(tmp_path, settings, message):
    with pytest.raises(UsageError, match=message):
        arguments(tmp_path, **settings)
