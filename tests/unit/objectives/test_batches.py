from __future__ import annotations

import pickle

import torch
from torch.utils.data import DataLoader

from foretune.objectives import EncodedExample, collate_candidates


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
            row([2, 5, 6, 7, 8], [2, 5, 9], lengths=[3, 1], correct=(1, 0)),
            row([2, 4, 3], lengths=[1]),
        ]
    )
    assert as_lists(batch) == {
        "input_ids": [[2, 5, 6, 7], [0, 0, 2, 5], [0, 0, 2, 4]],
        "attention_mask": [[1, 1, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]],
        "position_ids": [[0, 1, 2, 3], [0, 0, 0, 1], [0, 0, 0, 1]],
        "option_ids": [[6, 7, 8], [2, 5, 9], [2, 4, 3]],
        "option_mask": [[True, True, True], [False, False, True], [False, False, True]],
        "candidate_sequence": [[0, 1], [2, 0]],
        "candidate_mask": [[True, True], [True, False]],
        "labels": [1, 0],
    }


def test_sequence_shorter_than_the_longest_option_elsewhere():
    batch = collate_candidates([row([2, 5, 6, 7, 8], lengths=[4]), row([2, 3], lengths=[1])])
    assert batch["option_ids"].tolist() == [[5, 6, 7, 8], [0, 0, 2, 3]]
    assert batch["option_mask"].tolist() == [[True] * 4, [False, False, False, True]]


def test_one_token_options_after_different_prompts_get_a_sequence_each():
    batch = collate_candidates([row([2, 5, 8], [2, 6, 9], lengths=[1, 1])])
    assert batch["input_ids"].tolist() == [[2, 5], [2, 6]]
    assert batch["option_ids"].tolist() == [[8], [9]]


def test_batches_of_a_data_loader_are_plain_dicts_of_tensors():
    rows = [row([2, 5, 8], [2, 5, 9], lengths=[1, 1]) for _ in range(5)]
    assert pickle.loads(pickle.dumps(rows)) == rows  # noqa: S301 - what a spawned worker does
    batches = list(DataLoader(rows, batch_size=2, collate_fn=collate_candidates))
    assert [batch["labels"].shape[0] for batch in batches] == [2, 2, 1]
    assert all(type(batch) is dict for batch in batches)
    assert all(isinstance(value, torch.Tensor) for batch in batches for value in batch.values())
