"""A loss of a small model on rows of its own, as runs have one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from foretune.runs.sampled_loss import SampledLoss


class SquaredError:
    """An objective of rows (input, target): the mean squared error."""

    def collate(self, rows: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Any]:
        inputs, targets = zip(*rows, strict=True)
        return {"inputs": torch.stack(inputs), "targets": torch.stack(targets), "names": ("not", "a tensor")}

    def weight(self, batch: dict[str, Any]) -> int:
        return len(batch["inputs"])

    def loss(self, model: nn.Module, batch: dict[str, Any]) -> Tensor:
        return (model(batch["inputs"]) - batch["targets"]).square().mean()


def linear_rows(count: int = 200, *, dtype: torch.dtype = torch.float32) -> list[tuple[Tensor, Tensor]]:
    """Rows of a linear function of four numbers, with noise."""
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(count, 4, generator=generator)
    targets = inputs @ torch.tensor([[1.0, -2.0], [0.5, 0.0], [0.0, 1.0], [2.0, 1.0]])
    targets += 0.1 * torch.randn(targets.shape, generator=generator)
    return list(zip(inputs.to(dtype), targets.to(dtype), strict=True))


def linear_model(dtype: torch.dtype = torch.float32) -> nn.Linear:
    """A layer with weights that are far from solving `linear_rows`."""
    layer = nn.Linear(4, 2)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return layer.to(dtype)


def sampled_loss(model: nn.Module, rows: Sequence[Any] | None = None, **settings: Any) -> SampledLoss:
    """The loss of a model on `linear_rows`."""
    settings = {"batch_size": 8, "num_micro_batches": 1, "seed": 0} | settings
    return SampledLoss(model, SquaredError(), linear_rows() if rows is None else rows, **settings)
