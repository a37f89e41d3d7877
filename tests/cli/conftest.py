"""A tiny saved model and rows of our own for commands that run end to end."""

from __future__ import annotations

import json

import pytest


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory, tiny_tokenizer):
    """Folder with an OPT of two layers, random weights."""
    import torch
    from transformers import OPTConfig, OPTForCausalLM

    folder = tmp_path_factory.mktemp("model")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = OPTForCausalLM(
            OPTConfig(
                vocab_size=len(tiny_tokenizer),
                hidden_size=16,
                word_embed_proj_dim=16,
                ffn_dim=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=64,
                dropout=0.0,
                pad_token_id=1,
                bos_token_id=2,
                eos_token_id=2,
            )
        )
    model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def rows_dir(tmp_path_factory):
    """Data folder with 40 training and 12 validation rows of sst2."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "sst2").mkdir()
    for split, count in (("train", 40), ("validation", 12)):
        rows = [
            {"sentence": f"the film {'is great' if index % 2 else 'is bad'} {index} ", "label": index % 2, "idx": index}
            for index in range(count)
        ]
        (folder / "sst2" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def train_words(tiny_model, rows_dir, tmp_path):
    """Arguments of a run of six steps; its folder is `tmp_path / "run"`."""
    words = f"train --model {tiny_model} --data-dir {rows_dir} --task sst2 --output {tmp_path / 'run'} --device cpu"
    words += " --steps 6 --eval-steps 3 --log-steps 2 --batch-size 4 --num-train 20 --num-dev 8 --num-eval 12 --lr 1e-3"
    return words.split()
