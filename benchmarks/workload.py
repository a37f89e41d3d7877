"""What is run: an OPT with random weights, and batches like those of SST-2 classification."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from foretune.objectives import EncodedExample

if TYPE_CHECKING:
    from transformers import OPTForCausalLM


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of an OPT model; its head is tied to its token embedding."""

    name: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    ffn_dim: int
    max_positions: int


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("opt-125m", 50272, 768, 12, 12, 3072, 2048),
        Shape("opt-mini-shape", 4096, 256, 4, 4, 1024, 512),
        Shape("tiny", 512, 32, 2, 2, 64, 128),
    )
}

_FIRST_WORD_ID = 4  # below: OPT's special tokens
_CANDIDATE_IDS = (372, 411)


def build_model(shape: Shape, dtype: torch.dtype = torch.float32, *, seed: int = 0) -> OPTForCausalLM:
    """Return the model with its usual random weights, in eval mode; the global generator stays as it was."""
    from transformers import OPTConfig, OPTForCausalLM

    config = OPTConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        word_embed_proj_dim=shape.hidden_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        ffn_dim=shape.ffn_dim,
        max_position_embeddings=shape.max_positions,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return OPTForCausalLM(config).to(dtype).eval()


def make_rows(shape: Shape, lengths: Sequence[int], *, seed: int = 1) -> list[EncodedExample]:
    """Return rows of random words with two candidates of one token each.

    Args:
        shape: Its vocabulary is drawn from.
        lengths: Tokens of each row's sequences, the candidate included.
        seed: Of the words.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for number, length in enumerate(lengths):
        prompt = torch.randint(_FIRST_WORD_ID, shape.vocab_size, (length - 1,), generator=generator).tolist()
        sequences = tuple((*prompt, candidate) for candidate in _CANDIDATE_IDS)
        rows.append(EncodedExample(sequences, (1, 1), (number % 2,), f"row {number}"))
    return rows
