"""A MeZO step as it is usually published, written from its description: the baseline of our measurements.

Directions come from the global generator, re-seeded before each of four walks over the parameters (plus,
minus, back, update); each walk replaces every tensor by a new one. The losses run one row a candidate, with
logits at every position and a log-softmax over the whole vocabulary at each.

References:
    Malladi et al. 2023, arXiv:2305.17333, Algorithms 1 and 2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypedDict

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from foretune.objectives import EncodedExample


class PublishedBatch(TypedDict):
    """One row a candidate. Shapes: B rows, K candidates of each, T tokens.

    Keys:
        input_ids: (B K, T) int64, the option included, padded on the left.
        attention_mask: (B K, T) int64, 0 on padding.
        option_mask: (B K, T - 1) bool, True where a position predicts a token of the option.
        labels: (B,) int64, the right candidate of each row.
    """

    input_ids: Tensor
    attention_mask: Tensor
    option_mask: Tensor
    labels: Tensor


def collate(rows: Sequence[EncodedExample], device: torch.device | str = "cpu") -> PublishedBatch:
    """Put the candidates of all rows, which have equally many, under each other."""
    sequences = [ids for row in rows for ids in row.token_ids]
    longest = max(map(len, sequences))
    lengths = torch.tensor([len(ids) for ids in sequences])
    option_lengths = torch.tensor([length for row in rows for length in row.option_lengths])
    return {
        "input_ids": torch.tensor([[1] * (longest - len(ids)) + list(ids) for ids in sequences]).to(device),
        "attention_mask": (torch.arange(longest, 0, -1) <= lengths[:, None]).long().to(device),
        "option_mask": (torch.arange(longest - 1, 0, -1) <= option_lengths[:, None]).to(device),
        "labels": torch.tensor([row.correct[0] for row in rows]).to(device),
    }


def classification_loss(model: nn.Module, batch: PublishedBatch) -> Tensor:
    """Return the cross entropy over the candidates' mean log-probabilities, a scalar."""
    option_mask = batch["option_mask"]
    scores = (_logprobs(model, batch) * option_mask).sum(dim=1) / option_mask.sum(dim=1)
    return cross_entropy(scores.view(len(batch["labels"]), -1), batch["labels"])


def lm_loss(model: nn.Module, batch: PublishedBatch) -> Tensor:
    """Return the mean over the options' tokens of their negative log-probability, a scalar; one candidate a row."""
    option_mask = batch["option_mask"]
    return -(_logprobs(model, batch) * option_mask).sum() / option_mask.sum()


def _logprobs(model: nn.Module, batch: PublishedBatch) -> Tensor:
    """Return the log-probability of every token but the first, (B K, T - 1)."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    logits = logits[:, -batch["input_ids"].shape[1] :]  # a prompt's own positions come first
    return torch.log_softmax(logits[:, :-1], dim=-1).gather(2, batch["input_ids"][:, 1:, None]).squeeze(2)


class PublishedMeZO:
    """Perturb in place by adding and subtracting, regenerate, update.

    Args:
        model: Its parameters with `requires_grad` are tuned.
        lr: Learning rate.
        zo_eps: Perturbation scale.
        weight_decay: Coupled, on all but biases and norm weights (told by their names).
    """

    def __init__(self, model: nn.Module, *, lr: float, zo_eps: float = 1e-3, weight_decay: float = 0.0) -> None:
        self._model = model
        self._named = [(name, param) for name, param in model.named_parameters() if param.requires_grad]
        self._lr = lr
        self._zo_eps = zo_eps
        self._weight_decay = weight_decay

    @torch.no_grad()
    def perturb(self, seed: int, factor: float) -> None:
        """Walk over the parameters and add ``factor * zo_eps * z``."""
        torch.manual_seed(seed)
        for _, param in self._named:
            z = torch.normal(mean=0.0, std=1.0, size=param.size(), device=param.device, dtype=param.dtype)
            param.data = param.data + factor * z * self._zo_eps

    @torch.no_grad()
    def update(self, seed: int, projected_grad: float) -> None:
        """Walk over the parameters and make the step along the same z."""
        torch.manual_seed(seed)
        for name, param in self._named:
            z = torch.normal(mean=0.0, std=1.0, size=param.size(), device=param.device, dtype=param.dtype)
            if "bias" in name or "layer_norm" in name or "layernorm" in name:
                param.data = param.data - self._lr * (projected_grad * z)
            else:
                param.data = param.data - self._lr * (projected_grad * z + self._weight_decay * param.data)

    def step(self, closure: Callable[[], Tensor]) -> float:
        """Measure both sides, return the plus loss."""
        seed = int(torch.randint(1_000_000_000, ()))
        self._model.eval()
        self.perturb(seed, 1)
        with torch.inference_mode():
            loss_plus = closure().item()
        self.perturb(seed, -2)
        with torch.inference_mode():
            loss_minus = closure().item()
        self.perturb(seed, 1)
        self.update(seed, (loss_plus - loss_minus) / (2 * self._zo_eps))
        return loss_plus
