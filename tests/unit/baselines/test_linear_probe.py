from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import model_zoo
from foretune.baselines import fit_linear_probe
from foretune.errors import UsageError
from foretune.evaluation import evaluate_candidates
from foretune.objectives import ClassificationObjective, EncodedExample


def _accuracy(model, rows):
    return evaluate_candidates(model, rows, ClassificationObjective()).metrics["accuracy"]


@pytest.mark.parametrize("words", [(30, 31), (30, 31, 32)])
@pytest.mark.parametrize("build", [model_zoo.opt, model_zoo.llama])
def test_separable_rows_are_learned_and_only_the_words_rows_of_the_head_change(separable_rows, build, words):
    model = build().eval()
    rows = separable_rows(words=words)
    table = model.get_input_embeddings().weight.detach().clone()
    head = model.get_output_embeddings().weight.detach().clone()
    assert _accuracy(model, rows) < 0.9
    report = fit_linear_probe(model, rows, batch_size=7)
    assert _accuracy(model, rows) == 1.0
    assert report["num_positions"] == 40
    assert report["num_folds"] == 5
    assert torch.equal(model.get_input_embeddings().weight, table)
    changed = (model.get_output_embeddings().weight != head).any(dim=1).nonzero().flatten().tolist()
    assert changed == list(words)


def test_the_rows_of_two_words_are_minus_and_plus_half_of_the_regression_s(separable_rows):
    """At the optimum the gradient of sum of log-losses + |w|^2 / 2C is zero; sklearn is not asked."""
    model = model_zoo.opt().eval()
    rows = separable_rows()
    with torch.no_grad():
        ids = torch.tensor([row.token_ids[0][:-1] for row in rows])
        features = model.model(input_ids=ids).last_hidden_state[:, -1].double().numpy()
    report = fit_linear_probe(model, rows)
    low, high = model.get_output_embeddings().weight.detach()[[30, 31]].double().numpy()
    assert np.array_equal(low, -high)
    weights = high - low
    labels = np.array([row.correct[0] for row in rows])
    probabilities = 1 / (1 + np.exp(-features @ weights))
    gradient = features.T @ (probabilities - labels) + weights / report["C"]
    assert np.abs(gradient).max() < 1e-2 * np.abs(weights / report["C"]).max()


class Position(nn.Module):
    """Hidden states are one-hot codes of tokens; an output head with a bias."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 8)

    def get_output_embeddings(self):
        return self.head

    def set_output_embeddings(self, head):
        self.head = head

    def forward(self, input_ids, attention_mask=None):
        hidden = nn.functional.one_hot(input_ids, 8).float()
        return type("Output", (), {"logits": self.head(hidden)})()


def test_options_of_several_tokens_give_a_position_each_and_a_bias_is_fitted():
    """Options 4 5 and 6: after token 0 comes 4, after 4 comes 5, after 1 comes 6; without logits_to_keep."""
    model = Position()
    rows = []
    for index in range(12):
        first = index % 2
        ids = (2,) * (index % 3 + 1) + (first,)
        rows.append(EncodedExample(((*ids, 4, 5), (*ids, 6)), (2, 1), (first,), f"row {index}"))
    report = fit_linear_probe(model, rows, batch_size=5)
    assert report["num_positions"] == 18
    logits = model(torch.tensor([[0, 4, 1]])).logits[0]
    assert logits[:, [4, 5, 6]].argmax(dim=1).tolist() == [0, 1, 2]
    bias = model.head.bias.detach()
    assert float(bias[[4, 5, 6]].sum()) == pytest.approx(0.0, abs=1e-4)  # a multinomial intercept sums to zero


def test_a_word_without_rows_is_refused_by_its_count(separable_rows):
    rows = separable_rows(4)
    only = [replace(row, correct=(0,)) for row in rows]
    with pytest.raises(UsageError, match=r"token 31 .* right answer of 0 of 4 training rows.*Raise --num-train"):
        fit_linear_probe(model_zoo.opt(), only)


def test_few_rows_of_a_word_give_fewer_folds(separable_rows):
    report = fit_linear_probe(model_zoo.opt(), separable_rows(6))
    assert report["num_folds"] == 3
    assert math.isfinite(report["C"])
