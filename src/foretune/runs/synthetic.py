"""Rows of random tokens: what memory and time are measured with, without data or a tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from foretune.objectives import (
    ClassificationObjective,
    EncodedExample,
    EncodedMaskedExample,
    LMObjective,
    MaskedObjective,
)
from foretune.objectives.masked_head import MaskedHead
from foretune.objectives.split_head import SplitHead
from foretune.objectives.tied_head import TiedHead
from foretune.runs.config import SYNTHETIC, ProbedObjective

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_CANDIDATES = (0, 1)
"""Two tokens that every vocabulary has."""


def synthetic_rows(config: PreTrainedConfig, *, num_rows: int, length: int, seed: int = 0) -> list[EncodedExample]:
    """Return rows whose tokens are uniform in the vocabulary; all tokens but the first are to be predicted.

    Args:
        config: The model's; its vocabulary is drawn from.
        num_rows: Rows.
        length: Tokens of each, at least 2.
        seed: Of the draw.
    References:
        Memory and time probe of Zhang et al. 2024, arXiv:2402.11592. Differs from the published code, which draws ids
        from 5000 to 9999.
    """
    generator = torch.Generator().manual_seed(seed)
    size = config.get_text_config().vocab_size
    ids = torch.randint(size, (num_rows, length), generator=generator).tolist()
    return [
        EncodedExample((tuple(row),), (length - 1,), (0,), f"{SYNTHETIC} row {number}")
        for number, row in enumerate(ids)
    ]


def probe_loss(
    objective: ProbedObjective,
    rows: list[EncodedExample],
    model: nn.Module,
    split_head: SplitHead | None,
    tied_head: TiedHead | None,
) -> Callable[[], Tensor]:
    """Return the loss that memory is measured with: of all tokens, or of two words behind a row.

    Args:
        objective: ``lm`` or ``classification``.
        rows: Token ids.
        model: The model.
        split_head, tied_head: What `find_split_head` and `find_tied_head` say of it.
    """
    if objective == "lm":
        lm = LMObjective(only_train_option=False, split_head=split_head)
        batch = _on_device(lm.collate(rows), model)
        return lambda: lm.loss(model, batch)
    classification = ClassificationObjective(tied_head, split_head=split_head)
    words = _on_device(classification.collate(two_words_behind(rows)), model)
    return lambda: classification.loss(model, words)


def masked_probe_loss(
    rows: Sequence[EncodedExample], model: nn.Module, head: MaskedHead | None
) -> Callable[[], Tensor]:
    """Return the same for a masked language model: the loss of two words at a mask in place of each row's last token.

    Args:
        rows: Token ids.
        model: The model.
        head: What `find_masked_head` says of it.
    """
    masked = MaskedObjective(head)
    examples = [
        EncodedMaskedExample(row.token_ids[0], len(row.token_ids[0]) - 1, _CANDIDATES, (0,), row.name) for row in rows
    ]
    batch = _on_device(masked.collate(examples), model)
    return lambda: masked.loss(model, batch)


def two_words_behind(rows: Sequence[EncodedExample]) -> list[EncodedExample]:
    """Return the rows with two candidates of a token each in place of their last token; the first is right."""
    return [
        EncodedExample(tuple((*row.token_ids[0][:-1], word) for word in _CANDIDATES), (1, 1), (0,), row.name)
        for row in rows
    ]


def _on_device(batch: Any, model: nn.Module) -> Any:
    device = next(model.parameters()).device
    return {key: tensor.to(device) for key, tensor in batch.items()}
