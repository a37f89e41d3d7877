"""From encoded examples to one batch of tensors: no more sequences, tokens or positions than the scores need.

Shapes: B rows, K most candidates of a row, S sequences, T tokens, L most option tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NotRequired, TypedDict

import torch
from torch import Tensor

from foretune.objectives.encoding import EncodedExample

PADDING_ID = 0
"""Any valid id: padding is hidden by the attention mask, never recognised by its id."""


class SequenceBatch(TypedDict):
    """Token sequences as a model takes them.

    Keys:
        input_ids: (S, T) int64, padded on the left.
        attention_mask: (S, T) int64, 0 on padding. Only where there is padding: without it models take
            their fast causal path.
        position_ids: (S, T) int64, counted from the first real token; with `attention_mask`.
    """

    input_ids: Tensor
    attention_mask: NotRequired[Tensor]
    position_ids: NotRequired[Tensor]


class CandidateBatch(SequenceBatch):
    """The candidates of B rows as tensors; a plain dict, so Trainer and accelerate move it to the device.

    A sequence leaves out its last token, whose own prediction nobody reads: the last position of the input
    predicts the last option token. Two layouts:

    - shared (every option of every row is one token after the same prompt): one sequence a row, S = B, and
      `candidate_ids`;
    - separate: one sequence a candidate, and `option_ids`, `option_mask`, `candidate_sequence`.

    Keys:
        candidate_ids: (B, K) int64, the token of each candidate.
        option_ids: (S, L) int64, the option's tokens at the right end.
        option_mask: (S, L) bool, True on option tokens.
        candidate_sequence: (B, K) int64, the sequence of each candidate.
        candidate_mask: (B, K) bool, True on candidates; only where rows have different numbers of them.
        labels: (B,) int64, the index of the (first) right candidate.
    """

    candidate_ids: NotRequired[Tensor]
    option_ids: NotRequired[Tensor]
    option_mask: NotRequired[Tensor]
    candidate_sequence: NotRequired[Tensor]
    candidate_mask: NotRequired[Tensor]
    labels: Tensor


def collate_candidates(rows: Sequence[EncodedExample]) -> CandidateBatch:
    """Put rows into one batch; usable as a DataLoader's `collate_fn` or a Trainer's `data_collator`."""
    labels = torch.tensor([row.correct[0] for row in rows])
    if all(_shares_one_sequence(row) for row in rows):
        inputs = _pad_left([row.token_ids[0][:-1] for row in rows])
        batch: CandidateBatch = {**inputs, "labels": labels}
        batch["candidate_ids"] = _pad_right([[ids[-1] for ids in row.token_ids] for row in rows])
    else:
        sequences = [ids for row in rows for ids in row.token_ids]
        option_lengths = torch.tensor([length for row in rows for length in row.option_lengths])
        longest = int(option_lengths.max())
        batch = {**_pad_left([ids[:-1] for ids in sequences]), "labels": labels}
        batch["option_mask"] = torch.arange(longest, 0, -1) <= option_lengths[:, None]
        # a sequence can be shorter than the longest option elsewhere in the batch
        batch["option_ids"] = torch.tensor([(PADDING_ID,) * (longest - len(ids)) + ids[-longest:] for ids in sequences])
        numbers = iter(range(len(sequences)))
        batch["candidate_sequence"] = _pad_right([[next(numbers) for _ in row.token_ids] for row in rows])
    num_candidates = torch.tensor([len(row.token_ids) for row in rows])
    most = int(num_candidates.max())
    if most != int(num_candidates.min()):
        batch["candidate_mask"] = torch.arange(most) < num_candidates[:, None]
    return batch


def _shares_one_sequence(row: EncodedExample) -> bool:
    context = row.token_ids[0][:-1]
    return all(length == 1 for length in row.option_lengths) and all(ids[:-1] == context for ids in row.token_ids)


def _pad_left(sequences: Sequence[Sequence[int]]) -> SequenceBatch:
    lengths = torch.tensor([len(ids) for ids in sequences])
    longest = int(lengths.max())
    input_ids = torch.tensor([[PADDING_ID] * (longest - len(ids)) + list(ids) for ids in sequences])
    if bool((lengths == longest).all()):
        return {"input_ids": input_ids}
    real = torch.arange(longest, 0, -1) <= lengths[:, None]
    return {
        "input_ids": input_ids,
        "attention_mask": real.long(),
        "position_ids": (real.cumsum(dim=1) - 1).clamp_(min=0),
    }


def _pad_right(lists: Sequence[Sequence[int]]) -> Tensor:
    longest = max(map(len, lists))
    return torch.tensor([[*values, *[0] * (longest - len(values))] for values in lists])
