"""The committed model is what the committed script makes."""

from __future__ import annotations

import json

import pytest
import torch

from foretune.runs.demo import pretraining
from foretune.runs.demo.making import MODEL
from foretune.runs.demo.reviews import LABEL_WORDS, draw_corpus, draw_reviews


@pytest.fixture(scope="module")
def provenance():
    return json.loads((MODEL / pretraining.PROVENANCE_NAME).read_text())


@pytest.fixture(scope="module")
def texts():
    return draw_corpus(pretraining.NUM_TEXTS, pretraining.SEED)


@pytest.fixture(scope="module")
def tokenizer(texts):
    return pretraining.make_tokenizer(texts)


def test_the_committed_weights_are_those_of_the_record(provenance):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(MODEL))
    assert pretraining.digest(model) == provenance["sha256"]
    assert (MODEL / "model.safetensors").stat().st_size < 1_000_000


def test_the_tokenizer_is_trained_again_to_the_same_entries(tokenizer):
    committed = json.loads((MODEL / "tokenizer.json").read_text())["model"]
    made = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    assert (made["vocab"], made["merges"]) == (committed["vocab"], committed["merges"])


def test_every_word_of_a_review_is_one_token(tokenizer):
    words = {word.strip(".,") for review in draw_reviews("train", 1000, 0) for word in review.text.split()}
    words |= {"It", *LABEL_WORDS}
    split = [word for word in words if len(tokenizer(f" {word}", add_special_tokens=False).input_ids) != 1]
    assert split == []


def test_the_first_steps_are_made_again(texts, tokenizer, provenance):
    """Losses as recorded on any machine; the very bits with the versions and the kind of CPU of the record."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model = pretraining.make_model()
        input_ids = tokenizer(texts, padding=True, return_tensors="pt").input_ids
        losses = list(pretraining.pretrain(model, input_ids, pretraining.PREFIX_STEPS))
    finally:
        torch.set_num_threads(threads)
    assert losses == pytest.approx(provenance["prefix_losses"], rel=1e-4)
    if pretraining.circumstances().items() <= provenance.items():
        assert losses == provenance["prefix_losses"]
        assert pretraining.digest(model) == provenance["prefix_sha256"]
