"""The stage on which pages are played: a tiny model in the place of the hub's, rows, and one finished run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from foretune.cli.main import main
from pages import MODEL, SMALL


@pytest.fixture(scope="session")
def first_stage(tmp_path_factory, tiny_tokenizer) -> Path:
    """Folder with the tiny model, rows of sst2, a run `runs/first` in its ledger, and copies of both."""
    from transformers import OPTConfig, OPTForCausalLM

    folder = tmp_path_factory.mktemp("stage")
    sizes = {"hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 32, "num_hidden_layers": 2}
    config = OPTConfig(
        vocab_size=len(tiny_tokenizer),
        num_attention_heads=2,
        max_position_embeddings=64,
        pad_token_id=1,
        bos_token_id=2,
        eos_token_id=2,
        **sizes,
    )
    OPTForCausalLM(config).save_pretrained(folder / MODEL)
    tiny_tokenizer.save_pretrained(folder / MODEL)
    rows = [{"sentence": f"it is {['bad', 'great'][i % 2]} {i} ", "label": i % 2, "idx": i} for i in range(40)]
    (folder / "rows" / "sst2").mkdir(parents=True)
    for split in ("train", "validation"):
        (folder / "rows" / "sst2" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    first = f"train --model {folder / MODEL} --task sst2 --data-dir {folder / 'rows'} --lr 1e-6 {SMALL}"
    assert main([*first.split(), "--output", str(folder / "runs" / "first")]) == 0
    shutil.copytree(folder / "runs" / "first", folder / "runs" / "second")
    (folder / "sweeps" / "tune").mkdir(parents=True)
    shutil.copy(folder / "runs" / "runs.sqlite", folder / "sweeps" / "tune")
    return folder


@pytest.fixture
def stage(first_stage, tmp_path, monkeypatch) -> Path:
    """The current folder of one page: a copy of the stage."""
    shutil.copytree(first_stage, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FORETUNE_DATA", str(tmp_path / "rows"))
    return tmp_path
