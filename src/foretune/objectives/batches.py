"""From encoded examples to one batch of tensors: no more sequences, tokens or positions than the scores need.

Shapes: B rows, K most candidates of a row, L most option tokens, S sequences, T tokens, P last positions among
which predictions are read, N positions read, W most tokens read at one position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NotRequired, TypedDict

import torch
from torch import Tensor

from foretune.objectives.encoding import EncodedExample

PADDING_ID = 0
"""Any valid id: padding is hidden by the attention mask, never recognised by its id."""

PADDING_SEGMENT, CONTEXT_SEGMENT = 0, 1


class SequenceBatch(TypedDict):
    """Token sequences as a model takes them.

    Keys:
        input_ids: (S, T) int64, padded on the left.
        attention_mask: (S, T) int64, 0 on padding. Only where there is padding: without it models take
            their fast causal path.
        position_ids: (S, T) int64, counted from the first real token; with `attention_mask` or `segments`.
        segments: (S, T) int64, in place of `attention_mask` where several options of several tokens follow one
            context: 0 on padding, 1 on the context, from 2 on the options. An option sees the context and
            itself, and its positions follow the context's.
    """

    input_ids: Tensor
    attention_mask: NotRequired[Tensor]
    position_ids: NotRequired[Tensor]
    segments: NotRequired[Tensor]


class ReadBatch(SequenceBatch):
    """Token sequences, and the predictions that are read of them.

    A sequence leaves out tokens whose own predictions nobody reads, so the predictions that are read are those of
    its last positions.

    Keys:
        read_mask: (S, P) bool, True where the prediction of one of the last P positions is read; N are.
        read_ids: (N, W) int64, the tokens whose log-probabilities are read there, position after position.
    """

    read_mask: Tensor
    read_ids: Tensor


class CandidateBatch(SequenceBatch):
    """The candidates of B rows as tensors; a plain dict, so Trainer and accelerate move it to the device.

    Where every option of every row is one token after the same prompt there is one sequence a row, S = B, and
    `candidate_ids`; elsewhere `read_mask` and `read_ids` as in `ReadBatch`, `option_reads` and `option_mask`.

    Keys:
        candidate_ids: (B, K) int64, the token of each candidate, predicted by the last position.
        option_reads: (B, K, L) int64, which element of `read_ids`, counted through, each option token is.
        option_mask: (B, K, L) bool, True on option tokens.
        candidate_mask: (B, K) bool, True on candidates; only where rows have different numbers of them.
        labels: (B,) int64, the index of the (first) right candidate.
    """

    candidate_ids: NotRequired[Tensor]
    read_mask: NotRequired[Tensor]
    read_ids: NotRequired[Tensor]
    option_reads: NotRequired[Tensor]
    option_mask: NotRequired[Tensor]
    candidate_mask: NotRequired[Tensor]
    labels: Tensor


def collate_candidates(rows: Sequence[EncodedExample], packed_length: int = 0) -> CandidateBatch:
    """Put rows into one batch; usable as a DataLoader's `collate_fn` or a Trainer's `data_collator`.

    Options of one row share a sequence where they follow the same context: those of one token always, those of
    several tokens where `packed_length` allows it and the batch has fewer tokens that way, padding included.

    Args:
        rows: Encoded examples.
        packed_length: Most tokens of a sequence in which several options of several tokens share a context; what
            `find_packed_length` says of the model, 0 = none.
    """
    sequences = _arrange(rows, 0)
    if packed_length:
        sequences = min(sequences, _arrange(rows, packed_length), key=_num_tokens)
    labels = torch.tensor([row.correct[0] for row in rows])
    batch: CandidateBatch = {**_inputs(sequences), "labels": labels}
    if len(sequences) == len(rows) and all(sequence.num_reads == 1 for sequence in sequences):
        batch["candidate_ids"] = _pad_right([[ids[-1] for ids in row.token_ids] for row in rows])
    else:
        batch.update(_reads(rows, sequences))  # type: ignore[typeddict-item]
    num_candidates = torch.tensor([len(row.token_ids) for row in rows])
    most = int(num_candidates.max())
    if most != int(num_candidates.min()):
        batch["candidate_mask"] = torch.arange(most) < num_candidates[:, None]
    return batch


def collate_texts(rows: Sequence[EncodedExample], *, only_option: bool) -> ReadBatch:
    """Put the right candidate of each row into a batch that reads its option, or every token but the first."""
    texts = [row.token_ids[row.correct[0]] for row in rows]
    option_lengths = [row.option_lengths[row.correct[0]] if only_option else None for row in rows]
    sequences = []
    for text, length in zip(texts, option_lengths, strict=True):
        split = len(text) - length if length is not None else 1
        sequences.append(_Sequence(text[:split], [text[split:]]))
    return {
        **_inputs(sequences),
        "read_mask": _read_mask(sequences),
        "read_ids": torch.tensor([token for sequence in sequences for token in sequence.options[0]])[:, None],
    }


@dataclass(slots=True)
class _Sequence:
    """A context and the options that follow it, each without its last token.

    Attributes:
        row: Which row's they are.
        candidates: Which candidate of the row each option is.
    """

    context: tuple[int, ...]
    options: list[tuple[int, ...]]
    row: int = 0
    candidates: list[int] = field(default_factory=list)

    @property
    def num_reads(self) -> int:
        """Positions read: the context's last one predicts every option's first token."""
        return 1 + sum(len(option) - 1 for option in self.options)

    @property
    def num_tokens(self) -> int:
        return len(self.context) - 1 + self.num_reads

    @property
    def is_packed(self) -> bool:
        """Whether options would see each other, were they not told apart."""
        return sum(len(option) > 1 for option in self.options) > 1

    def takes(self, context: tuple[int, ...], option: tuple[int, ...], packed_length: int) -> bool:
        """Whether another option has room beside those here."""
        if context != self.context:
            return False
        own = len(option) == 1 or all(len(other) == 1 for other in self.options)
        return own or self.num_tokens + len(option) - 1 <= packed_length

    def input_ids(self) -> list[int]:
        return [*self.context, *(token for option in self.options for token in option[:-1])]

    def position_ids(self) -> list[int]:
        after = len(self.context)
        return [*range(after), *(after + index for option in self.options for index in range(len(option) - 1))]

    def segments(self) -> list[int]:
        of_options = enumerate(self.options, CONTEXT_SEGMENT + 1)
        return [CONTEXT_SEGMENT] * len(self.context) + [n for n, option in of_options for _ in option[:-1]]


def _arrange(rows: Sequence[EncodedExample], packed_length: int) -> list[_Sequence]:
    """Give every candidate a place in a sequence of its row."""
    arranged: list[_Sequence] = []
    for number, row in enumerate(rows):
        of_row: list[_Sequence] = []
        for candidate, (ids, length) in enumerate(zip(row.token_ids, row.option_lengths, strict=True)):
            context, option = ids[:-length], ids[-length:]
            place = next((one for one in of_row if one.takes(context, option, packed_length)), None)
            if place is None:
                place = _Sequence(context, [], number)
                of_row.append(place)
            place.options.append(option)
            place.candidates.append(candidate)
        arranged += of_row
    return arranged


def _num_tokens(sequences: Sequence[_Sequence]) -> int:
    return len(sequences) * max(sequence.num_tokens for sequence in sequences)


def _inputs(sequences: Sequence[_Sequence]) -> SequenceBatch:
    lengths = torch.tensor([sequence.num_tokens for sequence in sequences])
    longest = int(lengths.max())
    batch: SequenceBatch = {"input_ids": _pad_left([sequence.input_ids() for sequence in sequences], PADDING_ID)}
    if any(sequence.is_packed for sequence in sequences):
        batch["segments"] = _pad_left([sequence.segments() for sequence in sequences], PADDING_SEGMENT)
    elif bool((lengths == longest).all()):
        return batch
    else:
        batch["attention_mask"] = (torch.arange(longest, 0, -1) <= lengths[:, None]).long()
    batch["position_ids"] = _pad_left([sequence.position_ids() for sequence in sequences], 0)
    return batch


def _read_mask(sequences: Sequence[_Sequence]) -> Tensor:
    num_reads = torch.tensor([sequence.num_reads for sequence in sequences])
    return torch.arange(int(num_reads.max()), 0, -1) <= num_reads[:, None]


def _reads(rows: Sequence[EncodedExample], sequences: Sequence[_Sequence]) -> dict[str, Tensor]:
    """Return the keys of a batch that say what is read where."""
    width = max(len(sequence.options) for sequence in sequences)
    read_ids: list[list[int]] = []
    reads_of: dict[tuple[int, int], list[int]] = {}
    for sequence in sequences:
        first = len(read_ids)
        read_ids.append([option[0] for option in sequence.options])
        for slot, (candidate, option) in enumerate(zip(sequence.candidates, sequence.options, strict=True)):
            here = range(len(read_ids), len(read_ids) + len(option) - 1)
            reads_of[sequence.row, candidate] = [first * width + slot, *(read * width for read in here)]
            read_ids += [[token] for token in option[1:]]
    longest = max(map(len, reads_of.values()))
    shape = (len(rows), max(len(row.token_ids) for row in rows), longest)
    option_reads, option_mask = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.bool)
    for (row, candidate), reads in reads_of.items():
        option_reads[row, candidate, : len(reads)] = torch.tensor(reads)
        option_mask[row, candidate, : len(reads)] = True
    return {
        "read_mask": _read_mask(sequences),
        "read_ids": _pad_right(read_ids),
        "option_reads": option_reads,
        "option_mask": option_mask,
    }


def _pad_left(lists: Sequence[Sequence[int]], value: int) -> Tensor:
    longest = max(map(len, lists))
    return torch.tensor([[value] * (longest - len(values)) + list(values) for values in lists])


def _pad_right(lists: Sequence[Sequence[int]]) -> Tensor:
    longest = max(map(len, lists))
    return torch.tensor([[*values, *[0] * (longest - len(values))] for values in lists])
