"""First-order runs: torch's own steps, under the protocol of the zeroth-order runs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from transformers import PrinterCallback, TrainerCallback

from foretune import FOTrainer, FOTrainingArguments
from foretune.errors import JournalError, NonFiniteLossError, UsageError
from foretune.trainer import checkpoint as files
from toys import Quadratic, differing_bits, weights_of
from unit.trainer.runs import MeanOverRows, SamplingEvaluator, TinyLM, collate, make_opt, make_rows, timeless

OPTIONS = {
    "sgd": {"momentum": 0.9, "weight_decay": 0.1},
    "adam": {"betas": (0.8, 0.9), "eps": 1e-6, "weight_decay": 0.1},
    "adamw": {"betas": (0.8, 0.9), "weight_decay": 0.1},
}
TORCH = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


class Crash(Exception):
    """Stands for the death of the process."""


class CrashAt(TrainerCallback):
    """Raises at the beginning of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise Crash


def make_trainer(folder, *, model=None, hf_path=False, callbacks=(), **settings):
    """A trainer over 22 rows (six batches an epoch, the last one short), with objective or without."""
    defaults = {
        "method": "adamw",
        "learning_rate": 1e-2,
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
    parts = {"eval_dataset": make_rows(6, seed=1)}
    if not hf_path:
        parts = {"objective": MeanOverRows(), "evaluator": SamplingEvaluator()}
    trainer = FOTrainer(
        TinyLM() if model is None else model,
        FOTrainingArguments(output_dir=str(folder), **{**defaults, **settings}),
        train_dataset=make_rows(22),
        data_collator=collate,
        callbacks=list(callbacks),
        **parts,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


class Fixed:
    """The loss of a module that carries its own data."""

    def loss(self, model, batch):
        return model()

    def weight(self, batch):
        return 1


ROWS = {"train_dataset": [0.0] * 8, "data_collator": lambda rows: {"rows": torch.tensor(rows)}}


def train_module(folder, model, **settings):
    arguments = {"max_steps": 5, "save_strategy": "no", "use_cpu": True, "disable_tqdm": True, "report_to": "none"}
    args = FOTrainingArguments(output_dir=str(folder), **{**arguments, **settings})
    trainer = FOTrainer(model, args, objective=Fixed(), **ROWS)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return trainer


def test_sgd_on_the_quadratic_is_exact(tmp_path):
    """methods.md 7: theta_t - target = (I - lr A)^t (theta_0 - target)."""
    model = Quadratic({"a": (2, 3), "b": (3,)})
    error = (model.flat() - model.target).detach()
    options = {"max_grad_norm": 0.0}
    train_module(tmp_path, model, method="sgd", learning_rate=0.1, method_options=options, max_steps=7)
    shrink = torch.eye(9, dtype=torch.float64) - 0.1 * model.hessian
    expected = model.target + torch.linalg.matrix_power(shrink, 7) @ error
    torch.testing.assert_close(model.flat().detach(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", TORCH)
def test_equals_the_torch_optimizer_on_a_toy(tmp_path, method):
    """methods.md 7: the same bits as torch's optimizer behind torch's clipping."""
    ours, theirs = (Quadratic({"bias": (3,), "weight": (4, 3)}) for _ in range(2))
    options = {**OPTIONS[method], "max_grad_norm": 0.5}
    train_module(tmp_path, ours, method=method, learning_rate=0.05, method_options=options)
    decay = options.pop("weight_decay")
    options.pop("max_grad_norm")
    groups = [{"params": [theirs.weight], "weight_decay": decay}, {"params": [theirs.bias], "weight_decay": 0.0}]
    optimizer = TORCH[method](groups, lr=0.05, **options)
    for _ in range(5):
        optimizer.zero_grad()
        theirs().backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        optimizer.step()
    assert not differing_bits(weights_of(ours), weights_of(theirs))


@pytest.mark.parametrize("hf_path", [False, True])
def test_accumulation_equals_one_large_batch(tmp_path, hf_path):
    found = []
    for name, batch_size, accumulation in (("one", 4, 1), ("many", 1, 4)):
        settings = {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": accumulation}
        model = make_opt() if hf_path else TinyLM()
        options = {"fo_eval_mode": True}
        trainer = make_trainer(
            tmp_path / name, model=model, hf_path=hf_path, method="sgd", method_options=options, **settings
        )
        trainer.train()
        found.append(weights_of(trainer.model))
    assert max(float((found[0][name] - found[1][name]).abs().max()) for name in found[0]) < 1e-6


def test_dropout_is_on_unless_fo_eval_mode(tmp_path):
    class Watched(TinyLM):
        def forward(self, *args, **kwargs):
            if torch.is_grad_enabled():
                seen.add(self.training)
            return super().forward(*args, **kwargs)

    for eval_mode in (False, True):
        seen: set[bool] = set()
        options = {"fo_eval_mode": eval_mode}
        make_trainer(tmp_path / str(eval_mode), model=Watched(), max_steps=3, method_options=options).train()
        assert seen == {not eval_mode}


def snapshot(trainer):
    """Everything that a resumed run must have in common with an uninterrupted one."""
    folder = Path(trainer.args.output_dir)
    found = {"log": timeless(trainer.state.log_history), "metrics": (folder / "metrics.jsonl").read_text()}
    for name, tensor in trainer.model.state_dict().items():
        found[f"weights/{name}"] = tensor.contiguous().view(torch.uint8).numpy().tobytes()
    for path in sorted(folder.glob("checkpoint-*/**/*")):
        if path.is_file() and path.name not in ("training_args.json", "trainer_state.json", "README.md"):
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def assert_equal(resumed, whole):
    assert sorted(resumed) == sorted(whole)
    assert not {name: (resumed[name], whole[name]) for name in whole if resumed[name] != whole[name]}


@pytest.mark.parametrize("method", TORCH)
def test_a_resumed_run_is_equal_bit_for_bit(tmp_path, method):
    """Dropout, the optimizer's state, the schedule and a log line across the checkpoint included."""
    settings = {"method": method, "method_options": OPTIONS[method], "lr_scheduler_type": "linear"}
    whole = make_trainer(tmp_path / "whole", **settings)
    whole.train()
    for step in (2, 5, 9):
        folder = tmp_path / str(step)
        with pytest.raises(Crash):
            make_trainer(folder, callbacks=[CrashAt(step)], **settings).train(resume_from_checkpoint=True)
        resumed = make_trainer(folder, **settings)
        resumed.train(resume_from_checkpoint=True)
        assert_equal(snapshot(resumed), snapshot(whole))


def test_a_finished_run_and_the_same_trainer_go_on(tmp_path):
    trainer = make_trainer(tmp_path / "a")
    trainer.train()
    whole = snapshot(trainer)
    trainer.train(resume_from_checkpoint=True)
    assert_equal(snapshot(trainer), whole)
    early = make_trainer(tmp_path / "b", callbacks=[crash := CrashAt(2)])
    with pytest.raises(Crash):
        early.train()
    crash.step = -1
    with pytest.raises(JournalError, match="has made 2 steps, and there is no checkpoint"):
        early.train(resume_from_checkpoint=True)


def test_going_back_to_a_checkpoint_drops_the_rest(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.train()
    whole = snapshot(trainer)
    again = make_trainer(tmp_path)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert_equal(snapshot(again), whole)
    with pytest.raises(UsageError, match="is no whole checkpoint of the run"):
        make_trainer(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))


def test_an_existing_run_is_refused_and_changed_settings_are_named(tmp_path):
    with pytest.raises(Crash):
        make_trainer(tmp_path, callbacks=[CrashAt(1)]).train()
    with pytest.raises(JournalError, match=r"run.json exists: resume that run"):
        make_trainer(tmp_path).train()
    with pytest.raises(JournalError, match=r"'method.betas\[0\]' was 0.9 .* is 0.5 now"):
        make_trainer(tmp_path, method_options={"betas": (0.5, 0.999)}).train(resume_from_checkpoint=True)
    with pytest.raises(JournalError, match="'weights_hash' was"):
        make_trainer(tmp_path, model=TinyLM(seed=1)).train(resume_from_checkpoint=True)


def test_metrics_have_the_form_of_zeroth_order_runs(tmp_path):
    trainer = make_trainer(tmp_path, learning_rate=1e-3)
    trainer.train()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 3, 4, 6, 6, 8, 9, 10]
    for line in lines:
        if line["step"] % 3 == 0 and "loss" in line:
            assert line.keys() == {"step", "loss", "grad_norm", "learning_rate"}
            assert line["learning_rate"] == 1e-3
        else:
            assert line.keys() == {"step", "eval_loss", "eval_draw"}


def test_nothing_in_the_folder_is_a_pickle(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "save", lambda *args, **kwargs: pytest.fail("torch.save was called"))
    make_trainer(tmp_path).train()
    endings = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert endings <= {".json", ".jsonl", ".safetensors"}


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    class Bad(Fixed):
        def loss(self, model, batch):
            return model() * math.nan

    args = FOTrainingArguments(output_dir=str(tmp_path), max_steps=2, use_cpu=True, report_to="none")
    model = Quadratic({"a": (2,)})
    before = weights_of(model)
    trainer = FOTrainer(model, args, objective=Bad(), **ROWS)
    with pytest.raises(NonFiniteLossError, match="Loss is nan at step 0: the run is stopped"):
        trainer.train()
    assert not differing_bits(before, weights_of(model))


def test_a_loss_without_a_gradient_is_refused(tmp_path):
    class Detached(Fixed):
        def loss(self, model, batch):
            return model().detach()

    args = FOTrainingArguments(output_dir=str(tmp_path), max_steps=2, use_cpu=True, report_to="none")
    trainer = FOTrainer(Quadratic({"a": (2,)}), args, objective=Detached(), **ROWS)
    with pytest.raises(UsageError, match="The loss has no gradient"):
        trainer.train()


# peft 0.21 asks transformers by a name that 5.23 calls deprecated
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lora_trains_the_adapter_alone_and_is_resumed(tmp_path, dtype):
    from peft import LoraConfig, get_peft_model

    def model():
        torch.manual_seed(0)
        return get_peft_model(make_opt().to(dtype), LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))

    class Float32(MeanOverRows):
        def loss(self, model, batch):
            return super().loss(model, batch).float()

    settings = {"method": "adam", "method_options": {"weight_decay": 0.1}}
    base = weights_of(model())
    whole = make_trainer(tmp_path / "whole", model=model(), **settings)
    whole.train()
    moved = [name for name in differing_bits(base, weights_of(whole.model)) if "lora" not in name]
    assert not moved
    with pytest.raises(Crash):
        make_trainer(tmp_path / "cut", model=model(), callbacks=[CrashAt(6)], **settings).train()
    resumed = make_trainer(tmp_path / "cut", model=model(), **settings)
    resumed.train(resume_from_checkpoint=True)
    assert_equal(snapshot(resumed), snapshot(whole))


def test_best_model_is_loaded_at_the_end(tmp_path):
    settings = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "eval_steps": 2, "save_steps": 2}
    trainer = make_trainer(tmp_path, learning_rate=0.3, greater_is_better=False, **settings)
    trainer.train()
    best = min((e for e in trainer.state.log_history if "eval_loss" in e), key=lambda e: e["eval_loss"])["step"]
    assert trainer.state.best_global_step == best
    saved = files.load_file(tmp_path / f"checkpoint-{best}" / "model.safetensors")
    assert all(torch.equal(tensor, saved[name]) for name, tensor in trainer.model.state_dict().items())


def make(tmp_path, **settings):
    return FOTrainingArguments(**{"output_dir": str(tmp_path), "use_cpu": True, "report_to": "none", **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "adamm"}, r"Unknown method 'adamm'. Did you mean: .*adamw"),
        ({"method": "mezo"}, r"Method 'mezo' is of another kind; here: adam, adamw, sgd\."),
        ({"method_options": {"beta": 1}}, r"Method 'adamw' has no option 'beta'. Did you mean: betas\?"),
        ({"method_options": {"betas": (0.9, 1.0)}}, r"betas must be two numbers in \[0, 1\)"),
        ({"max_grad_norm": 2.0}, "Give max_grad_norm in method_options"),
        ({"weight_decay": 0.1}, "weight_decay=0.1 is not for first-order runs: .*give it in method_options"),
        ({"fp16": True}, "use bf16"),
        ({"learning_rate": -1.0}, "learning_rate must be 0 or more and finite, got -1.0"),
    ],
)
def test_wrong_settings_are_refused_by_name(tmp_path, settings, message):
    with pytest.raises(UsageError, match=message):
        make(tmp_path, **settings)


def test_settings_reach_the_baseline(tmp_path):
    args = make(tmp_path, method="sgd", learning_rate=0.1, method_options={"momentum": 0.5, "max_grad_norm": 0.0})
    assert args.recipe.describe() == {
        "name": "sgd",
        "lr": 0.1,
        "weight_decay": 0.0,
        "max_grad_norm": 0.0,
        "fo_eval_mode": False,
        "momentum": 0.5,
    }
    assert args.max_grad_norm == 0.0
    assert make(tmp_path).learning_rate == 1e-5
    assert make(tmp_path).max_grad_norm == 1.0


def test_models_without_matrices_have_one_group(tmp_path):
    trainer = train_module(tmp_path, Quadratic({"bias": (3,)}), method="sgd", learning_rate=0.1)
    assert len(trainer.optimizer.param_groups) == 1
