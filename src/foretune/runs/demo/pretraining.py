"""Pre-train the demo's model: an OPT of 0.15 M parameters that has read restaurant reviews and nothing else.

    python -m foretune.runs.demo.pretraining OUTPUT

It predicts every next token of a corpus of our own language (see `reviews`), as language models do; no label is shown.
So it comes to know which words go together, and that what follows "It was" is small talk or a polite "great".
The same script, versions and processor give the same bits, on one thread, in a minute; `provenance.json` says which.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save
from torch import Tensor
from transformers.utils import logging as transformers_logging

from foretune.runs.demo.reviews import draw_corpus
from foretune.runs.provenance import Provenance

if TYPE_CHECKING:
    from transformers import OPTForCausalLM, PreTrainedTokenizerFast

START, PAD = "</s>", "<pad>"
START_ID, PAD_ID = 0, 1
VOCAB_SIZE = 640
"""Entries of the tokenizer: bytes, and enough merges for every word of a review to be one token."""
WIDTH = 64
SEED = 0
NUM_TEXTS = 40_000
BATCH_SIZE = 64
STEPS = 900
WARMUP_STEPS = 60
LR = 3e-3
PREFIX_STEPS = 20
"""After so many steps, the first digest in the provenance is taken: what a test has the time to make again."""
PROVENANCE_NAME = "provenance.json"

logger = logging.getLogger(__name__)


def make_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE that puts `</s>` in front of every text, as OPT's does."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[START, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    core.post_processor = processors.TemplateProcessing(single=f"{START} $A", special_tokens=[(START, START_ID)])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token=START, eos_token=START, pad_token=PAD)


def make_model() -> OPTForCausalLM:
    """Return an OPT of two layers with its usual random weights, in training mode, without dropout."""
    from transformers import OPTConfig, OPTForCausalLM

    config = OPTConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=WIDTH,
        word_embed_proj_dim=WIDTH,
        ffn_dim=4 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        dropout=0.0,
        bos_token_id=START_ID,
        eos_token_id=START_ID,
        pad_token_id=PAD_ID,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return OPTForCausalLM(config).train()


def batches(input_ids: Tensor) -> Iterator[Tensor]:
    """Yield batches of rows without end, in a new order every epoch, cut to their longest.

    Args:
        input_ids: Shape (N, T), padded on the right.
    """
    random = Random(SEED)
    order = list(range(len(input_ids)))
    while True:
        random.shuffle(order)
        for start in range(0, len(order) - BATCH_SIZE + 1, BATCH_SIZE):
            batch = input_ids[order[start : start + BATCH_SIZE]]
            yield batch[:, : int((batch != PAD_ID).sum(1).max())]


def pretrain(model: OPTForCausalLM, input_ids: Tensor, steps: int) -> Iterator[float]:
    """Train step by step, with warm-up and the cosine decay of all `STEPS`; yield losses in nats per token."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * step / STEPS))
    )
    for _, batch in zip(range(steps), batches(input_ids), strict=False):
        real = batch != PAD_ID
        loss = model(batch, real.long(), labels=batch.masked_fill(~real, -100)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        yield float(loss.detach())


def digest(model: OPTForCausalLM) -> str:
    """Return the SHA-256 of all weights, with their names."""
    tensors = {name: tensor.detach().contiguous() for name, tensor in sorted(model.named_parameters())}
    return hashlib.sha256(save(tensors)).hexdigest()


def circumstances() -> dict[str, str]:
    """Return what the bits depend on besides this script: versions, processor, and its instructions that torch uses."""
    versions = {name: version(name) for name in ("torch", "transformers", "tokenizers")}
    instructions = torch.backends.cpu.get_cpu_capability()
    return {**versions, "machine": Provenance.here().machine, "instructions": instructions}


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw, train, save."""
    parser = ArgumentParser(description="Pre-train the demo's model.")
    parser.add_argument("output", type=Path, help="folder for model, tokenizer and provenance")
    output = parser.parse_args(arguments).output
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(1)
    texts = draw_corpus(NUM_TEXTS, SEED)
    tokenizer = make_tokenizer(texts)
    input_ids = tokenizer(texts, padding=True, return_tensors="pt").input_ids
    model = make_model()
    provenance: dict[str, Any] = {"script": "foretune.runs.demo.pretraining", **circumstances()}
    losses: list[float] = []
    for loss in pretrain(model, input_ids, STEPS):
        losses.append(loss)
        if len(losses) == PREFIX_STEPS:
            provenance |= {"prefix_losses": losses.copy(), "prefix_sha256": digest(model)}
        if len(losses) % 100 == 0:
            logger.info("step %d: loss %.4f", len(losses), sum(losses[-100:]) / 100)
    provenance |= {"last_losses_mean": sum(losses[-100:]) / 100, "sha256": digest(model)}
    model.eval().save_pretrained(output)
    tokenizer.save_pretrained(output)
    (output / PROVENANCE_NAME).write_text(json.dumps(provenance, indent=2) + "\n")


if __name__ == "__main__":
    main()
