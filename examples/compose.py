"""Compose a method from parts: LOZO's space with random signs and momentum, which no paper has tried."""

import torch
from torch import nn

import foretune

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1))
inputs = torch.randn(128, 16)
targets = inputs[:, :1] - 2 * inputs[:, 1:2]

optimizer = foretune.Optimizer(
    model,
    space=foretune.LowRank(rank=4, interval=20),
    direction=foretune.Rademacher(),
    estimator=foretune.TwoSided(zo_eps=1e-3, num_directions=4),
    update=foretune.Momentum(beta=0.8),
    lr=0.02,
)
losses = [float(optimizer.step(lambda: (model(inputs) - targets).square().mean())) for _ in range(200)]
print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}; optimizer state {optimizer.state_bytes} bytes")
