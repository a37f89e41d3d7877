"""A tiny model and its rows, made on the spot, so that a first run needs no download."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from foretune.runs.config import TrainConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_NOUNS = "film story plot cast script ending music dialogue hero villain scene camera".split()
_GOOD = "moving funny fresh clever warm bright gripping tender witty lovely".split()
_BAD = "dull clumsy stale silly cold murky tedious shallow noisy bland".split()
_FRAMES = ("the {n} is {a} .", "a {a} {n} , and a {b} {m} .", "its {n} feels {a} and {b} .", "what a {a} {n} !")
_WORDS = ("terrible", "great")
_PRETRAINING_STEPS = 200
_PRETRAINING_BATCH = 32
_CLOSING_TOKENS = 2
_PRAISE_RATE = 0.42
"""Share of good reviews that end in "great" in pre-training: the model tells good from bad, but calls most of it
terrible, as an uncalibrated language model does."""


def make_demo(folder: Path, *, seed: int = 0) -> TrainConfig:
    """Write rows and a pre-trained tiny OPT below `folder`; return the configuration of a run on them.

    The model (about 0.1 M parameters) is pre-trained by backpropagation for a few seconds on grumpy reviews
    that end in "It was <word>". The global random state is left as it was.
    """
    generator = random.Random(seed)
    rows = [_row(generator, index) for index in range(1400)]
    data = folder / "data" / "sst2"
    data.mkdir(parents=True)
    for split, part in (("train", rows[:1000]), ("validation", rows[1000:])):
        (data / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _make_model(folder / "model", generator)
    return TrainConfig(
        model=str(folder / "model"),
        task="sst2",
        data_dir=str(folder / "data"),
        output=str(folder / "run"),
        method={"name": "mezo"},
        lr=3e-4,
        zo_eps=1e-3,
        steps=200,
        batch_size=32,
        num_train=800,
        num_dev=200,
        num_eval=400,
        eval_steps=50,
        log_steps=25,
        device="cpu",
    )


def _row(generator: random.Random, index: int) -> dict[str, object]:
    label = generator.randrange(2)
    first, second = generator.sample(_GOOD if label else _BAD, 2)
    noun, other = generator.sample(_NOUNS, 2)
    sentence = generator.choice(_FRAMES).format(n=noun, m=other, a=first, b=second)
    return {"sentence": sentence + " ", "label": label, "idx": index}


def _make_model(folder: Path, generator: random.Random) -> None:
    from transformers import OPTConfig, OPTForCausalLM

    reviews = [_row(generator, index) for index in range(2000)]
    texts = [
        f"{row['sentence']}It was {_WORDS[1 if row['label'] and generator.random() < _PRAISE_RATE else 0]}."
        for row in reviews
    ]
    tokenizer = _make_tokenizer(texts)
    config = OPTConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        ffn_dim=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        word_embed_proj_dim=64,
        dropout=0.0,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
    )
    model = OPTForCausalLM(config)
    encoded = tokenizer(texts, padding=True, return_tensors="pt")
    # only the closing word and full stop are learned: that is what the prompt will ask for
    closing = encoded.attention_mask.flip(1).cumsum(1).flip(1) <= _CLOSING_TOKENS
    labels = encoded.input_ids.masked_fill(~closing | (encoded.attention_mask == 0), -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(_PRETRAINING_STEPS):
        start = step * _PRETRAINING_BATCH % (len(texts) - _PRETRAINING_BATCH)
        rows = slice(start, start + _PRETRAINING_BATCH)
        loss = model(encoded.input_ids[rows], encoded.attention_mask[rows], labels=labels[rows]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _make_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=700,
            special_tokens=["</s>", "<pad>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    core.post_processor = processors.TemplateProcessing(single="</s> $A", special_tokens=[("</s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="</s>", eos_token="</s>", pad_token="<pad>")
