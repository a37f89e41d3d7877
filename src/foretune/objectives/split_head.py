"""Log-probabilities of single tokens without the logits of a whole sequence, let alone of a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from foretune.errors import UsageError
from foretune.objectives.batches import CandidateBatch, ReadBatch, SequenceBatch
from foretune.objectives.forward import last_logits, model_inputs
from foretune.objectives.inspection import agree, has_virtual_tokens, language_model, probing
from foretune.redirection import redirected

CHUNK_TOKENS = 1024
"""Most positions whose logits, float32 and over the whole vocabulary, are held at a time."""

_PROBE_TOKENS = 4


@dataclass(frozen=True, slots=True)
class SplitHead:
    """A model in two parts: what makes its hidden states, and what turns them into logits.

    Attributes:
        model: The model that was looked at.
        body: From token ids to hidden states; None where virtual tokens go in front, which the model itself adds.
        head: From hidden states to logits.
    """

    model: nn.Module
    body: nn.Module | None
    head: nn.Module

    def hidden(self, batch: SequenceBatch, num_positions: int) -> Tensor:
        """Return the hidden states of the last positions, shape (S, num_positions, hidden size)."""
        if self.body is None:
            with redirected({self.head: lambda states: states}):
                return last_logits(self.model, batch, num_positions)
        return self.body(**model_inputs(self.body, batch)).last_hidden_state[:, -num_positions:]

    def logprobs(self, hidden: Tensor, token_ids: Tensor) -> Tensor:
        """Return log p of `token_ids` (N, W) by hidden states (N, hidden size), float32, shape (N, W).

        The head is called once, whatever the number of chunks: an engine that perturbs it does so once.
        """
        forward = self.head.forward

        def by_chunks(states: Tensor) -> Tensor:
            parts = zip(states.split(CHUNK_TOKENS), token_ids.split(CHUNK_TOKENS), strict=True)
            return torch.cat([_logprobs(forward(part), ids) for part, ids in parts])

        with redirected({self.head: by_chunks}):
            return self.head(hidden)


def supposed_split_head(model: nn.Module) -> SplitHead | None:
    """Return the parts that a causal language model names as such, unproven; None if it has none."""
    inner = language_model(model)
    if inner is None:
        return None
    body, head = inner.base_model, inner.get_output_embeddings()
    if not isinstance(head, nn.Module) or body is inner:
        return None
    return SplitHead(model, None if has_virtual_tokens(model) else body, head)


def find_split_head(model: nn.Module) -> SplitHead | None:
    """Return the parts of a causal language model, None if its logits are anything else than head(body(tokens)).

    Both ways are compared on a few tokens, which rules out capped logits. Compiled models are not split.
    """
    inner, found = language_model(model), supposed_split_head(model)
    if inner is None or found is None:
        return None
    by_model, by_parts = two_ways(found)
    with probing(model):
        whole = by_model().float()
        try:
            ours = by_parts().float()
        except (AttributeError, RuntimeError, TypeError):  # a body of another kind
            return None
    return found if agree(ours, whole, inner.dtype) else None


def two_ways(parts: SplitHead) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """Return two ways to the logits of a few tokens: by the model itself, and by its parts."""
    inner: Any = language_model(parts.model)
    batch: SequenceBatch = {"input_ids": torch.arange(_PROBE_TOKENS, device=inner.device).view(1, -1)}
    return (
        lambda: last_logits(parts.model, batch, _PROBE_TOKENS),
        lambda: parts.head(parts.hidden(batch, _PROBE_TOKENS)),
    )


def read_logprobs(model: nn.Module, batch: ReadBatch | CandidateBatch, split_head: SplitHead | None) -> Tensor:
    """Return log p of the tokens read at each position that is read, float32, shape (N, W).

        log p(t | everything before) = logit_t - log sum_v exp logit_v

    Hidden states are gathered before the head is applied, in chunks of `CHUNK_TOKENS` positions. Without a split
    head the model computes the logits of the last P positions of every sequence in one piece.

    Args:
        model: A causal language model.
        batch: What to read, and where.
        split_head: What `find_split_head` says of the model.
    Raises:
        UsageError: the split head is that of another model.
    """
    read_mask, read_ids = batch["read_mask"], batch["read_ids"]
    num_positions = read_mask.shape[1]
    if split_head is not None:
        if split_head.model is not model:
            raise UsageError("The objective holds the parts of another model; make it with for_model(model).")
        return split_head.logprobs(split_head.hidden(batch, num_positions)[read_mask], read_ids)
    logits = last_logits(model, batch, num_positions)[read_mask]
    parts = zip(logits.split(CHUNK_TOKENS), read_ids.split(CHUNK_TOKENS), strict=True)
    return torch.cat([_logprobs(part, ids) for part, ids in parts])


def option_logprobs(model: nn.Module, batch: CandidateBatch, split_head: SplitHead | None) -> Tensor:
    """Return log p of every option token, float32, shape (B, K, L); of any value where there is none."""
    return read_logprobs(model, batch, split_head).flatten()[batch["option_reads"]]


def _logprobs(logits: Tensor, token_ids: Tensor) -> Tensor:
    logits = logits.float()
    return logits.gather(1, token_ids) - logits.logsumexp(dim=1, keepdim=True)
