"""Make a small RoBERTa that has read the rows of a data folder: a masked language model to try the few-shot setting on.

    python benchmarks/pretrain_masked.py DATA_DIR OUTPUT [--steps 3000]

The tokenizer (byte-level BPE) and the model are trained on the texts of every ``<task>/train.jsonl``. No label is
shown: what a label word means at a mask is left to be learned from the few rows of a class. Label words only take part
in the training of the tokenizer, so that each becomes a single token. A plain transformers folder is saved.

Same arguments and number of threads, same weights.
"""

from __future__ import annotations

import json
import math
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from foretune.tasks import get_task, list_tasks

if TYPE_CHECKING:
    from transformers import RobertaForMaskedLM, RobertaTokenizer

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
START, PAD, END = 0, 1, 2
VOCAB_SIZE = 8192
MAX_TOKENS = 128
"""Tokens of a sequence, special ones included."""
MASKED_SHARE = 0.15
LR = 1e-3
NUM_REPEATS = 500
"""How often the tokenizer's trainer is shown each label word."""


def read_texts(data_dir: Path) -> list[str]:
    """Return the string fields of all training rows, one text a row, in the order of task names and files.

    Raises:
        SystemExit: the folder has no such file.
    """
    paths = sorted(data_dir.glob("*/train.jsonl"))
    if not paths:
        raise SystemExit(f"{data_dir} has no <task>/train.jsonl.")
    texts = []
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines():
            fields = (value.strip() for value in json.loads(line).values() if isinstance(value, str))
            texts.append(" ".join(text for text in fields if " " in text))
    return [text for text in dict.fromkeys(texts) if text]


def train_tokenizer(texts: Sequence[str], vocab_size: int = VOCAB_SIZE) -> RobertaTokenizer:
    """Train RoBERTa's kind of tokenizer, for which every label word of a task is one token."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import RobertaTokenizer

    prompts = [task.masked for task in map(get_task, list_tasks()) if task.masked is not None]
    words = [f" {word}" for word in sorted({word for prompt in prompts for word in prompt.label_words})]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([*texts, *words * NUM_REPEATS], trainer)
    model = json.loads(core.to_str())["model"]
    return RobertaTokenizer(vocab=model["vocab"], merges=[tuple(merge) for merge in model["merges"]])


def split_into_sequences(texts: Sequence[str], tokenizer: RobertaTokenizer) -> list[list[int]]:
    """Return the texts as sequences of at most MAX_TOKENS, special tokens included; long texts give several."""
    room = MAX_TOKENS - 2
    sequences = []
    for token_ids in tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]:
        parts = (token_ids[start : start + room] for start in range(0, len(token_ids), room))
        sequences.extend([START, *part, END] for part in parts)
    return sequences


def build_model(vocab_size: int, *, seed: int = 0, **changes: Any) -> RobertaForMaskedLM:
    """Return a RoBERTa of four layers of width 128 with its usual random weights, in training mode, without dropout."""
    from transformers import RobertaConfig, RobertaForMaskedLM

    sizes = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 512}
    config = RobertaConfig(
        vocab_size=vocab_size,
        max_position_embeddings=256 + PAD + 1,  # positions are counted from behind the padding id
        type_vocab_size=1,
        pad_token_id=PAD,
        bos_token_id=START,
        eos_token_id=END,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **{**sizes, **changes},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return RobertaForMaskedLM(config).train()


def batches(sequences: Sequence[list[int]], batch_tokens: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield batches of sequences of similar length, without end, in a new order every epoch; padded on the right."""
    while True:
        shuffled = torch.randperm(len(sequences), generator=generator).tolist()
        order = sorted(shuffled, key=lambda index: len(sequences[index]) // 8)
        parts, part = [], []
        for index in order:
            if part and (len(part) + 1) * len(sequences[index]) > batch_tokens:
                parts.append(part)
                part = []
            part.append(index)
        parts.append(part)
        for number in torch.randperm(len(parts), generator=generator).tolist():
            rows = [sequences[index] for index in parts[number]]
            longest = max(map(len, rows))
            yield torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])


def corrupt(input_ids: Tensor, mask_id: int, vocab_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the ids with some tokens hidden, and where, shape (B, T), as BERT does.

    Of MASKED_SHARE of the tokens, 80% become the mask and 10% a random token; the rest stay.
    """
    real = (input_ids != START) & (input_ids != PAD) & (input_ids != END)
    chance, fate = torch.rand(2, *input_ids.shape, generator=generator)
    chosen = real & (chance < MASKED_SHARE)
    random_ids = torch.randint(len(SPECIAL_TOKENS), vocab_size, input_ids.shape, generator=generator)
    hidden = input_ids.where(fate >= 0.9, random_ids).where(fate >= 0.8, mask_id)
    return torch.where(chosen, hidden, input_ids), chosen


def pretrain(
    model: RobertaForMaskedLM,
    sequences: Sequence[list[int]],
    mask_id: int,
    *,
    steps: int,
    batch_tokens: int = 4096,
    seed: int = 0,
) -> list[float]:
    """Train by masked language modelling, warm-up and cosine decay; return the loss of each step, nats per mask."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / (0.06 * steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    losses = []
    for _, input_ids in zip(range(steps), batches(sequences, batch_tokens, generator), strict=False):
        corrupted, chosen = corrupt(input_ids, mask_id, model.config.vocab_size, generator)
        hidden = model.roberta(corrupted, attention_mask=(input_ids != PAD).long()).last_hidden_state
        loss = cross_entropy(model.lm_head(hidden[chosen]), input_ids[chosen])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        if len(losses) % 100 == 0:
            print(f"step {len(losses)}: loss {sum(losses[-100:]) / 100:.3f}", flush=True)
    return losses


def main(arguments: Sequence[str] | None = None) -> None:
    """Read, train, save."""
    parser = ArgumentParser(description="Pre-train a small RoBERTa on the texts of a data folder.")
    parser.add_argument("data_dir", type=Path, help="folder with <task>/train.jsonl")
    parser.add_argument("output", type=Path, help="folder for model and tokenizer")
    parser.add_argument("--steps", type=int, default=3000, help="optimizer steps of 4096 tokens")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    texts = read_texts(options.data_dir)
    tokenizer = train_tokenizer(texts)
    sequences = split_into_sequences(texts, tokenizer)
    print(f"{len(texts)} texts, {len(sequences)} sequences, {sum(map(len, sequences))} tokens", flush=True)
    model = build_model(len(tokenizer), seed=options.seed)
    pretrain(model, sequences, tokenizer.mask_token_id, steps=options.steps, seed=options.seed)
    model.eval().save_pretrained(options.output)
    tokenizer.save_pretrained(options.output)


if __name__ == "__main__":
    main()
