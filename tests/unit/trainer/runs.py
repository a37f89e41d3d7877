"""A run small enough to be crashed at every one of its moments, and what must be equal after a resume."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import torch
from torch import nn

VOCABULARY, PADDING = 48, 1
CLOCKS = ("_runtime", "_per_second", "_preparation_time")


class TinyLM(nn.Module):
    """Matrices, a tied head, vectors, dropout that must not matter; a forward takes next to nothing."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(VOCABULARY, 8)
        self.mix = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(8, VOCABULARY, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, input_ids, attention_mask=None, labels=None):
        hidden = self.embedding(input_ids)
        hidden = hidden + self.dropout(torch.tanh(self.mix(hidden.cumsum(dim=1))))
        logits = self.head(self.norm(hidden))
        if labels is None:
            return {"logits": logits}
        return {"loss": nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())}


def make_opt(seed: int = 0, **settings):
    """An OPT with random weights, tied embeddings, and dropout that must not matter."""
    from transformers import OPTConfig, OPTForCausalLM

    config = OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        word_embed_proj_dim=16,
        ffn_dim=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=32,
        dropout=0.5,
        pad_token_id=PADDING,
        bos_token_id=2,
        eos_token_id=2,
        **settings,
    )
    torch.manual_seed(seed)
    return OPTForCausalLM(config)


def make_rows(number: int, seed: int = 0) -> list[dict]:
    """Rows of 4 to 9 random tokens, of which the last two to four are labels."""
    generator = random.Random(seed)
    rows = []
    for _ in range(number):
        ids = [generator.randrange(3, VOCABULARY) for _ in range(generator.randrange(4, 10))]
        num_labels = generator.randrange(2, 5)
        rows.append({"input_ids": ids, "labels": [-100] * (len(ids) - num_labels) + ids[-num_labels:]})
    return rows


def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
    """Pad on the right."""
    longest = max(len(row["input_ids"]) for row in rows)

    def pad(values: list[list[int]], filler: int) -> torch.Tensor:
        return torch.tensor([[*value, *[filler] * (longest - len(value))] for value in values])

    return {
        "input_ids": pad([row["input_ids"] for row in rows], PADDING),
        "attention_mask": pad([[1] * len(row["input_ids"]) for row in rows], 0),
        "labels": pad([row["labels"] for row in rows], -100),
    }


class MeanOverRows:
    """An objective: the mean over rows of each row's mean cross entropy."""

    def loss(self, model, batch) -> torch.Tensor:
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])["logits"].float()
        targets = batch["labels"][:, 1:]
        losses = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), targets, reduction="none")
        return (losses.sum(dim=1) / targets.ne(-100).sum(dim=1)).mean()

    def weight(self, batch) -> int:
        return len(batch["labels"])


class SamplingEvaluator:
    """The loss of a fixed batch, and figures that draw from all three global generators."""

    def __init__(self) -> None:
        self.batch = collate(make_rows(6, seed=1))
        self.num_calls = 0

    @torch.inference_mode()
    def __call__(self, model) -> dict[str, float]:
        self.num_calls += 1
        return {
            "loss": float(MeanOverRows().loss(model, self.batch)),
            "draw": random.random() + float(np.random.rand()) + float(torch.rand(())),
        }


def arguments(folder: Path, **settings):
    from foretune import ZOTrainingArguments

    return ZOTrainingArguments(
        output_dir=str(folder),
        **{
            "method": "mezo",
            "learning_rate": 1e-2,
            "max_steps": 10,
            "per_device_train_batch_size": 4,
            "logging_steps": 3,
            "eval_strategy": "steps",
            "eval_steps": 2,
            "save_steps": 3,
            "use_cpu": True,
            "disable_tqdm": True,
            "report_to": "none",
            "seed": 7,
            **settings,
        },
    )


def make_trainer(folder: Path, *, model=None, hf_path: bool = False, callbacks=(), **settings):
    """A trainer over 22 rows (six batches an epoch, the last one short), with objective or without."""
    from transformers import PrinterCallback

    from foretune import ZOTrainer

    parts = {"eval_dataset": make_rows(6, seed=1)}
    if not hf_path:
        parts = {"objective": MeanOverRows(), "evaluator": SamplingEvaluator()}
    trainer = ZOTrainer(
        TinyLM() if model is None else model,
        arguments(folder, **settings),
        train_dataset=make_rows(22),
        data_collator=collate,
        callbacks=list(callbacks),
        **parts,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def timeless(log_history: list[dict]) -> list[dict]:
    """The log without clocks, and without the closing entry, which is about one process."""
    return [
        {name: value for name, value in entry.items() if not name.endswith(CLOCKS)}
        for entry in log_history
        if "train_loss" not in entry
    ]


def snapshot(trainer) -> dict:
    """Everything that a resumed run must have in common with an uninterrupted one."""
    folder = Path(trainer.args.output_dir)
    found = {
        "journal": (folder / "journal").read_bytes(),
        "metrics": (folder / "metrics.jsonl").read_text(),
        "lr": trainer.lr_scheduler.get_last_lr(),
        "log": timeless(trainer.state.log_history),
    }
    for name in ("global_step", "epoch", "best_metric", "best_global_step", "total_flos", "max_steps"):
        found[name] = getattr(trainer.state, name)
    for name, tensor in trainer.model.state_dict().items():
        found[f"weights/{name}"] = tensor.contiguous().view(torch.uint8).numpy().tobytes()
    state = trainer.zo_optimizer.state_dict()
    for name, saved in state["state"].items():
        for key, tensor in saved.pop("tensors").items():
            found[f"state/{name}/{key}"] = tensor.contiguous().view(torch.uint8).numpy().tobytes()
    found["state"] = json.dumps(state)
    for path in sorted(folder.glob("checkpoint-*/**/*")):
        name = str(path.relative_to(folder))
        if path.name == "trainer_state.json":
            saved = json.loads(path.read_text().replace(str(folder), "FOLDER"))
            found[name] = {**saved, "log_history": timeless(saved["log_history"])}
        elif path.is_file() and path.name != "training_args.json":
            found[name] = path.read_bytes()
    return found


def assert_equal_runs(resumed: dict, whole: dict) -> None:
    """Compare snapshots and name what differs."""
    assert sorted(resumed) == sorted(whole)
    different = {name: (resumed[name], whole[name]) for name in whole if resumed[name] != whole[name]}
    assert not different, different
