"""Whether the options of a row can share one copy of their context, and in sequences of which length."""

from __future__ import annotations

import sys
from typing import Any

from torch import Tensor, nn

from foretune.objectives.batches import CandidateBatch, collate_candidates
from foretune.objectives.encoding import EncodedExample
from foretune.objectives.inspection import agree, plain_language_model, probing
from foretune.objectives.split_head import SplitHead, option_logprobs

_LIMITS = ("max_position_embeddings", "sliding_window", "window_size", "attention_chunk_size")
"""What configurations call the positions a model has, and how far back its layers see."""

_PROBE_OPTIONS = ((8, 9, 10), (11, 3, 1), (9, 2))
_PROBE_ROWS = [
    EncodedExample(tuple((*context, *option) for option in _PROBE_OPTIONS), (3, 3, 2), (0,), "probe")
    for context in ((1, 2, 3, 4, 5), (6, 7))
]
_NUM_PROBE_IDS = 12


def find_packed_length(model: nn.Module, split_head: SplitHead | None = None) -> int:
    """Return the most tokens of a sequence in which several options follow one context; 0 if they cannot.

    They can if the model attends as a mask of one entry for every pair of tokens says, and places tokens where
    position ids say. By structure that is a causal language model of transformers without prompt learning, with
    an attention that takes such masks, a forward that takes position ids, no linear biases (ALiBi) and no recurrent
    state. Then both layouts are compared on a few tokens: their log-probabilities must agree, and must not
    where options are left to see each other, or the comparison would tell nothing. A sequence is never longer than
    the model's positions or its sliding window, so no layer sees less than all of it.

    Args:
        model: The model.
        split_head: The one it will be read with.
    """
    inner = plain_language_model(model)
    if inner is None:
        return 0
    config = inner.config
    if getattr(inner, "_is_stateful", False) or getattr(config, "alibi", False):
        return 0
    if getattr(config, "is_encoder_decoder", False) or getattr(config, "vocab_size", 0) < _NUM_PROBE_IDS:
        return 0
    apart, packed = collate_candidates(_PROBE_ROWS), collate_candidates(_PROBE_ROWS, sys.maxsize)
    leaking: CandidateBatch = {**packed, "segments": packed["segments"].clamp(max=2)}
    with probing(inner):
        try:
            wanted, ours, wrong = (_probe(model, batch, split_head) for batch in (apart, packed, leaking))
        except (AttributeError, RuntimeError, TypeError, ValueError):  # it takes other masks, or no positions
            return 0
    if not agree(ours, wanted, inner.dtype) or agree(wrong, wanted, inner.dtype):
        return 0
    limits = [getattr(config, name, None) for name in _LIMITS]
    return min((limit for limit in limits if isinstance(limit, int) and limit > 0), default=sys.maxsize)


def _probe(model: nn.Module, batch: Any, split_head: SplitHead | None) -> Tensor:
    device = next(model.parameters()).device
    on_device: Any = {key: tensor.to(device) for key, tensor in batch.items()}
    return option_logprobs(model, on_device, split_head)[on_device["option_mask"]]
