"""The straightforward computations our fast ones must equal, in plain PyTorch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


@torch.no_grad()
def candidate_scores(model, tokenizer, prompt: str, candidates: Sequence[str]) -> list[float]:
    """Mean log-probability of each candidate: its own forward, batch of one, no padding, all logits."""
    num_prompt_tokens = len(tokenizer(prompt)["input_ids"])
    scores = []
    for candidate in candidates:
        token_ids = tokenizer(prompt + candidate)["input_ids"]
        logprobs = model(input_ids=torch.tensor([token_ids])).logits[0].float().log_softmax(dim=-1)
        per_token = [
            float(logprobs[position - 1, token_ids[position]]) for position in range(num_prompt_tokens, len(token_ids))
        ]
        scores.append(sum(per_token) / len(per_token))
    return scores


def option_logprobs(model, token_ids: Sequence[int], length: int) -> torch.Tensor:
    """Log-probabilities of the last `length` tokens of one sequence, float32: batch of one, no padding, all logits."""
    logits = model(input_ids=torch.tensor([token_ids])).logits[0, -length - 1 : -1].float()
    return logits.log_softmax(dim=-1).gather(1, torch.tensor(token_ids[-length:])[:, None])[:, 0]


def cross_entropy(scores: Sequence[float], right: int) -> float:
    """-log softmax(scores)[right]."""
    return math.log(sum(map(math.exp, scores))) - scores[right]
