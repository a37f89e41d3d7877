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
from foretune.objectives.tied_head import TiedHead


class ClassificationObjective:
    """Cross entropy over each row's candidates, scored by their length-normalised log-probability.

        score_c = mean over option tokens t of log p(t | everything before t)
        loss    = mean over rows of -log softmax(score)[right candidate]

    One forward a call, over one sequence a row where every option is a single token after the same prompt and
    one a candidate otherwise. Same inputs give the same bits; the model's mode (train or eval) is left alone.
    Log-probabilities and loss are float32 whatever the model's dtype, so half-precision scores cannot tie.

    Args:
        tied_head: What `find_tied_head` says of the model that `loss` will be given; with it, `loss` computes the
            logits of the candidates alone.
    References:
        `train_as_classification` of Malladi et al. 2023, arXiv:2305.17333. Differs from the published code,
        which always runs one sequence a candidate, computes logits at every position, and takes the
        log-softmax in the model's dtype.
    """

    def __init__(self, tied_head: TiedHead | None = None) -> None:
        self._tied_head = tied_head

    def collate(self, rows: Sequence[EncodedExample]) -> CandidateBatch:
        """Put rows into the batch the other methods read; build it once and pass it as often as needed."""
        return collate_candidates(rows)

    def weight(self, batch: CandidateBatch) -> int:
        """Return the denominator of `loss`, its number of rows: micro-batches combine by it."""
        return batch["labels"].shape[0]

    def score(self, model: nn.Module, batch: CandidateBatch) -> Tensor:
        """Return each candidate's mean log-probability, float32, shape (B, K); -inf where a row has fewer."""
        if "candidate_ids" in batch:
            logits = last_logits(model, batch, 1)[:, -1].float()
            scores = logits.gather(1, batch["candidate_ids"]) - logits.logsumexp(dim=1, keepdim=True)
        else:
            scores = _mean_option_logprobs(model, batch)[batch["candidate_sequence"]]
        return _hide_absent(scores, batch)

    def loss(self, model: nn.Module, batch: CandidateBatch) -> Tensor:
        """Return the mean over rows of the cross entropy, a float32 scalar, in nats per row.

        Raises:
            UsageError: the tied head is that of another model.
        """
        if "candidate_ids" not in batch:
            return self.loss_of_scores(self.score(model, batch), batch["labels"])
        # the vocabulary's normaliser is the same for all candidates of a row and cancels in their softmax
        if self._tied_head is not None:
            if self._tied_head.model is not model:
                raise UsageError(
                    "The objective holds the tied head of another model; make it with find_tied_head(model)."
                )
            logits = self._tied_head.logits(batch, batch["candidate_ids"])
        else:
            logits = last_logits(model, batch, 1)[:, -1].gather(1, batch["candidate_ids"]).float()
        return self.loss_of_scores(_hide_absent(logits, batch), batch["labels"])

    @staticmethod
    def loss_of_scores(scores: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of scores (B, K) and right candidates (B,)."""
        return cross_entropy(scores, labels)


def _mean_option_logprobs(model: nn.Module, batch: CandidateBatch) -> Tensor:
    """Return the mean log-probability of the option of each sequence, float32, shape (S,)."""
    option_ids, option_mask = batch["option_ids"], batch["option_mask"]
    # the positions are those of the inputs, one before the tokens they predict
    logits = last_logits(model, batch, option_ids.shape[1]).float()
    logprobs = logits.gather(2, option_ids.unsqueeze(2)).squeeze(2) - logits.logsumexp(dim=2)
    return logprobs.where(option_mask, 0.0).sum(dim=1) / option_mask.sum(dim=1)


def _hide_absent(scores: Tensor, batch: CandidateBatch) -> Tensor:
    candidate_mask = batch.get("candidate_mask")
    return scores if candidate_mask is None else scores.masked_fill(~candidate_mask, -torch.inf)
