"""Tune any torch module with forward passes only; the loss may be any function of it."""

import torch
from torch import nn

import foretune

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
inputs = torch.randn(256, 8)
labels = (inputs[:, 0] > inputs[:, 1]).long()


def error_rate() -> float:
    """A step function of the weights: it has no gradient."""
    return 1.0 - (model(inputs).argmax(dim=1) == labels).float().mean().item()


before = error_rate()
optimizer = foretune.MeZO(model, lr=0.05, zo_eps=0.05, num_directions=8)
for _ in range(100):
    optimizer.step(error_rate)
print(f"error rate {before:.3f} -> {error_rate():.3f}")
