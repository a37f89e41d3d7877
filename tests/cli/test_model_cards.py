"""The model card of a run: there in both folders, ours for adapters too, equal for equal runs, and true."""

from __future__ import annotations

import hashlib
import json

import pytest
from huggingface_hub import ModelCard

from foretune.cli.main import main
from foretune.journal import Journal
from foretune.runs import train as train_module
from foretune.runs.model_card import run_card


@pytest.fixture(autouse=True)
def _without_ledger(monkeypatch):
    monkeypatch.setenv("FORETUNE_LEDGER", "none")


def test_cards_are_in_both_folders_equal_for_equal_runs_and_true(train_words, tmp_path):
    other = [word.replace(str(tmp_path / "run"), str(tmp_path / "other")) for word in train_words]
    assert main(train_words) == main(other) == 0
    text = (tmp_path / "run" / "README.md").read_bytes()
    for folder in ("run/final", "other", "other/final"):
        assert (tmp_path / folder / "README.md").read_bytes() == text
    card = ModelCard.load(tmp_path / "run" / "README.md")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "text-generation")
    assert card.data.tags == ["foretune", "mezo", "zeroth-order"]
    assert card.data.license is card.data.base_model is card.data.datasets is None  # a local base, local rows
    assert {result.metric_type: result.metric_value for result in card.data.eval_results} == results["metrics"]["final"]
    assert str(tmp_path) not in card.content
    cells = dict(line[2:-2].split(" | ") for line in card.text.splitlines() if line.count("|") == 3)
    assert (cells["lr"], cells["seed"], cells["seed of their draw"], cells["steps"]) == ("0.001", "0", "0", "6")
    assert cells["training, dev and test rows"] == "20, 8, 12"
    assert "[arXiv:2305.17333](https://arxiv.org/abs/2305.17333)" in card.text
    rows = {line.split(" | ")[0].strip("| "): line for line in card.text.splitlines() if line.count("|") == 4}
    for label, name in (("majority class", "majority"), ("before tuning (zero-shot)", "zero_shot")):
        assert f"{results['metrics'][name]['accuracy']:.4f}" in rows[label]


def test_the_journal_and_rows_of_the_card_are_those_of_the_run(train_words, tmp_path):
    assert main(train_words) == 0
    text = (tmp_path / "run" / "README.md").read_text()
    journal = tmp_path / "run" / "journal"
    header = Journal.read(journal).header
    for digest in (hashlib.sha256(journal.read_bytes()).hexdigest(), header["rows_hash"], header["weights_hash"]):
        assert digest in text
    assert "foretune replay journal" in text


@pytest.mark.parametrize("scheme", ["lora", "prefix", "prompt"])
def test_an_adapter_s_card_is_ours(train_words, tmp_path, scheme):
    assert main([*train_words, "--tuning", scheme]) == 0
    run = tmp_path / "run"
    card = ModelCard.load(run / "final" / "README.md")
    assert card.data.library_name == "peft"
    assert {"transformers", "foretune"} < set(card.data.tags)
    assert ("lora" in card.data.tags) == (scheme == "lora")
    assert "More Information Needed" not in card.text
    assert not list(run.glob("checkpoint-*/README.md"))
    assert main(["replay", str(run), "-o", str(tmp_path / "again")]) == 0
    assert not (tmp_path / "again" / "README.md").exists()


def test_a_first_order_run_cannot_be_replayed_and_says_no_such_thing(train_words, tmp_path):
    assert main([*train_words, "--method", "adam"]) == 0
    text = (tmp_path / "run" / "README.md").read_text()
    assert "by backpropagation" in text
    assert "foretune train --config config.yaml" in text
    assert "replay" not in text
    assert "zeroth-order" not in text
    assert "journal`" not in text


def test_a_method_with_another_part_cites_the_method_and_names_the_part(train_words, tmp_path):
    assert main([*train_words, "--method", "lozo", "--update", "adam"]) == 0
    text = (tmp_path / "run" / "README.md").read_text()
    assert "arXiv:2410.07698" in text
    assert "Changed here: its update." in text
    assert "| update.name | adam |" in text


def test_a_card_lists_rollbacks_and_a_base_of_the_hub(train_words, tmp_path, monkeypatch):
    """Both come from elsewhere: the run is told that its base has an id, and that it went back once."""

    def card(config, recipe, tuning, model, results, **facts):
        config.model = "facebook/opt-125m"
        rollback = {"step": 20, "detected_at": 40, "cause": "loss | nan", "lr_factor": 0.1}
        return run_card(config, recipe, tuning, model, results | {"rollbacks": [rollback]}, **facts)

    monkeypatch.setattr(train_module, "run_card", card)
    assert main([*train_words, "--tuning", "lora"]) == 0
    written = ModelCard.load(tmp_path / "run" / "README.md")
    assert written.data.base_model == "facebook/opt-125m"
    assert "base_model:adapter:facebook/opt-125m" in written.data.tags
    assert "| step | detected at | cause | lr factor |" in written.text
    assert "| 20 | 40 | loss \\| nan | 0.1 |" in written.text
    assert "--model FOLDER" not in written.text
