from __future__ import annotations

import pickle

import pytest
import torch
from torch.utils.data import DataLoader

from foretune.objectives import EncodedExample, collate_candidates
from foretune.objectives.batches import collate_texts


def row(*sequences, lengths, correct=(0,)):
    return EncodedExample(tuple(map(tuple, sequences)), tuple(lengths), correct, "row")


def as_lists(batch):
    return {key: tensor.tolist() for key, tensor in batch.items()}


def test_single_token_options_share_one_sequence_a_row():
    batch = collate_candidates(
        [
            row([2, 5, 6, 8], [2, 5, 6, 9], lengths=[1, 1], correct=(1,)),
            row([2, 7, 8], [2, 7, 9], lengths=[1, 1]),
        ]
    )
    assert as_lists(batch) == {
        "input_ids": [[2, 5, 6], [0, 2, 7]],
        "attention_mask": [[1, 1, 1], [0, 1, 1]],
        "position_ids": [[0, 1, 2], [0, 0, 1]],
        "candidate_ids": [[8, 9], [8, 9]],
        "labels": [1, 0],
    }


def test_rows_of_one_length_need_neither_mask_nor_positions():
    batch = collate_candidates([row([2, 5, 8], lengths=[1]), row([2, 7, 9], lengths=[1])])
    assert as_lists(batch) == {"input_ids": [[2, 5], [2, 7]], "candidate_ids": [[8], [9]], "labels": [0, 0]}


def test_ragged_single_token_candidates_are_masked():
    batch = collate_candidates([row([2, 5, 8], [2, 5, 9], lengths=[1, 1]), row([2, 7, 9], lengths=[1])])
    assert batch["candidate_ids"].tolist() == [[8, 9], [9, 0]]
    assert batch["candidate_mask"].tolist() == [[True, True], [True, False]]


def test_longer_options_get_a_sequence_each_and_ragged_rows_are_masked():
    batch = collate_candidates(
        [
            row([2, 5, 6, 7, 8], [2, 5, 9, 3], lengths=[3, 2], correct=(1, 0)),
            row([2, 4, 3], lengths=[1]),
        ]
    )
    assert as_lists(batch) == {
        "input_ids": [[2, 5, 6, 7], [0, 2, 5, 9], [0, 0, 2, 4]],
        "attention_mask": [[1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 1, 1]],
        "position_ids": [[0, 1, 2, 3], [0, 0, 1, 2], [0, 0, 0, 1]],
        "read_mask": [[True, True, True], [False, True, True], [False, False, True]],
        "read_ids": [[6], [7], [8], [9], [3], [3]],
        "option_reads": [[[0, 1, 2], [3, 4, 0]], [[5, 0, 0], [0, 0, 0]]],
        "option_mask": [[[True, True, True], [True, True, False]], [[True, False, False], [False] * 3]],
        "candidate_mask": [[True, True], [True, False]],
        "labels": [1, 0],
    }


def test_one_token_options_share_a_longer_ones_sequence():
    batch = collate_candidates([row([2, 5, 9], [2, 5, 6, 7], [2, 5, 3], lengths=[1, 2, 1])])
    assert as_lists(batch) == {
        "input_ids": [[2, 5, 6]],
        "read_mask": [[True, True]],
        "read_ids": [[9, 6, 3], [7, 0, 0]],
        "option_reads": [[[0, 0], [1, 3], [2, 0]]],
        "option_mask": [[[True, False], [True, True], [True, False]]],
        "labels": [0],
    }


ENTITIES = row([2, 5, 4, 6, 7, 8], [2, 5, 4, 9], [2, 5, 4, 3, 3], lengths=[3, 1, 2])


def test_packed_options_follow_one_context_each_at_its_own_positions():
    batch = collate_candidates([ENTITIES, row([2, 8, 9], [2, 8, 5], lengths=[1, 1])], packed_length=6)
    assert as_lists(batch) == {
        "input_ids": [[2, 5, 4, 6, 7, 3], [0, 0, 0, 0, 2, 8]],
        "position_ids": [[0, 1, 2, 3, 4, 3], [0, 0, 0, 0, 0, 1]],
        "segments": [[1, 1, 1, 2, 2, 4], [0, 0, 0, 0, 1, 1]],
        "read_mask": [[True] * 4, [False, False, False, True]],
        "read_ids": [[6, 9, 3], [7, 0, 0], [8, 0, 0], [3, 0, 0], [9, 5, 0]],
        "option_reads": [[[0, 3, 6], [1, 0, 0], [2, 9, 0]], [[12, 0, 0], [13, 0, 0], [0, 0, 0]]],
        "option_mask": [
            [[True, True, True], [True, False, False], [True, True, False]],
            [[True, False, False], [True, False, False], [False] * 3],
        ],
        "candidate_mask": [[True, True, True], [True, True, False]],
        "labels": [0, 0],
    }


def test_a_packed_sequence_takes_no_more_than_it_may():
    batch = collate_candidates([ENTITIES], packed_length=5)
    assert batch["input_ids"].tolist() == [[2, 5, 4, 6, 7], [0, 2, 5, 4, 3]]
    assert "segments" not in batch


def test_options_after_different_contexts_are_not_packed():
    """As where candidates of different lengths were cut on the left."""
    batch = collate_candidates([row([2, 5, 6, 7], [2, 4, 6, 9], lengths=[2, 2])], packed_length=100)
    assert batch["input_ids"].tolist() == [[2, 5, 6], [2, 4, 6]]
    assert "segments" not in batch


def test_packing_that_would_not_save_tokens_is_left_out():
    many = row(*([2, n, 4, 5, 6] for n in range(3, 7)), lengths=[4] * 4)
    alone = collate_candidates([many], packed_length=100)
    assert alone["input_ids"].shape == (1, 13), "13 tokens are fewer than 4 x 4"
    short = row([2, 5], lengths=[1])
    mixed = collate_candidates([many, short, short, short], packed_length=100)
    assert mixed["input_ids"].shape == (7, 4), "28 tokens are fewer than 4 x 13"


@pytest.mark.parametrize("only_option", [True, False])
def test_texts_are_the_right_candidates_and_what_is_read_of_them(only_option):
    rows = [row([2, 7, 7], [2, 5, 6, 7, 8], lengths=[1, 2], correct=(1, 0)), row([2, 4, 3], lengths=[1])]
    batch = as_lists(collate_texts(rows, only_option=only_option))
    inputs = {
        "input_ids": [[2, 5, 6, 7], [0, 0, 2, 4]],
        "attention_mask": [[1, 1, 1, 1], [0, 0, 1, 1]],
        "position_ids": [[0, 1, 2, 3], [0, 0, 0, 1]],
    }
    if only_option:
        reads = {"read_mask": [[True, True], [False, True]], "read_ids": [[7], [8], [3]]}
    else:
        reads = {
            "read_mask": [[True] * 4, [False, False, True, True]],
            "read_ids": [[5], [6], [7], [8], [4], [3]],
        }
    assert batch == inputs | reads


def test_batches_of_a_data_loader_are_plain_dicts_of_tensors():
    rows = [row([2, 5, 8], [2, 5, 9], lengths=[1, 1]) for _ in range(5)]
    assert pickle.loads(pickle.dumps(rows)) == rows  # noqa: S301 - what a spawned worker does
    batches = list(DataLoader(rows, batch_size=2, collate_fn=collate_candidates))
    assert [batch["labels"].shape[0] for batch in batches] == [2, 2, 1]
    assert all(type(batch) is dict for batch in batches)
    assert all(isinstance(value, torch.Tensor) for batch in batches for value in batch.values())
