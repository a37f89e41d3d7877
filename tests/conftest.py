"""Fixtures shared by all tests: real data and a real model where they are at hand; a tiny model and rows of ours."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

# Plain English of our own, so that " great", " terrible" and the like become single tokens.
_TOKENIZER_TEXT = [
    "a quiet film that earns its tears It was great",
    "the jokes land about half the time . It was terrible",
    "good and bad films , great and terrible films , It was good , It was bad",
    "the bridge opened in 1932 after eight years of work .\nIs it true ? Yes or No ?\nYes",
    "the story is slow but the acting is wonderful and the music is great .\nNo",
] * 4


@pytest.fixture(scope="session")
def real_data_dir() -> Path:
    """Folder of real benchmark rows, `<task>/<split>.jsonl`."""
    return _existing("FORETUNE_DATA", "data", "real task data")


@pytest.fixture(scope="session")
def opt_mini_dir() -> Path:
    """Folder of the small pre-trained OPT model."""
    return _existing("FORETUNE_MODELS", "models", "real models", "opt-mini")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub on this machine, with an empty cache, on which the token belongs to user `me`."""
    from huggingface_hub import constants

    from fake_hub import serve

    with serve() as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", served.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_mine")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield served


def _existing(variable: str, folder: str, what: str, member: str = "") -> Path:
    path = Path(os.environ.get(variable) or REPOSITORY.parent / "shared" / folder) / member
    if not path.is_dir():
        pytest.skip(f"{what}: '{path}' is not a folder; set {variable} to use them")
    return path


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """A byte-level BPE of 400 tokens that puts `</s>` (id 2) in front of every text as OPT does; pad id 1."""
    return _build_tokenizer(bos=True)


@pytest.fixture(scope="session")
def make_tokenizer():
    """Function `(*, bos: bool)` that makes another such tokenizer; without `bos` it adds no special token."""
    return _build_tokenizer


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


def _build_tokenizer(*, bos: bool):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TOKENIZER_TEXT, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="</s> $A", special_tokens=[("</s>", special.index("</s>"))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="</s>" if bos else None,
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
    )
