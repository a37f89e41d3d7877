from __future__ import annotations

import pytest
import torch
from torch import nn

from foretune.data import load_task_data
from foretune.errors import NonFiniteLossError, UsageError
from foretune.evaluation import evaluate_candidates
from foretune.evaluation.scoring import batches_by_length
from foretune.objectives import ClassificationObjective, EncodedExample, encode_examples, usable_length


def evaluate(model, rows, **options):
    return evaluate_candidates(model, rows, ClassificationObjective(), **options)


class Bigram(nn.Module):
    """Logits at a position depend on its token alone: row `t` of a table."""

    def __init__(self, table):
        super().__init__()
        self.table = nn.Parameter(table)

    def forward(self, input_ids, attention_mask=None):
        self.seen_training, self.widths = self.training, [*getattr(self, "widths", []), input_ids.shape[1]]
        return type("Output", (), {"logits": self.table[input_ids]})()


def single(last, *candidates, length=3, correct=(0,), name="row"):
    """A row whose prompt ends in token `last`, with single-token candidates."""
    context = (0,) * (length - 1) + (last,)
    return EncodedExample(tuple((*context, word) for word in candidates), (1,) * len(candidates), correct, name)


def table(**values):
    """A table of zeros, 6 tokens, with entries given as t<row>_<column>=value."""
    filled = torch.zeros(6, 6)
    for key, value in values.items():
        row, column = map(int, key[1:].split("_"))
        filled[row, column] = value
    return filled


def test_predictions_keep_the_rows_order_and_answers_may_be_several():
    model = Bigram(table(t1_3=2.0, t2_4=2.0))
    rows = [
        single(2, 3, 4, length=9, correct=(1,)),
        single(1, 3, 4, length=2, correct=(0,)),
        single(1, 3, 4, length=5, correct=(1,)),
        single(2, 3, 4, 5, length=3, correct=(0, 1)),
    ]
    result = evaluate(model, rows, batch_size=2)
    assert result.predictions == (1, 0, 0, 1)
    assert (result.metrics["accuracy"], result.num_rows) == (0.75, 4)
    assert model.widths == [3, 9]  # bucketed: the two short rows, then the two long ones
    two = torch.tensor([2.0, 0.0]).log_softmax(0)
    three = torch.tensor([0.0, 2.0, 0.0]).log_softmax(0)
    assert result.loss == pytest.approx(-float(two[0] + two[0] + two[1] + three[0]) / 4, abs=1e-6)


def test_first_candidate_wins_a_tie():
    assert evaluate(Bigram(table()), [single(1, 3, 4, 5)]).predictions == (0,)


def test_mode_is_restored_and_no_gradient_is_kept():
    model = Bigram(table()).train()
    evaluate(model, [single(1, 3, 4)])
    assert not model.seen_training
    assert model.training
    assert model.table.grad is None


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_non_finite_score_is_an_error_that_names_the_row(value):
    model = Bigram(table(t2_4=value)).train()
    # the ragged row's absent candidate scores -inf by design and must not be taken for one
    rows = [single(1, 3, name="good"), single(2, 3, 4, name="sst2 validation row 5")]
    with pytest.raises(NonFiniteLossError, match=r"score of candidate \d of sst2 validation row 5 is"):
        evaluate(model, rows)
    assert model.training


def test_ragged_rows_are_fine():
    result = evaluate(Bigram(table()), [single(1, 3), single(2, 3, 4, 5)])
    assert result.metrics["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("rows", "batch_size", "message"),
    [([], 4, "there are no rows"), ([single(1, 3)], 0, "batch_size is 0; it should be at least 1")],
)
def test_bad_input_is_refused(rows, batch_size, message):
    with pytest.raises(UsageError, match=message):
        evaluate(Bigram(table()), rows, batch_size=batch_size)


def test_batches_hold_all_rows_by_length_and_no_more_tokens_than_asked_for():
    rows = [single(1, 2, 3, length=length) for length in (9, 2, 30, 4, 4, 2, 7)]
    batches = list(batches_by_length(rows, batch_size=3, max_tokens=32))
    lengths = [[rows[index].length for index in batch] for batch in batches]
    assert sorted(index for batch in batches for index in batch) == list(range(len(rows)))
    assert [length for batch in lengths for length in batch] == sorted(row.length for row in rows)
    for batch in lengths:
        assert len(batch) <= 3
        assert len(batch) == 1 or 2 * len(batch) * max(batch) <= 32


def test_zero_shot_figure_of_the_real_model(real_data_dir, opt_mini_dir):
    """64.6 % on the 872 validation rows, whatever the batch size."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(opt_mini_dir, dtype=torch.float32)
    data = load_task_data("sst2", real_data_dir)
    tokenizer = AutoTokenizer.from_pretrained(opt_mini_dir)
    encoded = encode_examples(data.examples(data.evaluation), tokenizer, usable_length(model))
    result = evaluate(model, encoded, batch_size=64)
    assert result.num_rows == 872
    assert round(result.metrics["accuracy"], 3) == 0.646
    some = encoded[:60]
    small, large = (evaluate(model, some, batch_size=size) for size in (3, 60))
    assert small.predictions == large.predictions == result.predictions[:60]
    assert small.loss == pytest.approx(large.loss, abs=1e-5)
