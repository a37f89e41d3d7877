"""What a method makes for a moment beside state and scratch, seen on small matrices."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from foretune.engine.layerwise import Layerwise
from foretune.methods import AbstractFirstOrder, AbstractMethod
from foretune.optimizer import Optimizer
from foretune.parameters import collect_trainables
from foretune.runs.live_memory import LiveMemory

_SMALL, _LARGE = 1 << 20, 1 << 21
"""About as many numbers the matrices have: enough to be worked on in pieces."""
_STEP = 16
"""Sides are multiples of it, as those of models are: some kernels copy what is not aligned."""
_FIRST_ORDER_SHAPE = (192, 128)


class _Toy(nn.Module):
    """A matrix that is multiplied by ones, by a module of its own."""

    def __init__(self, rows: int, columns: int, dtype: torch.dtype) -> None:
        super().__init__()
        # so small that their sum keeps what perturbations add: without a slope an update makes nothing
        self.weight = nn.Parameter(torch.full((rows, columns), 1e-3, dtype=dtype))

    def forward(self) -> Tensor:
        """Return the product, a row of float32, as for one token."""
        return self.weight.sum(dim=1, dtype=torch.float32).unsqueeze(0)


def step_temporaries(recipe: AbstractMethod, dtype: torch.dtype, shape: tuple[int, int]) -> tuple[int, int]:
    """Return the bytes that measuring and updating a matrix make at most, but for activations.

    Two smaller matrices of the same proportions tell what grows with its numbers (an estimate) and what with its sides
    (factors of low rank): ``bytes = a m n + b (m + n)``.

    Args:
        recipe: The method.
        dtype: Of the weights.
        shape: m and n.
    """
    sides = [_reduced(shape, numel) for numel in (_SMALL, _LARGE)]
    seen = zip(*(_seen(recipe, dtype, pair) for pair in sides), strict=True)
    measuring, updating = (_extrapolated(sides, found, shape) for found in seen)
    return measuring, updating


def _reduced(shape: tuple[int, int], numel: int) -> tuple[int, int]:
    factor = math.sqrt(numel / math.prod(shape))
    rows, columns = (math.ceil(side * factor / _STEP) * _STEP for side in shape)
    return rows, columns


def _seen(recipe: AbstractMethod, dtype: torch.dtype, shape: tuple[int, int]) -> tuple[int, int]:
    """Return what a step makes on a matrix of this shape and one of the transposed."""
    rows, columns = shape
    model = nn.ModuleDict({"lora_A": _Toy(rows, columns, dtype), "lora_B": _Toy(columns, rows, dtype)})
    optimizer = Optimizer(model, **recipe.optimizer_arguments(), engine="layerwise")

    def closure() -> Tensor:
        return model["lora_A"]().sum() + model["lora_B"]().sum()

    for _ in range(2):  # state and scratch reach their size
        optimizer.step(closure)
    assert isinstance(optimizer.engine, Layerwise)
    kept = [tensor for state in optimizer.tensor_states.values() for tensor in state.tensors.values()]
    kept += optimizer.engine.scratch_buffers
    with LiveMemory([*model.parameters(), *kept]) as measuring:
        optimizer.estimate(closure)
    with LiveMemory([*model.parameters(), *kept]) as updating:
        optimizer.step()
    return measuring.peak_bytes, updating.peak_bytes


def _extrapolated(sides: list[tuple[int, int]], found: tuple[int, ...], shape: tuple[int, int]) -> int:
    """Return ``a m n + b (m + n)``, neither coefficient below 0."""
    (area, length), (large_area, large_length) = ((math.prod(pair), sum(pair)) for pair in sides)
    small, large = found
    by_area = max(0.0, (large * length - small * large_length) / (large_area * length - area * large_length))
    by_length = max(0.0, (large - by_area * large_area) / large_length)
    return round(by_area * math.prod(shape) + by_length * sum(shape))


def first_order_temporaries(recipe: AbstractFirstOrder, dtype: torch.dtype) -> float:
    """Return what the optimizer of torch makes beside its state, in sizes of one tensor."""
    weight = nn.Parameter(torch.ones(_FIRST_ORDER_SHAPE, dtype=dtype))
    optimizer = recipe.optimizer(collect_trainables(nn.ParameterDict({"weight": weight})))
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    kept = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    with LiveMemory([weight, weight.grad, *kept]) as live:
        optimizer.step()
    return live.peak_bytes / (weight.numel() * weight.itemsize)
