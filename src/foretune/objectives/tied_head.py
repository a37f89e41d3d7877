"""Logits of a few words without the rest of the vocabulary, where the head is the embedding table."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from foretune.objectives.batches import SequenceBatch
from foretune.objectives.forward import model_inputs
from foretune.objectives.inspection import agree, plain_language_model, probing

_PROBE_TOKENS = 4


@dataclass(frozen=True, slots=True)
class TiedHead:
    """A model's body and the embedding table that is also its output head.

    Looking candidates up as embeddings touches their rows only: neither the product with the whole vocabulary nor,
    for a perturbed model, the perturbation of the whole table is made.

    Attributes:
        model: The model that was looked at.
        body: What makes its hidden states.
        embedding: Its table.
    """

    model: nn.Module
    body: nn.Module
    embedding: nn.Embedding

    def logits(self, batch: SequenceBatch, candidate_ids: Tensor) -> Tensor:
        """Return the logits of `candidate_ids` (B, K) at the last position, float32, shape (B, K)."""
        hidden = self.body(**model_inputs(self.body, batch)).last_hidden_state[:, -1].float()
        return (self.embedding(candidate_ids).float() @ hidden.unsqueeze(2)).squeeze(2)


def find_tied_head(model: nn.Module) -> TiedHead | None:
    """Return the tied head of a causal language model, None if its logits are anything else than table @ hidden.

    The structure is looked at first (one table, no bias, plain look-up, no prompt learning), then both ways are
    compared on a few tokens, which rules out scaled or capped logits.
    """
    inner = plain_language_model(model)
    if inner is None:
        return None
    head, embedding, body = inner.get_output_embeddings(), inner.get_input_embeddings(), inner.base_model
    plain = type(head) is nn.Linear and head.bias is None and type(embedding) is nn.Embedding and body is not inner
    if not plain or head.weight is not embedding.weight:
        return None
    found = TiedHead(model, body, embedding)
    with probing(inner):
        ids = torch.arange(_PROBE_TOKENS, device=embedding.weight.device).view(1, -1)
        whole = inner(input_ids=ids, use_cache=False).logits[:, -1].float()
        try:
            ours = found.logits({"input_ids": ids}, torch.arange(whole.shape[1], device=ids.device).view(1, -1))
        except (AttributeError, RuntimeError, TypeError):  # a body of another kind
            return None
    return found if agree(ours, whole, inner.dtype) else None
