"""What the promise tests share: a method on a model, with its toy settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from foretune import SGD, Optimizer
from foretune.journal import StepRecord
from foretune.methods import AbstractMethod, optimizer_class
from toys import weights_of


def build(recipe: type[AbstractMethod], model: nn.Module, **options: Any) -> Optimizer:
    """The method's optimizer; `options` override its toy settings."""
    return optimizer_class(recipe)(model, **{**recipe.toy.options, **options})


def build_descent(recipe: type[AbstractMethod], model: nn.Module, *, lr: float, seed: int = 0) -> Optimizer:
    """The method with its update rule replaced by plain descent, which shows its estimates."""
    parts = replace(recipe(**recipe.toy.options).parts(), update=SGD())
    return Optimizer(
        model,
        space=parts.space,
        direction=parts.direction,
        estimator=parts.estimator,
        update=parts.update,
        schedule=parts.schedule,
        lr=lr,
        seed=seed,
        engine="in_place",
    )


def run(optimizer: Optimizer, closure: Callable[[], Any], num_steps: int) -> list[StepRecord]:
    """Take steps; return their records."""
    records = []
    for _ in range(num_steps):
        optimizer.step(closure)
        assert optimizer.last_record is not None
        records.append(optimizer.last_record)
    return records


def state_of(optimizer: Optimizer) -> dict[str, Tensor]:
    """Weights and optimizer state, to be compared bit for bit."""
    tensors = weights_of(optimizer.model)
    for trainable, state in optimizer.tensor_states.items():
        counters = [float(state.num_updates), float(state.epoch)]
        tensors[f"{trainable.name}: counters"] = torch.tensor(counters, dtype=torch.float64)
        for name, tensor in state.tensors.items():
            tensors[f"{trainable.name}: {name}"] = tensor.clone()
    return tensors
