"""Classification over candidates: which option does the model find likeliest?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from foretune.errors import UsageError
from foretune.objectives.batches import CandidateBatch, collate_candidates
from foretune.objectives.encoding import EncodedExample
from foretune.objectives.forward import last_logits
from foretune.objectives.packing import find_packed_length
from foretune.objectives.split_head import SplitHead, find_split_head, option_logprobs
from foretune.objectives.tied_head import TiedHead, find_tied_head


class ClassificationObjective:
    """Cross entropy over each row's candidates, scored by their length-normalised log-probability.

        score_c = mean over option tokens t of log p(t | everything before t)
        loss    = mean over rows of -log softmax(score)[right candidate]

    One forward a call. Options of one token share a sequence with all that follow the same context; options of
    several tokens do where the model can keep them apart, else they have one each. Same inputs give the same
    bits; the model's mode (train or eval) is left alone. Log-probabilities and loss are float32 whatever the model's
    dtype, so half-precision scores cannot tie.

    The arguments say what holds for the model that `score` and `loss` will be given; `for_model` finds all of them.

    Args:
        tied_head: What `find_tied_head` says; with it, the `loss` of options of one token computes the logits of
            the candidates alone.
        split_head: What `find_split_head` says; with it, logits are computed at the positions that are read only.
        packed_length: What `find_packed_length` says; 0 = options of several tokens have a sequence each.
    References:
        `train_as_classification` of Malladi et al. 2023, arXiv:2305.17333. Differs from the published code,
        which always runs one sequence a candidate, computes logits at every position, and takes the
        log-softmax in the model's dtype.
    """

    def __init__(
        self, tied_head: TiedHead | None = None, *, split_head: SplitHead | None = None, packed_length: int = 0
    ) -> None:
        self._tied_head = tied_head
        self._split_head = split_head
        self._packed_length = packed_length

    @classmethod
    def for_model(cls, model: nn.Module) -> ClassificationObjective:
        """Return the objective with the shortcuts that hold for this model."""
        split_head = find_split_head(model)
        return cls(find_tied_head(model), split_head=split_head, packed_length=find_packed_length(model, split_head))

    def collate(self, rows: Sequence[EncodedExample]) -> CandidateBatch:
        """Put rows into the batch the other methods read; build it once and pass it as often as needed."""
        return collate_candidates(rows, self._packed_length)

    def weight(self, batch: CandidateBatch) -> int:
        """Return the denominator of `loss`, its number of rows: micro-batches combine by it."""
        return batch["labels"].shape[0]

    def score(self, model: nn.Module, batch: CandidateBatch) -> Tensor:
        """Return each candidate's mean log-probability, float32, shape (B, K); -inf where a row has fewer.

        Raises:
            UsageError: the objective was made for another model.
        """
        if "candidate_ids" in batch:
            logits = last_logits(model, batch, 1)[:, -1].float()
            scores = logits.gather(1, batch["candidate_ids"]) - logits.logsumexp(dim=1, keepdim=True)
        else:
            option_mask = batch["option_mask"]
            logprobs = option_logprobs(model, batch, self._split_head)
            # an absent candidate has no tokens; its score is hidden below
            scores = logprobs.where(option_mask, 0.0).sum(dim=2) / option_mask.sum(dim=2).clamp(min=1)
        return _hide_absent(scores, batch)

    def loss(self, model: nn.Module, batch: CandidateBatch) -> Tensor:
        """Return the mean over rows of the cross entropy, a float32 scalar, in nats per row.

        Raises:
            UsageError: the objective was made for another model.
        """
        if "candidate_ids" not in batch:
            return self.loss_of_scores(self.score(model, batch), batch["labels"])
        # the vocabulary's normaliser is the same for all candidates of a row and cancels in their softmax
        if self._tied_head is not None:
            if self._tied_head.model is not model:
                raise UsageError("The objective holds the tied head of another model; make it with for_model(model).")
            logits = self._tied_head.logits(batch, batch["candidate_ids"])
        else:
            logits = last_logits(model, batch, 1)[:, -1].gather(1, batch["candidate_ids"]).float()
        return self.loss_of_scores(_hide_absent(logits, batch), batch["labels"])

    @staticmethod
    def loss_of_scores(scores: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of scores (B, K) and right candidates (B,)."""
        return cross_entropy(scores, labels)


def _hide_absent(scores: Tensor, batch: CandidateBatch) -> Tensor:
    candidate_mask = batch.get("candidate_mask")
    return scores if candidate_mask is None else scores.masked_fill(~candidate_mask, -torch.inf)
