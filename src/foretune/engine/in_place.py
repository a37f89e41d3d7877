"""The engine for everything else: perturb the weights themselves, and restore them from a clean copy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from foretune.engine.base import AbstractEngine, EngineName, Perturbation, Tangent
from foretune.engine.forward_mode import attach_tangent
from foretune.types import Trainable


class InPlace(AbstractEngine):
    """Writes ``clean + shift`` into the weights while a loss is evaluated, then copies the clean bits back.

    Memory: one copy of the trainable tensors (for a slope: one tangent of each). It works for weights that are read
    outside the module that owns them, compiled graphs, arbitrary closures, and evaluations that run a module many
    times.
    """

    name: ClassVar[EngineName] = "in_place"

    def __init__(self, model: nn.Module, trainables: Sequence[Trainable]) -> None:
        super().__init__(model, trainables)
        self._clean: dict[Trainable, Tensor] = {}

    def _perturbed(self, evaluate: Callable[[], float], perturbation: Perturbation) -> float:
        moving = [trainable for trainable in self.trainables if perturbation.moves(trainable)]
        for trainable in moving:
            true_data = trainable.parameter.data
            if trainable in self._clean:
                self._clean[trainable].copy_(true_data)
            else:
                self._clean[trainable] = true_data.clone()
        try:
            for trainable in moving:
                perturbation.write(trainable, out=trainable.parameter.data, base=self._clean[trainable])
            return evaluate()
        finally:
            for trainable in moving:
                trainable.parameter.data.copy_(self._clean[trainable])

    def _along(self, evaluate: Callable[[], tuple[float, float]], tangent: Tangent) -> tuple[float, float]:
        for trainable in self.trainables:
            if tangent.moves(trainable):
                velocity = torch.empty_like(trainable.parameter, requires_grad=False)
                tangent.write_tangent(trainable, out=velocity)
                attach_tangent(trainable.parameter, velocity)
        return evaluate()
