"""Classification by the word at the mask of a masked language model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from foretune.errors import UsageError
from foretune.objectives.batches import PADDING_ID
from foretune.objectives.masked_encoding import EncodedMaskedExample
from foretune.objectives.masked_head import MaskedBatch, MaskedHead, mask_logits


class MaskedObjective:
    """Cross entropy over the label words at the mask.

        score_c = logit of the word of class c at the mask
        loss    = mean over rows of -log softmax(score)[right class]

    One forward a call, one sequence a row, padded on the right. Same inputs give the same bits; the model's mode
    (train or eval) is left alone. Scores and loss are float32 whatever the model's dtype.

    Args:
        head: What `find_masked_head` says of the model that `score` and `loss` will be given; with it, the head
            computes the logits at the mask alone, and those of the label words alone where it can.
    References:
        Gao et al. 2021, arXiv:2012.15723, Eq. 1; the RoBERTa setting of Malladi et al. 2023, arXiv:2305.17333.
    """

    def __init__(self, head: MaskedHead | None = None) -> None:
        self._head = head

    def collate(self, rows: Sequence[EncodedMaskedExample]) -> MaskedBatch:
        """Put rows into the batch the other methods read; build it once and pass it as often as needed."""
        lengths = torch.tensor([row.length for row in rows])
        longest = int(lengths.max())
        batch: MaskedBatch = {
            "input_ids": torch.tensor([[*row.token_ids, *[PADDING_ID] * (longest - row.length)] for row in rows]),
            "mask_positions": torch.tensor([row.mask_position for row in rows]),
            "candidate_ids": torch.tensor([row.label_ids for row in rows]),
            "labels": torch.tensor([row.correct[0] for row in rows]),
        }
        if bool((lengths < longest).any()):
            batch["attention_mask"] = (torch.arange(longest) < lengths[:, None]).long()
        return batch

    def weight(self, batch: MaskedBatch) -> int:
        """Return the denominator of `loss`, its number of rows: micro-batches combine by it."""
        return batch["labels"].shape[0]

    def score(self, model: nn.Module, batch: MaskedBatch) -> Tensor:
        """Return the logit of each class's word at the mask, float32, shape (B, K).

        Raises:
            UsageError: the head is that of another model.
        """
        if self._head is None:
            return mask_logits(model, batch)
        if self._head.model is not model:
            raise UsageError("The objective holds the head of another model; make it with find_masked_head(model).")
        return self._head.logits(batch)

    def loss(self, model: nn.Module, batch: MaskedBatch) -> Tensor:
        """Return the mean over rows of the cross entropy, a float32 scalar, in nats per row.

        Raises:
            UsageError: as `score`.
        """
        return self.loss_of_scores(self.score(model, batch), batch["labels"])

    @staticmethod
    def loss_of_scores(scores: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of scores (B, K) and right classes (B,)."""
        return cross_entropy(scores, labels)
