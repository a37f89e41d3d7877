from __future__ import annotations

import numpy as np
import pytest

from foretune.data import TaskData, TaskRow
from foretune.data.loading import Split
from foretune.errors import UsageError
from foretune.runs.in_context import count_fitting, own_demonstrations, shared_demonstrations
from foretune.tasks import get_task

SST2 = get_task("sst2")


def _rows(count):
    return [{"sentence": f"film {index}", "label": index % 2, "idx": index} for index in range(count)]


def _data(test, train=(), eval_origin="validation.jsonl"):
    named = [tuple(TaskRow(row, "row") for row in rows) for rows in (train, test)]
    return TaskData(
        task=SST2,
        train_set_seed=0,
        train=named[0],
        dev=(),
        evaluation=named[1],
        train_origin="train.jsonl",
        eval_origin=eval_origin,
    )


def test_shared_demonstrations_are_the_training_rows_in_drawn_order():
    texts = shared_demonstrations(_data(_rows(3), train=_rows(2)), SST2.template())
    assert texts == [("film 0 It was terrible", "film 1 It was great")] * 3


def test_every_row_draws_under_its_own_seed():
    train = _rows(50)
    texts = own_demonstrations(_data(_rows(4)), Split(SST2, "train", train, "train.jsonl"), SST2.template(), 3)
    for seed, of_row in zip([2732, 9845, 3264, 4859], texts, strict=True):  # golden: RandomState(0).randint(0, 10000)
        drawn = np.random.RandomState(seed).permutation(50)[:3]
        assert of_row == tuple(f"film {index} It was {('terrible', 'great')[index % 2]}" for index in drawn)


def test_rows_of_the_test_split_are_never_demonstrations():
    data = _data(_rows(4), eval_origin="train.jsonl")
    with pytest.raises(UsageError, match="--demonstration-sets per-row: the test rows of task 'sst2' are cut from"):
        own_demonstrations(data, Split(SST2, "train", _rows(50), "train.jsonl"), SST2.template(), 3)


@pytest.mark.parametrize("seed", range(20))
def test_the_numbers_that_fit_are_those_of_the_slow_way(seed):
    random = np.random.RandomState(seed)
    lengths = random.randint(1, 120, size=12)  # some are too long by themselves
    sizes = random.randint(1, 12, size=(12, 32))

    def surplus(rows, numbers):
        return [int(lengths[row] + sizes[row, :number].sum()) - 100 for row, number in zip(rows, numbers, strict=True)]

    expected = [max([0, *(number for number in range(33) if surplus([row], [number])[0] <= 0)]) for row in range(12)]
    assert count_fitting(12, 32, surplus) == expected


def test_all_fit_where_there_is_room():
    assert count_fitting(5, 32, lambda rows, numbers: [-1] * len(rows)) == [32] * 5
