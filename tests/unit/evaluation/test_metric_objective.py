from __future__ import annotations

import pytest
import torch

from foretune.evaluation import (
    METRICS,
    CandidateMetricObjective,
    TextMetric,
    TextMetricObjective,
    TextWriter,
    candidate_scores,
    evaluate_candidates,
)
from foretune.objectives import ClassificationObjective, EncodedExample, encode_examples
from foretune.tasks import Example
from model_zoo import opt


def rows_of(tokenizer, *examples):
    return encode_examples(list(examples), tokenizer, 48)


@pytest.fixture
def choices(tiny_tokenizer):
    words = (" great", " terrible")
    texts = ("a quiet film", "the story is slow", "good music", "bad acting")
    return rows_of(tiny_tokenizer, *(Example(f"{text} It was", words, (i % 2,)) for i, text in enumerate(texts)))


@pytest.fixture
def model(tiny_tokenizer):
    return opt(vocab_size=len(tiny_tokenizer), max_position_embeddings=64).eval()


def test_candidate_objective_is_minus_the_metric_of_the_best_scored_candidates(model, choices):
    objective = CandidateMetricObjective(METRICS["accuracy"], ClassificationObjective())
    batch = objective.collate(choices)
    best = [int(scores.argmax()) for scores in candidate_scores(model, choices, ClassificationObjective())]
    hits = sum(prediction in row.correct for prediction, row in zip(best, choices, strict=True))
    assert objective.loss(model, batch) == -hits / len(choices)
    assert objective.weight(batch) == len(choices)


def test_micro_batches_combine_to_the_metric_of_all_rows(model, choices):
    objective = CandidateMetricObjective(METRICS["accuracy"], ClassificationObjective())
    parts = [objective.collate(choices[:1]), objective.collate(choices[1:])]
    combined = sum(objective.loss(model, part) * objective.weight(part) for part in parts) / len(choices)
    assert combined == pytest.approx(objective.loss(model, objective.collate(choices)))


def test_text_objective_is_minus_the_mean_value_of_what_is_written(model, tiny_tokenizer):
    rows = rows_of(
        tiny_tokenizer,
        *(Example(f"{text} It was", (" great",), (0,), answers=("great", text)) for text in ("one film", "two films")),
    )
    writer = TextWriter(tokenizer=tiny_tokenizer, max_new_tokens=4, stops_at_newline=True, max_length=48)
    seen = []

    def score_rows(texts, examples):
        seen.extend(zip(texts, examples, strict=True))
        return [1.0, 4.0]

    objective = TextMetricObjective(TextMetric("reward", score_rows, is_fraction=False), writer)
    batch = objective.collate(rows)
    assert objective.loss(model, batch) == -2.5
    assert objective.weight(batch) == 2
    assert [text for text, _ in seen] == writer.write(model, rows)
    assert [example for _, example in seen] == [
        {"prompt": "one film It was", "answers": ("great", "one film")},
        {"prompt": "two films It was", "answers": ("great", "two films")},
    ]


def test_lm_loss_of_scores_is_the_token_mean_over_the_right_candidates(model, tiny_tokenizer):
    rows = rows_of(
        tiny_tokenizer,
        Example("a quiet film It was", (" great", " not so terrible"), (1,)),
        Example("slow", (" and bad", " good"), (1,)),
    )
    losses, tokens = 0.0, 0
    for row in rows:
        ids, length = torch.tensor([row.token_ids[1]]), row.option_lengths[1]
        logprobs = model(ids).logits.detach()[0, :-1].log_softmax(-1)
        losses -= float(logprobs[-length:].gather(1, ids[0, -length:, None]).sum())
        tokens += length
    result = evaluate_candidates(model, rows, ClassificationObjective(), loss="lm")
    assert tokens > 2
    assert result.loss == pytest.approx(losses / tokens, abs=1e-5)


def test_calibrated_score_is_the_difference_of_sums(model, tiny_tokenizer):
    options = (" great", " not so terrible")
    rows = rows_of(tiny_tokenizer, *(Example(f"{text} It was", options, (0,)) for text in ("good", "bad", "slow")))
    plain = rows_of(tiny_tokenizer, *[Example("It was", options, (0,))] * 3)

    def total(row: EncodedExample, candidate: int) -> float:
        ids, length = torch.tensor([row.token_ids[candidate]]), row.option_lengths[candidate]
        logprobs = model(ids).logits.detach()[0, :-1].log_softmax(-1)
        return float(logprobs[-length:].gather(1, ids[0, -length:, None]).sum())

    expected = []
    for row, base in zip(rows, plain, strict=True):
        values = [total(row, candidate) - total(base, candidate) for candidate in (0, 1)]
        expected.append(int(values[1] > values[0]))
    scorer = ClassificationObjective()
    result = evaluate_candidates(model, rows, scorer, calibration=plain)
    assert result.predictions == tuple(expected)
    assert result.loss == evaluate_candidates(model, rows, scorer).loss
