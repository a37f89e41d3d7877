"""The loss at the mask equals the plain one: every row alone, logits of all positions and words."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

import masked_models
from foretune.errors import UsageError
from foretune.evaluation import evaluate_candidates
from foretune.objectives.masked import MaskedObjective
from foretune.objectives.masked_encoding import EncodedMaskedExample
from foretune.objectives.masked_head import find_masked_head

MASK = 4
WORDS = (30, 7, 81)
LENGTHS = (9, 4, 12, 9, 5, 7)

MODELS = {
    "roberta": masked_models.roberta,
    "roberta, own decoder": lambda: masked_models.roberta(tie_word_embeddings=False),
    "bert": masked_models.bert,
    "distilbert": masked_models.distilbert,
}


def make_rows(lengths=LENGTHS, words=WORDS):
    generator = torch.Generator().manual_seed(5)
    rows = []
    for index, length in enumerate(lengths):
        token_ids = torch.randint(5, 400, (length,), generator=generator).tolist()
        position = 1 + int(torch.randint(length - 2, (1,), generator=generator))
        token_ids[0], token_ids[position], token_ids[-1] = 0, MASK, 2
        rows.append(EncodedMaskedExample(tuple(token_ids), position, words, (index % len(words),), f"row {index}"))
    return rows


@torch.no_grad()
def oracle(model, rows):
    """Logits of the label words, float32, shape (B, K)."""
    scores = []
    for row in rows:
        logits = model(input_ids=torch.tensor([row.token_ids])).logits
        scores.append(logits[0, row.mask_position, list(row.label_ids)].float())
    return torch.stack(scores)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("split", [False, True])
def test_scores_and_loss_are_those_of_rows_alone(name, split):
    model, rows = MODELS[name](), make_rows()
    objective = MaskedObjective(find_masked_head(model) if split else None)
    batch = objective.collate(rows)
    expected = oracle(model, rows)
    with torch.no_grad():
        torch.testing.assert_close(objective.score(model, batch), expected, rtol=1e-5, atol=1e-5)
        loss = objective.loss(model, batch)
    labels = torch.tensor([row.correct[0] for row in rows])
    torch.testing.assert_close(loss, cross_entropy(expected, labels), rtol=1e-5, atol=1e-5)
    assert objective.weight(batch) == len(rows)


def test_rows_of_one_length_need_no_mask():
    batch = MaskedObjective().collate(make_rows((6, 6)))
    assert "attention_mask" not in batch


def test_padding_is_on_the_right():
    rows = make_rows((6, 4))
    batch = MaskedObjective().collate(rows)
    assert batch["attention_mask"].tolist() == [[1] * 6, [1] * 4 + [0] * 2]
    assert batch["input_ids"][1, :4].tolist() == list(rows[1].token_ids)
    assert batch["mask_positions"].tolist() == [row.mask_position for row in rows]
    assert batch["labels"].tolist() == [0, 1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scores_are_float32_in_half_precision(dtype):
    model, rows = masked_models.roberta().to(dtype), make_rows()
    for head in (None, find_masked_head(model)):
        objective = MaskedObjective(head)
        with torch.no_grad():
            scores = objective.score(model, objective.collate(rows))
        assert scores.dtype == torch.float32
        torch.testing.assert_close(scores, oracle(model, rows), rtol=5e-2, atol=5e-2)


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_evaluation(batch_size):
    model, rows = masked_models.roberta(), make_rows()
    scores = oracle(model, rows)
    result = evaluate_candidates(model, rows, MaskedObjective(find_masked_head(model)), batch_size=batch_size)
    assert result.predictions == tuple(scores.argmax(1).tolist())
    labels = torch.tensor([row.correct[0] for row in rows])
    assert result.loss == pytest.approx(float(cross_entropy(scores, labels)), rel=1e-5)


def test_the_first_of_equal_words_is_predicted():
    model, rows = masked_models.roberta(), make_rows(words=(30, 30, 30))
    assert set(evaluate_candidates(model, rows, MaskedObjective()).predictions) == {0}


def test_the_head_of_another_model_is_refused():
    objective = MaskedObjective(find_masked_head(masked_models.roberta()))
    with pytest.raises(UsageError, match="head of another model"):
        objective.loss(masked_models.roberta(), objective.collate(make_rows()))


@pytest.mark.parametrize("tied", [True, False])
def test_a_saved_model_keeps_its_scores(tied, tmp_path):
    """A checkpoint that stores a tied decoder once must not come back with a random one."""
    from transformers import AutoModelForMaskedLM

    model, rows = masked_models.roberta(tie_word_embeddings=tied), make_rows()
    model.save_pretrained(tmp_path)
    loaded, info = AutoModelForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    torch.testing.assert_close(oracle(loaded.eval(), rows), oracle(model, rows), rtol=0, atol=0)


def test_a_decoder_that_the_checkpoint_lacks_is_reported_as_missing(tmp_path):
    """What loading is told of a head that it made up; without this, zero-shot accuracy would silently be chance."""
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForMaskedLM
    from transformers.utils import logging as transformers_logging

    masked_models.roberta(tie_word_embeddings=False).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(path).items() if name != "lm_head.decoder.weight"}
    save_file(tensors, path, metadata={"format": "pt"})
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        _, info = AutoModelForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    finally:
        transformers_logging.set_verbosity(verbosity)
    assert "lm_head.decoder.weight" in info["missing_keys"]
