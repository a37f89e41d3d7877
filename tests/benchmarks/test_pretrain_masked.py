"""The small masked language model of the few-shot setting: what it is made of, and that making it is repeatable."""

from __future__ import annotations

import json

import pytest
import torch

from foretune.objectives.masked_encoding import find_label_ids
from foretune.tasks import get_task

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture
def data_dir(tmp_path):
    for task, field in (("snli", "premise"), ("sst2", "sentence")):
        (tmp_path / task).mkdir()
        rows = [{field: f"a man sleeps in house {index % 7} by the river .", "label": index % 2} for index in range(40)]
        (tmp_path / task / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_texts_hold_no_labels_and_no_repetitions(data_dir):
    from pretrain_masked import read_texts

    assert read_texts(data_dir) == [f"a man sleeps in house {index} by the river ." for index in range(7)]


def test_label_words_are_tokens_and_the_ids_are_roberta_s(data_dir):
    from pretrain_masked import read_texts, train_tokenizer

    tokenizer = train_tokenizer(read_texts(data_dir), 500)
    for task in ("snli", "mnli", "trec"):
        words = get_task(task).masked.label_words
        assert len(find_label_ids(words, tokenizer)) == len(words)
    assert tokenizer("a man")["input_ids"][0] == 0
    assert tokenizer("a man")["input_ids"][-1] == 2
    assert (tokenizer.pad_token_id, tokenizer.mask_token_id) == (1, 4)


def test_masks_hide_no_special_token():
    from pretrain_masked import corrupt

    input_ids = torch.full((64, 50), 9)
    input_ids[:, 0], input_ids[:, 40], input_ids[:, 41:] = 0, 2, 1
    corrupted, chosen = corrupt(input_ids, 4, 30, torch.Generator().manual_seed(0))
    assert not chosen[:, [0, *range(40, 50)]].any()
    assert (corrupted[~chosen] == input_ids[~chosen]).all()
    assert float(chosen[:, 1:40].float().mean()) == pytest.approx(0.15, abs=0.03)
    assert float((corrupted[chosen] == 4).float().mean()) == pytest.approx(0.8, abs=0.07)


def test_the_same_seed_gives_the_same_model_and_it_learns(data_dir):
    from pretrain_masked import build_model, pretrain, read_texts, split_into_sequences, train_tokenizer

    texts = read_texts(data_dir)
    tokenizer = train_tokenizer(texts, 500)
    sequences = split_into_sequences(texts, tokenizer)
    assert all(row[0] == 0 and row[-1] == 2 for row in sequences)
    runs = []
    for _ in range(2):
        model = build_model(len(tokenizer), **SIZES)
        losses = pretrain(model, sequences, tokenizer.mask_token_id, steps=60, batch_tokens=128)
        runs.append((losses, model.state_dict()))
    (losses, weights), (again, weights_again) = runs
    assert losses == again
    assert all(torch.equal(weights[name], weights_again[name]) for name in weights)
    assert sum(losses[-10:]) < 0.95 * sum(losses[:10])


def test_the_saved_folder_loads_with_transformers_alone(data_dir, tmp_path, capsys):
    from pretrain_masked import main
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    output = tmp_path / "model"
    main([str(data_dir), str(output), "--steps", "1"])
    tokenizer, (model, info) = (
        AutoTokenizer.from_pretrained(output),
        AutoModelForMaskedLM.from_pretrained(output, output_loading_info=True),
    )
    assert not info["missing_keys"]
    assert len(tokenizer) == model.config.vocab_size
    find_label_ids(get_task("trec").masked.label_words, tokenizer)
    assert "7 texts" in capsys.readouterr().out
